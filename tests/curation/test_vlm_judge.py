"""A vision-language model as the judge, over real HTTP: the chain from grids to pairs, with all that providers do."""

import hashlib
import json
import random
import signal
import time
from collections import Counter
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from servers import openai_says, serve
from tiny_vlm import save_tiny_vlm

from dsd.chat.openai import KEY
from dsd.curation.vlm_judge import JudgementForm
from dsd.data_gen.llm import Subject
from dsd.runs.command import CONFIG_DIR
from dsd.runs.manifest import read_manifest
from dsd.runs.shards import read_failures, read_shards


def judgement(same: bool, worst: float = 4.0) -> str:
    return json.dumps({
        "common_subject": "a critter", "first_description": "red", "second_description": "red",
        "parts": [{"part": "hat", "score": worst}, {"part": "belly", "score": 4}], "reason": "alike", "same": same,
    })  # fmt: skip


def answer(body: dict) -> tuple[int, dict]:
    """Same or not by the pictures' bytes, so that any order of asking gives the same verdicts."""
    text, *pictures = body["messages"][0]["content"]
    if "You are shown two" in text["text"]:
        same = len(pictures[0]["image_url"]["url"]) % 2 == len(pictures[1]["image_url"]["url"]) % 2
        return 200, openai_says(judgement(same))
    return 200, openai_says("a critter on the beach" if len(pictures) == 1 else "put it on the beach")


def settings(url: str, grids: Path, folder: Path, *more: str) -> list[str]:
    return [
        f"grids={grids}", f"output_dir={folder / 'pairs'}", f"cache_dir={folder}", "judge=vlm", "vlm=openai",
        f"vlm.chat.base_url={url}/v1", "vlm.limits.first_wait=0.01", "rows_per_shard=2",
        "batch_size=2", "describe_rejected=false", *more,
    ]  # fmt: skip


def rows(folder: Path) -> list[dict]:
    return read_shards(folder / "pairs", "verdicts").to_list()


@pytest.fixture(autouse=True)
def key(monkeypatch) -> None:
    monkeypatch.setenv(KEY, "sk-secret")


def test_the_paper_s_steps_give_pairs_with_both_captions(run, grids, tmp_path) -> None:
    with serve(answer) as server:
        run("curation", *settings(server.url, grids, tmp_path))
    pairs = read_shards(tmp_path / "pairs", "pairs")
    assert len(pairs) > 0
    assert set(pairs["caption"]) == {"a critter on the beach"}
    assert set(pairs["instruction"]) == {"put it on the beach"}
    assert {"parts": 4.0, "worst_part": 4.0}.items() <= json.loads(pairs[0]["scores"]).items()
    verdicts = rows(tmp_path)
    assert len(verdicts) == 12 * 6
    kept = [v for v in verdicts if v["same"]]
    panels = {(v["grid"], v[side]) for v in kept for side in ("first", "second")}
    kinds = Counter(len(body["messages"][0]["content"]) for _, _, body in server.requests)
    assert kinds[2] == len(panels)  # captions of panels that are used, once each
    assert kinds[3] == 12 * 6 + 2 * len(kept)
    said = b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
    assert b"sk-secret" not in said


def test_killed_at_random_moments_no_call_is_paid_twice(run, start, grids, tmp_path) -> None:
    """And what comes of it is what an unbroken run leaves: no row lost, none doubled."""
    moments = sorted(random.sample(range(1, 60), 2))  # calls after which it is killed

    def slow(body: dict) -> tuple[int, dict]:
        time.sleep(0.02)
        return answer(body)

    with serve(slow) as server:
        ours = settings(server.url, grids, tmp_path / "broken", "vlm.limits.concurrency=8")
        for moment in moments:
            process = start("curation", *ours)
            while len(server.requests) < moment:
                assert process.poll() is None, moments
                time.sleep(0.005)
            process.send_signal(signal.SIGKILL)
            process.wait()
        run("curation", *ours)
        questions = Counter(json.dumps(body) for _, _, body in server.requests)
    twice = sum(number - 1 for number in questions.values())
    assert twice <= 8 * len(moments), moments  # those in flight when it was killed, whose answers nobody heard
    with serve(answer) as server:
        run("curation", *settings(server.url, grids, tmp_path / "unbroken"))
    assert rows(tmp_path / "broken") == rows(tmp_path / "unbroken"), moments


