"""A published set reads as any other, and its card says where it came from."""

import subprocess
import sys
from pathlib import Path

from datasets import load_dataset
from huggingface_hub import DatasetCard

SCRIPT = Path(__file__).parents[2] / "scripts" / "publish_pairs.py"


def publish(*arguments: object) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, str(SCRIPT), *map(str, arguments)], capture_output=True, text=True)


def test_a_folder_reads_as_a_data_set(pairs, tmp_path) -> None:
    done = publish(pairs, "--local", tmp_path / "set", "--license", "apache-2.0")
    assert done.returncode == 0, done.stderr
    rows = load_dataset(str(tmp_path / "set"), split="train")
    assert f"{len(rows)} pairs" in done.stdout
    assert rows[0]["image"].size == rows[0]["conditioning"].size == (64, 64)
    assert rows[0]["caption"]
    card = DatasetCard.load(tmp_path / "set" / "README.md")
    assert card.data.license == "apache-2.0"
    assert f"{len(rows)} ordered pairs" in card.text
    assert "| answered → kept |" in card.text
    again = publish(pairs, "--local", tmp_path / "set")
    assert (again.returncode, again.stderr.count("\n")) == (1, 1)
    assert "is there already" in again.stderr
