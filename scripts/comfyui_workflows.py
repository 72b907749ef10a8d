"""Write the example workflows in the format of ComfyUI's window, with a picture each, from their API format.

    python scripts/comfyui_workflows.py                                     # after a change of an *_api.json
    python scripts/comfyui_workflows.py http://127.0.0.1:8188/object_info   # first learn the nodes from a server

examples/comfyui/NAME_api.json is what is edited. The UI format also has places, types of sockets and widgets in the
order of the node's inputs. They come from tests/data/comfyui/object_info.json, which holds the nodes used, no others.
"""

import json
import sys
import urllib.request
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples" / "comfyui"
TEMPLATES = ROOT / "comfyui" / "example_workflows"
OBJECT_INFO = ROOT / "tests" / "data" / "comfyui" / "object_info.json"
WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
FILES = ("adapter", "clip_name", "clip_name1", "clip_name2", "image", "lora_name", "unet_name", "vae_name")
SEEDS = ("noise_seed", "seed")  # beside them the window has a widget for what happens after a run
WIDTH, ROW, HEAD, GAP = 320, 26, 34, 60  # of a node in the window, in pixels
SMALLER = 4  # the window's pixels in one of the picture's
LORA_NOTE = (
    "Load LoRAs of others **before** the adapter. Where ComfyUI's log says *loaded partially*, this file may fail "
    "(`mat1 and mat2 shapes cannot be multiplied`): use the merged file (`canvas.json`) or the node DSD Adapter."
)
SIZES = "The size of the output stands in several nodes; the canvas is twice as wide. "
NOTES = {
    "canvas": f"Model: `dsd-export to=comfyui`, in `models/diffusion_models`. {SIZES}",
    "canvas_guided": f"Model: `dsd-export to=comfyui`. {SIZES}*The last sigma alone* needs the number of steps.",
    "canvas_lora": f"Adapter: `dsd-export to=comfyui_lora`, in `models/loras`. {SIZES}{LORA_NOTE}",
    "dsd_nodes": "Adapter: `dsd-export to=comfyui_lora`, in `models/loras`. Load LoRAs of others before it.",
    "dsd_nodes_guided": "Adapter: `dsd-export to=comfyui_lora`, in `models/loras`. Load LoRAs of others before it.",
    "tokens_flux1": (
        "Adapter: `dsd-export to=comfyui_lora` of a student with tokens. For several references repeat "
        "ReferenceLatent, in their order. `dsd-export` says the reference method."
    ),
    "tokens_flux2_klein": (
        "Adapter: `dsd-export to=comfyui_lora` of a student with tokens. For several references repeat "
        "ReferenceLatent, in their order. With `positions=diagonal` add FluxKontextMultiReferenceLatentMethod, uxo/uno."
    ),
}


def main() -> None:
    """Write everything anew."""
    apis = {f.stem.removesuffix("_api"): json.loads(f.read_text()) for f in sorted(EXAMPLES.glob("*_api.json"))}
    if len(sys.argv) > 1:
        with urllib.request.urlopen(sys.argv[1]) as answer:
            learnt = trimmed(json.load(answer), {node["class_type"] for api in apis.values() for node in api.values()})
        OBJECT_INFO.write_text(json.dumps(learnt, separators=(",", ":")) + "\n")
    info = json.loads(OBJECT_INFO.read_text())
    for name, api in apis.items():
        ui = to_ui(api, info, NOTES[name])
        folder = TEMPLATES if name.startswith("dsd_nodes") else EXAMPLES
        (folder / f"{name}.json").write_text(json.dumps(ui, separators=(",", ":")) + "\n")
        picture(ui).save(EXAMPLES / f"{name}.png", optimize=True)
        if folder is TEMPLATES:
            picture(ui).save(folder / f"{name}.jpg", quality=85)


def trimmed(info: dict[str, Any], names: set[str]) -> dict[str, Any]:
    """Keep of each node the names and types of its sockets. Choices are kept, but for the files of that machine."""

    def kind(key: str, given: Any) -> Any:
        choices = given[0] if isinstance(given[0], list) else given[1].get("options") if given[0] == "COMBO" else None
        if choices is None:
            return given[0]
        return [] if key in FILES else choices

    return {
        name: {
            "inputs": {
                key: kind(key, given)
                for group in ("required", "optional")
                for key, given in info[name]["input"].get(group, {}).items()
            },
            "optional": sorted(info[name]["input"].get("optional", {})),
            "outputs": list(zip(info[name]["output_name"], info[name]["output"], strict=True)),
        }
        for name in sorted(names)
    }


