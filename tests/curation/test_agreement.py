"""The judge against labels: figures that are known by hand, the command, and the page in a real browser."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from dsd.curation.agreement import agreement, read_labels
from dsd.errors import UserError
from dsd.runs.shards import read_shards

ROOT = Path(__file__).parents[2]


def verdict(grid: int, same: bool, similarity: float, defect: str = "") -> dict:
    scores = json.dumps({"similarity": similarity})
    return {"grid": grid, "first": 0, "second": 1, "same": same, "scores": scores, "defect": defect}


def test_the_figures_are_those_of_the_definitions() -> None:
    """40 yes by both, 10 by the judge alone, 20 by the label alone, 30 no by both: Cohen's kappa is 0.4."""
    said = [(True, True)] * 40 + [(True, False)] * 10 + [(False, True)] * 20 + [(False, False)] * 30
    labels = {(n, 0, 1): true for n, (_, true) in enumerate(said)}
    verdicts = [verdict(n, judge, 0.9 if true else 0.1) for n, (judge, true) in enumerate(said)]
    swapped = {(n, 0, 1): judge if n % 4 else not judge for n, (judge, _) in enumerate(said)}
    found = agreement(labels, [*verdicts, verdict(500, True, 0.5), verdict(0, True, 0.5, "flat panel")], swapped)
    judge = {name: number["value"] for name, number in found["judge"].items()}
    assert judge == {"precision": 0.8, "recall": pytest.approx(2 / 3, abs=1e-4), "f1": pytest.approx(8 / 11, abs=1e-4),
                     "kappa": 0.4}  # fmt: skip
    assert found["judge"]["kappa"]["low"] < 0.4 < found["judge"]["kappa"]["high"]
    assert found["similarity alone"]["bound"] == 0.9
    assert found["similarity alone"]["f1"]["value"] == 1
    assert found["self_agreement_swapped"]["value"] == 0.75
    with pytest.raises(UserError, match="no labelled pair has a verdict"):
        agreement({(9999, 0, 1): True}, verdicts, {})


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "labels.jsonl:2: not a label"),
        ('{"grid": 1, "first": 0, "second": 1, "same": 1}', "must be true or false"),
    ],
)
def test_bad_labels_are_one_line(tmp_path, line, words) -> None:
    (tmp_path / "labels.jsonl").write_text(f'{{"grid": 1, "first": 2, "second": 0, "same": true}}\n{line}\n')
    with pytest.raises(UserError, match=words):
        read_labels(tmp_path / "labels.jsonl")
    (tmp_path / "labels.jsonl").write_text("\n")
    with pytest.raises(UserError, match="no labels in it"):
        read_labels(tmp_path / "labels.jsonl")


def test_the_command_compares_and_asks_again_with_the_pictures_swapped(run, refused, grids, pairs, tmp_path) -> None:
    """The oracle's sheets show one subject each, and this judge does not care for the order."""
    rows = read_shards(pairs, "verdicts")
    labels = [{"grid": v["grid"], "first": v["first"], "second": v["second"], "same": True} for v in rows]
    (tmp_path / "labels.jsonl").write_text("\n".join(map(json.dumps, labels)))
    ask = ("mode=agreement", f"grids={grids}", f"verdicts_dir={pairs}", f"output_dir={tmp_path / 'out'}", "device=cpu")
    said = run("curation", *ask, f"labels={tmp_path / 'labels.jsonl'}")
    assert "72 labelled pairs compared" in said
    found = json.loads((tmp_path / "out" / "agreement.json").read_text())
    assert found["judge"]["precision"]["value"] == 1
    assert found["judge"]["recall"]["value"] == pytest.approx(np.mean(rows["same"]), abs=1e-4)
    assert found["self_agreement_swapped"]["value"] == 1
    assert "similarity alone" in found
    assert "needs labels=" in refused("curation", *ask)


@pytest.fixture
def page(grids, tmp_path) -> Iterator[str]:
    command = [sys.executable, ROOT / "scripts" / "label_pairs.py", grids, "--labels", tmp_path / "labels.jsonl",
               "--num", 3, "--port", 0]  # fmt: skip
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    address = re.search(r"http://\S+", process.stdout.readline())
    assert address
    yield address[0]
    process.terminate()
    process.wait()


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs Chromium")
def test_two_keys_label_pairs_in_a_browser(page, tmp_path) -> None:
    playwright = pytest.importorskip("playwright.sync_api")
    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=flags)
        tab = browser.new_page(viewport={"width": 900, "height": 600})
        tab.goto(page)

        def labelled(number: int) -> None:
            playwright.expect(tab.locator("#count")).to_have_text(f" {number} of 3")

        labelled(0)
        assert tab.locator("#first").evaluate("image => image.decode().then(() => image.naturalWidth)") == 64
        first = tab.locator("#first").get_attribute("src")
        tab.keyboard.press("s")
        labelled(1)
        tab.keyboard.press("d")
        labelled(2)
        tab.keyboard.press("u")
        labelled(1)
        tab.keyboard.press("d")
        labelled(2)
        tab.keyboard.press("x")
        tab.keyboard.press("S")
        labelled(3)
        playwright.expect(tab.locator("figure")).to_contain_text("All pairs are labelled")
        browser.close()
    labels = read_labels(tmp_path / "labels.jsonl")
    assert sorted(labels.values()) == [False, True, True]
    grid, panel = map(int, re.findall(r"\d+", str(first)))
    assert any(key[0] == grid and key[1] == panel for key in labels)
