"""Pairs, caches and tables that are broken: left out and named, made again, or refused in one line."""

import json
import os
import shutil
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from datasets import Dataset, Features, Value
from datasets import Image as ImageFeature
from PIL import Image

from dsd.errors import UserError
from dsd.train.data.public_sets import Subjects200K, Uno1M
from dsd.train.data.sources import PairSource, RawPair, Unread, columns, curated
from dsd.train.data.store import Store
from dsd.train.data.table import Table, blocks, file_of, folder_of, left_out, make_table, read_table, refuse_useless

SIZES = [(32, 32)]


def picture(kind: str = "PNG", color: str = "red", **more: object) -> bytes:
    buffer = BytesIO()
    Image.new("RGB", (32, 32), color).save(buffer, kind, **more)
    return buffer.getvalue()


def table_of(source: PairSource, folder: Path) -> Table:
    make_table(source, folder, blocks(source), shown=False)
    return read_table(source, folder, SIZES, blocks(source))


def saved(folder: Path, **second: object) -> Path:
    """Three pairs as a Parquet file; `second` replaces cells of the one in the middle."""
    good = {"image": {"bytes": picture()}, "conditioning": {"bytes": picture(color="blue")}, "caption": "a fox"}
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    schema = pa.schema({"image": kind, "conditioning": kind, "caption": pa.string()})
    rows = [good, {**good, **second}, good]
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), folder / "a.parquet")
    return folder / "a.parquet"


@pytest.mark.parametrize(
    ("cells", "reason"),
    [
        ({"image": None}, "no target picture"),
        ({"conditioning": None}, "no reference picture"),
        ({"image": {"path": "/nowhere/a.png"}}, "/nowhere/a.png: no such file"),
        ({"image": {"path": "/dev/null"}}, "/dev/null: not a regular file"),
        ({"image": {"path": "/"}}, "/: not a regular file"),
        ({"image": {"bytes": b"no picture"}}, "picture cannot be read: cannot identify image file"),
        ({"image": {"bytes": b""}}, "picture cannot be read"),
        ({"image": {"bytes": picture()[:60]}}, "picture cannot be read"),
        ({"image": {"bytes": picture("DDS")}}, "picture cannot be read"),
        ({"image": {"bytes": picture("EPS")}}, "picture cannot be read"),
        ({"caption": None}, "no caption"),
        ({"caption": " \n"}, "no caption"),
        ({"caption": "a" * 100_001}, "caption: String should have at most 100000 characters"),
    ],
)
def test_a_broken_pair_is_left_out_and_named(tmp_path, cells, reason) -> None:
    """One null image or missing file blocked a whole training set by a traceback."""
    table = table_of(columns(str(saved(tmp_path, **cells))), tmp_path / "cache")
    assert table.positions.tolist() == [0, 2]
    ((position, said),) = table.faults
    assert position == 1
    assert reason in said
    assert "\n" not in said
    assert left_out(table.faults).startswith("1 pairs are left out, such as number 1: ")


def test_broken_exif_is_no_reason(tmp_path) -> None:
    odd = picture("JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\xff\xff\0\0\0\x01")
    table = table_of(columns(str(saved(tmp_path, image={"bytes": odd}))), tmp_path / "cache")
    assert table.faults == []


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "MPO", "WEBP", "BMP", "TIFF", "GIF", "AVIF"])
def test_pictures_of_every_known_format_are_read(tmp_path, kind) -> None:
    """Pillow gave up at MPO, and whatever stood behind it in the list was unreadable."""
    table = table_of(columns(str(saved(tmp_path, image={"bytes": picture(kind)}))), tmp_path / "cache")
    assert table.faults == []


def plain(folder: Path, **columns_of: list) -> Path:
    pq.write_table(pa.table(columns_of), folder / "a.parquet")
    return folder / "a.parquet"


