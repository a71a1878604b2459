"""One process or several under ``torchrun``, and random numbers that do not depend on how many there are."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from gfnet_fast.checkpoints.files import check_device


@dataclass(frozen=True)
class World:
    """The processes that train one model together; each sees an equal share of every batch."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @classmethod
    @contextmanager
    def join(cls, device: str = "auto") -> Iterator[World]:
        """The world that torchrun's environment describes, or this process alone.

        `device` is "auto" (a GPU where there is one), "cpu" or "cuda"; several processes take one GPU each,
        by LOCAL_RANK, and talk through nccl, on a CPU through gloo. Raises DeviceError where there is none.
        """
        rank, size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        if device == "cuda" and size > 1:
            device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
        target = check_device(device)
        if size == 1:
            yield cls(device=target)
            return
        if target.type == "cuda":
            torch.cuda.set_device(target)
        dist.init_process_group("nccl" if target.type == "cuda" else "gloo")
        try:
            yield cls(rank, size, target)
        finally:
            dist.destroy_process_group()

    def share(self, batch: int) -> slice:
        """This process's rows of a batch of that many."""
        each = batch // self.size
        return slice(self.rank * each, (self.rank + 1) * each)

    def wrap(self, module: nn.Module, unused: bool = False) -> nn.Module:
        """`module` with its gradients averaged over the world; `unused`: some parameters may get none."""
        return module if self.size == 1 else DistributedDataParallel(module, find_unused_parameters=unused)

    def gathered(self, values: Tensor) -> Tensor:
        """``[..., b]`` of every process, in the order of their ranks: ``[..., B]``."""
        if self.size == 1:
            return values
        parts = [torch.empty_like(values, memory_format=torch.contiguous_format) for _ in range(self.size)]
        dist.all_gather(parts, values.contiguous())
        return torch.cat(parts, -1)

    def any(self, flag: bool) -> bool:
        """Whether it is so in any process."""
        if self.size == 1:
            return flag
        flags = torch.tensor([flag], dtype=torch.int32, device=self.device)
        dist.all_reduce(flags, dist.ReduceOp.MAX)
        return bool(flags.item())

    def objects(self, value: Any) -> list[Any]:
        """Every process's value, in the order of their ranks."""
        values: list[Any] = [value] * self.size
        if self.size > 1:
            dist.all_gather_object(values, value)
        return values

    def broadcast(self, module: nn.Module) -> None:
        """The first process's weights and statistics, everywhere."""
        if self.size > 1:
            for tensor in module.state_dict().values():
                dist.broadcast(tensor, 0)

    def barrier(self) -> None:
        self.objects(None)


ALONE = World()


def without_sync(module: nn.Module, skip: bool) -> AbstractContextManager[Any]:
    """Gradients stay this process's own inside, where `skip`: all but the last part of a batch."""
    if skip and isinstance(module, DistributedDataParallel):
        return module.no_sync()
    return nullcontext()


def seed_of(*place: int) -> int:
    """A seed of 63 bits for a place in a run, e.g. (seed, stage, epoch, batch); unrelated for others."""
    return int(np.random.SeedSequence(place).generate_state(1, np.uint64)[0] >> 1)


class Draws:
    """Random numbers for actions, ``[B, 2]``, from torch's own generator."""

    def uniform(self, like: Tensor) -> Tensor:
        """From 0..1, as many rows as `like` has, on its device."""
        return torch.rand(len(like), 2, device=like.device)

    def normal(self, like: Tensor) -> Tensor:
        """Standard normal, in the form of `like` ``[B, 2]``."""
        return torch.randn_like(like)


class SharedDraws(Draws):
    """Some rows of the numbers of a whole batch, which are the same however the batch is divided.

    Every part of the batch draws all of them from a generator of its own and keeps its rows.
    """

    def __init__(self, seed: int, batch: int, rows: slice) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.batch, self.rows = batch, rows

    def uniform(self, like: Tensor) -> Tensor:
        return torch.rand(self.batch, 2, generator=self.generator)[self.rows].to(like.device)

    def normal(self, like: Tensor) -> Tensor:
        return torch.randn(self.batch, 2, generator=self.generator)[self.rows].to(like.device)
