"""Worker processes for the tests of gradient sharing (started by `torch.multiprocessing.spawn`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from raygseg.engine import state_tree
from raygseg.engine.gradients import ProcessGroup
from raygseg.engine.loop import Trainer
from raygseg.interfaces import Recipe, Stream

Factory = Callable[..., tuple[Recipe, Stream]]


def worker(rank: int, size: int, folder: str, factory: Factory, runs: list[tuple[Any, ...]], steps: int) -> None:
    """One of `size` gloo workers: `steps` steps of every run, state tensors into RUN-RANK.safetensors."""
    torch.set_num_threads(1)
    store = torch.distributed.FileStore(f"{folder}/store", size)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=size)
    try:
        for i, arguments in enumerate(runs):
            save_file(train(ProcessGroup(), factory, arguments, steps), f"{folder}/{i}-{rank}.safetensors")
    finally:
        torch.distributed.destroy_process_group()


def train(group: Any, factory: Factory, arguments: tuple[Any, ...], steps: int) -> dict[str, Tensor]:
    """State tensors by path after `steps` steps."""
    recipe, stream = factory(*arguments)
    trainer = Trainer(recipe, stream, group)
    for _ in range(steps):
        trainer.step()
    trainer.close()
    return state_tree.split(trainer.state_dict())[0]


def train_together(
    size: int, folder: str, factory: Factory, runs: list[tuple[Any, ...]], steps: int
) -> list[list[dict[str, Tensor]]]:
    """For every run (arguments of the factory) the states of `size` workers that trained together."""
    torch.multiprocessing.spawn(worker, (size, folder, factory, runs, steps), nprocs=size)
    return [[load_file(f"{folder}/{i}-{rank}.safetensors") for rank in range(size)] for i in range(len(runs))]


def differing(a: dict[str, Tensor], b: dict[str, Tensor]) -> list[str]:
    """Names of tensors that are not the same bit for bit."""
    assert a.keys() == b.keys()
    return [name for name in a if a[name].dtype != b[name].dtype or not torch.equal(a[name], b[name])]
