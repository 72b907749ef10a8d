"""The library's face: `import dsd` is cheap and changes nothing, and every name in `__all__` is there."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import dsd

SOURCE = Path(dsd.__file__)


def test_importing_the_library_loads_no_heavy_module_and_changes_no_setting() -> None:
    code = "import os, sys; before = dict(os.environ); import dsd; assert os.environ == before; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "diffusers", "transformers", "datasets", "numpy", "hydra", "omegaconf"} & set(loaded)


def test_every_name_of_the_face_is_imported_when_used() -> None:
    """Type checkers read the imports under TYPE_CHECKING, Python reads the table; both must say the same."""
    tree = ast.parse(SOURCE.read_text(encoding="utf-8"))
    shown = {
        (node.module, alias.name)
        for block in tree.body
        if isinstance(block, ast.If)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert shown == {(module, name) for name, module in dsd._MODULE_OF.items()}
    assert sorted(["__version__", *(name for _, name in shown)]) == sorted(dsd.__all__)
    for module, name in shown:
        assert getattr(dsd, name).__module__ == module, "the table names the module that defines it"
    assert set(dir(dsd)) >= set(dsd.__all__)


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(AttributeError, match="no attribute 'no_such_name'"):
        dsd.no_such_name  # noqa: B018


def test_the_package_says_that_it_is_typed() -> None:
    assert (SOURCE.parent / "py.typed").is_file()
