"""The page's server: pairs in a fixed order, every answer on disk, bad requests refused."""

import json
import threading
from collections.abc import Iterator
from http.client import HTTPConnection
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from dsd.curation.agreement import read_labels
from dsd.curation.label.labelling import Labelling
from dsd.curation.label.server import serve
from dsd.errors import UserError
from dsd.runs.shards import read_shards


def labelling_of(pairs: Path, file: Path, num_pairs: int = 3) -> Labelling:
    return Labelling([read_shards(pairs, name) for name in ("pairs", "rejected")], file, num_pairs, seed=0)


@pytest.fixture
def connection(pairs, tmp_path) -> Iterator[HTTPConnection]:
    with serve(labelling_of(pairs, tmp_path / "labels.jsonl"), 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield HTTPConnection("127.0.0.1", server.server_port)
        server.shutdown()
        thread.join()


def ask(connection: HTTPConnection, method: str, path: str, body: object = None) -> tuple[int, bytes]:
    connection.request(method, path, json.dumps(body) if body is not None else None)
    answer = connection.getresponse()
    return answer.status, answer.read()


def test_answers_are_kept_and_the_next_pair_follows(connection, pairs, tmp_path) -> None:
    assert b"Same subject" in ask(connection, "GET", "/")[1]
    pair = json.loads(ask(connection, "GET", "/next")[1])
    assert (pair["labelled"], pair["num"]) == (0, 3)
    status, png = ask(connection, "GET", f"/panel/{pair['grid']}/{pair['first']}.png")
    assert (status, Image.open(BytesIO(png)).size) == (200, (64, 64))
    following = json.loads(ask(connection, "POST", "/label", {**pair, "same": True})[1])
    assert following["labelled"] == 1
    labels = read_labels(tmp_path / "labels.jsonl")
    assert labels == {(pair["grid"], pair["first"], pair["second"]): True}
    again = labelling_of(pairs, tmp_path / "labels.jsonl")
    assert again.next() == following, "who starts again goes on where they were"
    assert json.loads(ask(connection, "POST", "/undo")[1]) == pair


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/nothing", None, 404),
        ("GET", "/panel/99999/0.png", None, 404),
        ("POST", "/nothing", {}, 404),
        ("POST", "/label", {"grid": 1}, 400),
        ("POST", "/label", ["no", "label"], 400),
    ],
)
def test_bad_requests_are_refused(connection, method, path, body, status) -> None:
    assert ask(connection, method, path, body)[0] == status


def test_every_pair_of_a_grid_can_be_asked_for(pairs, grids, tmp_path) -> None:
    everything = labelling_of(pairs, tmp_path / "labels.jsonl", num_pairs=10_000)
    assert len(everything.pairs) == 6 * len(read_shards(grids, "grids"))


def test_a_port_that_is_taken_is_one_line(pairs, tmp_path) -> None:
    labelling = labelling_of(pairs, tmp_path / "labels.jsonl")
    with serve(labelling, 0) as server, pytest.raises(UserError, match="choose another"):
        serve(labelling, server.server_port)