@pytest.mark.parametrize(
    ("cells", "words"),
    [
        ({"image": [1, 2]}, "column 'image' holds no pictures but int64"),
        ({"conditioning": [{"a": 1}, {"a": 2}]}, "pair 0: no reference picture"),
        ({"caption": [1, 2]}, "none of its 2 pairs can be read; pair 0: caption: Input should be a valid string"),
        ({"caption": [["a"], ["b"]]}, "pair 0: caption: Input should be a valid string"),
        ({"caption": [None, None]}, "pair 0: no caption"),
        ({"instruction": [1.5, 2.5]}, "pair 0: instruction: Input should be a valid string"),
        ({"image": ["/nowhere.png", "/nowhere.png"]}, "pair 0: /nowhere.png: no such file"),
    ],
)
def test_columns_of_another_kind_are_one_line(tmp_path, cells, words) -> None:
    (tmp_path / "a.png").write_bytes(picture())
    good = {"image": [str(tmp_path / "a.png")] * 2, "conditioning": [str(tmp_path / "a.png")] * 2, "caption": ["a"] * 2}
    with pytest.raises(UserError) as refused:
        refuse_useless(table_of(columns(str(plain(tmp_path, **{**good, **cells}))), tmp_path / "cache"), "here")
    assert words in str(refused.value)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.parquet", b"PAR1 no more"), ("a.parquet", b""), ("a.json", b"[1, 2"), ("a.json", b"\xff\xfe{\0"),
        ("a.jsonl", b'["a"]\n["b"]\n'), ("a.jsonl", b'{"image": "a"}\n'), ("a.jsonl", b""),
    ],
)  # fmt: skip
def test_a_file_that_is_no_set_is_one_line(tmp_path, name, content) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as refused:
        columns(str(tmp_path / name))
    assert "\n" not in str(refused.value)


def test_a_pipe_is_no_set(tmp_path) -> None:
    os.mkfifo(tmp_path / "a.jsonl")
    with pytest.raises(UserError, match="not a regular file"):
        columns(str(tmp_path / "a.jsonl"))


def test_rows_of_subjects200k_that_are_broken(tmp_path) -> None:
    scores, told = {"imageQuality": 5}, {"description_0": "a fox", "description_1": "a fox in snow"}
    good = {"image": {"bytes": picture()}, "collection": "collection_2", "quality_assessment": scores,
            "description": told}  # fmt: skip
    rows = [good, {**good, "image": None}, {**good, "description": None},
            {**good, "description": {**told, "description_1": None}}]  # fmt: skip
    kinds = Features({
        "image": ImageFeature(), "collection": Value("string"), "quality_assessment": {"imageQuality": Value("int64")},
        "description": {name: Value("string") for name in told},
    })  # fmt: skip
    (tmp_path / "set").mkdir()
    Dataset.from_dict({name: [row[name] for row in rows] for name in good}, features=kinds).to_parquet(
        tmp_path / "set" / "a.parquet"
    )
    table = table_of(Subjects200K(str(tmp_path / "set"), panel=8), tmp_path / "cache")
    assert table.positions.tolist() == [0, 1, 6]
    assert [position for position, _ in table.faults] == [2, 3, 4, 5, 7]


def test_labels_of_uno_that_are_broken(tmp_path) -> None:
    (tmp_path / "labels").mkdir()
    (tmp_path / "images").mkdir()
    for name in "ab":
        (tmp_path / "images" / f"{name}.png").write_bytes(picture())
    good = {"img_path1": "a.png", "img_path2": "b.png", "caption": {"img_path1": "a fox", "img_path2": "a fox"},
            "vlm_filter_cot": {"score_final": 4}}  # fmt: skip
    rows = [good, {**good, "caption": {"img_path1": "a", "img_path2": "\ud800"}}, {**good, "img_path1": "none.png"},
            {**good, "vlm_filter_cot": {"score_final": "high"}}, 3, {**good, "img_path1": None}]  # fmt: skip
    (tmp_path / "labels" / "s.json").write_text(json.dumps(rows))
    table = table_of(Uno1M(str(tmp_path)), tmp_path / "cache")
    assert table.positions.tolist() == [0, 1]
    assert [position for position, _ in table.faults] == list(range(2, 12))
    assert dict(table.faults)[8].startswith("s.json, pair 4: ")
    for content, words in ((b"{}", "a list is wanted"), (b"[", "not JSON"), (b"\xff", "not UTF-8")):
        (tmp_path / "labels" / "t.json").write_bytes(content)
        with pytest.raises(UserError, match=words):
            Uno1M(str(tmp_path))


def test_a_set_is_known_by_content_and_not_by_place(tmp_path) -> None:
    """Moved or copied it is the same set, edited it is another, also where the size stays."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    file = saved(tmp_path / "one")
    shutil.copy(file, tmp_path / "two")
    first, moved = columns(str(file)), columns(str(tmp_path / "two" / "a.parquet"))
    assert first.fingerprint == moved.fingerprint
    assert columns(str(tmp_path / "one")).fingerprint == columns(str(tmp_path / "two")).fingerprint
    edited = saved(tmp_path / "two", caption="a cat")
    assert columns(str(edited)).fingerprint != first.fingerprint


def test_files_beside_a_set_belong_to_it(tmp_path) -> None:
    """A missing picture that is put back is read: the table of before is another set's."""
    rows = {"image": [str(tmp_path / "a.png")], "conditioning": [str(tmp_path / "a.png")], "caption": ["a"]}
    file = plain(tmp_path, **rows)
    without = columns(str(file))
    assert len(table_of(without, tmp_path / "cache").faults) == 1
    (tmp_path / "a.png").write_bytes(picture())
    assert columns(str(file)).fingerprint != without.fingerprint
    assert table_of(columns(str(file)), tmp_path / "cache").faults == []


