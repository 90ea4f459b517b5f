"""A reward as the judge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import PositiveInt

from esolab.errors import BadInput
from esolab.judge.question import Position, Question
from esolab.rewards.base import usable


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
        """The reward's name."""
        return str(getattr(self.reward, "__name__", type(self.reward).__name__))

    def verdicts(self, questions: Sequence[Question], folder: Path) -> list[Position]:
        """One verdict a question, in their order; nothing is kept."""
        found: list[Position] = []
        for start in range(0, len(questions), self.batch_size):
            found += self._batch(questions[start : start + self.batch_size])
        return found

    def _batch(self, questions: Sequence[Question]) -> list[Position]:
        prompts, references = [q.pair.prompt for q in questions], [q.pair.reference for q in questions]
        raw = self.reward(prompts, [[q.first, q.second] for q in questions], references)
        rewards, good = usable(raw, len(questions), 2)
        both = zip(rewards.tolist(), good.all(1).tolist(), strict=True)
        return [_higher(*row) if fine else "invalid" for row, fine in both]


def _higher(first: float, second: float) -> Position:
    if first == second:
        return "tie"
    return "first" if first > second else "second"
