"""Grid prompts of one picture in several lights, and presets."""

from pathlib import Path

import pytest
import yaml
from PIL import Image

from dsd.data_gen.lights import LightPrompts
from dsd.data_gen.templates import words
from dsd.errors import UserError
from dsd.lights import lights, preset

WORDING = yaml.safe_load((Path(__file__).parents[2] / "configs/prompts/lights.yaml").read_text())
EXAMPLES = Path(__file__).parents[2] / "examples"


def source(**changes: object) -> LightPrompts:
    given = {name: WORDING[name] for name in ("layout", "grid", "panel")}
    return LightPrompts(**{**given, "seed": 0, **changes})


def test_every_preset_has_a_name_of_its_own_and_a_short_phrase() -> None:
    names = [name for phrases in lights().values() for name in phrases]
    phrases = [preset(name) for name in names]
    assert len(set(names)) == len(names)
    assert len(set(phrases)) == len(phrases)
    assert all(len(phrase.split()) <= 12 for phrase in phrases)
    assert all(len(of_kind) >= 8 for of_kind in lights().values())


def test_panels_differ_in_lights_of_one_kind_and_in_nothing_else() -> None:
    kinds = {phrase: kind for kind, phrases in lights().items() for phrase in phrases.values()}
    seen = set()
    for index in range(60):
        prompt = source(layout="2x2")(index)
        assert prompt.relation == "relight"
        assert len(set(prompt.panel_captions)) == 4
        (kind,) = {kinds[caption] for caption in prompt.panel_captions}
        assert f"Only the {kind} differs." in prompt.prompt
        assert prompt.prompt.count(prompt.subject) == 1
        tags = ("TOP-LEFT", "TOP-RIGHT", "BOTTOM-LEFT", "BOTTOM-RIGHT")
        said = " ".join(f"[{tag}] {caption}." for tag, caption in zip(tags, prompt.panel_captions, strict=True))
        assert prompt.prompt.endswith(said)
        seen.add(kind)
    assert seen == set(lights())


def test_a_prompt_follows_from_seed_and_position() -> None:
    assert source()(7) == source()(7)
    assert source()(7) != source()(8)
    assert source()(7) != source(seed=1)(7)
    assert {source(kinds=["season"])(i).prompt.split("Only the ")[1].split()[0] for i in range(5)} == {"season"}


def test_an_unknown_kind_a_field_and_another_relation_are_refused(refused, tmp_path) -> None:
    with pytest.raises(UserError, match=r"prompts\.kinds: wether is unknown \(did you mean weather\?\)"):
        source(kinds=["wether"])
    with pytest.raises(UserError, match="unknown field 'who'"):
        source(grid="{who}")
    said = refused("data_gen", "prompts=subjects", "prompts.relation=relight", f"output_dir={tmp_path}")
    assert "choose prompts=lights" in said


def test_a_preset_draws_what_its_phrase_draws(run, refused, tmp_path) -> None:
    one = ("method=sdedit", "method.strength=0.9", "settings.num_inference_steps=2", "device=cpu",
           f"image={EXAMPLES / 'critter-1.png'}")  # fmt: skip
    for path, what in (("a", "preset=moonlight"), ("b", f"prompt='{preset('moonlight')}'"), ("c", "preset=noon")):
        run("infer", *one, what, f"output={tmp_path / path}.png")
    first, second, other = (Image.open(tmp_path / f"{name}.png").tobytes() for name in "abc")
    assert first == second != other
    assert "did you mean moonlight" in refused("infer", *one, "preset=moonligt", f"output={tmp_path / 'd.png'}")
    both = refused("infer", *one, "preset=moonlight", "prompt=beach", f"output={tmp_path / 'd.png'}")
    assert "give one of them" in both


def test_places_say_nothing_of_light() -> None:
    """A grid of lights would otherwise contradict itself."""
    told = ("night", "neon", "moon", "snow", "rain", "sun", "autumn", "winter", "fog", "dusk", "storm", "light")
    places = words("contexts")["plain_place"] + words("contexts")["plain_surface"]
    assert not [place for place in places if any(word in place for word in told)]
    of_logos = source(categories=["logo"], panel="{light}")
    assert all(any(place in of_logos(i).prompt for place in words("contexts")["plain_surface"]) for i in range(30))


def test_a_sweep_over_presets_draws_each(run, tmp_path) -> None:
    one = ("method=sdedit", "method.strength=0.9", "settings.num_inference_steps=2", "device=cpu")
    image, sweep = f"image={EXAMPLES / 'critter-1.png'}", f"hydra.sweep.dir={tmp_path}"
    run("infer", "-m", *one, image, "preset=golden_hour,moonlight", sweep)
    drawn = {path.parent.name: Image.open(path) for path in tmp_path.glob("*/*.png")}
    assert {name: picture.text["prompt"] for name, picture in drawn.items()} == {
        "0": preset("golden_hour"), "1": preset("moonlight"),
    }  # fmt: skip
    assert drawn["0"].tobytes() != drawn["1"].tobytes()
