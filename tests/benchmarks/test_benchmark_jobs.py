"""The data sets of the field's benchmarks as jobs."""

import json
import unicodedata

import miniatures
import pytest

from dsd.benchmarks import dreambench, dreambench_plus, instructions
from dsd.benchmarks.selection import spread
from dsd.errors import UserError


def every(jobs) -> list:
    return [jobs[i] for i in range(len(jobs))]


def test_dreambench_plus_has_nine_jobs_a_picture(tmp_path) -> None:
    jobs = every(dreambench_plus.jobs(str(miniatures.dreambench_plus(tmp_path / "data"))))
    assert [job.name for job in jobs] == [f"{name}-{i}" for name in miniatures.COLLECTIONS for i in range(9)]
    first = jobs[0]
    assert (first.category, first.prompt) == ("animal", "a Cotton-top Tamarin on a beach")
    assert first.picture().size == (80, 80)
    assert [job.kind for job in jobs[:9]] == ["photorealistic"] * 4 + ["style"] * 3 + ["imaginative"] * 2
    assert {job.category for job in jobs} == {"animal", "human", "object", "style"}
    assert every(dreambench_plus.jobs(str(tmp_path))) == jobs, "the repository's folder is as good as its data/"


def test_a_limit_meets_every_subject_and_every_kind_of_prompt(tmp_path) -> None:
    """Equal steps through 54 jobs would give 6 times the same prompt."""
    folder = str(miniatures.dreambench_plus(tmp_path))
    jobs = every(dreambench_plus.jobs(folder, limit=6))
    assert len({job.name.rsplit("-", 1)[0] for job in jobs}) == 6
    assert len({job.kind for job in jobs}) == 3
    chosen = every(dreambench_plus.jobs(folder, limit=4, categories=["human", "object"]))
    assert {job.category for job in chosen} == {"human", "object"}
    assert len(chosen) == 4


@pytest.mark.parametrize(("num", "limit"), [(1350, 150), (54, 53), (7, 7), (3, 9), (1000, 1)])
def test_a_spread_is_ordered_distinct_and_even(num, limit) -> None:
    places = spread(num, limit)
    assert places == sorted(set(places))
    assert len(places) == min(num, limit)
    assert all(i * num // len(places) <= place < (i + 1) * num / len(places) for i, place in enumerate(places))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda f: (f / "captions/object/00.txt").write_text("t-shirt\n" + "a t-shirt\n" * 8), "at least 9 items"),
        (lambda f: (f / "captions/object/00.txt").write_text("t-shirt\n" + "a t-shirt\n" * 10), "at most 9 items"),
        (lambda f: (f / "captions/object/00.txt").write_text(""), "a subject and 9 prompts"),
        (lambda f: (f / "captions/object/00.txt").write_text("../x\n" + "a\n" * 9), "names no folder"),
        (lambda f: (f / "images/object/00.jpg").unlink(), "captions/object/00.txt has no picture"),
        (lambda f: (f / "captions/object/00.txt").unlink(), "images/object/00.jpg has no captions"),
        (lambda f: (f / "captions").rename(f / "texts"), "not the data of DreamBench++"),
    ],
)
def test_a_damaged_dreambench_plus_is_one_line(spoil, said, tmp_path) -> None:
    spoil(miniatures.dreambench_plus(tmp_path))
    with pytest.raises(UserError, match=said.replace("+", r"\+")) as refused:
        dreambench_plus.jobs(str(tmp_path))
    assert "\n" not in str(refused.value)


def test_dreambench_has_25_jobs_a_subject(tmp_path) -> None:
    folder = miniatures.dreambench(tmp_path / "dataset")
    jobs = every(dreambench.jobs(str(folder)))
    assert len(jobs) == 75
    assert (jobs[0].name, jobs[0].prompt) == ("grey_sloth-plushie-0", "a stuffed animal object prompts 0")
    assert (jobs[-1].name, jobs[-1].prompt) == ("dog2-24", "a dog live subject prompts 24")
    assert [len(job.pictures()) for job in (jobs[0], every(dreambench.jobs(str(folder), references=3))[0])] == [1, 3]
    assert len(dreambench.jobs(str(tmp_path), categories=["live"])) == 25
    (folder / "dog2" / "00.jpg").rename(folder / "dog2" / "00.txt")
    assert len(dreambench.jobs(str(folder))) == 75, "another picture of the subject takes its place"