def test_replay_needs_no_provider(run, grids, tmp_path) -> None:
    with serve(answer) as server:
        run("curation", *settings(server.url, grids, tmp_path))
    first = rows(tmp_path)
    more = (f"output_dir={tmp_path / 'replayed' / 'pairs'}", "vlm.limits.replay=true")
    run("curation", *settings(server.url, grids, tmp_path), *more)
    assert rows(tmp_path / "replayed") == first


def test_refusals_are_a_reason_of_their_own_and_never_a_no(run, grids, tmp_path) -> None:
    numbers = iter(range(1000))

    def sometimes(body: dict) -> tuple[int, dict]:
        if "You are shown two" in body["messages"][0]["content"][0]["text"] and next(numbers) % 6 == 0:
            return 200, openai_says(None, "content_filter")
        return answer(body)

    with serve(sometimes) as server:
        said = run("curation", *settings(server.url, grids, tmp_path))
    failures = read_failures(tmp_path / "pairs", "verdicts")
    assert len(failures) == 12
    assert {f["reason"] for f in failures} == {"refused: no answer (content_filter)"}
    assert "12 refused" in said
    assert len(rows(tmp_path)) == 12 * 5
    manifest = read_manifest(tmp_path / "pairs", "curation")
    assert manifest["counts"]["refused"] == 12
    grids_drawn, shown, answered, kept = manifest["steps"]
    assert (grids_drawn["begun"], grids_drawn["left"]) == (12, 12)
    assert (shown["begun"], shown["left"], shown["reasons"]) == (72, 72, {})
    assert (answered["left"], answered["reasons"]) == (60, {"refused": 12})
    assert kept["left"] + sum(kept["reasons"].values()) == 60
    page = (tmp_path / "pairs" / "report.html").read_text()
    assert "<td>refused</td><td>12</td><td>16.7 %</td>" in page
    assert page.count("<figure>") >= 6


def test_the_ledger_counts_what_was_paid_over_all_runs(run, grids, tmp_path) -> None:
    """A run that a budget stops has paid for what it got; the rerun pays for the rest, and the ledger has both."""
    usage = {"prompt_tokens": 1000, "completion_tokens": 100, "total_tokens": 1100}

    def counted(body: dict) -> tuple[int, dict]:
        status, said = answer(body)
        return status, said | {"usage": usage}

    price = "vlm.limits.price={input: 1.0, output: 10.0}"
    with serve(counted) as server:
        ask = settings(server.url, grids, tmp_path, "+" + price.replace("vlm", "vlm", 1))
        assert "the budget of 30 calls" in run("curation", *ask, "vlm.limits.max_calls=30", code=2)
        run("curation", *ask)
        asked = len(server.requests)
    spent = read_manifest(tmp_path / "pairs", "curation")["spent"]
    assert spent["answers"] == asked
    assert spent["input_tokens"] == 1000 * asked
    assert spent["cost"] == pytest.approx(0.002 * asked)


def test_a_strict_judge_scores_parts(run, grids, tmp_path) -> None:
    def strict(body: dict) -> tuple[int, dict]:
        text = body["messages"][0]["content"][0]["text"]
        return (200, openai_says(judgement(True, 3.0))) if "Compare part by part, strictly" in text else answer(body)

    with serve(strict) as server:
        ask = settings(server.url, grids, tmp_path, "judge=vlm_strict", "selection.minimum.parts=3.6")
        assert "no pair was kept" in run("curation", *ask, code=2)
    rejected = read_shards(tmp_path / "pairs", "rejected")
    assert set(rejected["rejection"]) == {"low parts: 3.500, the bound is 3.6"}
    assert "worst part: hat, 3 of 4" in rejected[0]["verdict_reason"]


