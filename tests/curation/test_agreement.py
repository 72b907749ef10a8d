"""The judge against labels: figures that are known by hand, and the command."""

import json

import krippendorff
import numpy as np
import pytest

from dsd.curation.agreement import agreement, read_labels, table
from dsd.errors import UserError
from dsd.runs.shards import read_shards


def verdict(grid: int, same: bool, similarity: float, defect: str = "") -> dict:
    scores = json.dumps({"similarity": similarity})
    return {"grid": grid, "first": 0, "second": 1, "same": same, "scores": scores, "defect": defect}


def test_the_figures_are_those_of_the_definitions() -> None:
    """40 yes by both, 10 by the judge alone, 20 by the label alone, 30 no by both: Cohen's kappa is 0.4."""
    said = [(True, True)] * 40 + [(True, False)] * 10 + [(False, True)] * 20 + [(False, False)] * 30
    labels = {(n, 0, 1): true for n, (_, true) in enumerate(said)}
    verdicts = [verdict(n, judge, 0.9 if true else 0.1) for n, (judge, true) in enumerate(said)]
    swapped = {(n, 0, 1): judge if n % 4 else not judge for n, (judge, _) in enumerate(said)}
    found = agreement(labels, [*verdicts, verdict(500, True, 0.5), verdict(0, True, 0.5, "flat panel")], swapped)
    judge = {name: number["value"] for name, number in found["judge"].items()}
    assert judge == {"precision": 0.8, "recall": pytest.approx(2 / 3, abs=1e-4), "f1": pytest.approx(8 / 11, abs=1e-4),
                     "kappa": 0.4}  # fmt: skip
    assert found["judge"]["kappa"]["low"] < 0.4 < found["judge"]["kappa"]["high"]
    assert found["similarity alone"]["bound"] == 0.9
    assert found["similarity alone"]["f1"]["value"] == 1
    assert found["self_agreement_swapped"]["value"] == 0.75
    rows = [[float(judge) for judge, _ in said], [float(true) for _, true in said]]
    expected = krippendorff.alpha(reliability_data=rows, level_of_measurement="nominal")
    alphas = found["alpha"]
    assert alphas["the judge and people"]["value"] == pytest.approx(expected, abs=1e-4)
    assert alphas["the judge and people"]["low"] < expected < alphas["the judge and people"]["high"]
    assert alphas["the judge, swapped"]["value"] < 1
    assert any("alpha of the judge and people" in row[0] for row in table(found))
    with pytest.raises(UserError, match="no labelled pair has a verdict"):
        agreement({(9999, 0, 1): True}, verdicts, {})


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "labels.jsonl:2: Invalid JSON"),
        ('{"grid": 1, "first": 0, "second": 1, "same": 1}', "same: Input should be a valid boolean"),
    ],
)
def test_bad_labels_are_one_line(tmp_path, line, words) -> None:
    (tmp_path / "labels.jsonl").write_text(f'{{"grid": 1, "first": 2, "second": 0, "same": true}}\n{line}\n')
    with pytest.raises(UserError, match=words):
        read_labels(tmp_path / "labels.jsonl")
    (tmp_path / "labels.jsonl").write_text("\n")
    with pytest.raises(UserError, match="no labels in it"):
        read_labels(tmp_path / "labels.jsonl")


def test_the_command_compares_and_asks_again_with_the_pictures_swapped(run, refused, grids, pairs, tmp_path) -> None:
    """The oracle's sheets show one subject each, and this judge does not care for the order."""
    rows = read_shards(pairs, "verdicts")
    labels = [{"grid": v["grid"], "first": v["first"], "second": v["second"], "same": True} for v in rows]
    (tmp_path / "labels.jsonl").write_text("\n".join(map(json.dumps, labels)))
    ask = ("mode=agreement", f"grids={grids}", f"verdicts_dir={pairs}", f"output_dir={tmp_path / 'out'}", "device=cpu")
    said = run("curation", *ask, f"labels={tmp_path / 'labels.jsonl'}")
    assert "72 labelled pairs compared" in said
    found = json.loads((tmp_path / "out" / "agreement.json").read_text())
    assert found["judge"]["precision"]["value"] == 1
    assert found["judge"]["recall"]["value"] == pytest.approx(np.mean(rows["same"]), abs=1e-4)
    assert found["self_agreement_swapped"]["value"] == 1
    assert "similarity alone" in found
    assert "needs labels=" in refused("curation", *ask)


def test_labels_verdicts_and_grids_belong_together(run, refused, grids, pairs, tmp_path) -> None:
    file, other = tmp_path / "labels.jsonl", tmp_path / "other"
    label = {"grid": 3, "first": 0, "second": 1, "same": True}
    file.write_text(json.dumps(label))
    run("data_gen", "teacher=oracle", "num_grids=12", "rows_per_shard=8", "seed=1", f"output_dir={other}")

    def compare(of_grids=grids, verdicts=pairs, **more: str) -> str:
        file.write_text(json.dumps(label | more))
        ask = ("mode=agreement", f"labels={file}", f"output_dir={tmp_path / 'out'}", "device=cpu")
        return refused("curation", *ask, f"grids={of_grids}", f"verdicts_dir={verdicts}")

    assert "inputs.grids: " in compare(of_grids=other)
    assert "no verdicts of dsd-curate here" in compare(verdicts=grids)
    assert "a label of other grids (c0ffee)" in compare(grids="c0ffee")
    assert "grid 99, panel 1 is not there" in compare(grid=99)
    assert "grid 3, panel 4 is not there" in compare(second=4)
    assert "first and second are one panel" in compare(second=0)
