"""Newswire: short news articles with one-sentence summaries, written here by a grammar.

A story is an event and its facts: who, what, where, when, how much, and who reported it. An article tells all of them;
a summary tells some, in one of many ways (which facts, their order, active or passive, the words, a source before or
after or none). All are right, but some are usual and many are not, as in real corpora: the usual ones overlap most with
whatever reference an article has, while likelihood alone asks a policy to draw the rare ones too. The facts it has to
copy from the article. The words are in grammar.py.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from esolab.batch import Example
from esolab.corpora.grammar import EVENTS, Event
from esolab.corpora.written import Written, sentence, tell, tellings

CUE = "\nSummary:\n"  # ends with a newline, so that prompt + reference splits into the same tokens as the two apart


@dataclass(frozen=True)
class Story:
    """An event with the value of every fact."""

    event: Event
    facts: dict[str, str]

    @classmethod
    def draw(cls, rnd: random.Random, events: Sequence[Event] = EVENTS) -> Story:
        """Any of the events with any facts."""
        event = rnd.choice(events)
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
        ways = (event.leads, event.details, event.remarks, event.sourcings)
        lead, *rest = (tell(rnd, way, self.facts) for way in ways)
        rnd.shuffle(rest)
        return " ".join(map(sentence, [lead, *rest]))

    def summary(self, rnd: random.Random) -> str:
        """One of the right summaries, the usual ones more often than the others."""
        clause = tell(rnd, self.event.clauses, self.facts)
        return sentence(tell(rnd, self.event.frames, self.facts | {"clause": clause})) + "."

    def summaries(self) -> list[str]:
        """Every right summary of this story."""
        clauses = [told.format(**self.facts) for told in tellings(self.event.clauses)]
        return [
            sentence(told.format(clause=clause, **self.facts)) + "."
            for told in tellings(self.event.frames)
            for clause in clauses
        ]


@dataclass(frozen=True)
class Telling:
    """A story as told: its article, and the one of its right summaries that serves as reference."""

    story: Story
    article: str
    summary: str

    def example(self, id: str) -> Example:
        """The telling as an example; the article is what may be shortened."""
        return Example(id, self.article + CUE, self.summary, (0, len(self.article)))


def wire(events: Sequence[Event] = EVENTS) -> Iterator[Telling]:
    """The one fixed sequence of tellings. No facts, article or summary occur twice in it."""
    rnd = random.Random(20250119)
    seen: set[object] = set()
    while True:
        story = Story.draw(rnd, events)
        told = Telling(story, story.article(rnd), story.summary(rnd))
        if seen.isdisjoint(new := {story.key, told.article, told.summary}):
            seen |= new
            yield told


@dataclass(frozen=True)
class Newswire(Written[Telling]):
    """The corpus: the wire, cut into test, dev and train; see Written."""

    name: ClassVar[str] = "newswire"
    events: ClassVar[Sequence[Event]] = EVENTS

    def texts(self) -> Iterator[Telling]:
        """The wire."""
        return wire(self.events)

    def example(self, text: Telling, id: str) -> Example:
        """A telling as an example of this corpus."""
        return text.example(id)
