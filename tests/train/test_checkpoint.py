"""Damaged checkpoints and logs: one line that names the file, or what is left of them."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from dsd.errors import UserError
from dsd.train.checkpoint import TrainState, checkpoints, gather, gather_states, group_settings, load_checkpoint
from dsd.train.checkpoint import save_checkpoint as save
from dsd.train.curves import plot_curves
from dsd.train.journal import forget_after, read_lines
from dsd.train.strategies import Whole


def trained(seed: int = 0) -> tuple[dict[str, nn.Parameter], torch.optim.Optimizer]:
    torch.manual_seed(seed)
    module = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(module.parameters())
    module(torch.randn(4, 3)).sum().backward()
    optimizer.step()
    return dict(module.named_parameters()), optimizer


def saved(folder: Path) -> Path:
    """Two checkpoints; the path of the last."""
    parameters, optimizer = trained()
    strategy = Whole(optimizer)
    for step in (3, 7):
        state, whole = TrainState(step, 0.5, 3), gather(parameters, strategy, keep=True)
        averages = {name: tensor + 1 for name, tensor in whole.items()}
        states = gather_states(parameters, strategy, keep=True)
        save(folder, state, whole, averages, states, group_settings(optimizer), 2)
    return checkpoints(folder)[-1]


def load(folder: Path) -> tuple[TrainState, dict[str, nn.Parameter]]:
    parameters, optimizer = trained(1)
    state = TrainState()
    assert load_checkpoint(folder, state, parameters, optimizer, Whole(optimizer))
    return state, parameters


def changed(name: str, change: Callable[[dict[str, torch.Tensor]], None]) -> Callable[[Path], None]:
    def harm(folder: Path) -> None:
        tensors = load_file(folder / name)
        change(tensors)
        save_file(tensors, folder / name)

    return harm


def optimizer(change: Callable[[dict], None]) -> Callable[[Path], None]:
    def harm(folder: Path) -> None:
        kept = torch.load(folder / "optimizer.pt", weights_only=True)
        change(kept)
        torch.save(kept, folder / "optimizer.pt")

    return harm


class Evil:
    def __reduce__(self) -> tuple:
        return exec, ("raise SystemExit('a pickle was run')",)


TENSORS, AVERAGE = "trainable.safetensors", "ema.safetensors"
HARM = {
    "no state": lambda f: (f / "state.json").unlink(),
    "state empty": lambda f: (f / "state.json").write_bytes(b""),
    "state no text": lambda f: (f / "state.json").write_bytes(b"\xff\xfe"),
    "state a list": lambda f: (f / "state.json").write_text("[1]"),
    "step a word": lambda f: (f / "state.json").write_text('{"step": "x", "best": null, "best_step": null}'),
    "step negative": lambda f: (f / "state.json").write_text('{"step": -7, "best": null, "best_step": null}'),
    "step of another": lambda f: (f / "state.json").write_text('{"step": 6, "best": null, "best_step": null}'),
    "no best": lambda f: (f / "state.json").write_text('{"step": 7}'),
    "no tensors": lambda f: (f / TENSORS).unlink(),
    "tensors cut": lambda f: (f / TENSORS).write_bytes((f / TENSORS).read_bytes()[:-4]),
    "tensors a folder": lambda f: ((f / TENSORS).unlink(), (f / TENSORS).mkdir()),
    "tensors NaN": changed(TENSORS, lambda t: t["weight"].fill_(float("nan"))),
    "tensors another shape": changed(TENSORS, lambda t: t.update(weight=torch.zeros(2, 4))),
    "a tensor missing": changed(TENSORS, lambda t: t.pop("bias")),
    "average cut": lambda f: (f / AVERAGE).write_bytes(b"12345678"),
    "average infinite": changed(AVERAGE, lambda t: t["bias"].fill_(float("inf"))),
    "average another shape": changed(AVERAGE, lambda t: t.update(bias=torch.zeros(1))),
    "no optimiser": lambda f: (f / "optimizer.pt").unlink(),
    "optimiser empty": lambda f: (f / "optimizer.pt").write_bytes(b""),
    "optimiser cut": lambda f: (f / "optimizer.pt").write_bytes((f / "optimizer.pt").read_bytes()[:300]),
    "optimiser text": lambda f: (f / "optimizer.pt").write_bytes(b"hello"),
    "optimiser a pickle": lambda f: torch.save(Evil(), f / "optimizer.pt"),
    "optimiser a list": lambda f: torch.save([1], f / "optimizer.pt"),
    "optimiser without groups": optimizer(lambda kept: kept.pop("groups")),
    "optimiser with more groups": optimizer(lambda kept: kept["groups"].append({})),
    "optimiser without a parameter": optimizer(lambda kept: kept["states"].pop("bias")),
    "optimiser without a moment": optimizer(lambda kept: kept["states"]["bias"].pop("exp_avg")),
    "optimiser another shape": optimizer(lambda kept: kept["states"]["bias"].update(exp_avg=torch.zeros(5))),
    "optimiser NaN": optimizer(lambda kept: kept["states"]["bias"]["exp_avg"].fill_(float("nan"))),
}


@pytest.mark.parametrize("harm", HARM.values(), ids=HARM.keys())
def test_a_damaged_checkpoint_is_one_line(tmp_path, harm) -> None:
    path = saved(tmp_path)
    harm(path)
    with pytest.raises(UserError) as refused:
        load(tmp_path)
    said = str(refused.value)
    assert said.startswith(f"{path}: ")
    assert "delete" in said
    assert "\n" not in said


def test_a_checkpoint_is_what_was_saved(tmp_path) -> None:
    saved(tmp_path)
    (tmp_path / "step-none").mkdir()
    state, parameters = load(tmp_path)
    expected, _ = trained()
    assert (state.step, state.best, state.best_step) == (7, 0.5, 3)
    assert all(torch.equal(p, expected[name]) for name, p in parameters.items())
    assert all(torch.equal(found, p + 1) for found, p in zip(state.ema, expected.values(), strict=True))


GOOD = [{"step": step, "loss": 0.5} for step in (1, 2, 3)]


@pytest.mark.parametrize("bad", [
    b"{", b"[1, 2]", b"null", b"\xff\xfe", b'{"loss": 1}', b'{"step": "x", "loss": 1}', b'{"step": 2, "loss": "x"}',
    b'{"step": -1, "loss": 1}', b"[" * 5000, b"\0",
])  # fmt: skip
def test_damaged_lines_of_a_log_are_dropped(tmp_path, caplog, bad) -> None:
    file, lines = tmp_path / "metrics.jsonl", [json.dumps(line).encode() for line in GOOD]
    file.write_bytes(b"\n".join([lines[0], bad, *lines[1:], b'{"step": 4, "lo']))
    with caplog.at_level("WARNING"):
        assert read_lines(file) == GOOD
    assert "1 damaged lines are dropped, such as line 2" in caplog.text
    assert plot_curves(tmp_path) == {"loss": 0.5}
    forget_after(file, 2)
    assert [json.loads(line) for line in file.read_text().splitlines()] == GOOD[:2]


def test_curves_without_a_log(tmp_path) -> None:
    assert plot_curves(tmp_path) == {}
    (tmp_path / "validation.jsonl").write_text('{"step": 3, "CP": -Infinity}\n')
    assert plot_curves(tmp_path)["CP"] == -float("inf")
