"""A trained student draws a benchmark, a judge over HTTP scores it through a kill, the table is made again later."""

import base64
import io
import json
import os
import signal
from collections import Counter
from pathlib import Path
from subprocess import Popen
from typing import Any

import miniatures
import numpy as np
import pytest
from judges import MODEL, parts_of
from PIL import Image
from servers import openai_says, serve

from dsd.runs.shards import read_shards

NUM, KILLED_AT = 8, 7  # jobs; the question, counted from one, at which the evaluation is killed


class ColourJudge:
    """Knows colours only: CP by how near two pictures' mean colours are, PF by how bright the picture is.

    At a question that is chosen it kills its client before it answers.
    """

    def __init__(self) -> None:
        self.answered = Counter[str]()
        self.client: Popen | None = None

    def say(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        text, pictures = parts_of(body)
        if self.client is not None and self.answered.total() == KILLED_AT - 1:
            os.kill(self.client.pid, signal.SIGKILL)
            self.client.wait()
            return 503, {"error": {"message": "nobody is there to read this"}}
        self.answered[json.dumps([text, pictures])] += 1
        colours = [np.asarray(opened(url)).mean((0, 1)) / 255 for url in pictures]
        share = 1 - np.abs(colours[0] - colours[-1]).mean() if len(colours) > 1 else colours[0].mean()
        answer = json.dumps({"reason": f"by colour {share:.3f}", "score": round(4 * float(share))})
        return 200, openai_says(answer) | {"model": MODEL}


def opened(url: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).convert("RGB")


@pytest.mark.process
def test_a_student_is_judged_through_a_kill_and_its_table_outlives_the_judge(run, start, adapter, tmp_path) -> None:
    drawn, report, again = tmp_path / "drawn", tmp_path / "report", tmp_path / "again"
    data = miniatures.dreambench_plus(tmp_path / "data")
    run("infer", "jobs=dreambench_plus", f"jobs.path={data}", f"jobs.limit={NUM}", f"adapter={adapter}",
        "settings.num_inference_steps=2", "png=false", "device=cpu", f"output_dir={drawn}")  # fmt: skip
    rows = read_shards(drawn, "results")
    assert len(rows) == NUM
    assert set(rows["method"]) == {"student"}

    judge = ColourJudge()
    with serve(judge.say) as server:
        ask = [
            f"results={{student: {drawn}}}", "measure=vlm", "vlm=openai", f"vlm.chat.base_url={server.url}/v1",
            f"vlm.chat.model={MODEL}", "vlm.limits.first_wait=0.01", "vlm.limits.concurrency=1", "batch_size=2",
            "published=dreambench_plus", "num_resamples=100", f"cache_dir={tmp_path / 'cache'}",
            f"output_dir={report}", "device=cpu",
        ]  # fmt: skip
        judge.client = start("evaluate", *ask)
        assert judge.client.wait() == -signal.SIGKILL
        assert not (report / "manifest.json").exists()
        assert judge.answered.total() == KILLED_AT - 1
        judge.client = None
        run("evaluate", *ask)
        num_questions = len(server.requests) - 1  # one was asked at the kill and never answered
    assert num_questions == len(judge.answered) == judge.answered.total() == 2 * NUM, "nothing was asked twice"

    summary = json.loads((report / "summary.json").read_text())
    assert summary["judges"]["vlm"]["ratings"] == {"answered": 2 * NUM, "refused": 0, "failed": 0}
    assert summary["arms"]["student"]["CP"]["value"] == pytest.approx(true_cp(rows), abs=1e-4)
    assert list(summary["arms"]["student"]["by"]["CP"]["columns"]) == ["animal", "human", "object", "style"]
    assert f"| student | 1 | {NUM} | " in (report / "table.md").read_text()

    assert "bit for bit" in run("evaluate", f"replay={report}", f"output_dir={again}")
    assert all_files(again) == all_files(report)
    assert set(all_files(again)) > {"summary.json", "table.md", "table.tex", "measures.png", "report.html"}


def true_cp(rows: Any) -> float:
    """What the judge says of all pictures, computed from the pictures themselves, on the scale of 0 to 1."""
    means = [[np.asarray(row[name]).mean((0, 1)) / 255 for name in ("reference", "image")] for row in rows]
    return float(np.mean([round(4 * (1 - np.abs(a - b).mean())) / 4 for a, b in means]))


def all_files(folder: Path) -> dict[str, bytes]:
    kinds = (".json", ".md", ".tex", ".csv", ".png", ".html")
    left_out = ("manifest.json", "card.json")
    every = [f for f in folder.rglob("*") if f.suffix in kinds and f.name not in left_out]
    return {f.relative_to(folder).as_posix(): f.read_bytes() for f in every if ".stats." not in f.name}
