"""Folders as the other stages leave them, with pictures drawn by the world's own code, so that every truth is known."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torchvision.transforms.functional import to_pil_image

from dsd.io.records import Grid, Pair, Result, Verdict, features
from dsd.runs.manifest import write_manifest
from dsd.runs.shards import Shard, write_shard
from dsd.toybox import grammar
from dsd.toybox.draw import render
from dsd.toybox.samples import sample_grids
from dsd.toybox.world import ATTRIBUTES, SUBJECT, sample_contexts, sample_subjects, words


def pictures(subjects: np.ndarray, contexts: np.ndarray) -> list[Image.Image]:
    """(B, S), (B, C) -> B panels. The rows are written into pixels of the lowest line, for `PixelRecogniser`."""
    drawn = (render(subjects, contexts) * 255).round().to(torch.uint8)
    rows = torch.from_numpy(np.concatenate([subjects, contexts], axis=1))
    drawn[:, 0, -1, : rows.shape[1]] = rows.to(torch.uint8)
    return [to_pil_image(panel) for panel in drawn]


class PixelRecogniser:
    """Never errs: it reads what `pictures` wrote into the lowest line."""

    def __init__(self, path: str = "", device: str = "cpu") -> None:
        self.device, self.measured = device, {}

    def read(self, images: list[Image.Image]) -> list[dict[str, str]]:
        rows = (np.asarray(image)[-1, : len(ATTRIBUTES), 0] for image in images)
        return [words(row, ATTRIBUTES) for row in rows]


def leave(folder: Path, stage: str, shards: dict[str, tuple[type, Sequence[object]]], **extra: object) -> Path:
    """A finished folder."""
    for name, (record, rows) in shards.items():
        write_shard(Shard(0, 0, 0, folder / name / f"{name}-00000-of-00001.parquet"), rows, features(record))
    write_manifest(
        folder, stage, {name: len(rows) for name, (_, rows) in shards.items()}, config_hash="c0ffee", **extra
    )
    (folder / "config.yaml").write_text(f"output_dir: {folder}\nseed: 0\n")
    return folder


def infer_run(folder: Path, method: str, num: int = 12, seed: int = 0, truth: str | None = None) -> Path:
    """What dsd-infer leaves: `num` jobs done by a method whose CP and PF are known."""
    rng = np.random.default_rng(7)  # every method gets the same jobs
    subjects, contexts = sample_subjects(rng, num, "held_out"), sample_contexts(rng, num)
    asked = sample_contexts(rng, num)
    references = pictures(subjects, contexts)
    chance = np.random.default_rng((1, seed))
    strangers = sample_subjects(chance, num)
    strangers[:, : subjects.shape[1] - 4] = subjects[:, : subjects.shape[1] - 4]  # what the prompt names is right
    images = {
        "perfect": lambda: pictures(subjects, asked),
        "copy_paste": lambda: references,
        "text_only": lambda: pictures(strangers, asked),
    }[method]()
    rows = [
        Result(
            job=f"{i:03d}",
            image=images[i],
            reference=references[i],
            others=[],
            prompt=grammar.panel(rng, subjects[i], asked[i]),
            seed=seed,
            method=method,
            category="",
            kind="",
            truth=json.dumps(words(subjects[i], SUBJECT)) if truth is None else truth,
            config_hash="c0ffee",
        )
        for i in range(num)
    ]
    return leave(folder, "infer", {"results": (Result, rows)}, seconds=3.2)


def grids_run(folder: Path, num: int = 8, odd: int = 2) -> Path:
    """What dsd-data-gen leaves: 2x2 grids of one subject; in the first `odd` of them the last panel shows another."""
    rng = np.random.default_rng(3)
    grids = sample_grids(rng, num, "2x2", "same")
    subjects = grids.subjects.copy()
    belly = list(SUBJECT).index("belly")
    subjects[:odd, 3, belly] = (subjects[:odd, 3, belly] + 1) % len(SUBJECT["belly"])
    rows = []
    for i, prompt in enumerate(grids.prompts(rng)):
        panels = pictures(subjects[i], grids.contexts[i])
        grid = Image.new("RGB", (128, 128))
        for k, panel in enumerate(panels):
            grid.paste(panel, (k % 2 * 64, k // 2 * 64))
        said = [grammar.panel(rng, s, c) for s, c in zip(grids.subjects[i], grids.contexts[i])]
        rows.append(Grid(i, grid, prompt, "2x2", said, "critter", "same", i, 128, 128, "c0ffee"))
    return leave(folder, "data_gen", {"grids": (Grid, rows)}, seconds=41.0)


def curated_run(folder: Path, grids: Path, mistakes: int = 1, **manifest: object) -> Path:
    """What dsd-curate leaves: a judge that compares the written rows, but calls `mistakes` odd pairs the same."""
    from dsd.io.pictures import cut
    from dsd.runs.shards import read_shards

    reader, verdicts, pairs = PixelRecogniser(), [], []
    for row in read_shards(grids, "grids"):
        cells = cut(row["image"], row["layout"])
        readings = reader.read(cells)
        for first in range(4):
            for second in range(first + 1, 4):
                differing = [name for name in SUBJECT if readings[first][name] != readings[second][name]]
                if differing and mistakes:
                    differing, mistakes = [], mistakes - 1
                same = not differing
                reason = "; ".join(f"{n}: {readings[first][n]} there, {readings[second][n]} here" for n in differing)
                scores = json.dumps({"similarity": 0.9 if same else 0.6})
                verdicts.append(
                    Verdict(row["index"], first, second, same, reason, "", "", "", "", "", "", "", scores, "")
                )
                confident = (first, second) != (0, 1)
                rejection = "" if same and confident else f"not the same subject: {reason}"
                if same and not confident:
                    rejection = "low confidence: 0.312, the bound is 0.5"
                for a, b in ((first, second), (second, first)):
                    pairs.append(
                        Pair(cells[b], cells[a], "", "", row["index"], a, b, 0, "", "same", same, reason, "", "", "",
                             scores, not rejection, rejection, "c0ffee")
                    )  # fmt: skip
    shards = {
        "verdicts": (Verdict, verdicts),
        "pairs": (Pair, [p for p in pairs if p.kept]),
        "rejected": (Pair, [p for p in pairs if not p.kept]),
    }
    return leave(folder, "curation", shards, **manifest)


def train_run(folder: Path, num_steps: int = 200) -> Path:
    """What dsd-train leaves: here, its curve."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    lines = [{"step": s, "loss": 0.4 + 0.6 / (1 + s / 20) + 0.05 * rng.normal()} for s in range(0, num_steps, 2)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return leave(folder, "train", {}, seconds=90.5)
