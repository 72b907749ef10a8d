"""Judges against people: DreamBench++'s published layout and ConsistencyRank-Bench's, with numbers known by hand."""

import json
from pathlib import Path
from typing import Any

import krippendorff
import numpy as np
import pytest
from judges import MODEL, Judge, score_of
from PIL import Image
from servers import serve
from test_judged import asking
from worlds import infer_run, leave

from dsd.chat.encoding import data_url
from dsd.evaluate.human import item_name, subject_of
from dsd.io.records import Result
from dsd.runs.shards import read_shards


def write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def found_in(folder: Path) -> dict[tuple[str, str, str], dict[str, Any]]:
    rows = json.loads((folder / "agreement.json").read_text())["alpha"]
    return {(row["raters"], row["rubric"], row["method"]): row["alpha"] for row in rows}


@pytest.mark.parametrize(
    ("job", "item", "subject"),
    [
        ("object_01_t-shirt/3_0", "object_01_t-shirt-3", "object_01_t-shirt"),
        ("object_01_t-shirt-3", "object_01_t-shirt-3", "object_01_t-shirt"),
        ("007", "007", "007"),
    ],
)
def test_jobs_are_named_as_dreambench_plus_does(job, item, subject) -> None:
    assert item_name(job) == item
    assert subject_of(item) == subject


def people(folder: Path, layout: str) -> dict[str, list[dict[str, int]]]:
    """Two groups that rate two methods; one rating is missing."""
    rng, told = np.random.default_rng(0), {}
    for method in ("dreambooth_sd", "emu2"):
        truth = rng.integers(0, 5, 30)
        groups = []
        for group in ("group1", "group2"):
            scores = np.clip(truth + rng.integers(-1, 2, 30), 0, 4)
            rated: dict[str, Any] = {f"animal_{i // 3:02d}_a-cat-{i % 3}": int(s) for i, s in enumerate(scores)}
            if layout == "raw":
                half = [dict(list(rated.items())[:15]), dict(list(rated.items())[15:])]
                for number, some in enumerate(half):
                    both = {key: [score, 4 - score] for key, score in some.items()}
                    write(folder / "raw_data" / group / f"annotator{number}-{method}.json", both)
            else:
                write(folder / "merged_data" / group / f"{method}-cp.json", rated)
                write(folder / "merged_data" / group / f"{method}-pf.json", {key: 4 - s for key, s in rated.items()})
            groups.append(rated)
        told[method] = groups
    return told


@pytest.mark.parametrize("layout", ["raw", "merged"])
def test_people_and_a_published_judge_agree_as_the_benchmark_s_own_script_says(run, tmp_path, layout) -> None:
    told = people(tmp_path / "human", layout)
    gpt = {method: dict(list(groups[0].items())[2:]) for method, groups in told.items()}
    for method, scores in gpt.items():
        write(tmp_path / "gpt" / "concept_preservation_full" / f"{method}.json", scores | {"animal_09_a-cat-2": None})
    run("evaluate", "mode=agreement", f"agreement.ratings={tmp_path / 'human'}", "num_resamples=100",
        f"agreement.judges={{gpt4o: {tmp_path / 'gpt'}}}", f"output_dir={tmp_path / 'out'}")  # fmt: skip
    found = found_in(tmp_path / "out")
    for method, groups in told.items():
        rows = [list(group.values()) for group in groups]
        expected = krippendorff.alpha(reliability_data=rows, level_of_measurement="interval")
        number = found["people, among themselves", "CP", method]
        assert number["value"] == pytest.approx(expected, abs=1e-4)
        assert number["low"] < expected < number["high"]
        nan = [gpt[method].get(key, np.nan) for key in groups[0]]
        nan[-1] = np.nan
        each = [krippendorff.alpha(reliability_data=[row, nan], level_of_measurement="interval") for row in rows]
        assert found["people and gpt4o", "CP", method]["value"] == pytest.approx(np.mean(each), abs=1e-4)
    assert found["people, among themselves", "PF", "all methods"]["n"] == 60
    assert "people and gpt4o" in (tmp_path / "out" / "agreement.md").read_text()


