"""The page's server: pairs in a fixed order, every answer on disk, bad requests refused."""

import json
import re
import threading
from collections.abc import Iterator
from http.client import HTTPConnection
from io import BytesIO
from pathlib import Path
from urllib.parse import quote

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


def ask(connection: HTTPConnection, method: str, path: str, body: object = None, **headers: str) -> tuple[int, bytes]:
    """As the page asks, with the token that stands in it."""
    connection.request("GET", "/")
    token = re.search(r"'X-Token': '([\w-]{20,})'", connection.getresponse().read().decode())
    assert token
    said = json.dumps(body) if body is not None else None
    connection.request(method, path, said, {"X-Token": token[1]} | {k.replace("_", "-"): v for k, v in headers.items()})
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
    (tmp_path / "copy.jsonl").write_bytes((tmp_path / "labels.jsonl").read_bytes())
    again = labelling_of(pairs, tmp_path / "copy.jsonl")
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
        ("POST", "/label", {"grid": 0, "first": 0, "second": 0, "same": True}, 400),  # one panel
        ("POST", "/label", {"grid": -1, "first": 0, "second": 1, "same": True}, 400),
        ("POST", "/label", {"grid": 10**30, "first": 0, "second": 1, "same": True}, 400),
        ("POST", "/label", {"grid": float("inf"), "first": 0, "second": 1, "same": True}, 400),
        ("GET", "/panel/²/0.png", None, 404),
        ("GET", "/panel/" + "9" * 5000 + "/0.png", None, 404),
    ],
)
def test_bad_requests_are_refused(connection, method, path, body, status) -> None:
    assert ask(connection, method, quote(path), body)[0] == status


@pytest.mark.parametrize(
    "headers",
    [
        {"X_Token": ""}, {"X_Token": "é"}, {"Host": "evil.example"}, {"Host": "evil.example:80"},
        {"Origin": "http://evil.example"}, {"Origin": "null"}, {"Origin": "https://127.0.0.1"},
    ],
)  # fmt: skip
def test_another_page_s_requests_are_refused(connection, tmp_path, headers) -> None:
    """A page of another site can send requests to this machine, and by its own name for it even read answers."""
    pair = json.loads(ask(connection, "GET", "/next")[1])
    assert ask(connection, "POST", "/label", {**pair, "same": True}, **headers)[0] == 403
    assert ask(connection, "POST", "/undo", {}, **headers)[0] == 403
    assert not (tmp_path / "labels.jsonl").exists()
    if "Host" in headers:
        assert ask(connection, "GET", "/", **headers)[0] == 403
    origin = f"http://127.0.0.1:{connection.port}"
    assert ask(connection, "POST", "/label", {**pair, "same": True}, Origin=origin)[0] == 200


@pytest.mark.parametrize("same", [1, "yes", None, []])
def test_a_label_that_could_not_be_read_back_is_refused(connection, tmp_path, same) -> None:
    pair = json.loads(ask(connection, "GET", "/next")[1])
    assert ask(connection, "POST", "/label", {**pair, "same": same})[0] == 400
    assert not (tmp_path / "labels.jsonl").exists()


def test_only_this_machine_is_served(pairs, tmp_path) -> None:
    with serve(labelling_of(pairs, tmp_path / "labels.jsonl"), 0) as server:
        assert server.server_address[0] == "127.0.0.1"


def test_two_pages_on_one_file_are_refused(pairs, tmp_path) -> None:
    first = labelling_of(pairs, tmp_path / "labels.jsonl")
    with pytest.raises(UserError, match="another dsd-label writes it"):
        labelling_of(pairs, tmp_path / "labels.jsonl")
    first.sole.release()
    labelling_of(pairs, tmp_path / "labels.jsonl")


def test_labels_of_other_grids_are_refused(pairs, tmp_path) -> None:
    tables = [read_shards(pairs, name) for name in ("pairs", "rejected")]
    ours = Labelling(tables, tmp_path / "labels.jsonl", 3, 0, "c0ffee")
    ours.label(ours.pairs[0], True)
    assert read_labels(tmp_path / "labels.jsonl", "c0ffee")
    with pytest.raises(UserError, match="a label of other grids"):
        read_labels(tmp_path / "labels.jsonl", "another")


def test_every_pair_of_a_grid_can_be_asked_for(pairs, grids, tmp_path) -> None:
    everything = labelling_of(pairs, tmp_path / "labels.jsonl", num_pairs=10_000)
    assert len(everything.pairs) == 6 * len(read_shards(grids, "grids"))


def test_a_port_that_is_taken_is_one_line(pairs, tmp_path) -> None:
    labelling = labelling_of(pairs, tmp_path / "labels.jsonl")
    with serve(labelling, 0) as server, pytest.raises(UserError, match="choose another"):
        serve(labelling, server.server_port)
