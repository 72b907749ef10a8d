"""A sweep's plot: which results, against what, and a line for what."""

from dsd.runs.sweep_plot import measured, plot


def test_results_are_the_fractional_numbers_of_a_manifest() -> None:
    manifest = {
        "stage": "train", "counts": {"steps": 6}, "loss": 0.5, "validation": {"loss": 0.6, "step": 4},
        "seconds": 3.5, "pairs_per_second": 2.5, "flags": [0.1],
    }  # fmt: skip
    assert measured(manifest) == {"loss": 0.5, "validation.loss": 0.6}


def test_a_panel_a_result_and_a_line_a_seed() -> None:
    settings = [{"seed": seed, "learning_rate": rate} for seed in ("0", "1") for rate in ("0.01", "0.0001", "0.001")]
    results = [{"loss": float(i), "validation.loss": 2.0 * i} for i in range(6)]
    one, other = plot(settings, results).axes
    assert (one.get_xlabel(), one.get_ylabel(), other.get_ylabel()) == ("learning_rate", "loss", "validation.loss")
    assert one.get_xscale() == "log"
    assert {line.get_label(): list(line.get_ydata()) for line in one.lines} == {
        "seed 0": [1.0, 2.0, 0.0],  # along a growing rate
        "seed 1": [4.0, 5.0, 3.0],
    }


def test_words_along_the_axis_and_results_that_some_runs_lack() -> None:
    settings = [{"lora.targets": "attention"}, {"lora.targets": "all_linear"}, {"lora.targets": "none"}]
    (axes,) = (a for a in plot(settings, [{"loss": 1.0}, {}, {"loss": 2.0}]).axes if a.get_visible())
    (line,) = axes.lines
    assert list(line.get_xdata(orig=True)) == ["attention", "none"]
    assert axes.get_xscale() == "linear"


def test_only_seeds_were_swept() -> None:
    (axes,) = plot([{"seed": "1"}, {"seed": "0"}], [{"loss": 1.0}, {"loss": 2.0}]).axes
    assert list(axes.lines[0].get_ydata()) == [2.0, 1.0]