def test_an_evaluation_s_judge_is_compared_with_people_with_its_repeats_and_with_another(run, tmp_path) -> None:
    """People who rate by the truth: a judge without noise agrees fully, one with noise as far as alpha says."""
    source = infer_run(tmp_path / "source", "text_only", num=12)
    rows = [
        Result(**{**row, "job": f"object_{i // 2:02d}_a-mug/{i % 2}_0"})
        for i, row in enumerate(read_shards(source, "results"))
    ]
    arms = {"student": leave(tmp_path / "student", "infer", {"results": (Result, rows)})}
    truth = {item_name(row.job): score_of("", [data_url(row.reference), data_url(row.image)], 4) for row in rows}
    write(tmp_path / "human" / "merged_data" / "group1" / "student-cp.json", truth)
    more = ("measure.vlm.rubrics=[CP]", "card.temperature=0.7", "card.repeats=2")
    noisy = Judge(noise=0.5, seed=3)
    for name, judge in (("exact", Judge()), ("noisy", noisy)):
        with serve(judge.say) as server:
            run("evaluate", *asking(server, arms, tmp_path / name, *more))
    judges = ", ".join(f"{name}: {tmp_path / name / 'report'}" for name in ("exact", "noisy"))
    run("evaluate", "mode=agreement", f"agreement.ratings={tmp_path / 'human'}", "num_resamples=100",
        f"agreement.judges={{{judges}}}", f"output_dir={tmp_path / 'out'}")  # fmt: skip
    found = found_in(tmp_path / "out")
    assert found["people and exact", "CP", "student"]["value"] == 1
    assert found["exact, among themselves", "CP", "student"]["value"] == 1
    assert found["people and noisy", "CP", "student"]["value"] < 1
    assert found["noisy, among themselves", "CP", "student"]["value"] < 1
    both = found["exact and noisy", "CP", "student"]
    assert both["value"] == found["people and noisy", "CP", "student"]["value"]
    assert MODEL in (tmp_path / "exact" / "report" / "summary.json").read_text()


def rankings(folder: Path) -> None:
    """Candidates whose colours move away from the reference's; people rank by the distance."""
    lines = []
    for number in range(3):
        where = folder / "images" / f"{number:04d}"
        where.mkdir(parents=True)
        shades = {"0_0.png": 0, "0_1.png": 20 * number, "1_1.png": 120, "2_1.png": 250}
        for name, shade in shades.items():
            pixels = np.full((32, 32, 3), 255 - shade, np.uint8)
            pixels[:, : 4 + shade // 10] = (shade, 30, 60)
            Image.fromarray(pixels).save(where / name)
        names = list(shades)[1:]
        lines.append(
            {"folder": f"{number:04d}", "ref_image": "0_0.png", "comp_images": names[::-1], "rank_images": names}
        )
    (folder / "consistency_full_rank.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (folder / "prompt_data.jsonl").write_text(json.dumps({"idx": "0000", "prompt": "a shade", "criteria": {}}))


def test_a_measure_is_compared_with_people_s_rankings(run, refused, embedding, tmp_path) -> None:
    rankings(tmp_path / "bench")
    ask = ["mode=agreement", f"agreement.rankings={tmp_path / 'bench'}", "measure=similarity", "~measure.clip",
           "~measure.dino", f"measure.dinov2.features.path={embedding}", "num_resamples=100", "device=cpu",
           f"output_dir={tmp_path / 'out'}"]  # fmt: skip
    run("evaluate", *ask)
    found = json.loads((tmp_path / "out" / "agreement.json").read_text())["rankings"]["dinov2_image"]
    assert found["left_out"] == 0
    assert found["kendalltau"]["n"] == 3
    assert -1 <= found["kendalltau"]["value"] <= 1
    assert found["top1_accuracy"]["value"] >= 1 / 3  # of "0000", where one candidate is the reference itself
    (tmp_path / "bench" / "images" / "0002" / "1_1.png").unlink()
    assert "consistency_full_rank.jsonl:3: no picture images/0002/1_1.png" in refused("evaluate", *ask)


def test_what_is_no_rating_is_one_line(refused, tmp_path) -> None:
    ask = ["mode=agreement", f"output_dir={tmp_path / 'out'}"]
    assert "mode=agreement needs agreement.ratings=" in refused("evaluate", *ask)
    (tmp_path / "empty").mkdir()
    assert "no ratings, such as GROUP/METHOD-cp.json" in refused(
        "evaluate", *ask, f"agreement.ratings={tmp_path / 'empty'}"
    )
    write(tmp_path / "bad" / "merged_data" / "group1" / "emu2-cp.json", {"a-0": "three"})
    assert "emu2-cp.json: a-0: Input should be a valid number" in refused(
        "evaluate", *ask, f"agreement.ratings={tmp_path / 'bad'}"
    )
    said = refused("evaluate", *ask, f"agreement.judges={{gpt: {tmp_path / 'empty'}}}")
    assert "neither a finished evaluation nor ratings of DreamBench++" in said
