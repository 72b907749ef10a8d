"""Aligned pairs in every layout as it is published: bytes as they lie there, what is wrong left out and named."""

import csv
import json
import shutil
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dsd.errors import UserError
from dsd.train.data.aligned import Aligned, aligned
from dsd.train.data.sources import Picture, RawPair, Unread
from dsd.train.data.table import blocks, make_table, read_table

PULSE = {"source": "image", "target": "image_edited", "caption": "generated_edit_prompt"}
CAPTIONS = ("à midi, lumière dorée", "ein Zimmer bei Dämmerung, warmes Licht", "正午阳光, 阴影清晰")


def png(seed: int, size: tuple[int, int] = (24, 16), **more: object) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), np.uint8)
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", **more)
    return buffer.getvalue()


def pictures(folder: Path, names: tuple[str, ...], first: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for seed, name in enumerate(names, first):
        (folder / name).write_bytes(png(seed))


def read(source: Aligned) -> list[RawPair | Unread]:
    return list(source.block(range(len(source))))


def reason(pair: RawPair | Unread) -> str:
    assert isinstance(pair, Unread), pair
    return pair.reason


def assert_pairs(source: Aligned, captions: tuple[str, ...] = CAPTIONS) -> None:
    """Sources are the pictures of seeds 0, 1 ..., targets those of 100, 101 ..."""
    found = read(source)
    assert [pair.reference.data for pair in found] == [png(n) for n in range(len(captions))]
    assert [pair.target.data for pair in found] == [png(100 + n) for n in range(len(captions))]
    assert [pair.description for pair in found] == list(captions)


def sides(folder: Path) -> Path:
    names = ("a.png", "b.png", "été.png")
    pictures(folder / "source", names)
    pictures(folder / "target", names, 100)
    return folder


def with_texts(folder: Path) -> Path:
    for name, caption in zip(("a", "b", "été"), CAPTIONS, strict=True):
        (sides(folder) / "target" / f"{name}.txt").write_text(caption + "\n", encoding="utf-8")
    return folder


def listed_in(folder: Path, file: str = "metadata.jsonl", **changed: object) -> Path:
    """A folder of pictures with a table; `changed` replaces cells of the row in the middle."""
    pictures(folder / "before", ("0.png", "1.png", "2.png"))
    pictures(folder / "after", ("0.png", "1.png", "2.png"), 100)
    rows = [{"source": f"before/{n}.png", "target": f"after/{n}.png", "caption": CAPTIONS[n]} for n in range(3)]
    rows[1] |= changed
    with (folder / file).open("w", encoding="utf-8", newline="") as table:
        if file.endswith(".csv"):
            writer = csv.DictWriter(table, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        else:
            table.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    return folder


def test_a_folder_with_a_table(tmp_path) -> None:
    for file in ("metadata.jsonl", "metadata.csv"):
        folder = listed_in(tmp_path / file, file)
        assert_pairs(aligned(str(folder)))
        assert_pairs(aligned(str(folder / file)))  # the table itself
    odd = {"source": "before/1.png", "target": "after/1.png", "caption": 'two lines,\n"quoted"'}
    (pair,) = [
        p for p in read(aligned(str(listed_in(tmp_path / "q", "metadata.csv", **odd)))) if p.description[0] == "t"
    ]
    assert pair.description == pair.instruction == odd["caption"]


def test_an_unpacked_shard_of_imagepulse(tmp_path) -> None:
    """A JSON file a pair beside its pictures, and the same as JSON lines."""
    rows = []
    for n, caption in enumerate(CAPTIONS):
        pictures(tmp_path / "shard", (f"{n}_before.png",), n)
        pictures(tmp_path / "shard", (f"{n}_after.png",), 100 + n)
        rows.append({
            "image": f"{n}_before.png", "image_edited": f"{n}_after.png", "edit_prompt": "x",
            "generated_edit_prompt": caption, "generated_reversed_edit_prompt": "back",
        })  # fmt: skip
        (tmp_path / "shard" / f"{n}.json").write_text(json.dumps(rows[-1]))
    assert_pairs(aligned(str(tmp_path / "shard"), **PULSE))
    with pytest.raises(UserError, match=r"0\.json: no column 'source'; its columns: image, image_edited.*data.source="):
        aligned(str(tmp_path / "shard"))
    (tmp_path / "shard" / "metadata_all.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert_pairs(aligned(str(tmp_path / "shard"), **PULSE))
    backwards = aligned(
        str(tmp_path / "shard"), source="image_edited", target="image", caption="generated_reversed_edit_prompt"
    )
    assert [pair.target.data for pair in read(backwards)] == [png(n) for n in range(3)]


def test_two_folders_with_the_same_names(tmp_path) -> None:
    assert_pairs(aligned(str(with_texts(tmp_path / "texts"))))
    lines = [
        {"file_name": name, "caption": caption, "instruction": f"do: {caption}"}
        for name, caption in zip(("a.png", "b.png", "e\u0301te\u0301.png"), CAPTIONS, strict=True)
    ]
    (sides(tmp_path / "lines") / "captions.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert_pairs(aligned(str(tmp_path / "lines")))  # an accent in a name may be written in two ways
    assert [pair.instruction for pair in read(aligned(str(tmp_path / "lines")))] == [f"do: {c}" for c in CAPTIONS]


def test_hidden_and_nested_files_are_ignored(tmp_path) -> None:
    folder = with_texts(tmp_path / "set")
    before = aligned(str(folder)).fingerprint
    for side in ("source", "target"):
        pictures(folder / side / "nested", ("n.png",))
        pictures(folder / side, (".hidden.png",))
    (folder / "source" / "Thumbs.db").write_bytes(b"x")
    assert_pairs(aligned(str(folder)))
    assert aligned(str(folder)).fingerprint == before


def test_columns_of_parquet(tmp_path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    rows = [
        {"before": {"bytes": png(n)}, "after": {"bytes": png(100 + n)}, "text": CAPTIONS[n]} for n in range(3)
    ]  # fmt: skip
    rows.append({"before": {"bytes": png(7, (8, 8))}, "after": {"bytes": png(8)}, "text": "small"})
    (tmp_path / "set").mkdir()
    schema = pa.schema({"before": kind, "after": kind, "text": pa.string()})
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), tmp_path / "set" / "a.parquet")
    for path in (tmp_path / "set", tmp_path / "set" / "a.parquet"):
        *good, small = read(aligned(str(path), source="before", target="after", caption="text", instruction=None))
        assert [pair.reference.data for pair in good] == [png(n) for n in range(3)]
        assert [pair.instruction for pair in good] == list(CAPTIONS)
        assert reason(small) == "source 8 x 8, target 24 x 16 pixels: aligned pairs need equal sizes"


@pytest.mark.parametrize(
    ("cells", "words"),
    [
        ({"source": "before/none.png"}, "before/none.png: no such file"),
        ({"source": "before"}, "before: not a regular file"),
        ({"target": "../../secret.png"}, "metadata.jsonl:2: ../../secret.png: leads out of the folder"),
        ({"target": "/etc/passwd"}, "metadata.jsonl:2: /etc/passwd: leads out of the folder"),
        ({"target": ""}, "metadata.jsonl:2: target: String should have at least 1 character"),
        ({"target": 3}, "metadata.jsonl:2: target: Input should be a valid string"),
        ({"target": "a\0b"}, "null"),
        ({"caption": ["a"]}, "metadata.jsonl:2: caption: Input should be a valid string"),
        ({"caption": None}, "no caption"),
        ({"source": "damaged.png"}, "picture cannot be read"),
        ({"source": "cut.png"}, "picture cannot be read"),
        ({"source": "tall.png"}, "source 16 x 24, target 24 x 16 pixels: aligned pairs need equal sizes"),
    ],
)
def test_a_row_that_is_wrong_is_left_out_and_named(tmp_path, cells, words) -> None:
    folder = listed_in(tmp_path / "set", **cells)
    (folder / "damaged.png").write_bytes(b"no picture")
    (folder / "cut.png").write_bytes(png(0)[:200])
    (folder / "tall.png").write_bytes(png(0, (16, 24)))
    source = aligned(str(folder))
    make_table(source, tmp_path / "cache", blocks(source), shown=False)
    table = read_table(source, tmp_path / "cache", [(16, 32)], blocks(source))
    assert table.positions.tolist() == [0, 2]
    ((position, said),) = table.faults
    assert position == 1
    assert words in said
    assert "\n" not in said


def test_a_line_that_is_no_object_is_left_out(tmp_path) -> None:
    folder = listed_in(tmp_path / "set")
    with (folder / "metadata.jsonl").open("a") as table:
        table.write('{"source": \n[1]\n')
    assert [reason(pair) for pair in read(aligned(str(folder)))[3:]] == [
        "metadata.jsonl:4: not JSON (Expecting value: line 1 column 12 (char 11))", "metadata.jsonl:5: no JSON object",
    ]  # fmt: skip


def test_a_picture_turned_by_exif_has_the_size_a_person_sees() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter to the right
    assert Picture(png(0, exif=exif)).size() == (16, 24)
    assert Picture(png(0)).size() == (24, 16)
    assert Picture(png(0), (2, 3, 8, 10)).size() == (6, 7)
    with pytest.raises(UserError, match="picture cannot be read"):
        Picture(b"no picture").size()


def test_what_is_missing_is_said(tmp_path) -> None:
    folder = with_texts(tmp_path / "set")
    (folder / "source" / "a.png").unlink()
    (folder / "target" / "b.txt").unlink()
    (folder / "target" / "été.txt").write_bytes(b"\xff\xfe")
    said = [reason(pair) for pair in read(aligned(str(folder)))]
    assert said[0] == "target/a.png: no picture of that name in source/"
    assert said[1] == "target/b.png: no caption in captions.jsonl, and no target/b.txt"
    assert said[2].startswith("target/été.txt: not UTF-8 text")
    with pytest.raises(UserError, match=r"no captions; give captions.jsonl .*target/a.txt for target/a.png"):
        aligned(str(sides(tmp_path / "bare")))
    (sides(tmp_path / "odd") / "captions.jsonl").write_text('{"file_name": "a.png"}\n')
    with pytest.raises(UserError, match=r"captions.jsonl:1: caption: Field required; each line is"):
        aligned(str(tmp_path / "odd"))


def test_a_folder_without_pairs_is_refused(tmp_path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"data.path=.*empty: no aligned pairs in it; a folder holds metadata.jsonl"):
        aligned(str(tmp_path / "empty"))
    for side in ("source", "target"):
        (tmp_path / "sides" / side).mkdir(parents=True)
    (tmp_path / "sides" / "captions.jsonl").write_text('{"file_name": "a.png", "caption": "a"}\n')
    (tmp_path / "table.csv").write_text("source,target,caption\n")
    for path in (tmp_path / "sides", tmp_path / "table.csv"):
        with pytest.raises(UserError, match="no pairs in it"):
            aligned(str(path))
    with pytest.raises(UserError, match="no such file"):
        aligned(str(tmp_path / "none.jsonl"))


@pytest.mark.parametrize("make", [listed_in, with_texts])
def test_a_folder_is_known_by_content_and_not_by_place(tmp_path, make) -> None:
    folder = make(tmp_path / "set")
    first = aligned(str(folder)).fingerprint
    moved = Path(shutil.copytree(folder, tmp_path / "elsewhere" / "moved"))
    assert aligned(str(moved)).fingerprint == first
    (picture, *_) = sorted(moved.rglob("*.png"))
    same_size = bytearray(picture.read_bytes())
    same_size[-20] ^= 1
    picture.write_bytes(same_size)
    assert aligned(str(moved)).fingerprint != first
    picture.unlink()
    without = aligned(str(moved)).fingerprint
    shutil.copy(folder / picture.relative_to(moved), picture)
    assert without != aligned(str(moved)).fingerprint == first
    table = moved / "metadata.jsonl" if make is listed_in else moved / "target" / "b.txt"
    table.write_text(table.read_text().replace("warmes", "kaltes"))
    assert aligned(str(moved)).fingerprint != first