def test_curated_pairs_are_known_by_content(pairs, tmp_path) -> None:
    moved = Path(shutil.copytree(pairs, tmp_path / "moved"))
    assert curated(str(moved)).fingerprint == curated(str(pairs)).fingerprint
    (shard, *_) = sorted((moved / "pairs").glob("*.parquet"))
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1  # of a picture: the size and the manifest stay
    shard.write_bytes(data)
    assert curated(str(moved)).fingerprint != curated(str(pairs)).fingerprint


def test_a_pair_edited_after_it_was_looked_at_is_refused(tmp_path) -> None:
    table = table_of(columns(str(saved(tmp_path))), tmp_path / "cache")
    (pair,) = columns(str(saved(tmp_path, image={"bytes": picture(color="green")}))).block(range(1, 2))
    assert isinstance(pair, RawPair)
    with pytest.raises(UserError, match="pair 1: another picture than before; the pairs were edited"):
        table.unchanged(1, pair)
    with pytest.raises(UserError, match="pair 0: gone; the pairs were edited"):
        table.unchanged(0, Unread("gone"))


def damaged(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    return lambda file: file.write_bytes(change(file.read_bytes())) and None


def other_rows(file: Path) -> None:
    pq.write_table(pq.read_table(file).slice(0, 1), file)


def other_columns(file: Path) -> None:
    pq.write_table(pa.table({"reference": ["a"] * 3}), file)


def no_size(file: Path) -> None:
    table = pq.read_table(file)
    pq.write_table(table.set_column(table.column_names.index("height"), "height", pa.array([0, 0, 0])), file)


@pytest.mark.parametrize("harm", [
    damaged(lambda data: data[:-20]), damaged(lambda data: b""), damaged(lambda data: b"PAR1" + bytes(90) + b"PAR1"),
    other_rows, other_columns, no_size,
])  # fmt: skip
def test_a_damaged_table_is_made_again(tmp_path, caplog, harm) -> None:
    source = columns(str(saved(tmp_path)))
    first = table_of(source, tmp_path / "cache")
    file = file_of(folder_of(source, tmp_path / "cache"), blocks(source)[0])
    harm(file)
    with pytest.raises(UserError, match=rf"{file}: .*; delete it and run the same command again"):
        read_table(source, tmp_path / "cache", SIZES, blocks(source))
    with caplog.at_level("WARNING"):
        assert table_of(source, tmp_path / "cache").targets == first.targets
    assert f"{file}: damaged" in caplog.text
    assert "it is made again" in caplog.text


def objects(file: Path) -> None:
    np.save(file.with_suffix(".npy"), np.array([{"a": 1}, None], object), allow_pickle=True)


@pytest.mark.parametrize("harm", [
    damaged(lambda data: data[:10]), damaged(lambda data: b"\xff"), damaged(lambda data: b"[1]"),
    damaged(lambda data: b'{"keys": ["a"], "checksums": []}'), damaged(lambda data: b'{"keys": 3, "checksums": [1]}'),
    lambda file: file.with_suffix(".npy").unlink(), lambda file: file.with_suffix(".npy").write_bytes(b""),
    lambda file: file.with_suffix(".npy").write_bytes(file.with_suffix(".npy").read_bytes()[:-9]),
    lambda file: np.save(file.with_suffix(".npy"), np.zeros((2, 3))),
    lambda file: np.save(file.with_suffix(".npy"), np.zeros((1, 3), np.float32)), objects,
])  # fmt: skip
def test_a_damaged_segment_is_encoded_again(tmp_path, caplog, harm) -> None:
    """Its keys are missing, so that what asks for them encodes them."""
    Store(tmp_path, torch.float32).add({key: torch.ones(3) for key in "ab"})
    Store(tmp_path, torch.float32).add({"c": torch.ones(3)})
    (file,) = (f for f in tmp_path.glob("*.json") if '"a"' in f.read_text())
    harm(file)
    with caplog.at_level("WARNING"):
        store = Store(tmp_path, torch.float32)
    assert [key in store for key in "abc"] == [False, False, True]
    assert f"{file}: damaged (" in caplog.text
    with pytest.raises(UserError, match="run the same command again to encode it again"):
        store.rows(["a"])
    store.add({key: torch.ones(3) for key in "ab"})
    assert torch.equal(store.rows(list("abc")), torch.ones(3, 3))
