"""A judge that measures while training: at its turns, within its budget, and never at the training's cost."""

import json
from pathlib import Path

import pytest
from judges import MODEL
from servers import openai_says, serve

from dsd.runs.manifest import is_finished


def settings(url: str, pairs: Path, adapter: Path, folder: Path, *more: str) -> tuple[str, ...]:
    return (
        f"pairs={pairs}", f"cache_dir={adapter / 'cache'}", "batch_size=4", "learning_rate=1e-3", "log_every=1",
        "device=cpu", "num_steps=4", "student=canvas", "validation=toybox", "validation.every=1",
        "validation.jobs.num_subjects=1", "validation.artist.num_inference_steps=1",
        "measure@validation.measures=[toybox,vlm]", "validation.measures.vlm.prefix=vlm_", "vlm=openai", "card=local",
        f"vlm.chat.base_url={url}/v1", f"vlm.chat.model={MODEL}", f"vlm.cache={folder / 'answers.sqlite'}",
        f"output_dir={folder}", *more,
    )  # fmt: skip


def test_a_judge_measures_at_its_turns_until_its_budget_is_used_up(run, pairs, adapter, tmp_path) -> None:
    """Two pictures, CP and PF: four calls at step 2, of which one is refused, and one of four at step 4."""
    refused: list[str] = []

    def answer(body: dict) -> tuple[int, dict]:
        asked = json.dumps(body["messages"])
        if not refused:
            refused.append(asked)
        if asked in refused:
            return 200, openai_says(None, "content_filter")
        return 200, openai_says('{"reason": "half", "score": 2}') | {"model": MODEL}

    with serve(answer) as server:
        ask = settings(server.url, pairs, adapter, tmp_path, "+validation.measure_every={vlm: 2}",
                       "vlm.limits.max_calls=5", "vlm.limits.concurrency=1")  # fmt: skip
        said = run("train", *ask)
        assert len(server.requests) == 5
    assert "validation: vlm measures no more in this run: the budget of 5 calls" in said
    assert is_finished(tmp_path, "train")
    lines = [json.loads(line) for line in (tmp_path / "validation.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert ["vlm_CP" in line for line in lines] == [False, True, False, False]
    assert (lines[1]["vlm_CP"], lines[1]["vlm_PF"], lines[1]["vlm_CP_missing"]) == (0.5, 0.5, 0.5)
    assert all("CPxPF" in line for line in lines)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["+validation.measure_every={clip: 2}"], "validation.measure_every.clip=2: a measure (toybox, vlm)"),
        (["+validation.measure_every={vlm: 0}"], "validation.measure_every.vlm=0: a measure"),
        (
            ["+validation.measure_every={vlm: 2}", "validation.metric=vlm_CP"],
            "validation.metric=vlm_CP: measured at every",
        ),
    ],
)
def test_turns_that_cannot_work_are_refused(refused, pairs, adapter, tmp_path, more, words) -> None:
    assert words in refused("train", *settings("http://127.0.0.1:9", pairs, adapter, tmp_path, *more))
