"""The shipped workflows fit the nodes of ComfyUI, whose sockets stand in a stored object_info (0.8.0 and 0.29.0)."""

import ast
import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples" / "comfyui"
NAMES = sorted(file.stem.removesuffix("_api") for file in EXAMPLES.glob("*_api.json"))
INFO: dict[str, Any] = json.loads((ROOT / "tests" / "data" / "comfyui" / "object_info.json").read_text())
KINDS = {"INT": int, "FLOAT": (int, float), "STRING": str, "BOOLEAN": bool}


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("comfyui_workflows", ROOT / "scripts" / "comfyui_workflows.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def api_of(name: str) -> dict[str, Any]:
    api: dict[str, Any] = json.loads((EXAMPLES / f"{name}_api.json").read_text())
    return api


def ui_file(name: str) -> Path:
    folder = ROOT / "comfyui" / "example_workflows" if name.startswith("dsd_nodes") else EXAMPLES
    return folder / f"{name}.json"


@pytest.mark.parametrize("name", NAMES)
def test_every_socket_of_the_api_format_exists_and_fits(name) -> None:
    api = api_of(name)
    for node in api.values():
        about = INFO[node["class_type"]]
        assert node["inputs"].keys() <= about["inputs"].keys(), node["class_type"]
        assert about["inputs"].keys() - node["inputs"].keys() <= set(about["optional"]), node["class_type"]
        for key, given in node["inputs"].items():
            kind = about["inputs"][key]
            if isinstance(given, list):
                assert INFO[api[given[0]]["class_type"]]["outputs"][given[1]][1] == kind, (node["class_type"], key)
            elif isinstance(kind, list):
                assert not kind or given in kind, (node["class_type"], key)
            else:
                assert isinstance(given, KINDS[kind]), (node["class_type"], key)


@pytest.mark.parametrize("name", NAMES)
def test_the_window_s_format_is_the_same_graph(name, script) -> None:
    """Also: whoever changes one of the two files has run the script."""
    api, ui = api_of(name), json.loads(ui_file(name).read_text())
    assert ui == json.loads(json.dumps(script.to_ui(api, INFO, script.NOTES[name])))
    nodes = {node["id"]: node for node in ui["nodes"]}
    for number, source, output, target, slot, kind in ui["links"]:
        socket = nodes[target]["inputs"][slot]
        assert api[str(target)]["inputs"][socket["name"]] == [str(source), output]
        assert socket["link"] == number
        assert number in nodes[source]["outputs"][output]["links"]
        assert socket["type"] == nodes[source]["outputs"][output]["type"] == kind
    assert len(ui["links"]) == sum(isinstance(v, list) for node in api.values() for v in node["inputs"].values())


def test_each_has_a_small_picture() -> None:
    for name in NAMES:
        picture = EXAMPLES / f"{name}.png"
        assert picture.stat().st_size < 60_000
        Image.open(picture).verify()


def test_core_workflows_use_core_nodes_alone() -> None:
    for name in NAMES:
        uses = any(node["class_type"].startswith("DSD") for node in api_of(name).values())
        assert uses == name.startswith("dsd_nodes"), name


def test_the_stored_sockets_of_our_nodes_are_theirs() -> None:
    """Names of inputs as the source has them; to import it needs ComfyUI."""
    tree = ast.parse((ROOT / "comfyui" / "nodes.py").read_text())
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    for name in (name for name in INFO if name.startswith("DSD")):
        (inputs,) = (f for f in classes[name].body if isinstance(f, ast.FunctionDef) and f.name == "INPUT_TYPES")
        (returned,) = (node for node in ast.walk(inputs) if isinstance(node, ast.Return))
        assert isinstance(returned.value, ast.Dict)
        (required,) = returned.value.values
        assert isinstance(required, ast.Dict)
        keys = [key.value for key in required.keys if isinstance(key, ast.Constant)]
        assert keys == list(INFO[name]["inputs"]), name
        for value in required.values:
            assert "tooltip" in ast.unparse(value), (name, ast.unparse(value))
