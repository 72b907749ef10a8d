"""Curated pairs as a data set on the hub, with a data card that says how they were made and what was thrown away.

    python dsd/publish/pairs.py outputs/paper/pairs --repo user/name        # HF_TOKEN from the environment
    python dsd/publish/pairs.py outputs/demo/pairs --local folder           # the same, into a folder

`load_dataset("user/name")`, or of the folder, has the columns of dsd-curate: image, conditioning, caption and more.
"""

# isort: split
import argparse
import shutil
import sys
from pathlib import Path

from huggingface_hub import DatasetCard, DatasetCardData, HfApi
from omegaconf import OmegaConf

from dsd.errors import UserError
from dsd.files import atomic
from dsd.runs.manifest import read_manifest
from dsd.runs.shards import read_shards

CARD = """# Pairs of one subject

{pairs} ordered pairs (reference, target) that a text-to-image model drew by in-context prompting and a judge kept,
made with Diffusion Self-Distillation (dsd {version}). `image` is the target, `conditioning` the reference, `caption`
describes the target, `instruction` says what to do with the reference.

| step | began | left | share |
| --- | --- | --- | --- |
{steps}

Rejected, by reason: {reasons}.

## Configuration

```yaml
{config}```
"""


def card(folder: Path, licence: str) -> DatasetCard:
    """What dsd-curate's manifest and config say, secrets redacted there already."""
    manifest = read_manifest(folder, "curation")
    steps = [f"| {s['name']} | {s['begun']} | {s['left']} | {100 * s['share']:.1f} % |" for s in manifest["steps"]]
    data = DatasetCardData(
        license=licence, task_categories=["image-to-image"], tags=["subject-driven-generation", "synthetic"]
    )
    text = CARD.format(
        pairs=manifest["counts"]["pairs"], version=manifest["dsd_version"], steps="\n".join(steps),
        reasons=", ".join(f"{n} {reason}" for reason, n in manifest["reasons"].items()) or "none",
        config=OmegaConf.to_yaml(OmegaConf.load(folder / "config.yaml")),
    )  # fmt: skip
    return DatasetCard(f"---\n{data.to_yaml()}\n---\n\n{text}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", type=Path, help="output_dir of dsd-curate")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--repo", help="user/name on the hub")
    where.add_argument("--local", type=Path, help="a new folder")
    parser.add_argument("--license", default="other", help="that of the teacher's outputs")
    parser.add_argument("--private", action="store_true")
    arguments = parser.parse_args()
    rows, text = read_shards(arguments.pairs, "pairs"), card(arguments.pairs, arguments.license)
    if arguments.local is not None:
        if arguments.local.exists():
            raise UserError(f"{arguments.local} is there already; choose another folder")
        with atomic(arguments.local) as temporary:
            (temporary / "data").mkdir(parents=True)
            for file in sorted((arguments.pairs / "pairs").glob("*.parquet")):
                shutil.copy(file, temporary / "data" / file.name.replace("pairs-", "train-"))
            text.save(temporary / "README.md")
        print(f"{arguments.local}: {len(rows)} pairs")
        return
    HfApi().create_repo(arguments.repo, repo_type="dataset", private=arguments.private, exist_ok=True)
    text.push_to_hub(arguments.repo)
    rows.push_to_hub(arguments.repo, private=arguments.private)
    print(f"https://huggingface.co/datasets/{arguments.repo}: {len(rows)} pairs")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"publish_pairs.py: error: {error}")
