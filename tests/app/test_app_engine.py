"""The engine of dsd-app, without a browser: what it draws, what stays loaded, who is next, what it says of errors."""

import resource
from pathlib import Path
from threading import Event, Thread

import numpy as np
import pytest
import torch
from app.conftest import settings_in
from PIL import Image

from dsd.app.engine import Drawn, Engine, Loading, Step
from dsd.app.preview import Previewer
from dsd.app.turns import Stopped, Turns
from dsd.app.wishes import Wish, drawing
from dsd.errors import UserError
from dsd.flow import add_noise
from dsd.io.pictures import read_picture
from dsd.runs.settings import plain

PROMPT = "a white tall critter, big, at centre, beach"


@pytest.fixture(scope="module")
def engine(compose_app) -> Engine:
    return Engine(compose_app("preview_every=1"))


def wish(engine: Engine, reference: Path, adapter: str = "canvas", seed: int = 5, **changed: object) -> Wish:
    settings = {**plain(engine.cfg)["settings"], **changed}
    return Wish((read_picture(reference),), PROMPT, seed, drawing(settings, 10_000), adapter, stem=reference.stem)


def drawn(engine: Engine, *wishes: Wish) -> list[Drawn]:
    return [news for news in engine.draw(wishes, "me") if isinstance(news, Drawn)]


def test_a_picture_is_the_one_that_dsd_infer_draws(engine, reference, runs, run, tmp_path) -> None:
    (ours,) = drawn(engine, wish(engine, reference, image_guidance_scale=1.5))
    settings = ["settings.num_inference_steps=3", "settings.image_guidance_scale=1.5", "seed=5", "device=cpu"]
    path = tmp_path / "theirs.png"
    run("infer", f"image={reference}", f"prompt={PROMPT}", f"adapter={runs / 'canvas'}", f"output={path}", *settings)
    theirs = Image.open(path).convert("RGB")
    assert ours.picture.tobytes() == theirs.tobytes() == Image.open(ours.path).convert("RGB").tobytes()
    assert settings_in(ours.path) == settings_in(path) | {"adapter": "canvas"}
    assert ours.redrawn is not None
    assert ours.redrawn.size == ours.picture.size


def test_models_stay_loaded_and_another_adapter_is_loaded_once(compose_app, reference) -> None:
    engine = Engine(compose_app("warm_models=2"))
    one, other = wish(engine, reference), wish(engine, reference, "tokens")
    news = list(engine.draw([one, one, other, other, one], "me"))
    assert [item.name for item in news if isinstance(item, Loading)] == ["canvas", "tokens"]
    assert engine.num_loaded == 2
    by_tokens = [item for item in news if isinstance(item, Drawn) and item.wish.adapter == "tokens"]
    assert all(item.redrawn is None for item in by_tokens), "a student with reference tokens draws the output alone"
    engine.cfg.warm_models = 1
    drawn(engine, wish(engine, reference, "canvas"))
    assert engine.num_loaded == 2
    assert len(engine.warm) == 2, "nothing is thrown out before room is needed"


def test_the_model_unused_for_longest_makes_room(engine, reference) -> None:
    before = engine.num_loaded
    drawn(engine, wish(engine, reference), wish(engine, reference, "tokens"), wish(engine, reference))
    assert engine.num_loaded - before >= 2
    assert len(engine.warm) == 1


def test_stop_ends_a_drawing_at_its_next_step(engine, reference) -> None:
    left: list[object] = []
    news = engine.draw([wish(engine, reference, num_inference_steps=200)], "me")
    next(item for item in news if isinstance(item, Step))
    assert engine.stop("somebody else") == 0
    assert engine.stop("me") == 1
    with pytest.raises(Stopped):
        left.extend(news)
    assert len(left) < 100
    assert not engine.stops
    assert len(drawn(engine, wish(engine, reference))) == 1, "the next one is drawn as ever"


def test_a_user_who_leaves_stops_the_drawing(engine, reference) -> None:
    news = engine.draw([wish(engine, reference, num_inference_steps=200)] * 5, "me")
    next(item for item in news if isinstance(item, Step))
    news.close()
    assert len(drawn(engine, wish(engine, reference))) == 1, "the model is free for others"


