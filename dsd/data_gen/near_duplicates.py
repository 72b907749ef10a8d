"""Find texts that say nearly the same: among captions, and between prompts and subjects of an evaluation set."""

import csv
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from dsd.errors import UserError
from dsd.io.files import atomic
from dsd.io.inputs import read_text

PERMUTATIONS = 64
STOP = frozenset(
    ("a", "an", "the", "of", "on", "in", "at", "with", "and", "or", "to", "for", "by", "from", "is", "are")
)


def tokens(text: str) -> frozenset[str]:
    """List the words that carry meaning, in lower case; pairs of characters where a script has no spaces."""
    words = re.findall(r"\w+", text.casefold())
    if len(words) <= 1 and len(text) > 6:
        words = [text[i : i + 2] for i in range(len(text) - 1)]
    return frozenset(words) - STOP or frozenset(words)


def without_near_duplicates(texts: Sequence[str], threshold: float) -> list[str]:
    """Keep the first of texts whose words overlap by at least `threshold` (Jaccard, by MinHash); keep the order.

    Each distinct word is hashed once: the sketch of a text is the minimum of the sketches of its words.
    """
    from datasketch import MinHash, MinHashLSH

    index, kept = MinHashLSH(threshold=threshold, num_perm=PERMUTATIONS), list[str]()
    seen = set[tuple[int, bytes]]()
    of_texts = [tokens(text) for text in texts]
    distinct = list(frozenset().union(*of_texts))
    sketches = MinHash.generator(([word.encode()] for word in distinct), num_perm=PERMUTATIONS)
    of_word = {word: sketch.hashvalues for word, sketch in zip(distinct, sketches, strict=True)}
    for text, words in zip(texts, of_texts, strict=True):
        sketch = np.min([of_word[word] for word in words], axis=0) if words else np.zeros(PERMUTATIONS, np.uint64)
        bands = [(band, sketch[band * index.r : (band + 1) * index.r].tobytes()) for band in range(index.b)]
        if seen.isdisjoint(bands):
            seen.update(bands)
            kept.append(text)
    return kept


def evaluation_subjects(folder: str | Path) -> list[str]:
    """Read the subjects of DreamBench++: the first line of every file data/captions/**/*.txt."""
    files = sorted(Path(folder).rglob("*.txt"))
    if not files:
        raise UserError(f"evaluation_captions={folder}: no .txt files there; give DreamBench++'s data/captions")
    lines = (read_text(file).split("\n") for file in files)
    return list(dict.fromkeys(found[0].strip() for found in lines if found and found[0].strip()))


def overlap(subjects: Iterable[str], known: Sequence[str]) -> list[tuple[int, str, str]]:
    """List (position, subject, evaluation subject) where a prompt's subject has all words of an evaluation subject."""
    wanted = [(name, tokens(name)) for name in known]
    return [
        (position, subject, name)
        for position, subject in enumerate(subjects)
        for name, words in wanted
        if words <= tokens(subject)
    ]


def write_overlap(path: Path, subjects: Iterable[str], known: Sequence[str]) -> int:
    """Write `overlap` as CSV; return how many subjects are in it."""
    found = overlap(subjects, known)
    with atomic(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("grid", "subject", "evaluation subject"), *found])
    return len({position for position, _, _ in found})
