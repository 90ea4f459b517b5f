"""Instructions: short everyday tasks with one of their many right answers, written here by a grammar.

A task is asked for in one of many ways, some with an input, in the Alpaca form; the facts are in the prompt. As in
newswire, every reference is one of dozens of right answers, some usual, many rare: the usual ones overlap most with
whatever reference a prompt has, while likelihood alone asks a policy to draw the rare ones too. The words are in
tasks.py.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from esolab.batch import Example
from esolab.corpora.alpaca import alpaca
from esolab.corpora.tasks import TASKS, Task
from esolab.corpora.written import Written, sentence, tell, tellings


@dataclass(frozen=True)
class Request:
    """A task with the value of every fact, and of what follows from the facts."""

    task: Task
    facts: dict[str, str]

    @classmethod
    def draw(cls, rnd: random.Random, tasks: Sequence[Task] = TASKS) -> Request:
        """Any of the tasks with any facts, no two the same."""
        task = rnd.choice(tasks)
        facts = {name: rnd.choice(values) for name, values in task.facts.items()}
        while len(set(facts.values())) < len(facts):
            facts = {name: rnd.choice(values) for name, values in task.facts.items()}
        return cls(task, task.derive(facts))

    @property
    def key(self) -> tuple[str, ...]:
        """The combination of facts, as something that can be compared."""
        return (self.task.name, *self.facts.values())

    def instruction(self, rnd: random.Random) -> str:
        """One of the ways to ask."""
        return sentence(tell(rnd, self.task.instructions, self.facts))

    def input(self, rnd: random.Random) -> str:
        """One of the ways to lay out the input, "" where the task has none."""
        return sentence(tell(rnd, self.task.inputs, self.facts)) if self.task.inputs else ""

    def answer(self, rnd: random.Random) -> str:
        """One of the right answers, the usual ones more often than the others."""
        return sentence(tell(rnd, self.task.answers, self.facts))

    def answers(self) -> list[str]:
        """Every right answer to this request."""
        return [sentence(told.format(**self.facts)) for told in tellings(self.task.answers)]


@dataclass(frozen=True)
class Exchange:
    """A request as made, and the one of its right answers that serves as reference."""

    request: Request
    instruction: str
    input: str
    answer: str

    def example(self, id: str) -> Example:
        """The exchange in the Alpaca form."""
        return alpaca(self.instruction, self.input, self.answer, id)


def exchanges(tasks: Sequence[Task] = TASKS) -> Iterator[Exchange]:
    """The one fixed sequence of exchanges. No facts, prompt or answer occur twice in it."""
    rnd = random.Random(20250120)
    seen: set[object] = set()
    while True:
        request = Request.draw(rnd, tasks)
        made = Exchange(request, request.instruction(rnd), request.input(rnd), request.answer(rnd))
        if seen.isdisjoint(new := {request.key, (made.instruction, made.input), made.answer}):
            seen |= new
            yield made


@dataclass(frozen=True)
class Instructions(Written[Exchange]):
    """The corpus: the exchanges, cut into test, dev and train; see Written."""

    name: ClassVar[str] = "instructions"
    tasks: ClassVar[Sequence[Task]] = TASKS

    def texts(self) -> Iterator[Exchange]:
        """The exchanges."""
        return exchanges(self.tasks)

    def example(self, text: Exchange, id: str) -> Example:
        """An exchange as an example of this corpus."""
        return text.example(id)