def test_a_request_that_waits_can_be_stopped(engine, reference) -> None:
    first = engine.draw([wish(engine, reference, num_inference_steps=100)], "first")
    next(item for item in first if isinstance(item, Step))
    second = engine.draw([wish(engine, reference)], "second")
    assert next(second).ahead == 1
    engine.stop("second")
    with pytest.raises(Stopped):
        list(second)
    first.close()


def test_turns_are_shared_between_users() -> None:
    """The first user asks four times before the second asks once; the second waits for one of them, not for four."""
    turns, served, hold, begun = Turns(), list[str](), Event(), Event()

    def ask(user: str, ticket_taken: Event) -> None:
        with turns.turn(user, Event(), lambda ahead: ticket_taken.set()):
            begun.set()
            hold.wait(20)
            served.append(user)

    threads = []
    for user in ("a", "a", "a", "a", "b"):
        taken = Event()
        threads.append(Thread(target=ask, args=(user, taken)))
        threads[-1].start()
        assert (taken if len(threads) > 1 else begun).wait(20)
    hold.set()
    for thread in threads:
        thread.join(20)
    assert served[:3] == ["a", "b", "a"]
    assert sorted(served) == ["a", "a", "a", "a", "b"]


def test_a_preview_is_what_two_latents_point_to(engine, reference) -> None:
    pipeline = engine.student("canvas").pipeline
    settings = {"height": 64, "width": 64, "num_inference_steps": 8}
    canvas = pipeline.student.canvas(64, 64)
    clean, noise = (torch.randn(1, canvas.num_tokens, 64, generator=torch.manual_seed(s)) for s in (1, 2))
    sigmas = pipeline.family.timesteps(pipeline.scheduler, 8, canvas.num_tokens, torch.device("cpu")) / 1000
    previewer = Previewer(pipeline, settings, every=2)
    shown = [previewer(step, add_noise(clean, noise, sigmas[step + 1 : step + 2])) for step in range(7)]
    assert [picture is not None for picture in shown] == [False, False, True, False, True, False, True]
    with torch.no_grad():
        expected = pipeline.decode(clean, canvas, "pil", False).images[0]
    for picture in filter(None, shown):
        assert np.abs(np.asarray(picture, float) - np.asarray(expected, float)).max() <= 1


def test_errors_are_one_line_and_the_engine_goes_on(engine, reference) -> None:
    with pytest.raises(UserError, match="made for another base"):
        drawn(engine, wish(engine, reference, "foreign"))
    with pytest.raises(UserError, match="no such adapter here; choose one of canvas"):
        drawn(engine, wish(engine, reference, "../../etc"))
    two = wish(engine, reference)
    with pytest.raises(UserError, match="2 references for a picture: student=canvas takes at most 1"):
        drawn(engine, Wish(two.references * 2, PROMPT, 0, two.drawing, "canvas"))
    assert len(drawn(engine, Wish(two.references * 2, PROMPT, 0, two.drawing, "tokens"))) == 1
    assert len(drawn(engine, wish(engine, reference))) == 1


def test_too_little_memory_is_told_with_the_setting_that_needs_less(engine, reference) -> None:
    drawn(engine, wish(engine, reference))
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**28, limits[1]))
    try:
        with pytest.raises(UserError, match=r"not enough memory; draw a smaller picture.*quantization=int8"):
            drawn(engine, wish(engine, reference, height=4096, width=4096, num_inference_steps=1))
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
    assert len(drawn(engine, wish(engine, reference))) == 1


def test_it_draws_with_quantised_weights(compose_app, reference) -> None:
    engine = Engine(compose_app("quantization=int8"))
    (picture,) = drawn(engine, wish(engine, reference))
    assert picture.picture.size == (64, 64)
    with pytest.raises(UserError, match="offload=model moves weights to a GPU"):
        Engine(compose_app("offload=model"))


def test_enhance_needs_a_provider(engine, reference) -> None:
    with pytest.raises(UserError, match="no language model is configured"):
        engine.enhance(read_picture(reference), PROMPT)
