"""The settings of `dsd-evaluate`."""

from dataclasses import dataclass
from enum import Enum
from typing import Any, ClassVar

from omegaconf import MISSING, DictConfig, OmegaConf

from dsd.errors import UserError
from dsd.runs.settings import OutputSettings, setting


def open_dict() -> Any:
    """Make a mapping that takes any key from the command line, where a config elsewhere refuses unknown keys."""
    return OmegaConf.create({}, flags={"struct": False})


def arm_of(run: str) -> str:
    """Take the arm of a run: "student/0" -> "student"."""
    return run.split("/", 1)[0]


class Mode(Enum):
    """Evaluate, write a judge's answers to the control pairs, or compare raters with each other."""

    evaluate = "evaluate"
    control = "control"
    agreement = "agreement"


@dataclass
class AgreementSettings:
    """Who is compared with whom by mode=agreement."""

    ratings: str | None = setting("folder of people's ratings, in DreamBench++'s layout", None)
    rankings: str | None = setting("folder of ConsistencyRank-Bench: people's rankings, compared with measure=", None)
    judges: dict[str, str | None] = setting(
        "finished folders of dsd-evaluate, or of ratings in DreamBench++'s layout, by name: {qwen: FOLDER}",
        factory=open_dict,
    )


@dataclass
class EvaluateSettings(OutputSettings):
    """Measure what a student keeps of subjects it has never seen, and how good each stage before it was."""

    examples: ClassVar[tuple[str, ...]] = (
        "dsd-evaluate results='{student: outputs/student}'",
        "dsd-evaluate results='{student: outputs/student, text_only: outputs/text_only}' grids=outputs/grids",
        "dsd-evaluate results='{student: outputs/student}' measure=similarity device=cuda",
    )
    mode: Mode = setting(
        "evaluate; control: write card='s answers to the control pairs; agreement: compare raters, see agreement.",
        Mode.evaluate, changes_results=False,
    )  # fmt: skip
    replay: str | None = setting(
        "finished folder of dsd-evaluate: make its tables and its report again without any provider", None,
        reads="evaluate",
    )  # fmt: skip
    grids: str | None = setting("finished folder of dsd-data-gen: how good its grids are", None, changes_results=False)
    curated: str | None = setting("finished folder of dsd-curate: what it kept and why", None, changes_results=False)
    adapter: str | None = setting("finished folder of dsd-train: its loss curve", None, changes_results=False)
    results: dict[str, str | None] = setting(
        "finished folders of dsd-infer by run, {student: FOLDER}, or pictures of other tools; runs of one arm that "
        "differ in their seed are student/0, student/1, ...",
        changes_results=False,
        factory=open_dict,
    )
    teachers: dict[str, str | None] = setting(
        "finished folders of dsd-curate by teacher, {klein: FOLDER, z_image: FOLDER}: compare what teachers yield and "
        "cost, instead of results",
        changes_results=False,
        factory=open_dict,
    )
    baseline: str | None = setting(
        "arm that all others are compared with; null compares the student with what the paper compares it with", None
    )
    jobs: Any = setting(
        "references and prompts of pictures that another tool made, such as jobs=dreambench_plus", None, group=True,
        ignored=("path",),
    )  # fmt: skip
    published: str | None = setting("published rows to stand beside: dreambench_plus, or a YAML file", None)
    seed: int = setting("seed of the intervals' resampling", 0, least=0, most=2**63 - 1)
    num_resamples: int = setting("resamples of each interval", MISSING, least=100)
    batch_size: int = setting("pictures that are measured at once", MISSING, least=1, changes_results=False)
    measure: Any = setting(
        "what measures the pictures; several are measure=[toybox,similarity]",
        ignored=tuple(f"vlm.{part}" for part in ("service", "card", "folder", "control")), group=True,
    )  # fmt: skip
    card: Any = setting("judge card of measure=vlm; its id is an input of the evaluation", changes_results=False,
                        group=True)  # fmt: skip
    vlm: Any = setting("vision-language model for measure=vlm", None, changes_results=False, group=True)
    cache_dir: str = setting("folder of the vision-language model's answers", changes_results=False)
    control: str | None = setting(
        "control answers of the judge card, by mode=control: the judge must answer so again before it is asked", None,
        changes_results=False,
    )  # fmt: skip
    agreement: AgreementSettings = setting("who is compared by mode=agreement", factory=AgreementSettings)

    @staticmethod
    def check(cfg: DictConfig) -> None:
        """Refuse settings that name nothing to evaluate or an arm that is not there."""
        for name in ("results", "teachers"):
            if not isinstance(cfg[name], DictConfig):
                raise UserError(f"{name}={cfg[name]}: names and folders are needed, such as {name}={{student: FOLDER}}")
        arms = list(dict.fromkeys(arm_of(run) for run, folder in cfg.results.items() if folder))
        if cfg.mode is not Mode.evaluate or cfg.replay is not None:
            return
        if teachers := [name for name, folder in cfg.teachers.items() if folder]:
            if given := [key for key in ("grids", "curated", "adapter", "results") if cfg[key]]:
                raise UserError(f"teachers={','.join(teachers)} are compared by themselves; leave out {given[0]}=")
        elif not arms:
            raise UserError(
                "results: nothing to evaluate; name folders of dsd-infer, such as results={student: FOLDER}"
            )
        if cfg.baseline is not None and cfg.baseline not in arms:
            raise UserError(f"baseline={cfg.baseline}: not an arm of results; choose one of {', '.join(arms)}")
        if not any(cfg.measure.values()):
            raise UserError("measure: nothing to measure by; choose from configs/measure/, such as measure=toybox")
