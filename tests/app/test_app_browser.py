"""dsd-app in a real browser."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from app.conftest import settings_in

playwright = pytest.importorskip("playwright.sync_api")
pytestmark = pytest.mark.skipif(shutil.which("chromium") is None, reason="needs Chromium")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
SLOW = 120_000  # milliseconds; against hangs alone


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright.expect.set_options(timeout=SLOW)
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser, served) -> Iterator[Any]:
    """Open the page as a user of their own; at the end nobody has asked another server, or logged an error."""
    contexts, foreign, errors = [], [], []

    def open_page(width: int = 1280, height: int = 900) -> Any:
        contexts.append(browser.new_context(viewport={"width": width, "height": height}, accept_downloads=True))
        page = contexts[-1].new_page()
        page.set_default_timeout(SLOW)
        ours = (served.address, "data:", "blob:")
        page.on("request", lambda request: None if request.url.startswith(ours) else foreign.append(request.url))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(served.address)
        playwright.expect(page.locator("#draw")).to_be_enabled()
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert foreign == []
    assert errors == []


def fill(page: Any, picture: Path, prompt: str, seed: int = 0) -> None:
    page.locator("#reference input[type=file]").set_input_files(picture)
    playwright.expect(page.locator("#reference img")).to_be_visible()
    page.locator("#prompt textarea").fill(prompt)
    page.locator("#seed input").fill(str(seed))


def set_number(page: Any, name: str, value: int) -> None:
    """Type a number once its field is there, and see that it stays: a page that is still being built may reset it."""
    field = page.locator(f"#{name} input[type=number]")
    playwright.expect(field).to_be_visible()
    playwright.expect(page.locator("#draw")).to_be_enabled()
    field.fill(str(value))
    field.press("Tab")
    playwright.expect(field).to_have_value(str(value))


def says(page: Any, words: str) -> None:
    playwright.expect(page.locator("#status")).to_contain_text(re.compile(words))


def download(page: Any, path: Path) -> Path:
    playwright.expect(page.locator("#save")).to_be_enabled()
    with page.expect_download() as got:
        page.locator("#save").click()
    got.value.save_as(path)
    return path


def test_upload_draw_and_reload_its_settings(open_page, reference, tmp_path) -> None:
    page = open_page()
    fill(page, reference, "a critter, beach\na critter, city", seed=21)
    page.locator("#preset-faithful").click()
    playwright.expect(page.locator("#image-guidance input[type=number]")).to_have_value("1.5")
    page.locator("#draw").click()
    says(page, "Done: 2 of 2")
    playwright.expect(page.locator("#pictures button img")).to_have_count(2)
    playwright.expect(page.locator("#redrawn button img")).to_have_count(2)
    path = download(page, tmp_path / "drawn.png")
    told = settings_in(path)
    assert (told["prompt"], told["seed"], told["image_guidance_scale"]) == ("a critter, beach", 21, 1.5)

    again = open_page()
    again.locator("#load").locator("xpath=..").locator("input[type=file]").set_input_files(path)
    playwright.expect(again.locator("#prompt textarea")).to_have_value("a critter, beach")
    playwright.expect(again.locator("#seed input")).to_have_value("21")
    playwright.expect(again.locator("#image-guidance input[type=number]")).to_have_value("1.5")
    page.locator("#reuse").click()
    playwright.expect(page.locator("#reference img")).to_have_attribute("src", re.compile(r"critter-1-\w{16}\.png"))


def test_stop_and_draw_again(open_page, reference) -> None:
    page = open_page()
    fill(page, reference, "a critter, beach")
    page.get_by_text("Size and steps").click()
    set_number(page, "steps", 200)
    set_number(page, "number", 16)
    page.locator("#draw").click()
    says(page, r"step \d+ of 200")
    page.locator("#stop").click()
    says(page, r"Stopped at step \d+ of 200; \d+ of 16")
    set_number(page, "steps", 2)
    set_number(page, "number", 1)
    page.locator("#draw").click()
    says(page, "Done: 1 of 1")


def test_what_cannot_be_drawn_is_said_in_the_page(open_page, reference, not_a_picture) -> None:
    page = open_page()
    page.locator("#draw").click()
    toast = page.locator(".toast-body").last
    playwright.expect(toast).to_contain_text("prompt is empty; say what to draw")
    page.locator("#prompt textarea").fill("<img src=x onerror=alert(1)>")
    page.locator("#reference input[type=file]").set_input_files(not_a_picture)
    playwright.expect(page.locator("#reference img")).to_have_count(1)
    page.locator("#draw").click()
    playwright.expect(page.locator(".toast-body").last).to_contain_text("notes.png: no picture that can be read")
    page.reload()
    playwright.expect(page.locator("#draw")).to_be_enabled()
    fill(page, reference, "a critter")
    page.locator("#draw").click()
    says(page, "Done: 1 of 1")


def test_two_users_at_once_get_their_own_pictures(open_page, tmp_path) -> None:
    examples = Path(__file__).parents[2] / "examples"
    asked = {"one": (examples / "critter-1.png", 31), "two": (examples / "critter-2.png", 32)}
    pages = {name: open_page() for name in asked}
    for name, page in pages.items():
        picture, seed = asked[name]
        fill(page, picture, f"a critter for user {name}", seed)
    for page in pages.values():
        page.locator("#draw").click()
    for name, page in pages.items():
        says(page, "Done: 1 of 1")
        told = settings_in(download(page, tmp_path / f"{name}.png"))
        assert (told["prompt"], told["seed"]) == (f"a critter for user {name}", asked[name][1])


@pytest.mark.parametrize("width", [1280, 390])
def test_everything_is_within_reach_at_any_width(open_page, width) -> None:
    page = open_page(width, 844)
    page.locator("#examples button").first.click()
    playwright.expect(page.locator("#prompt textarea")).not_to_have_value("")
    before = page.locator("#seed input").input_value()
    page.locator("#dice").click()
    playwright.expect(page.locator("#seed input")).not_to_have_value(before)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "no scrolling sideways"
    box = page.locator("#draw").bounding_box()
    assert box["y"] + box["height"] <= 844 or width > 700, "on a phone, Draw is always on the screen"
    page.get_by_role("tab", name="Sweep").click()
    playwright.expect(page.locator("#sweep")).to_be_visible()
    page.get_by_role("tab", name="Compare").click()
    playwright.expect(page.locator("#compare")).to_be_visible()


def test_data_is_shown_with_its_reasons(open_page) -> None:
    page = open_page()
    page.get_by_role("tab", name="Data").click()
    page.locator("#view input").click()
    page.get_by_role("option", name="pairs: rejected").click()
    cards = page.locator("#cards figure")
    playwright.expect(cards.first).to_contain_text("Rejected: ")
    playwright.expect(page.locator("#said")).to_contain_text("records, page 1 of")
