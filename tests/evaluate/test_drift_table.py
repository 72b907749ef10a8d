"""The drift of pictures that other tools made, read as they are: shifts that are known must stand in the table."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from PIL import Image

SIZE, EDGE = (160, 128), 16  # of a picture in pixels, and what a photograph has around it
NAMES = ("astronaut", "chelsea", "coffee", "rocket")


def seen(name: str, left: int = 0) -> Image.Image:
    """A photograph through a window that stands `left` pixels further left: what it shows moves right."""
    whole = Image.fromarray(getattr(skimage.data, name)()).resize((SIZE[0] + 2 * EDGE, SIZE[1] + 2 * EDGE))
    return whole.crop((EDGE - left, EDGE, EDGE - left + SIZE[0], EDGE + SIZE[1]))


def relit(picture: Image.Image) -> Image.Image:
    """Warm light from the left that fades to the right."""
    light = np.linspace(1.0, 0.5, picture.width)[None, :, None] * np.array([1.0, 0.9, 0.75])
    return Image.fromarray((np.asarray(picture) * light).round().astype(np.uint8))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """References, and the pictures of two tools: one moves nothing, the other everything by 4 pixels."""
    folder = tmp_path_factory.mktemp("editors")
    for name in ("references", "still", "moving"):
        (folder / name).mkdir()
    for name in NAMES:
        seen(name).save(folder / "references" / f"{name}.png")
        relit(seen(name)).save(folder / "still" / f"{name}.png")
        relit(seen(name, left=4)).resize(SIZE).save(folder / "moving" / f"{name}.jpg", quality=95)
    return folder


def table_of(run, folder: Path, out: Path, *more: str) -> dict[str, dict[str, str]]:
    """The rows of the drift table by arm."""
    run("evaluate", f"results={{still: {folder / 'still'}, moving: {folder / 'moving'}}}", "jobs=folder",
        f"jobs.path={folder / 'references'}", "jobs.prompt=golden hour", f"output_dir={out}",
        "baseline=moving", "num_resamples=200", "device=cpu", *more)  # fmt: skip
    header, *rows = csv.reader((out / "tables" / "arms-drift.csv").read_text().splitlines())
    return {row[0]: dict(zip(header, row, strict=True)) for row in rows}


def test_the_table_has_the_known_shifts_and_less_wins(run, pictures, embedding, lite0, tmp_path) -> None:
    found = table_of(run, pictures, tmp_path, "measure=[drift,similarity]", "~measure.clip", "~measure.dino",
                     f"measure.dinov2.features.path={embedding}", "measure.drift.features=tf_efficientnet_lite0",
                     f"measure.drift.checkpoint={lite0}")  # fmt: skip
    still, moving = found["still"], found["moving"]
    assert float(still["drift ↓"]) < 0.5
    assert float(moving["drift ↓"]) == pytest.approx(4, abs=0.5)
    assert float(still["drift p95 ↓"]) < 2 < float(moving["drift p95 ↓"])
    assert float(still["edge f1"]) > float(moving["edge f1"]) + 0.1
    assert float(still["reflectance ↓"]) < 0.7 * float(moving["reflectance ↓"])
    summary = json.loads((tmp_path / "summary.json").read_text())
    compared = summary["comparisons"]["still - moving"]
    assert compared["value"] == pytest.approx(-4, abs=0.6)
    assert (compared["won"]["value"], compared["apart"]) == (1.0, True)
    assert 0 < summary["arms"]["still"]["dinov2_image"]["value"] <= 1
    markdown = (tmp_path / "table.md").read_text()
    assert "| drift ↓ of | value |" in markdown
    assert "less is better" not in markdown


def test_without_a_network_reflectance_is_left_out(run, pictures, tmp_path) -> None:
    found = table_of(run, pictures, tmp_path, "measure=drift")
    assert not any("reflectance" in name for name in found["still"])
    assert float(found["moving"]["drift ↓"]) == pytest.approx(4, abs=0.5)


def test_a_network_that_is_missing_is_one_line(refused, pictures, tmp_path) -> None:
    said = refused(
        "evaluate", f"results={{still: {pictures / 'still'}}}", "jobs=folder", f"jobs.path={pictures / 'references'}",
        "jobs.prompt=dusk", "measure=drift", "measure.drift.features=tf_efficientnet_lite0", "device=cpu",
        f"measure.drift.checkpoint={tmp_path / 'nowhere.safetensors'}", f"output_dir={tmp_path / 'report'}",
    )  # fmt: skip
    assert "features.model=tf_efficientnet_lite0: cannot be loaded" in said
    assert not (tmp_path / "report" / "summary.json").exists()
