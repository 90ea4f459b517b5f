"""A reward as the judge."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import PositiveInt

from esolab.errors import BadInput, out_of_memory
from esolab.judge.question import Position, Question
from esolab.results import write_lines
from esolab.rewards.base import failed, usable
from esolab.rewards.preference import FOLDER

Rewards = tuple[float | None, float | None]  # of the answers in the order shown; None: no finite number


@dataclass(frozen=True)
class Preference:
    """The answer with the higher reward wins, equal ones tie; without a finite reward there is no valid verdict.

    `reward` is any reward (see esolab.rewards.base.Reward), scored `batch_size` prompts at a time.
    """

    reward: Any = None
    batch_size: PositiveInt = 32

    def __post_init__(self) -> None:
        if not callable(self.reward):
            raise BadInput("judge.reward: no reward; give judge.reward=rouge, or judge.reward._target_=module.Class")

    @property
    def name(self) -> str:
        """The reward's name, and the folder of a reward model, a run's where one left it."""
        name = str(getattr(self.reward, "__name__", type(self.reward).__name__))
        found = getattr(self.reward, "folder", None)
        if found is None:
            return name
        place = Path(found)
        return f"{name} {(place.parent if place.name == FOLDER else place).name}"

    def fingerprint(self) -> str:
        """What files the reward is made of, "" where it holds no model."""
        return str(getattr(self.reward, "fingerprint", str)())

    def verdicts(self, questions: Sequence[Question], folder: Path) -> list[Position]:
        """One verdict a question, in their order. The rewards of both sides, null where one is no finite number, are
        kept in rewards.jsonl, a line a pair."""
        found: list[Rewards] = []
        for start in range(0, len(questions), self.batch_size):
            found += self._batch(questions[start : start + self.batch_size])
        by_side = [(q.pair.id, dict(zip(q.order, both, strict=True))) for q, both in zip(questions, found, strict=True)]
        lines = {i: {"id": i, "a": side["a"], "b": side["b"]} for i, side in by_side}
        write_lines(folder / "rewards.jsonl", lines.values())
        return [_higher(*both) for both in found]

    def _batch(self, questions: Sequence[Question]) -> list[Rewards]:
        prompts, references = [q.pair.prompt for q in questions], [q.pair.reference for q in questions]
        try:
            raw = self.reward(prompts, [[q.first, q.second] for q in questions], references)
        except Exception as error:  # whatever code of a person's own raises
            if isinstance(error, BadInput) or out_of_memory(error):
                raise
            raise BadInput(f"judge.{failed(self.reward, error, [q.pair.id for q in questions])}") from error
        rewards, good = usable(raw, len(questions), 2)
        first, second = rewards.where(good, math.nan).T.tolist()
        return [(_finite(x), _finite(y)) for x, y in zip(first, second, strict=True)]


def _finite(reward: float) -> float | None:
    return reward if math.isfinite(reward) else None


def _higher(first: float | None, second: float | None) -> Position:
    if first is None or second is None:
        return "invalid"
    if first == second:
        return "tie"
    return "first" if first > second else "second"
