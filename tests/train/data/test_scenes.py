"""Scenes under several lights, in the layout of MIT Multi-Illumination, and lights that are mixed."""

import shutil
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dsd.errors import UserError
from dsd.train.data.aligned import aligned
from dsd.train.data.made import LightMix, to_linear, to_srgb
from dsd.train.data.scenes import Scenes, words_of
from dsd.train.data.sources import Picture, Unread


def scenes(folder: Path, lights: tuple[int, ...] = (0, 14, 18, 23), mip: int = 6) -> Path:
    """Two scenes as the set is unpacked, with what lies beside the pictures."""
    for n, scene in enumerate(("everett_kitchen2", "main_d424-12")):
        (folder / scene / "probes").mkdir(parents=True)
        for light in lights:
            pixels = np.random.default_rng([n, light]).integers(0, 255, (16, 24, 3), np.uint8)
            Image.fromarray(pixels).save(folder / scene / f"dir_{light}_mip{mip}.jpg", quality=95)
            Image.new("RGB", (8, 8)).save(folder / scene / "probes" / f"dir_{light}_chrome32.jpg")
        Image.new("P", (24, 16)).save(folder / scene / "materials_mip6.png")
        Image.new("RGB", (8, 8)).save(folder / scene / "thumb.jpg")
    (folder / ".cache").mkdir()
    return folder


def test_the_layout_of_mit_multi_illumination(tmp_path) -> None:
    folder = scenes(tmp_path / "set", lights=(0, 2, 14, 18, 23))  # 2 is seen directly and has no words
    source = Scenes(folder, mip=6, references=2)
    pairs = list(source.block(range(len(source))))
    assert len(pairs) == 2 * 4 * 2
    words = words_of(None)
    for place, pair in enumerate(pairs):
        scene = ("everett_kitchen2", "main_d424-12")[place // 8]
        light = (0, 14, 18, 23)[place % 8 // 2]
        assert pair.target.data == (folder / scene / f"dir_{light}_mip6.jpg").read_bytes()
        assert pair.description == pair.instruction == words[light]
        others = {(folder / scene / f"dir_{k}_mip6.jpg").read_bytes() for k in (0, 14, 18, 23) if k != light}
        assert pair.reference.data in others
    assert words[18] == "light from the right"
    assert len(words) == 18


def test_which_lights_meet_follows_from_seed_and_position(tmp_path) -> None:
    folder = scenes(tmp_path / "set")
    source, again, other = (Scenes(folder, mip=6, linear=True, references=4, seed=seed) for seed in (0, 0, 1))

    def keys(one: Scenes, positions: range) -> list[tuple[str, str]]:
        return [(pair.reference.key, pair.target.key) for pair in one.block(positions)]

    whole = keys(source, range(32))
    assert whole == [pair for n in range(0, 32, 5) for pair in keys(again, range(n, min(n + 5, 32)))]
    assert keys(other, range(32)) != whole
    assert source.fingerprint == again.fingerprint != other.fingerprint


def test_lights_are_mixed_in_linear_light_where_pictures_are_linear(tmp_path) -> None:
    folder = scenes(tmp_path / "set")
    assert not any(isinstance(p.target, LightMix) for p in Scenes(folder, mip=6, mix=1.0).block(range(8)))
    source = Scenes(folder, mip=6, linear=True, references=25)
    pairs = list(source.block(range(len(source))))
    mixed = [pair for pair in pairs if isinstance(pair.target, LightMix)]
    assert 0.4 < len(mixed) / len(pairs) < 0.6
    for pair in mixed:
        first, second = pair.description.split(", and ")
        assert {first, second} < set(words_of(None).values())
        assert 0.25 <= pair.target.share <= 0.75
        assert pair.reference.data not in (pair.target.data, pair.target.other.data)
    assert len({pair.target.key for pair in mixed}) == len(mixed)
    assert Scenes(folder, mip=6, linear=True).fingerprint != Scenes(folder, mip=6).fingerprint
    with pytest.raises(UserError, match=r"data.scenes.mix=2: a share from 0 to 1"):
        Scenes(folder, mix=2)


def test_a_mix_is_what_both_lights_give_together() -> None:
    values = np.arange(256, dtype=np.uint8)
    assert np.array_equal(to_srgb(to_linear(values)), values)
    assert to_linear(np.array([188.0])).item() == pytest.approx(0.5029, abs=1e-3)  # half the light is no half value

    def grey(value: int, size: tuple[int, int] = (4, 4)) -> Picture:
        buffer = BytesIO()
        Image.new("RGB", size, (value,) * 3).save(buffer, "PNG")
        return Picture(buffer.getvalue())

    dark, bright = grey(0), grey(255)
    mix = LightMix(dark.data, other=bright, share=0.5)
    assert set(np.asarray(mix.open()).reshape(-1).tolist()) == {188}
    same = LightMix(grey(77).data, other=grey(77), share=0.3)
    assert np.array_equal(np.asarray(same.open()), np.asarray(grey(77).open()))
    assert len({dark.key, bright.key, mix.key, LightMix(dark.data, other=bright, share=0.4).key}) == 4
    with pytest.raises(UserError, match="pictures of 4 x 4 and 2 x 2 pixels cannot be mixed"):
        LightMix(dark.data, other=grey(9, (2, 2)), share=0.5).open()


def test_scenes_that_are_wrong(tmp_path) -> None:
    folder = scenes(tmp_path / "set")
    with pytest.raises(UserError, match=r"no <scene>/dir_<number>_mip2.jpg .* another size: data.scenes.mip="):
        aligned(str(folder))
    for light in (14, 18, 23):
        (folder / "main_d424-12" / f"dir_{light}_mip6.jpg").unlink()
    (folder / "everett_kitchen2" / "dir_0_mip6.jpg").write_bytes(b"no picture")
    source = aligned(str(folder), scenes=lambda path: Scenes(path, mip=6))
    found = list(source.block(range(len(source))))
    assert len(found) == 5
    assert isinstance(found[0], Unread)
    assert "picture cannot be read" in found[0].reason
    assert found[4] == Unread("scene main_d424-12: one light alone, a pair needs two")


def test_words_of_lights_are_data(tmp_path) -> None:
    folder, words = scenes(tmp_path / "set"), tmp_path / "words.yaml"
    words.write_text("14: lumière du plafond\n18: lumière de droite\n", encoding="utf-8")
    source = Scenes(folder, mip=6, lights=str(words))
    assert [pair.description for pair in source.block(range(2))] == ["lumière du plafond", "lumière de droite"]
    assert source.fingerprint != Scenes(folder, mip=6).fingerprint
    for text in ("- a", "left: a", "1: ''", "a: [", "1: 2"):
        words.write_text(text)
        with pytest.raises(UserError, match=r"words.yaml: not a table of light numbers and words") as refused:
            Scenes(folder, mip=6, lights=str(words))
        assert "\n" not in str(refused.value)


def test_scenes_are_known_by_content_and_not_by_place(tmp_path) -> None:
    folder = scenes(tmp_path / "set")
    moved = Path(shutil.copytree(folder, tmp_path / "moved"))
    (moved / "everett_kitchen2" / "thumb.jpg").unlink()  # it is not read
    assert Scenes(moved, mip=6).fingerprint == Scenes(folder, mip=6).fingerprint
    file = moved / "everett_kitchen2" / "dir_0_mip6.jpg"
    data = bytearray(file.read_bytes())
    data[-10] ^= 1
    file.write_bytes(data)
    assert Scenes(moved, mip=6).fingerprint != Scenes(folder, mip=6).fingerprint
