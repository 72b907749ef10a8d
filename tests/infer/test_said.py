"""What `dsd-infer` says: the picture's path on stdout, everything else on stderr."""

from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples"
ONE = (f"image={EXAMPLES / 'critter-1.png'}", "prompt=a", "device=cpu", "settings.num_inference_steps=2")


def test_it_ends_with_the_path_alone(run, adapter, tmp_path, capsys) -> None:
    picture = tmp_path / "a.png"
    said = run("infer", *ONE, f"adapter={adapter}", f"output={picture}")
    assert capsys.readouterr().out == f"{picture}\n"
    assert "denoise" not in said
    before = picture.read_bytes()
    for flag in ("-v", "verbose=true"):
        said = run("infer", flag, *ONE, f"adapter={adapter}", f"output={picture}", "settings.text_guidance_scale=1")
        (line,) = [line for line in said.splitlines() if "denoise" in line]
        assert [part.split()[0] for part in line.removeprefix("infer: ").split(", ")] == [
            "other", "load", "reference", "text", "denoise", "decode", "write", "all",
        ]  # fmt: skip
        assert capsys.readouterr().out == f"{picture}\n"
        assert picture.read_bytes() == before


def test_a_set_says_it_too(run, adapter, tmp_path, capsys) -> None:
    said = run("infer", "-v", f"adapter={adapter}", "jobs=folder", f"jobs.path={EXAMPLES}", *ONE[2:],
               f"output_dir={tmp_path / 'out'}")  # fmt: skip
    assert "infer: other " in said
    assert ", denoise " in said
    assert capsys.readouterr().out == ""
