"""References to try, each with a prompt: those of `jobs=`, written as files when the server starts."""

from pathlib import Path

import gradio as gr
from hydra.utils import instantiate

from dsd.app.engine import Engine
from dsd.io.files import atomic
from dsd.pipeline.jobs import JobSource

NUM = 6


def examples(engine: Engine, reference: gr.Image, prompt: gr.Textbox) -> None:
    """Show the examples; a click fills reference and prompt."""
    rows = write_examples(engine)
    if rows:
        shown = gr.Dataset(
            components=[reference], samples=[[path] for path, _ in rows], label="Examples", type="index",
            samples_per_page=NUM, elem_id="examples",
        )  # fmt: skip
        shown.click(lambda number: rows[number], shown, [reference, prompt], api_visibility="private", queue=False)


def write_examples(engine: Engine) -> list[list[str]]:
    """Write the references of the first jobs, one for each subject; list them with their prompts."""
    if not engine.cfg.jobs:
        return []
    jobs: JobSource = instantiate(engine.cfg.jobs)
    rows, before = list[list[str]](), b""
    for position in range(len(jobs)):
        picture = jobs[position].picture()
        if picture.tobytes() == before:  # the same subject in another context
            continue
        before, path = picture.tobytes(), Path(engine.cfg.output_dir) / "examples" / f"example-{len(rows) + 1}.png"
        with atomic(path) as temporary:
            picture.save(temporary, "PNG")
        rows.append([str(path.resolve()), jobs[position].prompt])
        if len(rows) == NUM:
            break
    return rows
