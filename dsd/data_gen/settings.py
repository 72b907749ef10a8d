"""The settings of dsd-data-gen: configs/data_gen.yaml."""

from dataclasses import dataclass
from typing import Any, ClassVar

from dsd.models.settings import ModelSettings, Quantization
from dsd.runs.settings import ShardSettings, setting


@dataclass
class DataGenSettings(ShardSettings):
    """Draw grids of one subject, panel by panel, from prompts (paper, section 3.1)."""

    examples: ClassVar[tuple[str, ...]] = (
        "dsd-data-gen num_grids=64 output_dir=outputs/grids",
        "dsd-data-gen prompts=llm vlm=gemini prompts.captions.path=captions.txt",
        "dsd-data-gen experiment=paper/data_gen shard=0 num_shards=32",
    )

    seed: int = setting("seed of the run; a grid's seed follows from it and its position", least=0, most=2**63 - 1)
    num_grids: int = setting("number of grids", least=1)
    rows_per_shard: int | None = setting(
        "grids a shard, the unit of dividing work; null: as many as make shard_mb", least=1, changes_results=False
    )
    shard_mb: int = setting("about how large a shard is, in MB of PNGs", least=1, changes_results=False)
    batch_size: int = setting("grids drawn at once; a grid does not depend on it", least=1, changes_results=False)
    model: ModelSettings = setting("the teacher's pipeline and the size of a panel", group=True)
    speed: Any = setting("how fast the transformer runs", ignored=("compile",), group=True)
    quantization: Quantization = setting("fewer bits a weight: none, int8, fp8, fp8_weights, nf4, gguf")
    quantized_parts: list[str] = setting("parts of the pipeline that int8 and fp8 change")
    gguf_kind: str = setting("Q8_0, Q5_1, Q5_0, Q4_1 or Q4_0, of quantization=gguf")
    prompts: Any = setting(
        "where prompts come from", ignored=("service.cache", "service.limits", "path", "captions.path"), group=True
    )
    teacher: Any = setting("what draws the grids", ignored=("speed.compile", "batch_size"), group=True)
    vlm: Any = setting("language model that writes prompts", None, ignored=("cache", "limits"), group=True)
    skip_unanswered: bool = setting(
        "finish without grids whose prompt the language model has not answered; false: the next run asks again", False,
        changes_results=False,
    )  # fmt: skip
    cache_dir: str = setting("folder of the language model's answers", changes_results=False)
    evaluation_captions: str | None = setting(
        "DreamBench++'s data/captions; overlap.csv then lists prompts about its subjects", None,
        changes_results=False, reads="folder",
    )  # fmt: skip
