"""A provider that is down for a while, or nothing in the cache: asked again by the next run, and counted apart."""

import json
import os
import random
import signal
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest
from servers import gone, moved, openai_says, serve
from test_vlm_judge import answer, settings

from dsd.chat.openai import KEY
from dsd.runs.manifest import read_manifest
from dsd.runs.shards import read_failures, read_shards

BUSY = 503, {"error": {"message": "busy"}}


@pytest.fixture(autouse=True)
def key(monkeypatch) -> None:
    monkeypatch.setenv(KEY, "sk-secret")


def verdicts(folder: Path) -> list[dict]:
    return read_shards(folder / "pairs", "verdicts").to_list()


def test_a_brief_fault_is_in_no_shard_and_the_next_run_mends_it(run, refused, grids, tmp_path) -> None:
    """One question each: busy, malformed and malformed again, refused for good, not fit to be answered."""
    numbers = iter(range(10**6))
    faults = {7: BUSY, 20: (200, openai_says("hm")), 21: (200, openai_says("hm"))}
    lasting: dict[str, tuple[int, dict]] = {}

    def sometimes(body: dict) -> tuple[int, dict]:
        text, *pictures = body["messages"][0]["content"]
        if not text["text"].startswith("You are shown two"):
            return answer(body)
        number, asked = next(numbers), json.dumps(pictures)
        if number in (30, 40):
            unfit = 400, {"error": {"message": "the picture is too small"}}
            lasting[asked] = (200, openai_says(None, "content_filter")) if number == 30 else unfit
        return lasting.get(asked) or faults.get(number) or answer(body)

    with serve(sometimes) as server:
        ask = settings(server.url, grids, tmp_path, "vlm.limits.concurrency=1", "vlm.limits.attempts=1")
        said = refused("curation", *ask)
        assert "2 pairs have no answer, the first because: " in said
        assert "busy" in said
        assert not (tmp_path / "pairs" / "manifest.json").exists()
        assert len(list((tmp_path / "pairs" / "verdicts").glob("*.parquet"))) == 4  # of 6
        before = len(server.requests)
        said = run("curation", *ask)
    assert "1 refused, 1 failed, 0 unanswered" in said
    assert len(server.requests) - before < 40  # what was answered is not asked again
    counts = read_manifest(tmp_path / "pairs", "curation")["counts"]
    assert (counts["judged"], counts["refused"], counts["failed"], counts["unanswered"]) == (70, 1, 1, 0)
    assert len(verdicts(tmp_path)) == 70
    reasons = sorted(failure["reason"].split(":")[0] for failure in read_failures(tmp_path / "pairs", "verdicts"))
    assert reasons == ["failed", "refused"]


def test_replay_on_an_empty_cache_leaves_nothing(run, refused, grids, tmp_path) -> None:
    with serve(answer) as server:
        ask = settings(server.url, grids, tmp_path)
        said = refused("curation", *ask, "vlm.limits.replay=true")
        assert "72 pairs have no answer, the first because: not in the cache" in said
        assert not list((tmp_path / "pairs").rglob("*.parquet"))
        assert server.requests == []
        run("curation", *ask)
    assert len(verdicts(tmp_path)) == 72


def test_unanswered_pairs_can_be_left_out_and_are_counted(run, grids, tmp_path) -> None:
    ask = settings("http://127.0.0.1:9", grids, tmp_path)
    said = run("curation", *ask, "vlm.limits.replay=true", "skip_unanswered=true", code=2)
    assert "no pair was kept" in said
    counts = read_manifest(tmp_path / "pairs", "curation")["counts"]
    assert (counts["refused"], counts["failed"], counts["unanswered"]) == (0, 0, 72)
    assert "<td>unanswered</td><td>72</td>" in (tmp_path / "pairs" / "report.html").read_text()


@pytest.mark.parametrize(
    "limits",
    [["vlm.limits.max_cost=1"], ["vlm.limits.max_cost=1", "+vlm.limits.price.inptu=1"], ["vlm.limits.concurrency=0"]],
)
def test_limits_are_checked_before_the_folder_is_claimed(refused, grids, tmp_path, limits) -> None:
    with serve(answer) as server:
        assert "vlm.limits." in refused("curation", *settings(server.url, grids, tmp_path, *limits))
        assert server.requests == []
    assert not (tmp_path / "pairs").exists()


def test_no_file_holds_the_password_of_an_address(run, grids, tmp_path) -> None:
    with serve(answer) as server:
        url = server.url.replace("http://", "http://me:hidden-word@")
        said = run("curation", *settings(url, grids, tmp_path))
        assert server.requests
    assert "hidden-word" not in said
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert [file for file in files if b"hidden-word" in file.read_bytes()] == []


HM = 200, openai_says("hm")
FAULTS = [  # each of 5 % of the calls
    BUSY, (429, {"error": {"message": "slow down"}}), (200, "cut of"), (200, {"choices": {}}), HM,
    (200, openai_says("a critter at", "length")), (200, openai_says("")), (200, openai_says("\ud800")),
    (200, openai_says("<think>hm")), gone, moved("http://127.0.0.1:9/"),
]  # fmt: skip


@pytest.mark.parametrize(("num_grids", "kills"), [(9, 2), pytest.param(92, 6, marks=pytest.mark.long)])
def test_soak(run, start, tmp_path, num_grids, kills) -> None:
    """22 calls a grid, half of them faulty, killed at random moments: nothing is lost, doubled or paid twice."""
    run("data_gen", "teacher=oracle", f"num_grids={num_grids}", f"output_dir={tmp_path / 'grids'}")
    seed = int(os.environ.get("SOAK_SEED", random.randrange(10**6)))
    rng, lock, paid = random.Random(seed), threading.Lock(), Counter[str]()

    def faulty(body: dict) -> object:
        with lock:
            number = rng.randrange(20)
            if number < len(FAULTS):
                unread = FAULTS[number] is HM and "response_format" not in body  # as a caption it could be read
                return BUSY if unread else FAULTS[number]
            paid[json.dumps(body["messages"])] += 1
        return answer(body)

    more = ("vlm.limits.attempts=8", "vlm.limits.breaker=60", "vlm.limits.concurrency=4", "describe_rejected=true")
    with serve(faulty) as server:  # type: ignore[arg-type]
        ask = settings(server.url, tmp_path / "grids", tmp_path / "soaked", *more)
        for _ in range(kills):
            process, wanted = start("curation", *ask), len(server.requests) + rng.randrange(20, 100)
            while len(server.requests) < wanted and process.poll() is None:
                time.sleep(0.01)
            process.send_signal(signal.SIGKILL)
            process.wait()
        for _ in range(20):
            with suppress(AssertionError):  # some pairs may be unanswered after all attempts
                run("curation", *ask)
                break
        twice = sum(number - 1 for number in paid.values())
    with serve(answer) as server:
        run("curation", *settings(server.url, tmp_path / "grids", tmp_path / "clean", "describe_rejected=true"))
    assert verdicts(tmp_path / "soaked") == verdicts(tmp_path / "clean"), seed
    assert twice <= 4 * kills, seed  # calls that were under way when it was killed
