"""The report's gallery: references and prompts with what every arm made of them, and the numbers of each picture."""

from collections.abc import Mapping, Sequence
from typing import Any

from datasets import Dataset
from PIL import Image

from dsd.evaluate.scoring import Scored
from dsd.evaluate.settings import arm_of
from dsd.evaluate.table import title
from dsd.io.pictures import data_uri

MOST_BYTES = 8 * 2**20  # of all pictures of the gallery, as text in the page
MOST_JOBS = 1500
SAMPLED = 6  # jobs whose size tells how many can be shown
LARGEST = 256  # pixels; larger pictures are shown smaller


def gallery(
    results: Mapping[str, Dataset], scored: Mapping[str, Sequence[Scored]], names: Sequence[str],
    lower: Sequence[str] = (),
) -> dict[str, Any]:  # fmt: skip
    """Show every job of all arms, or as many as the bound allows, evenly spaced: what nobody chose.

    Of an arm with several runs the first is shown. Pictures of a run without results are "". `lower` are the names of
    which less is better.
    """
    shown = first_runs(scored)
    jobs = jobs_of({arm: scored[run] for arm, run in shown.items()})
    sizes = [size_of(card(jobs[i], shown, results, scored, names)) for i in spread(len(jobs), SAMPLED)]
    fitting = min(MOST_JOBS, max(1, int(MOST_BYTES * len(sizes) / max(1, sum(sizes)))))
    cards = [card(jobs[i], shown, results, scored, names) for i in spread(len(jobs), fitting)]
    return {
        "cards": cards, "jobs": len(jobs), "arms": list(shown), "numbers": list(names),
        "lower": list(lower),
        "categories": sorted({card["category"] for card in cards} - {""}),
        "kinds": sorted({card["kind"] for card in cards} - {""}),
    }  # fmt: skip


def first_runs(results: Mapping[str, object]) -> dict[str, str]:
    """The first run of every arm."""
    found: dict[str, str] = {}
    for run in results:
        found.setdefault(arm_of(run), run)
    return found


def jobs_of(scored: Mapping[str, Sequence[Scored]]) -> list[dict[str, int]]:
    """List the jobs of all arms. A job has the position of its picture in every arm that drew it."""
    found: dict[tuple[str, str], dict[str, int]] = {}
    for arm, jobs in scored.items():
        for i, job in enumerate(jobs):
            found.setdefault((job.unit, job.prompt), {}).setdefault(arm, i)
    return list(found.values())


def card(
    places: Mapping[str, int], shown: Mapping[str, str], results: Mapping[str, Dataset],
    scored: Mapping[str, Sequence[Scored]], names: Sequence[str],
) -> dict[str, Any]:  # fmt: skip
    """Show a job: its references, prompt, and the picture of every arm that has one."""
    leading, place = next(iter(places.items()))
    job = scored[shown[leading]][place]
    rows = {arm: results[shown[arm]][at] for arm, at in places.items() if shown[arm] in results}
    pictures = {}
    for arm in shown:
        if (at := places.get(arm)) is None:
            continue
        one = scored[shown[arm]][at]
        pictures[arm] = {
            "image": data_uri(rows[arm]["image"], LARGEST) if arm in rows else "",
            "said": scores_line(one, names),
            "reasons": {name: one.reasons[name] for name in one.reasons},
            "scores": {name: round(one.scores[name], 4) for name in names if name in one.scores},
        }
    references: list[Image.Image] = [r for row in [*rows.values()][:1] for r in (row["reference"], *row["others"])]
    return {
        "references": [data_uri(picture, LARGEST) for picture in references], "job": job.job, "prompt": job.prompt,
        "category": job.category, "kind": job.kind, "pictures": pictures,
        "scores": {arm: picture["scores"] for arm, picture in pictures.items()},
    }  # fmt: skip


def size_of(card: Mapping[str, Any]) -> int:
    """Count the characters of a card's pictures."""
    pictures = [*card["references"], *(picture["image"] for picture in card["pictures"].values())]
    return sum(map(len, pictures))


def spread(num: int, shown: int) -> list[int]:
    """Positions of `shown` of `num` items, evenly spaced: examples that nobody chose."""
    return [i * num // min(num, shown) for i in range(min(num, shown))]


def scores_line(job: Scored, names: Sequence[str]) -> str:
    """Write the numbers of one picture: "CP 0.75 · PF 1.00"."""
    return " · ".join(f"{title(name)} {job.scores[name]:.2f}" for name in names if name in job.scores)
