"""The settings of dsd-label: configs/label.yaml."""

from dataclasses import dataclass
from typing import ClassVar

from dsd.runs.settings import setting


@dataclass
class LabelSettings:
    """Label pairs of panels in a browser with two keys, for dsd-curate mode=agreement."""

    examples: ClassVar[tuple[str, ...]] = (
        "dsd-label curated=outputs/demo/pairs",
        "dsd-label curated=outputs/paper/pairs labels=paper.jsonl num_pairs=500",
        "dsd-curate mode=agreement labels=labels.jsonl verdicts_dir=outputs/demo/pairs output_dir=outputs/agreement",
    )
    closing: ClassVar[str] = "Every answer is saved at once; stop with Ctrl-C, and run the same command again to go on."

    curated: str = setting("output_dir of dsd-curate", reads="curation")
    labels: str = setting("the file that labels go to, JSON lines")
    num_pairs: int = setting("pairs to label, chosen at random, kept and rejected ones alike", least=1)
    seed: int = setting("seed of that choice", least=0)
    port: int = setting("the page is at http://127.0.0.1:PORT; 0 takes a free port", least=0, most=65535)
