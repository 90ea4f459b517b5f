"""What the corpora written here share: templates that are drawn from, and one sequence of texts cut into splits."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from itertools import islice, product
from typing import ClassVar, Generic, TypeVar

from esolab.batch import Example
from esolab.corpora.base import Splits
from esolab.errors import BadInput

LARGEST = 50_000  # examples in all: up to here 1 draw in 250 (newswire) or in 36 (instructions) is a repeat

Text = TypeVar("Text")


@cache
def _choices(template: str) -> list[list[str]]:
    """A template as a row of choices; plain text is a choice of one."""
    return [piece.split("|") for piece in re.split(r"[\[\]]", template)]


def _draw(rnd: random.Random, options: list[str]) -> str:
    """One of the options: the second is half as likely as the first, the third a third, as words are (Zipf's law)."""
    return rnd.choices(options, [1 / rank for rank in range(1, len(options) + 1)])[0]


def tell(rnd: random.Random, templates: list[str], facts: dict[str, str]) -> str:
    """One of the templates with its choices made and the facts in their places, the usual more often than the rest."""
    return "".join(_draw(rnd, options) for options in _choices(_draw(rnd, templates))).format(**facts)


def tellings(templates: list[str]) -> list[str]:
    """Everything that the templates can become, facts left open."""
    return ["".join(told) for template in templates for told in product(*_choices(template))]


def sentence(text: str) -> str:
    """The text with a capital at its beginning."""
    return text[0].upper() + text[1:]


@dataclass(frozen=True)
class Written(Generic[Text]):
    """A corpus written by a grammar: `train`, `dev` and `test` are numbers of examples, the limits are tokens.

    One fixed sequence is cut into test, dev and train, in this order: the test split is the same whatever the size of
    the others.
    """

    name: ClassVar[str]

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
                f"{self.name}: {total:,} examples are asked for, the grammar gives {LARGEST:,}. "
                f"Lower data.{max(sizes, key=sizes.__getitem__)}."
            )
        texts = self.texts()
        test, dev, train = (
            [self.example(text, f"{self.name}/{split}/{i}") for i, text in enumerate(islice(texts, size))]
            for split, size in sizes.items()
        )
        return Splits(test, train, dev, "written by esolab's grammar", "test, dev, train, in the order of writing")

    def texts(self) -> Iterator[Text]:
        """The one fixed sequence, without end."""
        raise NotImplementedError

    def example(self, text: Text, id: str) -> Example:
        """A text of the sequence as an example of this corpus."""
        raise NotImplementedError

    def fingerprint(self) -> str:
        """Nothing is read from disk."""
        return ""


@dataclass(frozen=True)
class HeldOut(Written[Text]):
    """An evaluation set: all that is written is test."""

    train: int = field(init=False, default=0)
    dev: int = field(init=False, default=0)
