"""Sources and caches: the public sets as they are, nothing encoded twice, nothing stale or damaged read."""

import json
import shutil
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset, Features, Value
from datasets import Image as ImageFeature
from PIL import Image

from dsd.errors import UserError
from dsd.models.loading import load_pipeline
from dsd.models.student import CanvasStudent
from dsd.pipeline.pipeline import DSDPipeline
from dsd.train.data.cache import Cache
from dsd.train.data.encoder import Encoder
from dsd.train.data.pairs import CachedPairs, DirectPairs, Pairs, open_pairs, prepare_pairs
from dsd.train.data.public_sets import Subjects200K, Uno1M
from dsd.train.data.sources import Columns, PairSource, columns
from dsd.train.data.store import Store

BASE = Path(__file__).parents[2] / "data" / "published_tiny" / "base"
SIZES = [(32, 32), (16, 64)]


def png(seed: int, size: tuple[int, int] = (32, 32)) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), np.uint8)
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def save(file: Path, num: int = 6, wide: tuple[int, ...] = (), **changed: bytes) -> Path:
    """A data set with the columns of the published one; `changed` replaces a picture, such as image_3."""
    rows = {
        "image": [
            {"bytes": changed.get(f"image_{n}", png(n, (64, 16) if n in wide else (32, 32)))} for n in range(num)
        ],
        "conditioning": [{"bytes": changed.get(f"conditioning_{n}", png(100 + n))} for n in range(num)],
        "caption": [f"caption {n % 3}" for n in range(num)],
    }
    kinds = Features({"image": ImageFeature(), "conditioning": ImageFeature(), "caption": Value("string")})
    Dataset.from_dict(rows, features=kinds).to_parquet(file)
    return file


class Counting(Encoder):
    """Knows what it has encoded."""

    seen: dict[str, int]

    def drawn(self, references, targets, height, width):  # type: ignore[no-untyped-def]
        self.seen["pairs"] += len(references)
        return super().drawn(references, targets, height, width)

    def text(self, captions):  # type: ignore[no-untyped-def]
        self.seen["captions"] += len(captions)
        return super().text(captions)


@pytest.fixture(scope="module")
def base() -> DSDPipeline:
    return load_pipeline(str(BASE))


@pytest.fixture
def encoder(base) -> Counting:
    encoder = Counting(base, CanvasStudent(), 16)
    object.__setattr__(encoder, "seen", {"pairs": 0, "captions": 0})
    return encoder


def fill(source: PairSource, encoder: Encoder, folder: Path, worker: int = 0, workers: int = 1) -> Cache:
    """Prepare a worker's part of the pairs."""
    folder.mkdir(exist_ok=True)
    cache = Cache(encoder, folder, SIZES, keep_text=True)
    prepare_pairs(source, folder, encoder, SIZES, cache, worker, workers, False)
    return cache


def opened(source: PairSource, encoder: Encoder, folder: Path, cached: bool = True, shown: bool = False) -> Pairs:
    """Prepare all pairs and open them."""
    cache = fill(source, encoder, folder) if cached else None
    if cache is None:
        prepare_pairs(source, folder, encoder, SIZES, None, 0, 1, False)
    return open_pairs(source, folder, encoder, SIZES, cache, shown)