def to_ui(api: dict[str, Any], info: dict[str, Any], note: str) -> dict[str, Any]:
    """Convert the API format to the window's."""
    links: list[list[Any]] = []
    nodes = {key: bare(int(key), node, info[node["class_type"]]) for key, node in api.items()}
    for key, node in api.items():
        for slot, entry in enumerate(nodes[key]["inputs"]):
            given = node["inputs"].get(entry["name"])
            if isinstance(given, list):
                source, output = nodes[given[0]], given[1]
                links.append([len(links) + 1, source["id"], output, int(key), slot, source["outputs"][output]["type"]])
                entry["link"] = len(links)
                source["outputs"][output]["links"].append(len(links))
    place(nodes, api)
    told = {
        "id": len(nodes) + 1, "type": "MarkdownNote", "pos": [0, -200], "size": [WIDTH, 140], "flags": {}, "order": 0,
        "mode": 0, "inputs": [], "outputs": [], "properties": {}, "widgets_values": [note],
    }  # fmt: skip
    return {
        "last_node_id": len(nodes) + 1, "last_link_id": len(links), "nodes": [*nodes.values(), told], "links": links,
        "groups": [], "config": {}, "extra": {}, "version": 0.4,
    }  # fmt: skip


def bare(number: int, node: dict[str, Any], about: dict[str, Any]) -> dict[str, Any]:
    """Make a node without links and place."""
    inputs, values = [], []
    for name, kind in about["inputs"].items():
        is_widget = isinstance(kind, list) or kind in WIDGETS
        if not is_widget:
            inputs.append({"name": name, "type": kind, "link": None})
        elif name in node["inputs"]:
            values.append(node["inputs"][name])
            values += ["fixed"] if name in SEEDS else []
        else:
            values.append(kind[0] if isinstance(kind, list) and kind else None)
    outputs = [{"name": name, "type": kind, "links": []} for name, kind in about["outputs"]]
    return {
        "id": number, "type": node["class_type"], "title": node["_meta"]["title"], "pos": [0, 0],
        "size": [WIDTH, HEAD + ROW * (max(len(inputs), len(outputs)) + len(values))], "flags": {}, "order": 0,
        "mode": 0,
        "inputs": inputs, "outputs": outputs, "properties": {"Node name for S&R": node["class_type"]},
        "widgets_values": values,
    }  # fmt: skip


def place(nodes: dict[str, Any], api: dict[str, Any]) -> None:
    """Put every node into the column before its first reader, and number them in the order of their work."""
    readers: dict[str, list[str]] = {key: [] for key in nodes}
    for key, node in api.items():
        for given in node["inputs"].values():
            if isinstance(given, list):
                readers[given[0]].append(key)

    def steps_left(key: str) -> int:
        return 1 + max(map(steps_left, readers[key]), default=-1)

    left = {key: steps_left(key) for key in nodes}
    below: dict[int, int] = {}
    for order, key in enumerate(sorted(nodes, key=lambda key: -left[key])):
        node, column = nodes[key], max(left.values()) - left[key]
        node["order"], node["pos"] = order, [column * (WIDTH + GAP), below.get(column, 0)]
        below[column] = node["pos"][1] + node["size"][1] + GAP


def picture(ui: dict[str, Any]) -> Image.Image:
    """Draw the graph, small."""
    nodes = {node["id"]: node for node in ui["nodes"] if node["type"] != "MarkdownNote"}
    right = max(n["pos"][0] + n["size"][0] for n in nodes.values())
    low = max(n["pos"][1] + n["size"][1] for n in nodes.values())
    drawn = Image.new("RGB", ((right + 2 * GAP) // SMALLER, (low + 2 * GAP) // SMALLER), "#202020")
    pen = ImageDraw.Draw(drawn)

    def at(x: float, y: float) -> tuple[float, float]:
        return (x + GAP) / SMALLER, (y + GAP) / SMALLER

    for _, source, output, target, slot, _ in ui["links"]:
        (x, y), width = nodes[source]["pos"], nodes[source]["size"][0]
        start = at(x + width, y + HEAD + ROW * (output + 0.5))
        end = at(nodes[target]["pos"][0], nodes[target]["pos"][1] + HEAD + ROW * (slot + 0.5))
        pen.line((start, end), "#8899bb")
    for node in nodes.values():
        (x, y), (width, height) = node["pos"], node["size"]
        ours = node["type"].startswith("DSD")
        pen.rounded_rectangle((at(x, y), at(x + width, y + height)), 2, "#3f5159" if ours else "#353535", "#777777")
        pen.text(at(x + 12, y + 4), node["title"][:14], "#dddddd")
    return drawn


if __name__ == "__main__":
    main()