def test_bounds_of_the_toybox_s_judge_are_refused_before_any_call(refused, grids, tmp_path) -> None:
    """`judge=vlm` with such a selection used to end in a ValueError of the toybox's parser, after all paid calls."""
    exclude = "selection.exclude={_target_: dsd.toybox.judge.HeldOutSubjects}"
    with serve(answer) as server:
        ask = settings(server.url, grids, tmp_path)
        bound = refused("curation", *ask, "+selection.minimum.confidence=0.8")
        excluded = refused("curation", *ask, exclude)
        assert server.requests == []
    assert "selection.minimum.confidence: no such score; the scores here are " in bound
    assert bound.endswith("sharpness, parts, worst_part")
    assert "HeldOutSubjects reads verdicts of ToyboxJudge, but the judge is VLMJudge" in excluded
    assert not (tmp_path / "pairs").exists()


def test_a_pair_without_parts_is_rejected_and_the_run_ends(run, grids, tmp_path) -> None:
    def silent(body: dict) -> tuple[int, dict]:
        text = body["messages"][0]["content"][0]["text"]
        said = json.loads(judgement(True)) | {"parts": []}
        return (200, openai_says(json.dumps(said))) if "You are shown two" in text else answer(body)

    with serve(silent) as server:
        said = run("curation", *settings(server.url, grids, tmp_path, "judge=vlm_strict"), code=2)
    assert "no pair was kept" in said
    reasons = {row["rejection"] for row in read_shards(tmp_path / "pairs", "rejected")}
    assert reasons == {"no parts: this score was not given, the bound is 4"}


def test_what_the_model_reads_has_not_changed() -> None:
    """Paid answers are cached by wording and form; a reworded docstring of a form would ask everything again."""
    judge, strict, prompts = (
        OmegaConf.load(Path(CONFIG_DIR) / name)
        for name in ("judge/vlm.yaml", "judge/vlm_strict.yaml", "prompts/llm.yaml")
    )
    sent = [judge.judge.judge, judge.judge.caption, judge.judge.instruct, strict.judge.judge]
    sent += [prompts.filter, prompts.write]
    for form in (JudgementForm, Subject):
        schema = form.model_json_schema()
        sent += [schema["title"], schema["description"], *schema["required"]]
    sent += [JudgementForm.model_json_schema()["$defs"]["Part"]["description"]]
    assert (
        hashlib.sha256("\n".join(sent).encode()).hexdigest()
        == "7cfd38f36c7698191de16c1fcf43b9a929820f19f5ebd0333a7de94ebfc4747c"
    )


def test_bad_input_is_one_line(refused, grids, tmp_path, monkeypatch) -> None:
    ask = settings("http://127.0.0.1:9", grids, tmp_path, "vlm.limits.attempts=1", "vlm.limits.breaker=2")
    assert "calls failed one after another, the last because: APIConnectionError" in refused("curation", *ask)
    assert "choose vlm=gemini, openai, server or local" in refused(
        "curation", f"grids={grids}", "judge=vlm", f"output_dir={tmp_path / 'b'}"
    )
    with serve(lambda _: (401, {"error": {"message": "Incorrect API key provided"}})) as server:
        said = refused("curation", *settings(server.url, grids, tmp_path / "c", "vlm.limits.breaker=3"))
    assert "Incorrect API key provided" in said
    monkeypatch.delenv(KEY)
    assert "OPENAI_API_KEY" in refused(
        "curation", f"grids={grids}", "judge=vlm", "vlm=openai", f"output_dir={tmp_path / 'd'}"
    )


def test_a_model_of_transformers_goes_the_whole_way(run, grids, tmp_path) -> None:
    """Of random weights it answers no JSON: no pair has a verdict, and on demand every one is a failure."""
    save_tiny_vlm(tmp_path / "vlm")
    ask = (f"grids={grids}", "judge=vlm", "vlm=local", f"vlm.chat.model={tmp_path / 'vlm'}", "device=cpu",
           "vlm.chat.max_new_tokens=4", "vlm.limits.breaker=100000", f"cache_dir={tmp_path}",
           f"output_dir={tmp_path / 'pairs'}", "describe_rejected=false", "skip_unanswered=true")  # fmt: skip
    assert "no pair was kept" in run("curation", *ask, code=2)
    failures = read_failures(tmp_path / "pairs", "verdicts")
    assert len(failures) == 72
    assert all(f["reason"].startswith("unanswered: the answer is cut off") for f in failures)
    assert read_manifest(tmp_path / "pairs", "curation")["counts"]["unanswered"] == 72
