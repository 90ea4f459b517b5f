"""What a corpus is: limits in tokens, and a call that returns its three splits as examples."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from esolab.batch import Example


@dataclass(frozen=True)
class Splits:
    """A corpus, read. An evaluation set has neither `train` nor `dev`."""

    test: list[Example]
    train: list[Example] = field(default_factory=list)
    dev: list[Example] = field(default_factory=list)
    origin: str = ""  # where it was read from or how it was made, in words
    cut: str = ""  # how the splits were made, in words
    skipped: int = 0  # records left out: bad ones (skip_bad=true), and what the corpus itself does without
    cut_long: bool = False  # over-long training prompts lose their left, as test prompts do, and are not dropped


@runtime_checkable
class Corpus(Protocol):
    """Anything with token limits that gives splits when it is called; order and splits are deterministic."""

    @property
    def max_prompt(self) -> int:
        """Tokens of a prompt."""
        ...

    @property
    def max_response(self) -> int:
        """Tokens of a response, the end-of-text token included."""
        ...

    def __call__(self) -> Splits:
        """Read or make the corpus. Raises BadInput naming file, line, value and way out."""
        ...

    def fingerprint(self) -> str:
        """A hash of the local files that would be read, "" where none are (the corpus is made here or on the hub)."""
        ...
