"""What a step and a checkpoint copy, counted."""

from collections import Counter
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode

from dsd.train.checkpoint import gather, gather_states
from dsd.train.hooks import Ema
from dsd.train.launchers import Ddp, Share
from dsd.train.strategies import Whole, exchanged


class Ops(TorchDispatchMode):
    """Counts operators by name."""

    def __init__(self) -> None:
        super().__init__()
        self.counts = Counter[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.counts[func.__name__.split(".")[0]] += 1
        return func(*args, **(kwargs or {}))


def test_an_average_is_one_operator_where_the_weights_are(run, pairs, adapter, tmp_path, monkeypatch) -> None:
    """Every step copied all of the adapter to the CPU, 3.35 GB at FLUX's size."""
    original, seen = Ema.__call__, []

    def counted(self: Ema, trainee: Any, metrics: Any) -> None:
        with Ops() as ops:
            original(self, trainee, metrics)
        seen.append(ops.counts)

    monkeypatch.setattr(Ema, "__call__", counted)
    run("train", f"pairs={pairs}", f"cache_dir={adapter / 'cache'}", "student=canvas", "batch_size=2", "num_steps=3",
        "device=cpu", "ema_half_life=4", f"output_dir={tmp_path}")  # fmt: skip
    assert seen[0]["clone"] > 1
    for counts in seen[1:]:
        assert counts.pop("detach") > 1
        assert counts == {"_foreach_lerp_": 1}


@pytest.fixture
def trained() -> tuple[dict[str, nn.Parameter], Whole]:
    module = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(module.parameters())
    module(torch.randn(4, 3)).sum().backward()
    optimizer.step()
    return dict(module.named_parameters()), Whole(optimizer)


def test_a_process_that_writes_nothing_copies_nothing(trained) -> None:
    """All ranks held the whole adapter and its optimiser's state, 10 GB each."""
    parameters, strategy = trained
    with Ops() as ops:
        assert gather(parameters, strategy, keep=False) == {}
        assert gather_states(parameters, strategy, keep=False) == {}
    assert ops.counts.keys() <= {"detach"}
    kept = gather(parameters, strategy, keep=True)
    assert all(torch.equal(kept[name], p) and kept[name].data_ptr() != p.data_ptr() for name, p in parameters.items())


def test_averages_are_read_in_the_weights_place(trained) -> None:
    parameters, strategy = trained
    before = gather(parameters, strategy, keep=True)
    averages = [shard + 1 for shard in strategy.shards()]
    with exchanged(strategy.shards(), averages):
        assert all(torch.equal(p, before[name] + 1) for name, p in parameters.items())
    assert all(torch.equal(p, before[name]) for name, p in parameters.items())
    assert all(torch.equal(a, b + 1) for a, b in zip(averages, before.values(), strict=True))


def test_ddp_s_gradients_are_no_second_copy(tmp_path) -> None:
    arguments = Ddp().accelerator(Share(1, 1, 1.0, 1.0), "cpu")
    settings = Accelerator(**arguments).ddp_handler.to_kwargs()
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        module = DistributedDataParallel(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), **settings)
        module(torch.ones(1, 4)).sum().backward()
        assert len({p.grad.untyped_storage().data_ptr() for p in module.parameters()}) == 1, "views of one bucket"
    finally:
        torch.distributed.destroy_process_group()
