"""Figures without a window, the same bytes from the same numbers, and no change of matplotlib's settings."""

import subprocess
import sys

from dsd.metrics.plots import loss_figure, svg_uri

LINES = [{"step": step, "loss": 1 / (1 + step)} for step in range(0, 100, 5)]
VALIDATIONS = [{"step": 50, "CP": 0.4, "PF": 0.9}, {"step": 95, "CP": float("-inf"), "PF": 0.95}]


def test_a_training_with_and_without_validation() -> None:
    assert len(loss_figure(LINES).axes) == 1
    figure = loss_figure(LINES, VALIDATIONS)
    assert [axes.get_ylabel() for axes in figure.axes] == ["flow-matching loss", "validation"]
    assert [text.get_text() for text in figure.axes[1].get_legend().get_texts()] == ["CP", "PF"]
    assert svg_uri(loss_figure(LINES, VALIDATIONS)) == svg_uri(figure)


def test_importing_it_imports_no_matplotlib_and_drawing_keeps_its_settings() -> None:
    said = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys, dsd.metrics.plots as p; assert 'matplotlib' not in sys.modules\n"
            "import matplotlib; before = dict(matplotlib.rcParams)\n"
            "p.svg_uri(p.loss_figure([{'step': 1, 'loss': 1.0}]))\n"
            "assert before == dict(matplotlib.rcParams)\n"
            "assert 'matplotlib.pyplot' not in sys.modules",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert said.returncode == 0, said.stderr
