"""Newswire: short news articles with one-sentence summaries, written here by a grammar.

A story is an event and its facts: who, what, where, when, how much, and who reported it. An article tells all of them;
a summary tells some, in one of many ways (which facts, their order, active or passive, the words, a source before or
after or none). All are right, but some are usual and many are not, as in real corpora: the usual ones overlap most with
whatever reference an article has, while likelihood alone asks a policy to draw the rare ones too. The facts it has to
copy from the article. The words are in grammar.py.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import islice, product
from typing import ClassVar

from esolab.batch import Example
from esolab.corpora.base import Splits
from esolab.corpora.grammar import EVENTS, FRAMES, SOURCINGS, Event
from esolab.errors import BadInput

CUE = "\nSummary:\n"  # ends with a newline, so that prompt + reference splits into the same tokens as the two apart
LARGEST = 50_000  # examples in all: up to here about 1 draw in 250 is a repeat


@cache
def _choices(template: str) -> list[list[str]]:
    """A template as a row of choices; plain text is a choice of one."""
    return [piece.split("|") for piece in re.split(r"[\[\]]", template)]


def _draw(rnd: random.Random, options: list[str]) -> str:
    """One of the options: the second is half as likely as the first, the third a third, as words are (Zipf's law)."""
    return rnd.choices(options, [1 / rank for rank in range(1, len(options) + 1)])[0]


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]


@dataclass(frozen=True)
class Story:
    """An event with the value of every fact."""

    event: Event
    facts: dict[str, str]

    @classmethod
    def draw(cls, rnd: random.Random) -> Story:
        """Any event with any facts."""
        event = rnd.choice(EVENTS)
        facts = {name: rnd.choice(values) for name, values in event.choices.items()}
        while facts.get("rival") == facts["place"]:
            facts["rival"] = rnd.choice(event.choices["rival"])
        return cls(event, facts)

    @property
    def key(self) -> tuple[str, ...]:
        """The combination of facts, as something that can be compared."""
        return (self.event.name, *self.facts.values())

    def article(self, rnd: random.Random) -> str:
        """The story told in full, in one of many ways."""
        event = self.event
        lead, *rest = (self._tell(rnd, way) for way in (event.leads, event.details, event.remarks, SOURCINGS))
        rnd.shuffle(rest)
        return " ".join(map(_sentence, [lead, *rest]))

    def summary(self, rnd: random.Random) -> str:
        """One of the right summaries, the usual ones more often than the others."""
        clause = self._tell(rnd, self.event.clauses)
        return _sentence(self._tell(rnd, FRAMES, clause)) + "."

    def summaries(self) -> list[str]:
        """Every right summary of this story."""
        clauses = [told.format(**self.facts) for told in _tellings(self.event.clauses)]
        return [
            _sentence(told.format(clause=clause, **self.facts)) + "."
            for told in _tellings(FRAMES)
            for clause in clauses
        ]

    def _tell(self, rnd: random.Random, templates: list[str], clause: str = "") -> str:
        told = "".join(_draw(rnd, options) for options in _choices(_draw(rnd, templates)))
        return told.format(clause=clause, **self.facts)


def _tellings(templates: list[str]) -> list[str]:
    """Everything that the templates can become, facts left open."""
    return ["".join(told) for template in templates for told in product(*_choices(template))]


@dataclass(frozen=True)
class Telling:
    """A story as told: its article, and the one of its right summaries that serves as reference."""

    story: Story
    article: str
    summary: str

    def example(self, id: str) -> Example:
        """The telling as an example; the article is what may be shortened."""
        return Example(id, self.article + CUE, self.summary, (0, len(self.article)))


def wire() -> Iterator[Telling]:
    """The one fixed sequence of tellings. No facts, article or summary occur twice in it."""
    rnd = random.Random(20250119)
    seen: set[object] = set()
    while True:
        story = Story.draw(rnd)
        told = Telling(story, story.article(rnd), story.summary(rnd))
        if seen.isdisjoint(new := {story.key, told.article, told.summary}):
            seen |= new
            yield told


@dataclass(frozen=True)
class Newswire:
    """The corpus: `train`, `dev` and `test` are numbers of examples, the limits are tokens.

    The wire is cut into test, dev and train, in this order: the test split is the same whatever the size of the others.
    """

    name: ClassVar[str] = "newswire"

    max_prompt: int
    max_response: int
    train: int
    dev: int
    test: int

    def __call__(self) -> Splits:
        """Write the corpus. Raises BadInput for sizes below zero, an empty test split or more than LARGEST."""
        sizes = {"test": self.test, "dev": self.dev, "train": self.train}
        for name, size in sizes.items():
            if size < (name == "test"):
                raise BadInput(f"data.{name}={size}: {self.name} needs train >= 0, dev >= 0 and test >= 1 examples.")
        if (total := sum(sizes.values())) > LARGEST:
            raise BadInput(
                f"{self.name}: {total:,} examples are asked for, the grammar gives {LARGEST:,}. Lower data.train."
            )
        stories = wire()
        test, dev, train = (
            [self.example(told, f"{self.name}/{split}/{i}") for i, told in enumerate(islice(stories, size))]
            for split, size in sizes.items()
        )
        return Splits(test, train, dev, "written by esolab's grammar", "test, dev, train, in the order of writing")

    def example(self, told: Telling, id: str) -> Example:
        """A telling as an example of this corpus."""
        return told.example(id)

    def fingerprint(self) -> str:
        """Nothing is read from disk."""
        return ""
