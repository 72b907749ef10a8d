"""examples/quickstart.ipynb runs from its first cell to its last."""

import shutil
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

EXAMPLES = Path(__file__).parents[1] / "examples"
SMOKE = "NUM_STEPS = 2\nNUM_GRIDS = 12\nNUM_TRAINING_STEPS = 2"


def test_it_is_stored_without_outputs() -> None:
    notebook = nbformat.read(EXAMPLES / "quickstart.ipynb", as_version=4)
    nbformat.validate(notebook)
    assert not [cell for cell in notebook.cells if cell.get("outputs") or cell.get("execution_count")]


@pytest.mark.process
@pytest.mark.slow
def test_it_runs_where_there_is_no_adapter_yet(tmp_path) -> None:
    shutil.copytree(EXAMPLES, tmp_path / "examples")
    notebook = nbformat.read(EXAMPLES / "quickstart.ipynb", as_version=4)
    parameters = next(cell for cell in notebook.cells if cell.cell_type == "code")
    assert [line.split()[0] for line in parameters.source.splitlines()] == [
        line.split()[0] for line in SMOKE.splitlines()
    ]
    parameters.source = SMOKE
    NotebookClient(notebook, timeout=1200, resources={"metadata": {"path": str(tmp_path / "examples")}}).execute()
    shown = [output for cell in notebook.cells for output in cell.get("outputs", ()) if "data" in output]
    assert sum("image/png" in output["data"] for output in shown) == 3, "the reference, a sheet, a sweep"
    assert (tmp_path / "outputs" / "quickstart" / "train" / "adapter.safetensors").is_file()
