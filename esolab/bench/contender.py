"""A contender, and what all of them share: the clock, the reward that tells any two answers apart, its fitness."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from esolab.batch import Batch, Tokens
from esolab.bench.job import PHASES, Measured

WARM_PROMPT = 16  # tokens of the prompt to warm up with


class Contender(Protocol):
    """One way to do an ESO step. A step samples, rewards, and leaves gradients; no weight is changed."""

    def warm_up(self) -> None:
        """Touch every code path briefly, so that nothing is loaded or allocated for the first time in a step."""
        ...

    def step(self) -> Measured:
        """Do the whole step once."""
        ...


class Clock:
    """Seconds by phase; what was queued on a GPU is waited for."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(PHASES, 0.0)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add the time spent inside to a phase."""
        start = now()
        yield
        self.seconds[name] += now() - start


def small(batch: Batch) -> Batch:
    """One prompt of a batch, cut short, to warm up with."""
    first = batch[:1]
    ids, lengths = first.prompts.ids[:, :WARM_PROMPT], first.prompts.lengths.clamp(max=WARM_PROMPT)
    return replace(first, prompts=Tokens(ids, lengths))


def now() -> float:
    """Seconds, when all that was asked of the device is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def apart(rewards: Float[Tensor, "B K"]) -> Float[Tensor, "B K"]:
    """Rewards far from each other, so that no contender may leave a prompt out and every answer is felt in the
    gradient: random weights write answers that score next to nothing."""
    return rewards + torch.arange(rewards.shape[1])
