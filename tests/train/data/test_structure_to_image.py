"""Structure to image: references that a tool makes of the target's own picture."""

from dataclasses import dataclass
from io import BytesIO

import numpy as np
import pytest
from PIL import Image, ImageDraw

from dsd.errors import UserError
from dsd.train.data.made import Made
from dsd.train.data.makers import DepthMap, LineArt, Maker, Normals
from dsd.train.data.sources import RawPair, Unread, curated
from dsd.train.data.structure import Structure, structure
from dsd.train.data.table import blocks, make_table, read_table


@dataclass
class Ramp:
    """Depth that rises to the right by the whole range over the width, at half the picture's size."""

    rise: str = "right"

    def depth_map(self, image: Image.Image) -> Image.Image:
        width, height = image.width // 2, image.height // 2
        across = np.linspace(0, 255, width if self.rise == "right" else height)
        values = np.broadcast_to(across if self.rise == "right" else across[::-1, None], (height, width))
        return Image.fromarray(values.astype(np.uint8))


def square() -> Image.Image:
    image = Image.new("RGB", (64, 48), "white")
    ImageDraw.Draw(image).rectangle((20, 10, 43, 33), fill="navy")
    return image


def test_line_art_shows_the_outlines_alone() -> None:
    lines = np.asarray(LineArt()(square()))
    assert lines.shape == (48, 64, 3)
    assert set(np.unique(lines)) == {0, 255}
    there = lines[..., 0] > 0
    assert 80 < there.sum() < 120  # the square's outline is 92 pixels long
    assert not there[14:30, 24:40].any()
    assert not LineArt()(Image.new("RGB", (64, 48), "red")).convert("L").getbbox()
    assert not LineArt(low=9000, high=9001)(square()).convert("L").getbbox()


def test_depth_and_normals_have_the_size_of_the_picture() -> None:
    depth = np.asarray(DepthMap(Ramp(), "ramp")(square())).astype(int)
    assert depth.shape == (48, 64, 3)
    assert (np.diff(depth[24, :, 0]) >= 0).all()
    right, up = (np.asarray(Normals(Ramp(rise), "ramp")(square()))[24, 32].astype(int) for rise in ("right", "up"))
    assert right[0] < 60 < 120 < right[1] < 135  # a slope that comes nearer to the right faces left
    assert up[1] < 60 < 120 < up[0] < 135  # one that comes nearer at the top faces down
    flat = np.asarray(Normals(Ramp(), "ramp", strength=0.0)(square()))
    assert np.array_equal(np.unique(flat.reshape(-1, 3), axis=0), [[128, 128, 255]])


def test_the_reference_is_made_of_the_target(pairs) -> None:
    source = structure(str(pairs), LineArt())
    theirs = curated(str(pairs))
    assert len(source) == len(theirs)
    for ours, pair in zip(source.block(range(4)), theirs.block(range(4)), strict=True):
        assert isinstance(ours, RawPair)
        assert isinstance(pair, RawPair)
        assert ours.target == pair.target
        assert ours.description == ours.instruction == pair.description
        assert ours.reference.open().tobytes() == LineArt()(pair.target.open().convert("RGB")).tobytes()


def test_keys_name_the_maker_and_its_settings(pairs) -> None:
    """Otherwise the latents of other edges would be read from the cache."""
    makers: list[Maker] = [
        LineArt(), LineArt(low=50), LineArt(high=150), DepthMap(Ramp(), "a"), DepthMap(Ramp(), "b"),
        Normals(Ramp(), "a"), Normals(Ramp(), "a", strength=2.0),
    ]  # fmt: skip
    sources = [structure(str(pairs), maker) for maker in makers]
    found = [next(iter(source.block(range(1)))) for source in sources]
    keys = [pair.reference.key for pair in found] + [found[0].target.key]
    assert len(set(keys)) == len(makers) + 1
    assert len({source.fingerprint for source in sources}) == len(makers)
    again = next(iter(structure(str(pairs), LineArt()).block(range(1))))
    assert again.reference.key == keys[0]
    boxed = Made(found[0].target.data, (0, 0, 8, 8), make=LineArt(), name=LineArt().name)
    assert boxed.key not in keys
    assert boxed.open().size == (8, 8)


def test_any_set_with_pictures_and_captions_will_do(tmp_path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    buffer = BytesIO()
    square().save(buffer, "PNG")
    rows = [{"photo": {"bytes": data}, "text": "un carré"} for data in (buffer.getvalue(), b"no picture")]
    schema = pa.schema({"photo": pa.struct({"bytes": pa.binary(), "path": pa.string()}), "text": pa.string()})
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), tmp_path / "a.parquet")
    source = structure(str(tmp_path / "a.parquet"), LineArt(), image="photo", caption="text")
    make_table(source, tmp_path / "cache", blocks(source), shown=False)
    table = read_table(source, tmp_path / "cache", [(48, 64)], blocks(source))
    assert table.positions.tolist() == [0]
    assert table.captions == [("un carré", "un carré")]
    assert table.faults[0][1].startswith("picture cannot be read")
    with pytest.raises(UserError, match="no column 'image'; its columns: photo, text; map them"):
        structure(str(tmp_path / "a.parquet"), LineArt())


def test_a_pair_that_cannot_be_read_stays_one(tmp_path) -> None:
    class Broken:
        fingerprint = "broken"

        def __len__(self) -> int:
            return 1

        def block(self, positions: range):  # type: ignore[no-untyped-def]
            yield Unread("gone")

    assert list(Structure(Broken(), LineArt()).block(range(1))) == [Unread("gone")]
