"""A judge whose answers are known judges the toybox: its table, made again without it; killed, faulty, another one."""

import json
import random
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from judges import MODEL, Judge, score_of, shown
from servers import Server, openai_says, serve
from worlds import infer_run

from dsd.chat.encoding import data_url
from dsd.metrics.judges.ratings import CARD
from dsd.runs.shards import read_shards

NUM = 6


@pytest.fixture
def arms(tmp_path: Path) -> dict[str, Path]:
    return {method: infer_run(tmp_path / method, method, num=NUM) for method in ("perfect", "copy_paste")}


def asking(server: Server, arms: dict[str, Path], folder: Path, *more: str) -> list[str]:
    results = ", ".join(f"{name}: {where}" for name, where in arms.items())
    return [
        f"results={{{results}}}", "measure=vlm", "vlm=openai", f"vlm.chat.base_url={server.url}/v1",
        f"vlm.chat.model={MODEL}", "vlm.limits.first_wait=0.01", "vlm.limits.attempts=2", "num_resamples=100",
        f"cache_dir={folder}/cache", f"output_dir={folder}/report", "device=cpu", *more,
    ]  # fmt: skip


def summary_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return found


def truth(folder: Path) -> dict[str, float]:
    """The mean of the true scores, over the pictures of a run."""
    found: dict[str, list[float]] = {"CP": [], "PF": []}
    for row in read_shards(folder, "results"):
        picture, reference = data_url(row["image"]), data_url(row["reference"])
        found["CP"].append(score_of("", [reference, picture], 4) / 4)
        found["PF"].append(score_of(f'this prompt: "{row["prompt"]}"', [picture], 4) / 4)
    return {name: float(np.mean(values)) for name, values in found.items()}


