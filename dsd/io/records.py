"""Records that stages hand on. A record is one row of a Parquet shard; its fields are the columns, in this order.

`features(Grid)` gives the `datasets.Features` of a record, `Grid(**row)` reads a row back.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, get_type_hints

from PIL import Image

from dsd.errors import UserError

if TYPE_CHECKING:
    from datasets import Features

LAYOUTS = {"1x1": (1, 1), "1x2": (1, 2), "2x1": (2, 1), "2x2": (2, 2), "1x4": (1, 4)}
RELATIONS = ("same", "different", "relight")
NOT_ATTEMPTED = "not attempted"  # class of a failure: the method takes fewer references than the job has


@dataclass(frozen=True)
class Prompt:
    """What the teacher is asked to draw: a grid, and what each of its panels shows."""

    index: int  # position in the run; the grid's seed follows from it
    prompt: str  # of the whole grid
    layout: str  # rows x columns, one of LAYOUTS
    panel_captions: list[str]  # what each panel shows, row by row: a target description
    subject: str  # what the panels have in common
    relation: str  # one of RELATIONS
    source: str  # where the prompt came from: a grammar, a file's line, an LLM


@dataclass(frozen=True)
class Grid:
    """A sheet that the teacher drew from the Prompt of the same index."""

    index: int
    image: Image.Image  # height x width, all panels
    prompt: str
    layout: str
    panel_captions: list[str]
    subject: str
    relation: str
    seed: int  # of the initial noise: prompt, seed and config give this image again
    height: int  # pixels, of the whole grid
    width: int
    config_hash: str  # of the data_gen run


@dataclass(frozen=True)
class Pair:
    """Two panels of a grid with the judge's verdict. `image`, `conditioning`, `caption` as in the public set."""

    image: Image.Image  # the target
    conditioning: Image.Image  # the reference
    caption: str  # describes the target
    instruction: str  # says what to do with the reference
    grid: int  # index of the Grid
    reference_panel: int  # counted row by row from 0
    target_panel: int
    seed: int  # of the grid
    prompt: str  # of the grid
    relation: str
    verdict_same: bool
    verdict_reason: str
    common_subject: str
    reference_description: str
    target_description: str
    scores: str  # JSON object of named floats, such as {"similarity": 0.93}
    kept: bool
    rejection: str  # why it was not kept, "" when kept
    config_hash: str  # of the curation run


@dataclass(frozen=True)
class ReferenceSet:
    """A target with all panels of its grid that were kept as its references."""

    image: Image.Image  # the target
    references: list[Image.Image]
    caption: str  # describes the target
    common_subject: str
    grid: int  # index of the Grid
    target_panel: int  # counted row by row from 0
    reference_panels: list[int]
    config_hash: str  # of the curation run


@dataclass(frozen=True)
class Verdict:
    """The judge's answer on two panels of a grid. Selection reads it and asks nobody."""

    grid: int  # index of the Grid
    first: int  # panels, counted row by row from 0; first < second
    second: int
    same: bool
    reason: str
    common_subject: str
    first_description: str
    second_description: str
    first_caption: str  # target description, for when this panel is the target
    second_caption: str
    first_instruction: str  # edit instruction that turns the other panel into this one
    second_instruction: str
    scores: str  # JSON object of named floats
    defect: str  # what a cheap filter found wrong before the judge was asked, "" if nothing


@dataclass(frozen=True)
class Result:
    """One picture that `dsd-infer` made."""

    job: str  # unique in its run
    image: Image.Image
    reference: Image.Image
    others: list[Image.Image]  # more references of the same picture
    prompt: str
    seed: int
    method: str  # "student", "zero_shot", "text_only", "copy_paste"
    category: str  # of the subject, "" where it has none: "animal", "object"
    kind: str  # of the prompt, "" where it has none: "photorealistic", "style"
    truth: str  # JSON {attribute: value} of the reference's subject where it is known, otherwise ""
    config_hash: str  # of the infer run


def features(record: type) -> "Features":
    """Give the columns of a record class and their types."""
    from datasets import Features, List, Value
    from datasets import Image as ImageFeature

    column = {
        int: Value("int64"),
        float: Value("float64"),
        str: Value("string"),
        bool: Value("bool"),
        list[str]: List(Value("string")),
        list[int]: List(Value("int64")),
        Image.Image: ImageFeature(),
        list[Image.Image]: List(ImageFeature()),
    }
    return Features({name: column[kind] for name, kind in get_type_hints(record).items()})


def layout_shape(layout: str) -> tuple[int, int]:
    """Read "2x2" as (rows, columns)."""
    if layout not in LAYOUTS:
        raise UserError(f"layout {layout!r} is unknown; choose one of {', '.join(LAYOUTS)} (rows x columns)")
    return LAYOUTS[layout]


def reason_class(reason: str) -> str:
    """Take the class of a reason: "low confidence: 0.312, the bound is 0.5" -> "low confidence"."""
    return reason.split(":", 1)[0].strip()
