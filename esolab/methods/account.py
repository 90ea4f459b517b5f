"""The account of a run: what it has cost in tokens and seconds, and what its answers were worth."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from esolab import ranks


class Account:
    """Of the whole run, the steps before it was stopped included.

    `counts` are steps, tokens and rewards of this rank; `spent` are seconds by phase, `seconds` those of the current
    step, `step_seconds` those of each; `rewards` are the mean reward of each step that sampled, by epoch, from 0;
    `models` are the parameters and bytes of what an earlier process held: a reward is not loaded again where training
    is over.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.seconds: dict[str, float] = defaultdict(float)
        self.spent: dict[str, float] = defaultdict(float)
        self.step_seconds: list[float] = []
        self.rewards: dict[int, list[float]] = {}
        self.models: dict[str, dict[str, int]] = {}

    @property
    def steps(self) -> int:
        """How many have been made."""
        return self.counts["steps"]

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Inside, seconds are those of this phase of the step."""
        start = time.perf_counter()
        yield
        self.seconds[name] += time.perf_counter() - start

    def end_step(self) -> None:
        """One step more, and its seconds."""
        self.counts["steps"] += 1
        for phase, seconds in self.seconds.items():
            self.spent[phase] += seconds
        self.step_seconds.append(sum(self.seconds.values()))

    def total(self) -> Counter[str]:
        """The counts of all ranks."""
        return ranks.total(self.counts, shared="steps")

    def save(self, checkpoint: dict[str, Any], held: dict[str, dict[str, int]]) -> None:
        """Leave all of it in a checkpoint, with the models `held` so far."""
        kept = {"counts": dict(self.total()), "spent": dict(self.spent), "rewards": self.rewards}
        checkpoint["account"] = kept
        checkpoint["counts_by_rank"] = ranks.gathered(dict(self.counts))
        checkpoint["step_seconds"], checkpoint["held"] = self.step_seconds, held

    def load(self, checkpoint: dict[str, Any]) -> None:
        """Go on from a checkpoint; where another number of ranks has written it the lead has the counts of all."""
        kept, by_rank = checkpoint["account"], checkpoint["counts_by_rank"]
        total = kept["counts"] if ranks.lead() else {"steps": kept["counts"]["steps"]}
        self.counts.update(by_rank[ranks.number()] if len(by_rank) == ranks.size() else total)
        self.spent.update(kept["spent"])
        self.rewards.update(kept["rewards"])
        self.step_seconds, self.models = checkpoint["step_seconds"], checkpoint["held"]