def test_cached_and_direct_pairs_are_the_same(encoder, tmp_path) -> None:
    source = columns(str(save(tmp_path / "a.parquet", wide=(4, 5))))
    cached, direct = (opened(source, encoder, tmp_path / "c", cached=kept) for kept in (True, False))
    assert isinstance(cached, CachedPairs)
    assert isinstance(direct, DirectPairs)
    assert cached.bucket_of.tolist() == direct.bucket_of.tolist() == [0, 0, 0, 0, 1, 1]
    for rows in ([0, 3], [5, 4]):
        torch.testing.assert_close(cached.drawn(rows), direct.drawn(rows))
        torch.testing.assert_close(cached.condition(rows), direct.condition(rows))
    for mine, theirs in zip(cached.text(["caption 2", ""]), direct.text(["caption 2", ""]), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_training_sees_what_inference_encodes(encoder, base, tmp_path, monkeypatch) -> None:
    """To the bit, in batches of the same size: the condition and its words."""
    monkeypatch.setattr("dsd.train.data.cache.AT_ONCE", 1)
    source = columns(str(save(tmp_path / "a.parquet")))
    pairs = opened(source, encoder, tmp_path / "c")
    (raw,) = source.block(range(2, 3))
    pipeline = DSDPipeline(**base.components)
    ours = pairs.condition([2])
    with torch.inference_mode():
        pixels = pipeline.read_references(raw.reference.open(), 32, 32, "crop")
        assert torch.equal(ours, encoder.student.condition(pipeline.vae, pixels))
        theirs = pipeline.encode_prompt(prompt=["caption 2"], prompt_2=None, max_sequence_length=16)[:2]
    assert all(torch.equal(a, b) for a, b in zip(pairs.text(["caption 2"]), theirs, strict=True))


def test_only_what_changed_is_encoded_again(encoder, tmp_path) -> None:
    source = columns(str(save(tmp_path / "a.parquet")))
    fill(source, encoder, tmp_path / "c")
    assert encoder.seen == {"pairs": 6, "captions": 4}  # three captions and the empty prompt, once each
    fill(source, encoder, tmp_path / "c")
    edited = columns(str(save(tmp_path / "b.parquet", image_3=png(999))))
    pairs = opened(edited, encoder, tmp_path / "c")
    assert encoder.seen == {"pairs": 7, "captions": 4}
    assert len(pairs.captions) == 6
    longer = Counting(encoder.pipeline, CanvasStudent(), 12)
    object.__setattr__(longer, "seen", {"pairs": 0, "captions": 0})
    fill(edited, longer, tmp_path / "c")  # other words a caption: latents stay
    assert longer.seen == {"pairs": 0, "captions": 4}


def test_parts_fill_one_cache(encoder, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("dsd.train.data.table.BLOCK", 2)
    source = columns(str(save(tmp_path / "a.parquet")))
    for worker in (1, 0):
        fill(source, encoder, tmp_path / "c", worker, 2)
    assert encoder.seen["pairs"] == 6
    whole = opened(source, encoder, tmp_path / "c")
    assert encoder.seen["pairs"] == 6
    alone = opened(source, encoder, tmp_path / "alone")
    assert torch.equal(whole.drawn(range(6)), alone.drawn(range(6)))


def test_a_damaged_row_is_named(encoder, tmp_path) -> None:
    source = columns(str(save(tmp_path / "a.parquet")))
    cache = fill(source, encoder, tmp_path / "c")
    (file,) = cache.drawn[0].folder.glob("*.npy")
    damaged = bytearray(file.read_bytes())
    damaged[-5] ^= 255
    file.write_bytes(damaged)
    again = opened(source, encoder, tmp_path / "c")
    again.drawn([0])
    with pytest.raises(UserError, match=rf"{file.name}: row 5 is damaged"):
        again.drawn([5])
    file.with_suffix(".json").unlink()
    encoder.seen["pairs"] = 0
    assert torch.equal(
        opened(source, encoder, tmp_path / "c").drawn([5]), opened(source, encoder, tmp_path / "d").drawn([5])
    )
    assert encoder.seen["pairs"] == 12


def test_bits_of_bfloat16_survive(tmp_path) -> None:
    rows = {str(n): torch.randn(3, 4).bfloat16() for n in range(3)}
    Store(tmp_path, torch.bfloat16).add(rows)
    store = Store(tmp_path, torch.bfloat16)
    assert "1" in store
    assert "7" not in store
    assert torch.equal(store.rows(["2", "0"]), torch.stack([rows["2"], rows["0"]]))


def test_what_cannot_be_read_is_left_out_and_counted(encoder, tmp_path, caplog) -> None:
    source = columns(str(save(tmp_path / "a.parquet", image_1=b"no picture", conditioning_4=png(4)[:50])))
    with caplog.at_level("WARNING"):
        pairs = opened(source, encoder, tmp_path / "c", shown=True)
    assert len(pairs.captions) == 4
    assert [position for position, _ in pairs.table.faults] == [1, 4]
    assert "2 pairs are left out, such as number 1: picture cannot be read" in caplog.text
    pictures = {f"image_{n}": b"none" for n in range(6)}
    with pytest.raises(UserError, match="none of its 6 pairs can be read; pair 0: picture cannot be read"):
        opened(columns(str(save(tmp_path / "b.parquet", **pictures))), encoder, tmp_path / "c")


def test_no_room_is_said_before_anything_is_encoded(encoder, tmp_path, monkeypatch) -> None:
    source = columns(str(save(tmp_path / "a.parquet")))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 5, 5))
    with pytest.raises(UserError, match=r"the cache needs .* GB and 5e-09 GB are free; use another cache_dir"):
        fill(source, encoder, tmp_path / "c")
    assert encoder.seen == {"pairs": 0, "captions": 0}
    assert isinstance(opened(source, encoder, tmp_path / "c", cached=False), DirectPairs)


