"""Contact sheets: every picture in its place, text below it."""

import numpy as np
from PIL import Image

from dsd.io.pictures import contact_sheet, png, save_picture, save_png


def test_pictures_stand_in_rows_with_their_labels() -> None:
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    sheet = contact_sheet([Image.new("RGB", (20, 10), c) for c in colours], ["one", "two", ""], columns=2, cell=40)
    pixels = np.asarray(sheet)
    found = [tuple(pixels[y, x]) for y, x in ((20, 20), (20, 60), (20 + 88, 20))]  # rows are as high as their pictures
    assert found == colours
    assert (pixels[28:50, 8:48] < 200).any()  # the label's ink
    assert (pixels[108 + 20 :, 8:48] == 255).all()  # no label, no ink


def test_a_stored_png_becomes_a_file_without_encoding_it_again(tmp_path, monkeypatch) -> None:
    """Byte for byte what `save_picture` writes, in any mode that a teacher may draw."""
    asked = ("a fox 一只", 7, {"height": 64, "fit": "crop"})
    for mode in ("RGB", "RGBA", "L", "P"):
        picture = Image.effect_noise((9, 7), 60).convert(mode)
        save_picture(picture, tmp_path / f"{mode}.png", *asked)
        data = png(picture)
        with monkeypatch.context() as patched:
            patched.setattr(Image.Image, "save", None)  # would raise
            save_png(data, tmp_path / f"{mode}-stored.png", *asked)
        assert (tmp_path / f"{mode}-stored.png").read_bytes() == (tmp_path / f"{mode}.png").read_bytes(), mode
    assert Image.open(tmp_path / "RGB-stored.png").text["prompt"] == "a fox 一只"
