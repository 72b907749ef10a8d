"""Contact sheets: every picture in its place, text below it."""

import numpy as np
from PIL import Image

from dsd.io.pictures import contact_sheet


def test_pictures_stand_in_rows_with_their_labels() -> None:
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    sheet = contact_sheet([Image.new("RGB", (20, 10), c) for c in colours], ["one", "two", ""], columns=2, cell=40)
    pixels = np.asarray(sheet)
    found = [tuple(pixels[y, x]) for y, x in ((20, 20), (20, 60), (20 + 108, 20))]
    assert found == colours
    assert (pixels[48:70, 8:48] < 200).any()  # the label's ink
    assert (pixels[128 + 20 :, 8:48] == 255).all()  # no label, no ink
