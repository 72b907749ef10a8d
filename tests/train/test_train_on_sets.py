"""dsd-train on aligned pairs, on several sets at once and on references made of structure; a few real steps each."""

import json
from pathlib import Path

import pytest
from PIL import Image
from safetensors.torch import load_file

from dsd.runs.manifest import read_manifest
from dsd.runs.shards import read_shards

SMALL = ("student=tokens", "num_steps=2", "batch_size=4", "log_every=1", "lora.rank=4", "warmup_steps=0", "device=cpu")


@pytest.fixture(scope="module")
def aligned_folder(pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight pairs of pictures in two folders, one of unequal size."""
    folder = tmp_path_factory.mktemp("aligned") / "set"
    lines = []
    for n, row in enumerate(read_shards(pairs, "pairs").select(range(8))):
        for side, picture in (("source", row["conditioning"]), ("target", row["image"])):
            (folder / side).mkdir(parents=True, exist_ok=True)
            picture = picture.resize((32, 32)) if (n, side) == (5, "source") else picture
            picture.convert("RGB").save(folder / side / f"{n}.png")
        lines.append(json.dumps({"file_name": f"{n}.png", "caption": row["caption"]}))
    (folder / "captions.jsonl").write_text("\n".join(lines))
    return folder


def trained(folder: Path) -> dict[str, object]:
    """Return the counts of a finished training, after a look that all its weights are finite."""
    assert all(tensor.isfinite().all() for tensor in load_file(folder / "adapter.safetensors").values())
    return read_manifest(folder, "train")["counts"]


def test_training_on_aligned_pairs(run, refused, aligned_folder, tmp_path) -> None:
    settings = (*SMALL, "data=aligned", f"output_dir={tmp_path / 'out'}", f"cache_dir={tmp_path / 'cache'}")
    said = run("train", *settings, f"data.path={aligned_folder}")
    counts = trained(tmp_path / "out")
    assert (counts["pairs"], counts["left_out"]) == (7, 1)
    assert "number 5: source 32 x 32, target 64 x 64 pixels: aligned pairs need equal sizes" in said
    moved = aligned_folder.rename(tmp_path / "moved")
    try:
        assert "done already" in run("train", *settings, f"data.path={moved}")
        Image.new("RGB", (64, 64)).save(moved / "target" / "0.png")
        assert "belongs to another config (inputs.pairs" in refused("train", *settings, f"data.path={moved}")
    finally:
        moved.rename(aligned_folder)


def test_training_on_several_sets(run, refused, pairs, aligned_folder, tmp_path) -> None:
    mixture = ("data=mixed", f"data.paths=[{pairs},{pairs}]", 'data.task_words=["",relight]', "data.shares=[0.75,0.25]")
    settings = (*SMALL, f"output_dir={tmp_path / 'out'}", f"cache_dir={tmp_path / 'cache'}", "instruction_ratio=0")
    run("train", *settings, *mixture)
    num = len(read_shards(pairs, "pairs"))
    assert trained(tmp_path / "out")["pairs"] == 4 * num
    aligned = f"{{_target_:dsd.train.data.aligned.aligned,path:{aligned_folder}}}"
    more = ("data=mixed", f"data.paths=[{pairs}]", f"data.sources=[{aligned}]")
    run("train", *settings, f"output_dir={tmp_path / 'more'}", *more)
    assert trained(tmp_path / "more")["pairs"] == num + 7
    for wrong, words in (
        (("data=mixed",), "data.paths"),
        (("data=mixed", f"data.paths={pairs}"), "a list is needed; write data.paths=[a,b]"),
        (("data=mixed", f"data.paths=[{pairs}]", "data.shares=[2]"), "shares above 0 that add up to 1"),
        (("data=aligned",), "data.path"),
        (("data=aligned", f"data.path={aligned_folder}", "data.scenes.mip=-1"), "data.scenes.mip=-1: at least 0"),
        (("data=reversed", f"data.path={pairs}"), "give one of data.caption="),
        (("data=reversed", f"data.path={pairs}", "data.caption=a"), "made by dsd-curate, but the output of dsd-infer"),
    ):
        assert words in refused("train", *settings, *wrong)


def test_training_on_line_art_encodes_only_its_references_anew(run, pairs, tmp_path) -> None:
    settings = (*SMALL, f"pairs={pairs}", f"cache_dir={tmp_path / 'cache'}")
    run("train", *settings, f"output_dir={tmp_path / 'plain'}")
    before = {file.parent.name: file.stat().st_size for file in (tmp_path / "cache").glob("*/*.npy")}
    run("train", *settings, "data=structure", f"output_dir={tmp_path / 'out'}")
    assert trained(tmp_path / "out") == trained(tmp_path / "plain")
    after = {
        name: sorted(len(json.loads(f.read_text())["keys"]) for f in (tmp_path / "cache" / name).glob("*.json"))
        for name in before
    }
    assert sum(len(segments) > 1 for segments in after.values()) == 1, "references alone are new"
    said = run("train", *settings, "data=structure", "+data.maker.low=50", f"output_dir={tmp_path / 'other'}")
    assert "train: encoding" in said


def test_training_on_reversed_pairs(run, pairs, tmp_path) -> None:
    jobs = tmp_path / "jobs.jsonl"
    row = read_shards(pairs, "pairs")[0]
    row["conditioning"].save(tmp_path / "a.png")
    jobs.write_text(json.dumps({"reference": "a.png", "prompt": row["caption"]}) + "\n")
    drawn = tmp_path / "drawn"
    run("infer", "method=copy_paste", "jobs=jsonl", f"jobs.path={jobs}", f"output_dir={drawn}", "device=cpu")
    run(
        "train", *SMALL, "data=reversed", f"data.path={drawn}", "data.caption=the same picture", "batch_size=1",
        f"output_dir={tmp_path / 'out'}", f"cache_dir={tmp_path / 'cache'}",
    )  # fmt: skip
    assert trained(tmp_path / "out")["pairs"] == 1
