"""dsd-evaluate -m over runs that differ in a setting: one plot of every number against it."""

import csv

import pytest
from PIL import Image
from worlds import infer_run

from dsd.runs.sweep_plot import numbers_of


@pytest.mark.parametrize(
    ("texts", "numbers"),
    [
        (["1", "2.5"], [1.0, 2.5]),
        (["train/checkpoints/step-100", "train/checkpoints/step-2000"], [100.0, 2000.0]),
        (["a-1/x-1", "a-2/x-2"], None),
        (["a-1", "b-1"], None),
        (["a", "a-1"], None),
    ],
)
def test_texts_that_differ_in_one_number_are_numbers(texts, numbers) -> None:
    assert numbers_of(texts) == numbers


def test_numbers_are_drawn_against_what_the_drawn_folders_differ_in(run, tmp_path) -> None:
    """The swept value is a folder of dsd-infer; what matters is the setting in which these folders differ."""
    methods = {"1.0": "text_only", "1.5": "perfect", "2.0": "copy_paste"}
    for scale, method in methods.items():
        infer_run(tmp_path / scale, method, num=4)
        (tmp_path / scale / "config.yaml").write_text(
            f"output_dir: {tmp_path / scale}\nsettings: {{text_guidance_scale: {scale}, height: 64}}\n"
        )
    folders = ",".join(str(tmp_path / scale) for scale in methods)
    run("evaluate", "-m", f"results.student={folders}", "num_resamples=100", "device=cpu",
        "measure.toybox.recogniser._target_=worlds.PixelRecogniser",
        f"hydra.sweep.dir={tmp_path / 'sweep'}")  # fmt: skip
    header, *rows = csv.reader((tmp_path / "sweep" / "overview.csv").read_text().splitlines())
    at = {name: header.index(name) for name in ("settings.text_guidance_scale", "arms.student.CPxPF")}
    assert "results.student" not in header
    found = {row[at["settings.text_guidance_scale"]]: float(row[at["arms.student.CPxPF"]]) for row in rows}
    assert list(found) == ["1.0", "1.5", "2.0"]
    assert found["1.5"] == 1 > max(found["1.0"], found["2.0"])
    with Image.open(tmp_path / "sweep" / "overview.png") as plot:
        assert plot.width > 800
