"""The default config on pictures of the world: the recogniser that this repository ships."""

import json

from worlds import infer_run


def test_the_shipped_recogniser_tells_a_perfect_student_from_a_copy(run, tmp_path) -> None:
    runs = {name: infer_run(tmp_path / name, name, num=24) for name in ("perfect", "copy_paste", "text_only")}
    results = ", ".join(f"{name}: {folder}" for name, folder in runs.items())
    report = tmp_path / "report"
    run("evaluate", f"output_dir={report}", f"results={{{results}}}", "device=cpu")
    summary = json.loads((report / "summary.json").read_text())
    arms, checked = summary["arms"], summary["measures"]["toybox"]["self_check"]["numbers"]
    assert checked["accuracy"] >= 0.97
    assert all(checked["measured"][kind]["mean"] >= 0.97 for kind in ("drawn", "vae"))
    assert "through the VAE" in (report / "report.html").read_text()
    assert arms["perfect"]["CP"]["value"] >= 0.97
    assert arms["perfect"]["PF"]["value"] >= 0.97
    assert arms["copy_paste"]["CP"]["value"] >= 0.97
    assert arms["copy_paste"]["PF"]["value"] < 0.6
    assert arms["text_only"]["CP"]["value"] < 0.5