def test_the_table_holds_the_true_scores_and_is_made_again_without_the_server(run, refused, arms, tmp_path) -> None:
    judge, out = Judge(), tmp_path / "report"
    with serve(judge.say) as server:
        said = run("evaluate", *asking(server, arms, tmp_path, "+vlm.limits.price={input: 1, output: 2}"))
        num = len(server.requests)
        assert num == 2 * 2 * NUM  # the pictures of both arms, CP and PF
    found = summary_of(out)
    card = found["judges"]["vlm"]["card"]
    assert f"judge card {card} ({MODEL}): at most {num} calls" in said
    assert "by vlm.limits.price" in said
    assert f"judged by {MODEL}" in said
    for arm, folder in arms.items():
        for name, value in truth(folder).items():
            assert found["arms"][arm][name]["value"] == pytest.approx(value, abs=1e-4)
    assert found["arms"]["copy_paste"]["CP"]["value"] == 1
    assert f"judge card {card}" in (out / "table.md").read_text()
    assert found["judges"]["vlm"]["ratings"] == {"answered": num, "refused": 0, "failed": 0}
    again = [f"replay={out}", f"output_dir={tmp_path / 'again'}"]
    assert "bit for bit" in run("evaluate", *again)
    for name in ("summary.json", "table.md"):
        assert (tmp_path / "again" / name).read_bytes() == (out / name).read_bytes()
    (file,) = out.rglob(CARD)
    content = file.read_text()
    file.write_text(content.replace('"max_tokens": 512', '"max_tokens": 513'))
    again[1] = f"output_dir={tmp_path / 'edited'}"
    assert "edited after its ratings, which are of judge card" in refused("evaluate", *again)
    file.write_text(content)
    rows = (out / "ratings" / "vlm" / card / "ratings-00000.parquet").read_bytes()
    (out / "ratings" / "vlm" / card / "ratings-00000.parquet").write_bytes(rows[: len(rows) // 2])
    assert "damaged" in refused("evaluate", *again)


def test_gemini_s_protocol_gives_the_same_numbers(run, arms, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("GEMINI_API_KEY", "key")
    one = {"perfect": arms["perfect"]}
    with serve(Judge(model="gemini-3.5-flash-lite").say) as server:
        ask = [one for one in asking(server, one, tmp_path) if not one.startswith(("vlm.chat", "vlm=openai"))]
        run("evaluate", *ask, "vlm=gemini", f"vlm.chat.base_url={server.url}", "card.model=${vlm.chat.model}",
            "card.revision=''")  # fmt: skip
        assert len(server.requests) == 2 * NUM
    for name, value in truth(one["perfect"]).items():
        assert summary_of(tmp_path / "report")["arms"]["perfect"][name]["value"] == pytest.approx(value, abs=1e-4)


def test_refusals_and_failures_are_counted_apart_and_what_is_unanswered_is_asked_again(
    run, refused, arms, tmp_path
) -> None:
    """Of the six pictures' CP one is refused, one cannot be read, one is contradictory and one comes later."""
    one, judge, broken = {"perfect": arms["perfect"]}, Judge(), Counter[str]()
    fate: dict[str, str] = {}

    def faulty(body: dict[str, Any]) -> Any:
        _, *pictures = body["messages"][0]["content"]
        if len(pictures) == 1:
            return judge.say(body)
        kinds = ["refused", "malformed", "contradictory", "late", "", ""]
        kind = fate.setdefault(pictures[0]["image_url"]["url"], kinds[len(fate) % 6])
        broken[kind] += 1
        score = '{"reason": "no part is alike", "score": %d}'
        if kind == "refused":
            return 200, openai_says(None, "content_filter")
        if kind == "malformed":
            return 200, openai_says(score % 9)
        if kind == "contradictory":
            return 200, openai_says(f"Score: 4. {score % 4} No, wait: {score % 1}") | {"model": MODEL}
        return (503, {"error": {"message": "busy"}}) if kind == "late" and broken[kind] <= 2 else judge.say(body)

    with serve(faulty) as server:
        said = refused("evaluate", *asking(server, one, tmp_path, "vlm.limits.concurrency=1"))
        assert "measure vlm: 1 questions have no answer, the first because: " in said
        before = len(server.requests)
        run("evaluate", *asking(server, one, tmp_path, "vlm.limits.concurrency=1"))
        assert len(server.requests) == before + 1
    found = summary_of(tmp_path / "report")
    assert found["judges"]["vlm"]["ratings"] == {"answered": 10, "refused": 1, "failed": 1}
    number = found["arms"]["perfect"]["CP"]
    assert (number["n"], number["missing"]) == (4, {"failed": 1, "refused": 1, "of": 6})
    assert number["value"] == pytest.approx((3 * 1 + 0.25) / 4)  # the last of two contradictory answers counts
    assert "33.3 % missing (1 failed, 1 refused)" in (tmp_path / "report" / "table.md").read_text()
    assert "bit for bit" in run("evaluate", f"replay={tmp_path / 'report'}", f"output_dir={tmp_path / 'again'}")


@pytest.mark.process
def test_killed_at_random_nothing_is_asked_twice(run, start, arms, tmp_path) -> None:
    judge, rng = Judge(), random.Random(4)

    def slow(body: dict[str, Any]) -> Any:
        time.sleep(0.05)
        return judge.say(body)

    with serve(slow) as server:
        ask = asking(server, arms, tmp_path, "vlm.limits.concurrency=1", "batch_size=2")
        wanted = rng.randrange(3, 12)
        process = start("evaluate", *ask)
        while len(server.requests) < wanted and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        run("evaluate", *ask)
        done = len(server.requests)
        assert "done already" in run("evaluate", *ask)
        assert len(server.requests) == done
    assert len(judge.paid) == 2 * 2 * NUM
    assert sum(judge.paid.values()) - len(judge.paid) <= 1  # the call that was under way


def test_a_changed_card_asks_anew_and_both_cards_are_kept(run, arms, tmp_path) -> None:
    one = {"perfect": arms["perfect"]}
    with serve(Judge().say) as server:
        run("evaluate", *asking(server, one, tmp_path))
        said = run("evaluate", *asking(server, one, tmp_path, "card.max_tokens=400", "card.temperature=0.5"))
        assert len(server.requests) == 4 * NUM
    assert "the inputs have changed since" in said
    assert len(list((tmp_path / "report" / "ratings" / "vlm").iterdir())) == 2
    assert "bit for bit" in run("evaluate", f"replay={tmp_path / 'report'}", f"output_dir={tmp_path / 'again'}")


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["vlm.limits.max_calls=0"], "the budget of 0 calls (vlm.limits.max_calls) is used up"),
        (["vlm.limits.max_cost=0", "+vlm.limits.price={input: 1, output: 1}"], "the budget of 0 (vlm.limits.max_cost)"),
        (["vlm.chat.model=other"], "give vlm.chat.model=Qwen/Qwen3-VL-8B-Instruct"),
        ([], "choose vlm=gemini"),
        (["vlm.chat.base_url=null"], "needs OPENAI_API_KEY"),
        (["measure.vlm.rubrics=[CP,XY]"], "rubric XY is not in the judge card"),
        (["card.repeats=3"], "needs a seed, and a temperature above 0"),
        (["+card.rubrics.CP.mst=3"], "card.rubrics.CP.mst: Extra inputs"),
        (["card=gpt-17"], "gpt-17"),
    ],
)
def test_what_cannot_work_is_one_line_and_asks_nothing(refused, arms, tmp_path, monkeypatch, more, words) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with serve(Judge().say) as server:
        ask = asking(server, arms, tmp_path)
        if not more:
            ask = [one for one in ask if not one.startswith("vlm")]
        assert words in refused("evaluate", *ask, *more)
        assert server.requests == []
    assert not (tmp_path / "report" / "summary.json").exists()


