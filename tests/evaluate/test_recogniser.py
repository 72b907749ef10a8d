"""The default config on pictures of the world: the recogniser that this repository ships."""

import json
import sys

from worlds import infer_run

from dsd.evaluate.__main__ import main


def test_the_shipped_recogniser_tells_a_perfect_student_from_a_copy(tmp_path, monkeypatch) -> None:
    runs = {name: infer_run(tmp_path / name, name, num=24) for name in ("perfect", "copy_paste", "text_only")}
    results = ", ".join(f"{name}: {folder}" for name, folder in runs.items())
    report = tmp_path / "report"
    monkeypatch.setattr(sys, "argv", ["dsd-evaluate", f"output_dir={report}", f"results={{{results}}}", "device=cpu"])
    main()
    summary = json.loads((report / "summary.json").read_text())
    arms = summary["arms"]
    assert summary["recogniser"]["accuracy"] >= 0.97
    assert all(summary["recogniser"]["measured"][kind]["mean"] >= 0.97 for kind in ("drawn", "vae"))
    assert "through the VAE" in (report / "report.html").read_text()
    assert arms["perfect"]["CP"]["value"] >= 0.97
    assert arms["perfect"]["PF"]["value"] >= 0.97
    assert arms["copy_paste"]["CP"]["value"] >= 0.97
    assert arms["copy_paste"]["PF"]["value"] < 0.6
    assert arms["text_only"]["CP"]["value"] < 0.5
