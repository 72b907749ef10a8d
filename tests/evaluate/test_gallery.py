"""The report's gallery: all jobs of all arms, within a bound, and filters that are clicked in a real browser."""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import miniatures
import numpy as np
import pytest
from datasets import Dataset
from PIL import Image

from dsd.evaluate import gallery as shown
from dsd.evaluate.gallery import gallery
from dsd.evaluate.report import write_page
from dsd.evaluate.scoring import Scored
from dsd.evaluate.table import number, title

KINDS = ("photorealistic", "imaginative")


def run_of(num: int, size: int = 32, others: int = 0) -> Dataset:
    """Results of `num` jobs with pictures by code."""
    return Dataset.from_list(
        [{"image": miniatures.picture(i, size), "reference": miniatures.picture(1000 + i, size),
          "others": [miniatures.picture(2000 + i, size)] * others} for i in range(num)]
    )  # fmt: skip


def scored_of(num: int, shift: float = 0.0, reasons: bool = False) -> list[Scored]:
    return [
        Scored(f"s{i}", f"a <b>subject</b> & number {i}", {"CP": i / num + shift * (i % 3)}, f"job-{i}",
               ("animal", "object")[i % 2], KINDS[i // 2 % 2], {"CP": f"the ears of {i} are kept"} if reasons else {})
        for i in range(num)
    ]  # fmt: skip


def test_every_job_of_every_arm_is_there_with_all_references() -> None:
    scored = {
        "a": scored_of(10),
        "b/0": [*scored_of(10)[3:], replace(scored_of(1)[0], unit="new")],
        "b/1": scored_of(2),
    }
    found = gallery({"a": run_of(10, others=2), "b/0": run_of(8), "b/1": run_of(2)}, scored, ["CP"])
    assert (found["jobs"], len(found["cards"]), found["arms"]) == (11, 11, ["a", "b"])
    assert [list(card["pictures"]) for card in found["cards"]] == [["a"]] * 3 + [["a", "b"]] * 7 + [["b"]]
    assert {len(card["references"]) for card in found["cards"][:10]} == {3}
    assert found["cards"][4]["scores"] == {"a": {"CP": 0.4}, "b": {"CP": 0.4}}
    assert found["categories"] == ["animal", "object"]
    assert found["kinds"] == sorted(KINDS)


def test_a_bound_keeps_the_page_small_and_the_jobs_spread(monkeypatch) -> None:
    noise = np.random.default_rng(0)
    pictures = [Image.fromarray(noise.integers(0, 255, (300, 300, 3), np.uint8)) for _ in range(30)]
    rows = Dataset.from_list([{"image": p, "reference": p, "others": []} for p in pictures])
    monkeypatch.setattr(shown, "MOST_BYTES", 500_000)
    found = gallery({"a": rows}, {"a": scored_of(30)}, ["CP"])
    assert 1 < len(found["cards"]) < 30 == found["jobs"]
    assert sum(map(shown.size_of, found["cards"])) < 1.2 * 500_000
    places = [int(card["job"].split("-")[1]) for card in found["cards"]]
    assert max(np.diff(places)) - min(np.diff(places)) <= 1


@pytest.fixture
def page(tmp_path) -> Path:
    """A report of two arms with a judge's reasons."""
    scored = {"student": scored_of(12, reasons=True), "zero_shot": scored_of(12, shift=0.1)}
    summary = {"arms": {}, "measures": {}, "comparisons": {}, "curation": None, "teacher": None, "left_out": "",
               "config_hash": "c0ffee", "compared": "CP"}  # fmt: skip
    for jobs in scored.values():
        jobs[:] = [replace(job, scores=job.scores | {"error": job.scores["CP"]}) for job in jobs]
    runs = {"student": run_of(12, others=1), "zero_shot": run_of(12)}
    found = gallery(runs, scored, ["CP", "error"], lower=["error"])
    write_page(
        tmp_path / "report.html", shown_template(), number=number, title=title, summary=summary, runs=[], grids=[],
        reasons=[], gallery=found, measures_plot="data:image/svg+xml,<svg/>", loss_plot="", tables={}, missing={},
    )  # fmt: skip
    return tmp_path / "report.html"


def shown_template() -> Path:
    return Path(shown.__file__).with_name("report.html.jinja")


def test_words_are_escaped_and_reasons_shown(page) -> None:
    html = page.read_text()
    assert "a &lt;b&gt;subject&lt;/b&gt; &amp; number 3" in html
    assert "<b>subject" not in html
    assert html.count("the ears of ") == 12


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs Chromium")
def test_filters_are_clicked(page) -> None:
    playwright = pytest.importorskip("playwright.sync_api")
    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=flags)
        tab = browser.new_page(viewport={"width": 1100, "height": 900})
        errors: list[str] = []
        tab.on("pageerror", lambda error: errors.append(str(error)))
        tab.on("request", lambda request: request.url.startswith("http") and errors.append(request.url))
        tab.goto(page.as_uri())

        def jobs() -> Sequence[int]:
            names = tab.locator("#gallery article:not([hidden]) .words small").all_text_contents()
            return [int(name.split()[0].split("-")[1]) for name in names]

        playwright.expect(tab.locator("#shown")).to_have_text("12 of 12")
        tab.locator("#category").select_option("animal")
        playwright.expect(tab.locator("#shown")).to_have_text("6 of 12")
        assert jobs() == [0, 2, 4, 6, 8, 10]
        tab.locator("#kind").select_option("imaginative")
        assert jobs() == [2, 6, 10]
        tab.locator("#order").select_option("best")
        assert jobs() == [10, 6, 2]
        tab.locator("#number").select_option("error")
        assert jobs() == [2, 6, 10], "of an error less is better"
        tab.locator("#order").select_option("worst")
        assert jobs() == [10, 6, 2]
        tab.locator("#number").select_option("CP")
        tab.locator("#category").select_option("")
        tab.locator("#kind").select_option("")
        tab.locator("#order").select_option("worst")
        tab.locator("#from").fill("0.5")
        tab.locator("#to").fill("0.8")
        assert jobs() == [6, 7, 8, 9]
        tab.locator("#arm").select_option("zero_shot")
        assert jobs() == [6, 5, 7, 9], "its numbers are others"
        tab.locator("#from").fill("")
        tab.locator("#to").fill("")
        tab.locator("#order").select_option("apart")
        assert jobs()[0] % 3 == 2, "there the methods differ most"
        tab.locator("#gallery article:not([hidden]) summary").first.click()
        playwright.expect(tab.locator("#gallery article:not([hidden]) .reasons p").first).to_be_visible()
        first = tab.locator("#gallery article:not([hidden]) img").first
        assert first.evaluate("image => image.decode().then(() => image.naturalWidth)") == 32
        tab.screenshot(path=str(page.with_name("report.png")))
        browser.close()
    assert errors == []
