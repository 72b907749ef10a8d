"""Draw with models that stay loaded: one request at a time, step by step, until it is done or stopped."""

import gc
import hashlib
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from threading import Event, Lock, Thread
from traceback import clear_frames
from typing import Any

import torch
from omegaconf import DictConfig
from PIL import Image

from dsd.app.adapters import Choice, chosen, find_adapters, find_styles
from dsd.app.preview import Previewer
from dsd.app.turns import Stopped, Turns
from dsd.app.wishes import Wish
from dsd.chat import ChatError
from dsd.errors import UserError
from dsd.flow import generator_at
from dsd.infer.enhance import Enhancer
from dsd.infer.methods import Student
from dsd.infer.stage import make_enhancer, parts_of
from dsd.io.pictures import png, save_picture
from dsd.models.loading import to_device
from dsd.models.student import refuse_too_many
from dsd.pipeline import offload
from dsd.runs.messages import explain
from dsd.runs.settings import plain

log = logging.getLogger(__name__)
Key = tuple[str | None, tuple[tuple[str, float], ...]]  # adapter's path, style LoRAs with weights


@dataclass(frozen=True)
class Waiting:
    """The request waits for `ahead` others."""

    ahead: int


@dataclass(frozen=True)
class Loading:
    """A model is being loaded."""

    name: str


@dataclass(frozen=True)
class Step:
    """A step of a picture is done."""

    picture: int  # counted from 0
    step: int  # counted from 1
    steps: int
    preview: Image.Image | None


@dataclass(frozen=True)
class Drawn:
    """A picture is done, and kept as a PNG."""

    wish: Wish
    picture: Image.Image
    redrawn: Image.Image | None  # the reference as a canvas student redraws it
    path: Path


News = Waiting | Loading | Step | Drawn
Tell = Callable[[Any], None]


