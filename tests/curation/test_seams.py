"""Sheets with gutters, borders and seams out of place, drawn here, so that the truth is known."""

import numpy as np
import pytest
from PIL import Image, ImageFilter

from dsd.curation.seams import INSET, exact, found

SIZE = 512


def picture(width: int, height: int, seed: int) -> Image.Image:
    """Soft blobs of many colours, as different from their neighbours as photographs are."""
    rng = np.random.default_rng(seed)
    noise = Image.fromarray(rng.integers(0, 255, (8, 8, 3), np.uint8)).resize((width, height), Image.Resampling.BICUBIC)
    return noise.filter(ImageFilter.GaussianBlur(3))


def sheet(xs: list[tuple[int, int]], ys: list[tuple[int, int]], paper: str = "white", seed: int = 0) -> Image.Image:
    """Panels between the given begins and ends on coloured paper."""
    drawn = Image.new("RGB", (SIZE, SIZE), paper)
    for row, (top, bottom) in enumerate(ys):
        for column, (left, right) in enumerate(xs):
            drawn.paste(picture(right - left, bottom - top, seed * 100 + row * 10 + column), (left, top))
    return drawn


@pytest.mark.parametrize("paper", ["white", "black"])
@pytest.mark.parametrize("gutter", [0, 4, 14])
@pytest.mark.parametrize("shift", [-20, 0, 17])
@pytest.mark.parametrize("border", [0, 9])
def test_panels_are_what_lies_between_the_seams(paper, gutter, shift, border) -> None:
    middle = SIZE // 2 + shift
    spans = [(border, middle - gutter // 2), (middle + gutter - gutter // 2, SIZE - border)]
    for seed in range(3):
        drawn = sheet(spans, spans, paper, seed)
        panels = found(drawn, "2x2")
        assert not panels.fault
        for panel, (y, x) in zip(panels.panels, [(y, x) for y in spans for x in spans], strict=True):
            whole = drawn.crop((x[0], y[0], x[1], y[1]))
            for ours, true in zip(panel.size, whole.size, strict=True):
                assert true - 4 * INSET - 2 <= ours <= true + 1
            if gutter or border:  # no paper is left in a panel
                rim = np.concatenate([np.asarray(panel)[i].reshape(-1, 3) for i in (0, -1)])
                flat = {"white": 255, "black": 0}[paper]
                assert (np.abs(rim.astype(int) - flat).max(axis=1) < 3).mean() < 0.5


def test_rows_and_columns_of_other_layouts() -> None:
    whole, halves = [(0, SIZE)], [(0, 250), (262, SIZE)]
    assert [p.size[0] > 400 for p in found(sheet(whole, halves), "2x1").panels] == [True, True]
    assert [p.size[1] > 400 for p in found(sheet(halves, whole), "1x2").panels] == [True, True]
    quarters = [(0, 125), (131, 253), (259, 381), (387, SIZE)]
    assert len(found(sheet(quarters, whole), "1x4").panels) == 4


@pytest.mark.parametrize(
    ("xs", "ys", "words"),
    [
        ([(0, SIZE)], [(0, SIZE)], "no horizontal seam near 50%"),
        ([(0, SIZE)], [(0, 250), (262, SIZE)], "no vertical seam near 50%"),
        ([(0, 165), (175, 335), (345, SIZE)], [(0, 250), (262, SIZE)], "no vertical seam near 50%"),
        ([(0, 125), (131, 253), (259, 381), (387, SIZE)], [(0, 250), (262, SIZE)], "vertical seam at 2"),
    ],
)
def test_another_layout_is_said(xs, ys, words) -> None:
    panels = found(sheet(xs, ys), "2x2")
    assert words in panels.fault
    assert len(panels.panels) == 4


def test_exact_takes_a_sheet_at_its_word() -> None:
    panels = exact(sheet([(0, SIZE)], [(0, SIZE)]), "2x2")
    assert not panels.fault
    assert {panel.size for panel in panels.panels} == {(256, 256)}
