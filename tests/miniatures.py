"""Miniatures of the field's benchmarks in their exact layouts: pictures by code, captions of our own."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from datasets import Dataset, Features, List, Value
from datasets import Image as ImageFeature
from PIL import Image, ImageDraw

SUBJECTS = {  # of DreamBench++: folder below images/ and captions/ -> subject
    "live_subject/animal/00": "Cotton-top Tamarin",
    "live_subject/animal/01": "st. bernard",
    "live_subject/human/00": "Élodie",
    "object/00": "t-shirt",
    "object/01": "Rolls-Royce hood ornament",
    "style/00": "ukiyo-e",
}
COLLECTIONS = [  # the same in the order of their names
    "live_subject_animal_00_cotton-top_tamarin", "live_subject_animal_01_st._bernard", "live_subject_human_00_élodie",
    "object_00_t-shirt", "object_01_rolls-royce_hood_ornament", "style_00_ukiyo-e",
]  # fmt: skip
NINE = ("on a beach", "in a kitchen", "at night", "in the rain", "as an etching", "in clay", "in pixels",
        "riding a comet", "under the sea with a crown")  # fmt: skip
CLASSES = {"grey_sloth-plushie": "stuffed animal", "Café mug": "mug", "dog2": "dog"}  # of DreamBench
TASKS = (("single_object", 1), ("multi_character", 2), ("scene_character_object", 3))  # of OmniContext: references


def picture(number: int, size: int = 80) -> Image.Image:
    """A drawing that no other number has."""
    rng = np.random.default_rng(number)
    image = Image.new("RGB", (size, size), tuple(rng.integers(60, 200, 3).tolist()))
    draw = ImageDraw.Draw(image)
    for _ in range(4):
        x, y, radius = rng.integers(0, size, 3).tolist()
        draw.ellipse((x - radius // 3, y - radius // 3, x + radius // 3, y + radius // 3),
                     tuple(rng.integers(0, 255, 3).tolist()))  # fmt: skip
    return image


def dreambench_plus(folder: Path, subjects: Mapping[str, str] = SUBJECTS) -> Path:
    """images/**/NN.jpg and captions/**/NN.txt."""
    for number, (place, subject) in enumerate(subjects.items()):
        image, caption = folder / "images" / f"{place}.jpg", folder / "captions" / f"{place}.txt"
        for path in (image, caption):
            path.parent.mkdir(parents=True, exist_ok=True)
        picture(number).save(image, quality=95)
        caption.write_text("\n".join([subject, *(f"a {subject} {where}" for where in NINE)]) + "\n")
    return folder


def dreambench(folder: Path) -> Path:
    """A folder a subject, and prompts_and_classes.txt."""
    folder.mkdir(parents=True)
    lists = {
        name: [f"'a {{0}} {{1}} {name.lower()} {i}'.format(unique_token, class_token)," for i in range(25)]
        for name in ("Object Prompts", "Live Subject Prompts")
    }
    text = ["Classes", "", "subject_name,class", *(f"{s},{c}" for s, c in CLASSES.items()), "", "Prompts", ""]
    for name, lines in lists.items():
        text += [name, "", "prompt_list = [", *lines, "]", ""]
    (folder / "prompts_and_classes.txt").write_text("\n".join(text))
    for number, subject in enumerate(CLASSES):
        (folder / subject).mkdir()
        for i in range(3):
            picture(10 * number + i).save(folder / subject / f"{i:02d}.jpg")
    return folder


def rows_of_tasks(each: int = 2) -> list[dict]:
    """Rows with the numbers of their pictures."""
    return [
        {"key": f"{task}-{i:04d}", "task_type": task, "instruction": f"Put what image {n} shows on a table, no. {i}.",
         "numbers": [100 * t + 10 * i + k for k in range(n)]}
        for t, (task, n) in enumerate(TASKS)
        for i in range(each)
    ]  # fmt: skip


def omnicontext(folder: Path) -> Path:
    """Parquet with the pictures in it."""
    folder.mkdir(parents=True)
    words = {name: Value("string") for name in ("key", "task_type", "instruction")}
    rows = [{**{name: row[name] for name in words}, "input_images": list(map(picture, row["numbers"]))}
            for row in rows_of_tasks()]  # fmt: skip
    Dataset.from_list(rows, features=Features({**words, "input_images": List(ImageFeature())})).to_parquet(
        folder / "train-00000-of-00001.parquet"
    )
    return folder


def as_jsonl(folder: Path, more: Mapping[str, object] | None = None) -> Path:
    """data.jsonl, and pictures beside it: OmniContext-jsonl; with more keys SconeEval."""
    (folder / "images").mkdir(parents=True)
    lines = []
    for row in rows_of_tasks():
        names = [f"images/{number}.png" for number in row.pop("numbers")]
        for name in names:
            picture(int(Path(name).stem)).save(folder / name)
        lines.append(json.dumps({**row, "input_images": names, **(more or {})}))
    (folder / "data.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def sconeeval(folder: Path) -> Path:
    """OmniContext's form with case types, subjects, and which of them are asked for."""
    return as_jsonl(folder, {"case_type": "CO", "subject_list": [["a mug", "a Spoon"]], "subject_label": [[1, 0]]})
