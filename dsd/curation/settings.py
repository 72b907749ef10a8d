"""The settings of dsd-curate: configs/curation.yaml."""

from dataclasses import dataclass
from enum import Enum
from typing import Any, ClassVar

from omegaconf import DictConfig

from dsd.errors import UserError
from dsd.models.settings import ModelSettings
from dsd.runs.settings import ShardSettings, setting


class Mode(Enum):
    """Make pairs, or compare the judge's verdicts with people's labels."""

    curate = "curate"
    agreement = "agreement"


class Panels(Enum):
    """Where a grid is cut, see `dsd.curation.seams`."""

    exact = "exact"
    seams = "seams"


@dataclass
class PrefilterSettings:
    """Bounds on scores that cost no call: brightness, contrast, sharpness, and those of features= and geometry=."""

    minimum: dict[str, float | None] = setting("least value by score, such as {dinov2: 0.5}; null: none", factory=dict)
    maximum: dict[str, float | None] = setting("greatest value by score, such as {dinov2: 0.98}", factory=dict)


@dataclass
class SelectionSettings:
    """What makes a judged pair a training pair."""

    require_same: bool = setting("keep only pairs that the judge calls the same subject", True)
    minimum: dict[str, float | None] = setting("least value by score, also of the judge's; null: none", factory=dict)
    maximum: dict[str, float | None] = setting("greatest value by score; null: none", factory=dict)
    exclude: Any = setting("what says of a verdict that its pair must not be learnt from", None)


@dataclass
class CurationSettings(ShardSettings):
    """Judge every pair of panels of grids, and keep pairs of one subject (paper, section 3.2)."""

    examples: ClassVar[tuple[str, ...]] = (
        "dsd-curate grids=outputs/grids output_dir=outputs/pairs",
        "dsd-curate judge=vlm vlm=gemini panels=seams vlm.limits.max_calls=1000",
        "dsd-curate verdicts_dir=outputs/pairs selection.minimum.confidence=0.9 output_dir=outputs/strict",
    )

    mode: Mode = setting("curate, or agreement: compare verdicts with labels=", changes_results=False)
    labels: str | None = setting(
        "for mode=agreement: labels that people gave, see dsd-label", None, changes_results=False, reads="file"
    )
    grids: str = setting("output_dir of dsd-data-gen", reads="data_gen")
    verdicts_dir: str = setting(
        "where verdicts are kept; share it between runs that differ only in selection", changes_results=False
    )
    rows_per_shard: int = setting("grids a shard, the unit of resuming", least=1, changes_results=False)
    batch_size: int = setting("grids that a judge on this machine takes at once", least=1, changes_results=False)
    panels: Panels = setting("where a grid is cut: exact (equal parts) or seams (between the seams that it has)")
    features: Any = setting("embedding that gives every pair a similarity", None, group=True)
    geometry: Any = setting(
        "what compares the layouts of a pair's panels; several are geometry=[flow,edges]", None, group=True,
        null_is_absent=True,
    )  # fmt: skip
    prefilter: PrefilterSettings = setting(
        "bounds on free scores; pairs outside are not judged", factory=PrefilterSettings
    )
    judge: Any = setting(
        "what judges pairs", ignored=("service.cache", "service.limits", "verdicts_dir"), group=True
    )  # fmt: skip
    skip_unanswered: bool = setting(
        "finish without pairs that the judge has not answered; false: the next run asks for them again", False,
        changes_results=False,
    )  # fmt: skip
    describe_rejected: bool = setting("write captions also for rejected pairs; false saves a paid judge's calls", True)
    vlm: Any = setting("vision-language model for judge=vlm", None, ignored=("cache", "limits"), group=True)
    model: ModelSettings = setting("base model; vlm=local takes its dtype", group=True)
    cache_dir: str = setting("folder of the vision-language model's answers", changes_results=False)
    selection: SelectionSettings = setting(
        "which judged pairs are kept; defaults come with judge=", factory=SelectionSettings
    )
    max_references: int = setting("above 1: sets/ also holds targets with up to so many references", least=1)

    @staticmethod
    def check(cfg: DictConfig) -> None:
        """Refuse a comparison without labels."""
        if cfg.mode is Mode.agreement and cfg.labels is None:
            raise UserError("mode=agreement needs labels=path/to/labels.jsonl; dsd-label writes one")
