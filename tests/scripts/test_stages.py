"""scripts/stages.sh: overrides find their stage, jobs run side by side, and a job that fails is named."""

import os
import subprocess
from pathlib import Path

import pytest

pytestmark = [pytest.mark.process, pytest.mark.timeout(1800)]
SCRIPTS = Path(__file__).parents[2] / "scripts"


def bash(script: str, code: int = 0, **variables: str) -> tuple[str, str]:
    command = ["bash", "-euo", "pipefail", "-c", f"source {SCRIPTS / 'stages.sh'}\n{script}", "script.sh"]
    done = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    return done.stdout, done.stderr


def test_an_override_goes_to_its_stage_and_comes_last() -> None:
    script = """
        dsd-data-gen() { printf '%s|' "$@"; }
        take_overrides data_gen.seed=1 train.seed=2 data_gen.prompts.text='a b'
        stage data_gen num_grids=4
    """
    assert bash(script)[0] == "num_grids=4|seed=1|prompts.text=a b|"


@pytest.mark.parametrize("override", ["seed=1", "training.seed=1", "data_gen", "train.=1"])
def test_an_override_without_a_stage_is_refused(override) -> None:
    said = bash(f"take_overrides train.seed=1 {override}; echo on", code=2)
    assert said[0] == ""
    assert said[1].count("\n") == 1
    assert override in said[1]


def test_no_more_jobs_than_asked_for_run_side_by_side(tmp_path) -> None:
    script = f"""
        job() {{ mkdir {tmp_path}/$1; ls {tmp_path} | wc -l >> {tmp_path}.counts; rmdir {tmp_path}/$1; }}
        side_by_side
        for name in a b c d e f; do start job "$name"; done
        finish
        sort -u {tmp_path}.counts | tail -n 1
    """
    assert int(bash(script, JOBS="2")[0]) <= 2


def test_a_job_that_fails_is_named_and_the_others_end() -> None:
    script = """
        job() { [[ $1 != b ]]; echo "$1"; }
        side_by_side
        for name in a b c; do start job "$name"; done
        finish
    """
    out, error = bash(script, code=1, JOBS="1")
    assert out == "a\nc\n"
    assert error == "job b has failed\n"


@pytest.mark.parametrize("script", sorted(SCRIPTS.glob("*.sh")), ids=lambda file: file.name)
def test_it_is_bash(script) -> None:
    subprocess.run(["bash", "-n", str(script)], check=True)
