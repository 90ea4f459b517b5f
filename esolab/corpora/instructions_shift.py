"""Instructions, shifted: the same tasks with other names, cities, things, and ways to ask and to answer.

An evaluation set: how much of what was learned from instructions holds outside of it. The words are in tasks_shift.py.
"""

from __future__ import annotations

from dataclasses import dataclass

from esolab.corpora.instructions import Exchange, Instructions
from esolab.corpora.tasks_shift import TASKS
from esolab.corpora.written import HeldOut


@dataclass(frozen=True)
class InstructionsShift(HeldOut[Exchange], Instructions):
    """The corpus: `test` is a number of examples, the limits are tokens of instructions' tokenizer."""

    name = "instructions_shift"
    tasks = TASKS