def test_columns_are_mapped(tmp_path) -> None:
    file = save(tmp_path / "a.parquet")
    with pytest.raises(UserError, match="no column 'target'; its columns: image, conditioning, caption"):
        columns(str(file), image="target")
    swapped = columns(str(file), image="conditioning", conditioning="image")
    (ours,), (theirs,) = swapped.block(range(1)), columns(str(file)).block(range(1))
    assert (ours.target.key, ours.reference.key) == (theirs.reference.key, theirs.target.key)
    assert theirs.instruction == theirs.description == "caption 0"
    with pytest.raises(UserError, match="no such file"):
        columns(str(tmp_path / "none.parquet"))
    empty = Dataset.from_dict({"image": [], "conditioning": [], "caption": []})
    with pytest.raises(UserError, match="no rows in it"):
        Columns(empty, "empty")


def test_a_stream_is_the_same_set(encoder, tmp_path) -> None:
    (tmp_path / "set").mkdir()
    save(tmp_path / "set" / "train.parquet")
    streamed = columns(str(tmp_path / "set"), streaming=True, num=5)
    stored = columns(str(tmp_path / "set"), num=5)
    assert len(streamed) == len(stored) == 5
    for ours, theirs in zip(streamed.block(range(1, 4)), stored.block(range(1, 4)), strict=True):
        assert (ours.reference.key, ours.target.key, ours.description) == (
            theirs.reference.key, theirs.target.key, theirs.description,
        )  # fmt: skip
    assert len(opened(streamed, encoder, tmp_path / "c").captions) == 5


def test_subjects200k_as_it_is(tmp_path) -> None:
    scores = {"compositeStructure": 5, "objectConsistency": 5, "imageQuality": 5}
    told = {"item": "fox", "description_0": "a fox at sea", "description_1": "a fox in snow"}
    sheet = Image.new("RGB", (3 * 8 + 2 * 32, 2 * 8 + 32))
    left, right = (Image.open(BytesIO(png(seed))) for seed in (1, 2))
    sheet.paste(left, (8, 8))
    sheet.paste(right, (48, 8))
    rows = [
        ("collection_2", scores), ("collection_2", scores | {"imageQuality": 4}), ("collection_1", scores),
        ("collection_2", None),
    ]  # fmt: skip
    kinds = Features({
        "image": ImageFeature(), "collection": Value("string"),
        "quality_assessment": {name: Value("int64") for name in scores},
        "description": {name: Value("string") for name in told},
    })  # fmt: skip
    columns_of = {"image": [sheet] * 4, "collection": [r[0] for r in rows], "quality_assessment": [r[1] for r in rows]}
    (tmp_path / "set").mkdir()
    Dataset.from_dict({**columns_of, "description": [told] * 4}, features=kinds).to_parquet(
        tmp_path / "set" / "a.parquet"
    )
    source = Subjects200K(str(tmp_path / "set"), panel=32)
    assert len(source) == 2
    first, second = source.block(range(2))
    assert (first.description, second.description) == ("a fox at sea", "a fox in snow")
    assert first.target.open().tobytes() == left.tobytes() == second.reference.open().tobytes()
    assert second.target.open().tobytes() == right.tobytes() == first.reference.open().tobytes()
    with pytest.raises(UserError, match="no row of collection 'collection_3'"):
        Subjects200K(str(tmp_path / "set"), collection="collection_3")


def test_uno_1m_as_it_is(tmp_path) -> None:
    (tmp_path / "labels").mkdir()
    (tmp_path / "images" / "split1").mkdir(parents=True)
    for name in "ab":
        (tmp_path / "images" / "split1" / f"{name}.png").write_bytes(png(ord(name)))
    row = {
        "img_path1": "split1/a.png", "img_path2": "split1/b.png",
        "caption": {"img_path1": "a bread", "img_path2": "a bread on a plate", "judgment": "same"},
    }  # fmt: skip
    scored = [row | {"vlm_filter_cot": {"score_final": score}} for score in (4.0, 3.0, 131184.7)]
    (tmp_path / "labels" / "split1.json").write_text(json.dumps(scored))
    source = Uno1M(str(tmp_path))
    first, second = source.block(range(2))
    assert len(source) == 2
    assert (first.description, second.description) == ("a bread on a plate", "a bread")
    assert first.reference.data == second.target.data == png(ord("a"))
    with pytest.raises(UserError, match="unpack UNO-1M first"):
        Uno1M(str(tmp_path / "images"))


def test_a_set_is_known_by_its_files(tmp_path) -> None:
    """`datasets` (4.0 to 5.2) keeps each set in a folder named by a hash of its files; its fingerprint is private."""
    file = save(tmp_path / "a.parquet")
    first, again, fewer = columns(str(file)), columns(str(file)), columns(str(file), num=5)
    edited = columns(str(save(file, image_3=png(999))))
    assert first.fingerprint == again.fingerprint
    assert len({first.fingerprint, fewer.fingerprint, edited.fingerprint}) == 3
