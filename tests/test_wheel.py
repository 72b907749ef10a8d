"""The wheel outside the repository: commands find their configs, weights and templates in the installed package."""

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).parents[1]
pytestmark = [pytest.mark.process, pytest.mark.slow]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel with the hatchling that is installed, so that nothing is downloaded."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel into an environment of its own; return its bin/.

    The libraries are those of the running environment, named in a .pth file. The editable `dsd` there is a .pth file as
    well, and Python reads no .pth file of a folder that another one named, so the only `dsd` is the wheel's.
    """
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*install, str(wheel)], check=True)
    paths = sysconfig.get_paths()
    packages = next(folder.glob("lib/python*/site-packages"))
    (packages / "libraries.pth").write_text("\n".join({paths["purelib"], paths["platlib"]}))
    return python.parent


def test_it_holds_what_commands_read_and_nothing_else(wheel: Path) -> None:
    names = set(ZipFile(wheel).namelist())
    assert names >= {"dsd/py.typed", "dsd/configs/train.yaml", "dsd/toybox/weights/teacher/model_index.json"}
    there = {path.relative_to(ROOT).as_posix() for path in ROOT.glob("configs/**/*.yaml")}
    assert {f"dsd/{path}" for path in there} == {name for name in names if name.startswith("dsd/configs/")}
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"dsd"}


@pytest.mark.timeout(1800)
def test_the_whole_method_runs_outside_the_repository(installed: Path, tmp_path: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}

    def run(command: str, *arguments: str) -> str:
        words = [str(installed / command), *arguments]
        ended = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    assert run("python", "-c", "import dsd; print(dsd.__file__)").startswith(str(installed.parent))
    assert "dsd-infer" in run("dsd-infer", "--help")
    run("dsd-data-gen", "num_grids=12", "output_dir=grids")
    run("dsd-curate", "grids=grids", "output_dir=pairs")
    run("dsd-train", "pairs=pairs", "output_dir=train", "num_steps=2", "batch_size=2")
    run("dsd-infer", "adapter=train", "jobs=toybox", "jobs.num_subjects=2", "output_dir=student")
    run("dsd-evaluate", "results={student: student}", "output_dir=report", "num_resamples=100")
    assert (tmp_path / "report" / "report.html").is_file()
