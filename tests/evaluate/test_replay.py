"""A finished evaluation is made again: every file of it, and what the report says where its pictures are gone."""

import re
import shutil
from pathlib import Path

import pytest
from worlds import curated_run, grids_run, infer_run, train_run

from dsd.runs.shards import read_shards

FILES = ("summary.json", "table.md", "table.tex", "measures.png", "report.html")


@pytest.fixture
def made(run, tmp_path: Path) -> Path:
    """A finished evaluation of everything, in `tmp_path`/report."""
    grids = grids_run(tmp_path / "grids")
    curated_run(tmp_path / "curated", grids, grids_config_hash="c0ffee")
    train_run(tmp_path / "adapter")
    results = {"student/0": "perfect", "student/1": "perfect", "copy_paste": "copy_paste"}
    for seed, (name, method) in enumerate(results.items()):
        infer_run(tmp_path / name, method, num=6, seed=seed)
    run("evaluate", *(f"{name}={tmp_path / name}" for name in ("grids", "curated", "adapter")),
        "results={" + ", ".join(f"{name}: {tmp_path / name}" for name in results) + "}", "num_resamples=100",
        "measure.toybox.recogniser._target_=worlds.PixelRecogniser", f"output_dir={tmp_path / 'report'}")  # fmt: skip
    return tmp_path


def pictures_of(page: str) -> list[str]:
    return re.findall(r'src="(data:image/(?!svg)[^"]+)"', page)


def test_every_file_is_made_again_bit_for_bit_without_the_measure(run, made) -> None:
    """The stored folder names no recogniser that could be loaded, so that nothing can be measured again."""
    config = made / "report" / "config.yaml"
    config.write_text(config.read_text().replace("worlds.PixelRecogniser", "worlds.Gone"))
    again = [f"replay={made / 'report'}", f"output_dir={made / 'again'}"]
    said = run("evaluate", *again)
    assert f"the same as {made / 'report'}, bit for bit in {made / 'again'}; look at" in said
    tables = [file.relative_to(made / "report") for file in (made / "report" / "tables").iterdir()]
    assert len(tables) > 5
    for name in (*FILES, *tables):
        assert (made / "again" / name).read_bytes() == (made / "report" / name).read_bytes(), name
    page = (made / "again" / "report.html").read_text()
    assert "What is missing here" not in page
    assert len(pictures_of(page)) > 20
    assert "done already" in run("evaluate", *again)


def test_what_is_missing_is_said_and_the_rest_is_shown(run, made) -> None:
    first = pictures_of((made / "report" / "report.html").read_text())
    shutil.rmtree(made / "grids")
    shutil.rmtree(made / "student")
    infer_run(made / "copy_paste", "copy_paste", num=5)
    said = run("evaluate", f"replay={made / 'report'}", f"output_dir={made / 'again'}")
    assert f"the same as {made / 'report'}, bit for bit" in said, "the numbers need no picture"
    page = (made / "again" / "report.html").read_text()
    for name, why in {
        "grids": f"{made / 'grids'}: no such folder", "results.student/0": "student/0: no such folder",
        "results.copy_paste": f"{made / 'copy_paste'}: its content has changed since",
    }.items():  # fmt: skip
        assert re.search(f"<li>{name} .*{re.escape(why)}", page)
        assert re.search(f"report.html lacks what it showed of {name}: .*{re.escape(why)}", said)
    there = read_shards(made / "curated", "rejected")
    assert 0 < len(pictures_of(page)) <= 2 * len(there)
    assert set(pictures_of(page)) < set(first)
    assert page.count("<small>picture not found</small>") == 3 * 6  # of each job: the reference, and both arms
    assert 'alt="loss by step"' in page


def test_a_moved_folder_is_found_where_it_is_said_to_be(run, made) -> None:
    shutil.move(made / "copy_paste", made / "elsewhere")
    run("evaluate", f"replay={made / 'report'}", f"results={{copy_paste: {made / 'elsewhere'}}}",
        f"output_dir={made / 'again'}")  # fmt: skip
    assert (made / "again" / "report.html").read_bytes() == (made / "report" / "report.html").read_bytes()


def test_an_edited_table_is_noticed(refused, made) -> None:
    file = made / "report" / "tables" / "arms-toybox.csv"
    content = file.read_text()
    file.write_text(content.replace("1", "2", 1))
    said = refused("evaluate", f"replay={made / 'report'}", f"output_dir={made / 'again'}")
    assert "tables/arms-toybox.csv differ from those in" in said
