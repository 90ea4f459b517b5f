"""The processes of one run, a rank each: which this one is, and what they tell each other.

A run of one process talks to nobody, and everything here gives back what it was given.
"""

from __future__ import annotations

import os
from collections import Counter
from datetime import timedelta
from typing import Protocol, TypeVar, runtime_checkable

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from esolab.errors import BadInput

T = TypeVar("T")
PATIENCE = timedelta(hours=2)  # for the slowest of them


@runtime_checkable
class Devices(Protocol):
    """What there is to know of where the ranks compute, as esolab.training.Trainer has it."""

    nodes: int

    @property
    def ranks(self) -> int:
        """How many on this machine."""
        ...

    @property
    def device(self) -> torch.device:
        """This one's."""
        ...


def several() -> bool:
    """Whether this process was started as one of several: by esolab.launch or torchrun."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def join(devices: Devices) -> None:
    """Meet the others, over NCCL on GPUs and gloo on CPUs; once.

    Raises:
        BadInput: they are not as many as there should be.
    """
    there, wanted = int(os.environ.get("WORLD_SIZE", "1")), devices.ranks * devices.nodes
    if there != wanted:
        raise BadInput(
            f"trainer.nodes={devices.nodes}: {wanted} processes are needed, one a device, and {there} were started; "
            "see 'Several devices' in the README"
        )
    if several() and not dist.is_initialized():
        gpu = devices.device.type == "cuda"
        if gpu:
            torch.cuda.set_device(devices.device)
        dist.init_process_group("nccl" if gpu else "gloo", timeout=PATIENCE)


def leave() -> None:
    """Part from the others, once all of them are done."""
    if dist.is_initialized():
        gathered(None)
        dist.destroy_process_group()


def size() -> int:
    """How many ranks there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def number() -> int:
    """Which of them this one is, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def lead() -> bool:
    """Whether this one writes the files and speaks to the terminal."""
    return number() == 0 if dist.is_initialized() else int(os.environ.get("RANK", "0")) == 0


def gathered(value: T) -> list[T]:
    """The values of all ranks, in order, on each of them."""
    if size() == 1:
        return [value]
    found: list[T] = [value] * size()
    dist.all_gather_object(found, value)
    return found


def joined(*columns: Tensor) -> tuple[tuple[Tensor, ...], slice]:
    """Columns with the rows of all ranks, in their order, as one rank alone would have them; which are this rank's."""
    if size() == 1:
        return columns, slice(None)
    found = gathered([column.detach().cpu() for column in columns])  # those of other GPUs would stay there
    whole = tuple(torch.cat(parts).to(columns[0].device) for parts in zip(*found, strict=True))
    before = sum(len(theirs[0]) for theirs in found[: number()])
    return whole, slice(before, before + len(columns[0]))


def mean(value: float | int) -> float | int:
    """Of the values of all ranks."""
    return value if size() == 1 else sum(gathered(value)) / size()


def anywhere(flag: bool) -> bool:
    """Whether it is so on any rank."""
    return any(gathered(flag))


def total(counts: Counter[str], shared: str) -> Counter[str]:
    """The sums over ranks; of `shared`, what all have counted alike."""
    found: Counter[str] = Counter()
    for own in gathered(dict(counts)):
        found.update({name: n for name, n in own.items() if name != shared})
    return found + Counter({shared: counts[shared]})


def average_(weights: list[torch.nn.Parameter]) -> None:
    """Gradients become their means over ranks; a rank without one has zeros. Those of weights that are shared out
    between ranks are means already."""
    for weight in weights if size() > 1 else ():
        if isinstance(weight, DTensor):
            continue
        if weight.grad is None:
            weight.grad = torch.zeros_like(weight)
        dist.all_reduce(weight.grad)
        weight.grad /= size()


def part(rows: list[T], rank: int | None = None, ranks: int | None = None) -> list[T]:
    """The rows of a batch that are this rank's: neighbours, shared out evenly; none where there are too few."""
    mine, of = number() if rank is None else rank, size() if ranks is None else ranks
    return rows[mine * len(rows) // of : (mine + 1) * len(rows) // of]
