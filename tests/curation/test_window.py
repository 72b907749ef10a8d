"""The sliding window of questions: nothing waits for an unrelated answer, memory is bounded, the order stays."""

import json
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from datasets import Image as ImageFeature
from PIL import Image

from dsd.chat import Question, Reply
from dsd.chat.limits import Limits
from dsd.chat.service import Service
from dsd.curation.judging import Inspection, judge_grids
from dsd.curation.seams import CutGrid, exact
from dsd.curation.vlm_judge import VLMJudge
from dsd.errors import UserError
from dsd.runs.shards import Shard

NUM, SIZE = 24, 16
QUESTIONS = 6 + 4 + 12  # of a grid whose pairs are all accepted
YES = json.dumps({
    "common_subject": "a critter", "first_description": "red", "second_description": "red", "parts": [],
    "reason": "alike", "same": True,
})  # fmt: skip


class Provider:
    """Accepts every pair; a question for which `waits` is true is answered once `go` is set."""

    model = "m"

    def __init__(self, waits: Any = lambda _: False) -> None:
        self.waits, self.go, self.changed = waits, threading.Event(), threading.Condition()
        self.answered = Counter[int]()  # by grid

    def ask(self, question: Question) -> Reply:
        if self.waits(question):
            assert self.go.wait(600)
        with self.changed:
            self.answered[question.images[0].getpixel((0, 0))[0]] += 1
            self.changed.notify_all()
        return Reply(YES if question.answer else "a critter", 10, 10)


def some_grids() -> Dataset:
    """Grids whose panels hold the numbers of the grid and of the panel in every pixel."""
    sheets = []
    for grid in range(NUM):
        sheet = Image.new("RGB", (2 * SIZE, 2 * SIZE))
        for panel in range(4):
            box = Image.new("RGB", (SIZE, SIZE), (grid, panel, 0))
            sheet.paste(box, (panel % 2 * SIZE, panel // 2 * SIZE))
        sheets.append(sheet)
    rows = Dataset.from_dict({"index": list(range(NUM)), "image": sheets, "layout": ["2x2"] * NUM})
    return rows.cast_column("image", ImageFeature(decode=False))


def judge(provider: Any, folder: Path, cut: Any = exact, **limits: Any) -> tuple[Service, Any]:
    """Begin to judge three shards; the stream goes on as it is read."""
    service = Service(provider, folder / "a.sqlite", Limits(**{"concurrency": 8, **limits}))
    inspection = Inspection(cut, VLMJudge(service, "judge", "caption", "instruct"), describe_rejected=False)
    shards = [Shard(n, 8 * n, 8 * n + 8, folder / f"verdicts-{n}.parquet") for n in range(3)]
    return service, judge_grids(shards, some_grids(), inspection, batch_size=16)


def test_one_blocked_question_holds_up_nothing_unrelated(tmp_path) -> None:
    """Not even questions of the next shards; what waits are the two instructions of the very pair."""

    def first_pair(question: Question) -> bool:
        return question.text == "judge" and [i.getpixel((0, 0)) for i in question.images] == [(0, 0, 0), (0, 1, 0)]

    provider, rows = Provider(first_pair), list[Any]()
    service, stream = judge(provider, tmp_path)
    reading = threading.Thread(target=lambda: rows.extend(stream), daemon=True)
    reading.start()
    with provider.changed:
        assert provider.changed.wait_for(lambda: provider.answered.total() == NUM * QUESTIONS - 3, timeout=600)
    assert rows == []  # the order stays: the first grid is not whole
    provider.go.set()
    reading.join(600)
    assert service.ledger["calls"] == NUM * QUESTIONS
    assert [stop for stop, _ in rows] == list(range(1, NUM + 1))
    verdicts = [row for _, grid in rows for row in grid]
    assert [(v.grid, v.first, v.second) for v in verdicts] == [
        (grid, first, second) for grid in range(NUM) for first in range(4) for second in range(first + 1, 4)
    ]


def test_few_grids_are_in_memory_and_every_panel_is_encoded_once(tmp_path, monkeypatch) -> None:
    from dsd.chat import encoding

    class Encoding(Provider):
        def ask(self, question: Question) -> Reply:
            for image in question.images:
                encoding.data_url(image)
            return super().ask(question)

    provider, encodes, most_open, save = Encoding(), Counter[Any](), [0], Image.Image.save

    def counted(image: Image.Image, *arguments: Any, **options: Any) -> None:
        encodes[image.getpixel((0, 0))] += 1
        save(image, *arguments, **options)

    def cut(sheet: Image.Image, layout: str) -> CutGrid:
        whole = sum(number == QUESTIONS for number in provider.answered.values())
        most_open[0] = max(most_open[0], sheet.getpixel((0, 0))[0] + 1 - whole)
        return exact(sheet, layout)

    others = {key for encoder in encoding._encoders.values() for key in encoder.known}  # pictures of other tests
    service, stream = judge(provider, tmp_path, cut)
    monkeypatch.setattr(Image.Image, "save", counted)
    assert len(list(stream)) == NUM
    assert encodes == {(grid, panel, 0): 1 for grid in range(NUM) for panel in range(4)}
    assert most_open[0] <= 2 + 8 // 3
    service.pool.shutdown()  # a thread holds its last question until it has ended
    assert (
        not {key for encoder in encoding._encoders.values() for key in encoder.known} - others
    )  # freed with the panels


def test_a_budget_ends_the_stream_and_nothing_is_asked_after_it(tmp_path) -> None:
    provider = Provider()
    service, stream = judge(provider, tmp_path, max_calls=40)
    with pytest.raises(UserError, match="the budget of 40 calls"):
        list(stream)
    assert service.ledger["calls"] == provider.answered.total() == 40
    service, stream = judge(provider, tmp_path)
    assert len(list(stream)) == NUM
    assert service.ledger["calls"] == NUM * QUESTIONS - 40  # what was answered is not asked again


def test_a_stream_that_is_left_asks_no_more(tmp_path) -> None:
    provider = Provider()
    service, stream = judge(provider, tmp_path)
    next(stream)
    stream.close()
    asked = service.ledger["calls"]
    service.pool.submit(lambda: None).result()
    assert service.ledger["calls"] == asked == provider.answered.total() < NUM * QUESTIONS
