"""`dsd-app` as a Hugging Face Space, on a CPU, a GPU or ZeroGPU. Anybody may open it, as the Space's owner decides."""

import os
import shlex
from collections.abc import Callable
from typing import Any

try:
    import spaces  # ZeroGPU; it must be imported before torch
except ImportError:
    spaces = None

from dsd.app.engine import Engine
from dsd.app.page import build
from dsd.app.server import launch
from dsd.app.settings import compose

SECONDS = 120  # of a GPU call


def gpu(function: Callable[..., Any]) -> Callable[..., Any]:
    """Run a function on ZeroGPU where there is one."""
    return function if spaces is None else spaces.GPU(duration=SECONDS)(function)


cfg = compose("runs=runs", "output_dir=drawn", "host=127.0.0.1", *shlex.split(os.environ.get("DSD_APP", "")))
engine = Engine(cfg)
if spaces is not None and engine.adapters()[0].path is not None:
    engine.student("")  # what a GPU call loads is gone after it
cfg.host = os.environ.get("GRADIO_SERVER_NAME", "0.0.0.0")
cfg.port = int(os.environ.get("GRADIO_SERVER_PORT", "7860"))
page, _ = launch(build(engine, gpu), cfg)

if __name__ == "__main__":
    page.block_thread()
