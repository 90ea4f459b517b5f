"""Newswire, shifted: the same kinds of stories with other names, places, things and ways to tell them.

An evaluation set: how much of what was learned from newswire holds outside of it. The words are in grammar_shift.py.
"""

from __future__ import annotations

from dataclasses import dataclass

from esolab.corpora.grammar_shift import EVENTS
from esolab.corpora.newswire import Newswire, Telling
from esolab.corpora.written import HeldOut


@dataclass(frozen=True)
class NewswireShift(HeldOut[Telling], Newswire):
    """The corpus: `test` is a number of examples, the limits are tokens of newswire's tokenizer."""

    name = "newswire_shift"
    events = EVENTS