@pytest.mark.parametrize(
    ("text", "said"),
    [("Classes\n\nsubject_name,class\n", "classes"), ("Classes\na,b\nObject Prompts\n'x'.format(1)\n", "25")],
)
def test_damaged_prompts_of_dreambench_are_one_line(text, said, tmp_path) -> None:
    (miniatures.dreambench(tmp_path / "d") / "prompts_and_classes.txt").write_text(text)
    with pytest.raises(UserError, match=said):
        dreambench.jobs(str(tmp_path / "d"))


def test_omnicontext_reads_the_same_from_parquet_and_from_lines(tmp_path) -> None:
    one = every(instructions.omnicontext(str(miniatures.omnicontext(tmp_path / "a"))))
    two = every(instructions.omnicontext(str(miniatures.as_jsonl(tmp_path / "b"))))
    assert [(job.name, job.category, job.prompt) for job in one] == [(j.name, j.category, j.prompt) for j in two]
    assert one[0].name == "single_object-single_object-0000"
    for first, second in zip(one, two, strict=True):
        assert [p.tobytes() for p in first.pictures()] == [p.tobytes() for p in second.pictures()]
    assert [len(job.pictures()) for job in one] == [1, 1, 2, 2, 3, 3]
    assert len(instructions.omnicontext(str(tmp_path / "a"), limit=2, categories=["multi_character"])) == 2


def test_sconeeval_knows_which_subjects_are_asked_for(tmp_path) -> None:
    jobs = every(instructions.sconeeval(str(miniatures.sconeeval(tmp_path / "scone"))))
    assert json.loads(jobs[0].truth) == {"subject_list": [["a mug", "a Spoon"]], "subject_label": [[1, 0]]}
    assert jobs[0].kind == "CO"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ({"key": "1", "task_type": "x", "instruction": "a"}, "input_images"),
        ({"key": "a/b", "task_type": "x", "instruction": "a", "input_images": ["a.png"]}, "names no file"),
        ({"key": "1", "task_type": "x", "instruction": " ", "input_images": ["a.png"]}, "the prompt is empty"),
        ({"key": "1", "task_type": "x", "instruction": "a", "input_images": ["a.png"]}, "a.png: no such file"),
        ({"key": "1", "task_type": "x", "instruction": "a", "input_images": []}, "at least 1 item"),
    ],
)
def test_a_damaged_line_is_named(line, said, tmp_path) -> None:
    (tmp_path / "data.jsonl").write_text(json.dumps(line))
    with pytest.raises(UserError, match=said):
        instructions.sconeeval(str(tmp_path))


def test_two_jobs_of_one_name_are_refused(tmp_path) -> None:
    folder = miniatures.as_jsonl(tmp_path / "x")
    lines = (folder / "data.jsonl").read_text()
    (folder / "data.jsonl").write_text(lines + lines.splitlines()[0])
    with pytest.raises(UserError, match="two jobs are named single_object-single_object-0000"):
        instructions.omnicontext(str(folder))


@pytest.mark.parametrize("name", ["dreambench_plus", "dreambench", "omnicontext", "sconeeval"])
def test_another_folder_is_no_data_set(name, tmp_path) -> None:
    reader = {"dreambench_plus": dreambench_plus.jobs, "dreambench": dreambench.jobs}.get(name)
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(UserError, match="not the data of"):
        (reader or getattr(instructions, name))(str(tmp_path))


@pytest.mark.parametrize(
    ("more", "said"), [({"limit": 0}, "at least 1"), ({"categories": ["cars"]}, "choose from anim")]
)
def test_a_wrong_choice_is_named(more, said, tmp_path) -> None:
    folder = miniatures.dreambench_plus(tmp_path)
    with pytest.raises(UserError, match=said):
        dreambench_plus.jobs(str(folder), **more)


def test_a_changed_picture_makes_other_jobs(tmp_path) -> None:
    folder = miniatures.dreambench_plus(tmp_path)
    before = dreambench_plus.jobs(str(folder)).fingerprint
    miniatures.picture(99).save(folder / "images/object/00.jpg")
    assert dreambench_plus.jobs(str(folder)).fingerprint != before
    assert unicodedata.is_normalized("NFC", miniatures.COLLECTIONS[2])