def test_another_model_that_answers_is_refused(refused, arms, tmp_path) -> None:
    with serve(Judge(model="gemini-9").say) as server:
        said = refused("evaluate", *asking(server, arms, tmp_path))
    assert f"vlm.chat.model={MODEL}: gemini-9 answered, so this is not the judge of card" in said


def test_control_pairs_notice_a_judge_that_has_changed(run, refused, arms, tmp_path) -> None:
    score = 3

    def constant(body: dict[str, Any]) -> Any:
        return 200, openai_says(json.dumps({"reason": "so", "score": score})) | {"model": MODEL}

    control = f"output_dir={tmp_path / 'control'}"
    with serve(constant) as server:
        ask = [
            one for one in asking(server, arms, tmp_path) if not one.startswith(("results", "output_dir", "measure"))
        ]
        said = run("evaluate", "mode=control", *ask, control)
        assert "answered 42 questions about 7 control pairs" in said
        assert "control.json: there already" in refused("evaluate", "mode=control", *ask, control)
        compared = f"control={tmp_path / 'control' / 'control.json'}"
        run("evaluate", *asking(server, arms, tmp_path, compared))
        assert len(server.requests) == 42 + 14 + 4 * NUM
        score = 1
        said = refused("evaluate", *asking(server, arms, tmp_path / "later", compared))
    assert "the judge has changed since (CP of moved: 3 then, 1 now" in said
    assert not list((tmp_path / "later" / "report").rglob("*.parquet"))


def test_repeats_have_seeds_of_their_own_and_swapped_shows_the_other_way(run, arms, tmp_path) -> None:
    one = {"copy_paste": arms["copy_paste"]}
    with serve(Judge().say) as server:
        more = ["card.repeats=3", "card.temperature=0.7", "measure.vlm.rubrics=[CP]", "measure.vlm.swapped=true"]
        run("evaluate", *asking(server, one, tmp_path, *more, "measure.vlm.prefix=mine_"))
        bodies = [body for _, _, body in server.requests]
    assert Counter(body["seed"] for body in bodies) == {0: NUM, 1: NUM, 2: NUM}
    assert {body["temperature"] for body in bodies} == {0.7}
    rows = list(read_shards(one["copy_paste"], "results"))
    first = [body["messages"][0]["content"][1]["image_url"]["url"] for body in bodies]
    assert {json.dumps(shown(url)) for url in first} == {json.dumps(shown(data_url(row["image"]))) for row in rows}
    assert summary_of(tmp_path / "report")["arms"]["copy_paste"]["mine_CP"]["value"] == 1
