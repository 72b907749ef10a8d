"""A judge card: its id, what it refuses; control pairs that never change; ratings that are whole or absent."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf

from dsd.errors import UserError
from dsd.metrics.judges.card import read_card
from dsd.metrics.judges.control import control_pairs, differences
from dsd.metrics.judges.estimate import price_of
from dsd.metrics.judges.ratings import CARD, Rating, Ratings, rated, stored_card
from dsd.runs.command import CONFIG_DIR

CONTENT = OmegaConf.to_container(OmegaConf.load(Path(CONFIG_DIR) / "card" / "local.yaml"))
SURE = json.dumps({"reason": "all parts agree", "score": 3})


def test_every_value_of_a_card_is_in_its_id() -> None:
    first = read_card(CONTENT)
    assert read_card(json.loads(json.dumps(CONTENT))).id == first.id  # whatever file it came from
    assert len(first.revision) == 40
    rubrics = CONTENT["rubrics"]
    for other in (
        {"revision": "main"}, {"seed": 1}, {"picture_size": 448}, {"max_tokens": 100}, {"temperature": None},
        {"rubrics": rubrics | {"PF": rubrics["PF"] | {"wording": rubrics["PF"]["wording"] + "."}}},
    ):  # fmt: skip
        assert read_card(CONTENT | other).id != first.id, other


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"model": ""}, "card.model: String should have at least 1 character"),
        ({"temprature": 1}, "card.temprature: Extra inputs are not permitted"),
        ({"rubrics": {}}, "card.rubrics: "),
        ({"repeats": 2}, "needs a seed, and a temperature above 0"),
        ({"picture_format": "gif"}, "card.picture_format: "),
    ],
)
def test_a_card_that_cannot_work_names_its_key(other, words) -> None:
    with pytest.raises(UserError, match=words):
        read_card(CONTENT | other)


def test_control_pairs_never_change() -> None:
    """Stored answers are about these very pixels."""
    pixels = b"".join(np.asarray(image).tobytes() for p in control_pairs() for image in (p.reference, p.picture))
    assert hashlib.sha256(pixels).hexdigest()[:16] == "8040feebe046ff7d"
    names = [pair.name for pair in control_pairs()]
    assert len({*names}) == len(names) == 7
    card = read_card(CONTENT)
    assert differences({"CP of moved": 4, "COM of all": 8}, {"CP of moved": 3, "COM of all": 6}, card) == []
    assert differences({"CP of moved": 4}, {"CP of moved": 2}, card) == ["CP of moved: 4 then, 2 now"]


def rating(card_id: str, repeat: int, state: str = "answered", raw: str = SURE) -> Rating:
    return Rating(f"key {repeat}", card_id, "CP", repeat, state, raw, "m")


def test_ratings_are_read_as_they_were_written_and_repeats_are_averaged(tmp_path: Path) -> None:
    card = read_card(CONTENT | {"repeats": 3, "temperature": 0.7})
    written = Ratings(tmp_path, card)
    written.add([rating(card.id, 0)])
    written.add([rating(card.id, 1, raw='{"reason": "so", "score": 4}'), rating(card.id, 2, "refused", "no answer")])
    again = Ratings(tmp_path, card)
    assert again.by_key == written.by_key
    keys = [f"key {number}" for number in range(3)]
    row = rated(card, {"CP": "CP"}, keys, again.by_key)
    assert dict(row) == {"CP": 3.5 / 4}
    assert (row.reasons, row.missing) == ({"CP": "all parts agree / so"}, {})
    silent = rated(card, {"CP": "CP"}, keys, {keys[0]: rating(card.id, 0, "refused", "no answer")})
    assert (dict(silent), silent.missing) == ({}, {"CP": "refused"})
    assert not list(tmp_path.rglob(".tmp-*"))


@pytest.mark.parametrize("wrong", ['{"reason": "so", "score": 5}', '{"score": 3}', "so"])
def test_a_rating_that_does_not_fit_its_card_is_refused(tmp_path: Path, wrong) -> None:
    card = read_card(CONTENT)
    Ratings(tmp_path, card).add([rating(card.id, 0, raw=wrong)])
    with pytest.raises(UserError, match="row 0 is no rating of this judge"):
        Ratings(tmp_path, card)


def test_a_card_that_was_edited_after_its_ratings_is_refused(tmp_path: Path) -> None:
    card = read_card(CONTENT)
    Ratings(tmp_path, card).add([rating(card.id, 0)])
    assert stored_card(tmp_path, card.id) == card
    file = tmp_path / card.id / CARD
    file.write_text(json.dumps(card.model_dump(mode="json") | {"seed": 7}))
    for read in (lambda: stored_card(tmp_path, card.id), lambda: Ratings(tmp_path, card)):
        with pytest.raises(UserError, match="edited after its ratings, which are of judge card"):
            read()


def test_the_cost_is_that_of_the_tokens() -> None:
    from dsd.chat.limits import Limits

    said = price_of(1000, read_card(CONTENT), ["CP", "PF"], Limits(price={"input": 1.0, "output": 10.0}, max_cost=3))
    given, made = (int(word.replace(",", "")) for word in said.split() if word.replace(",", "").isdigit())
    assert f"about {given / 1e6 + 10 * made / 1e6:.2f} by vlm.limits.price (stops at 3)" in said
    assert 2 * 19**2 * 500 + 19**2 * 500 < given < 1_000_000
