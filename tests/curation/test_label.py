"""dsd-label: the page in a real browser."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator

import pytest

from dsd.curation.agreement import read_labels


@pytest.fixture
def page(pairs, tmp_path) -> Iterator[str]:
    settings = [f"curated={pairs}", f"labels={tmp_path / 'labels.jsonl'}", "num_pairs=3", "port=0"]
    command = [sys.executable, "-m", "dsd.curation.label", *settings]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    address = re.search(r"http://[\w.:]+", process.stderr.readline())
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