class Engine:
    """Models by adapter and styles, of which the last `warm_models` stay loaded."""

    def __init__(self, cfg: DictConfig) -> None:
        self.cfg, self.device = cfg, to_device(cfg.device)
        offload.refuse_without_gpu(cfg.offload.value, cfg.quantization.value, self.device)
        self.folder = Path(cfg.output_dir) / "pictures"
        enhancer = make_enhancer(cfg)
        self.enhancer = enhancer if isinstance(enhancer, Enhancer) else None
        self.turns, self.warm, self.num_loaded = Turns(), OrderedDict[Key, Student](), 0
        self.stops: dict[str, list[Event]] = {}  # of the requests of each user
        self.lock = Lock()

    def adapters(self) -> list[Choice]:
        """List what can draw, as the disk has it now."""
        return find_adapters(self.cfg)

    def enhance(self, reference: Image.Image, prompt: str) -> str:
        """Enhance a prompt. UserError where no provider is configured, or where it fails."""
        if self.enhancer is None:
            raise UserError("no language model is configured; start dsd-app with vlm=gemini, openai or local")
        try:
            return self.enhancer.enhanced(reference, prompt)
        except ChatError as error:
            raise UserError(f"the prompt was not enhanced: {error}") from error

    def stop(self, user: str) -> int:
        """Stop every request of a user, at its next step; return how many there were."""
        with self.lock:
            events = list(self.stops.get(user, ()))
        for event in events:
            event.set()
        return len(events)

    def draw(self, asked: Sequence[Wish], user: str) -> Iterator[News]:
        """Draw in a thread of its own and tell what happens. Stopped where the user stops it; UserError says why not.

        Closing the iterator stops the drawing at its next step, too.
        """
        news, stop = SimpleQueue[Any](), Event()
        with self.lock:
            self.stops.setdefault(user, []).append(stop)
        Thread(target=self._work, args=(asked, user, stop, news.put), daemon=True).start()
        try:
            while (item := news.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            stop.set()
            with self.lock:
                self.stops[user].remove(stop)
                if not self.stops[user]:
                    del self.stops[user]

    def _work(self, asked: Sequence[Wish], user: str, stop: Event, tell: Tell) -> None:
        """Draw when it is the user's turn; the last thing told is an error or None."""
        try:
            with self.turns.turn(user, stop, lambda ahead: tell(Waiting(ahead))):
                for number, wish in enumerate(asked):
                    tell(self.picture(number, wish, stop, tell))
        except (UserError, Stopped) as error:
            tell(error)
        except Exception as error:
            tell(self.told(error))
        else:
            tell(None)

    def picture(self, number: int, wish: Wish, stop: Event, tell: Tell) -> Drawn:
        """Draw one picture as `dsd-infer` draws it alone, and keep it."""
        student = self.student(wish.adapter, wish.styles, tell)
        pipeline, settings = student.pipeline, self.settings(wish)
        refuse_too_many(len(wish.references), pipeline.student)
        previewer = Previewer(pipeline, settings, 0 if self.cfg.offload.value == "model" else self.cfg.preview_every)

        def after_step(_: Any, step: int, __: Any, state: dict[str, Any]) -> dict[str, Any]:
            if stop.is_set():
                raise Stopped
            tell(Step(number, step + 1, settings["num_inference_steps"], previewer(step, state["latents"])))
            return {}

        if stop.is_set():
            raise Stopped
        try:
            drawn = pipeline(
                [wish.prompt], [list(wish.references)], generator=[generator_at(wish.seed)],
                return_reference=pipeline.student.kind == "canvas", callback_on_step_end=after_step, **settings,
            )  # fmt: skip
        except BaseException:
            with suppress(Exception):
                pipeline.maybe_free_model_hooks()  # weights back to where they wait, step caches emptied
            raise
        redrawn = None if drawn.references is None else drawn.references[0]
        return Drawn(wish, drawn.images[0], redrawn, self.keep(wish, drawn.images[0], settings))

    def settings(self, wish: Wish) -> dict[str, Any]:
        """Complete the user's settings by the server's own."""
        return {**plain(self.cfg)["settings"], **wish.drawing.model_dump()}

    def keep(self, wish: Wish, picture: Image.Image, settings: dict[str, Any]) -> Path:
        """Write a picture with how it was made; the same request writes the same file."""
        more: dict[str, Any] = {"adapter": wish.adapter}
        more |= {"style_loras": [f"{name}:{weight:g}" for name, weight in wish.styles]} if wish.styles else {}
        more |= {"asked": wish.asked} if wish.asked and wish.asked != wish.prompt else {}
        seen = hashlib.sha256(f"{wish.prompt}\n{wish.seed}\n{settings}\n{more}".encode())
        for reference in wish.references:
            seen.update(png(reference))
        path = self.folder / f"{wish.stem}-{seen.hexdigest()[:16]}.png"
        save_picture(picture, path, wish.prompt, wish.seed, settings | more)
        return path

    def student(self, adapter: str, styles: tuple[tuple[str, float], ...] = (), tell: Tell = log.debug) -> Student:
        """Give a model, loaded where it is not warm; the one unused for longest makes room."""
        choice, known = chosen(adapter, self.adapters()), find_styles(self.cfg)
        if unknown := [name for name, _ in styles if name not in known]:
            raise UserError(f"style={unknown[0]}: no such LoRA here; choose one of {', '.join(known) or 'none'}")
        key = choice.path, styles
        if key not in self.warm:
            tell(Loading(choice.name))
            while len(self.warm) >= self.cfg.warm_models:
                self.warm.popitem(last=False)
            free_memory()
            self.warm[key] = self.load(choice, [f"{known[name]}:{weight:g}" for name, weight in styles])
        self.warm.move_to_end(key)
        return self.warm[key]

    def load(self, choice: Choice, styles: list[str]) -> Student:
        """Load a model as dsd-infer does, with the server's quantization, offloading and speed."""
        cfg = self.cfg.copy()
        cfg.adapter, cfg.style_loras = choice.path, [*cfg.style_loras, *styles]
        self.num_loaded += 1
        return Student(parts_of(cfg, many=False), "student", True)

    def told(self, error: Exception) -> UserError:
        """Turn any error into one line; the server's log has the whole of an unexpected one."""
        if is_out_of_memory(error):
            self.warm.clear()  # what failed half-way must not stay
            clear_frames(error.__traceback__)  # they hold tensors
            free_memory()
            return UserError(f"not enough memory; {remedy(self.cfg)}")
        line = explain(error)
        if line is None:
            log.error("app: unexpected error", exc_info=error)
            line = f"unexpected {type(error).__name__}; the server's log says more"
        return UserError(line)


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether a GPU or the machine had no memory left."""
    text = str(error).lower()
    known = "out of memory", "can't allocate memory", "not enough memory"
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(words in text for words in known)


def remedy(cfg: DictConfig) -> str:
    """Name what needs less memory than the server's settings do."""
    smaller = "draw a smaller picture, or restart dsd-app with"
    if cfg.warm_models > 1:
        return f"{smaller} warm_models=1 (now {cfg.warm_models})"
    if cfg.quantization.value == "none":
        return f"{smaller} quantization=int8 (now none)"
    if cfg.offload.value == "none" and to_device(cfg.device).type != "cpu":
        return f"{smaller} offload=model (now none)"
    return f"{smaller} settings.guidance_batching=false, or quantization=gguf gguf_kind=Q4_0"


def free_memory() -> None:
    """Return what no model holds to the GPU."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
