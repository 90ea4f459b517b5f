"""From verdicts to a win rate, and to how far two judges agree."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.markup import escape
from rich.table import Table

from esolab.errors import BadInput
from esolab.judge.pairs import Pairs
from esolab.judge.question import Position, Question
from esolab.results import read_lines
from esolab.stats import WORTH, cohens_kappa, length_controlled, wilson

SCHEMA = 1
NAMES = {"a": "wins", "b": "losses", "tie": "ties", "invalid": "invalid"}


@dataclass(frozen=True)
class Item:
    """What was said of one pair: the winner (a, b, tie or invalid) in each order that was asked."""

    questions: Sequence[Question]
    winners: Sequence[str]

    @property
    def flipped(self) -> bool:
        """Whether valid verdicts differ with the order."""
        return "invalid" not in self.winners and len(set(self.winners)) > 1

    @property
    def verdict(self) -> str:
        """The winner: invalid if a verdict is, a tie if it flips with the order."""
        if "invalid" in self.winners:
            return "invalid"
        return "tie" if self.flipped else self.winners[0]

    @property
    def words(self) -> tuple[int, int]:
        """The lengths of both answers, in words."""
        pair = self.questions[0].pair
        return len(pair.a.split()), len(pair.b.split())

    def line(self) -> dict[str, Any]:
        """The item as judgements.jsonl keeps it."""
        orders, (words_a, words_b) = [question.order for question in self.questions], self.words
        said = {"orders": orders, "verdicts": list(self.winners), "verdict": self.verdict}
        return {"id": self.questions[0].pair.id, **said, "words_a": words_a, "words_b": words_b}


def items(asked: Sequence[Sequence[Question]], verdicts: Sequence[Position]) -> list[Item]:
    """The verdicts, of all questions in a row, with the questions of their pairs."""
    said = iter(verdicts)
    return [Item(group, [question.winner(next(said)) for question in group]) for group in asked]


def summarise(judged: Sequence[Item]) -> dict[str, Any]:
    """The judgement in numbers: counts, rates as shares, mean lengths in words; None where there is nothing to count.

    broken: records of the corpus with an empty reply, or replies to two prompts; they are judged like the others.
    win_rate: wins and half of the ties over the valid items, with its 95% Wilson interval; wins_per_n: wins over all.
    length_controlled: the win rate at equal lengths, see `stats.length_controlled`. flips: the share of items whose
    verdict changed with the order, of those with valid verdicts in both.
    """
    counts = Counter(item.verdict for item in judged)
    valid = [item for item in judged if item.verdict != "invalid"]
    worth = [WORTH[item.verdict] for item in valid]
    interval = wilson(sum(worth), len(valid)) if valid else None
    twice = [item.flipped for item in valid if len(item.questions) == 2]
    return {
        "n": len(judged),
        "broken": sum(bool(item.questions[0].pair.broken) for item in judged),
        **{name: counts[key] for key, name in NAMES.items()},
        "win_rate": interval.estimate if interval else None,
        "win_rate_95": [interval.low, interval.high] if interval else None,
        "wins_per_n": counts["a"] / len(judged),
        "length_controlled": length_controlled(worth, [i.words[0] - i.words[1] for i in valid]) if valid else None,
        "words_a": fmean(item.words[0] for item in judged),
        "words_b": fmean(item.words[1] for item in judged),
        "flips": fmean(twice) if twice else None,
    }


def heading(result: dict[str, Any]) -> str:
    """What was compared, in a line."""
    return f"{result['a']} against {result['b']}: {result['n']:,} prompts of {result['data']}, {result['decoding']}"


def table(result: dict[str, Any]) -> Table:
    """A judgement for people; shares as percentages."""
    made = Table("", escape(result["judge"]))
    made.columns[1].justify = "right"
    for key in NAMES.values():
        made.add_row(key, f"{result[key]:,}")
    if result["broken"]:
        made.add_row("broken records among them", f"{result['broken']:,}")
    low, high = result["win_rate_95"] or (None, None)
    made.add_row("win rate, ties as half, of valid", _percent(result["win_rate"]))
    made.add_row("95% interval (Wilson)", f"{_percent(low)} to {_percent(high)}")
    made.add_row("wins of all", _percent(result["wins_per_n"]))
    outside = result["length_controlled"] is None and result["win_rate"] is not None
    at_equal = "none: one side is always longer" if outside else _percent(result["length_controlled"])
    made.add_row("win rate at equal lengths", at_equal)
    made.add_row("words of a, of b", f"{result['words_a']:.2f}, {result['words_b']:.2f}")
    if result["orders"] == "both":
        made.add_row("verdicts that flip with the order", _percent(result["flips"]))
    if (agreed := result["agreement"]) is not None:
        kappa = "undefined" if agreed["kappa"] is None else f"{agreed['kappa']:.3f}"
        made.add_row(
            "agreement, Cohen's kappa", f"{_percent(agreed['share'])}, {kappa} ({agreed['n']:,} valid in both)"
        )
    return made


def _percent(share: float | None) -> str:
    return "none" if share is None else f"{100 * share:.2f}%"


def agreement(judged: Sequence[Item], other: dict[str, str]) -> dict[str, Any]:
    """How often another judgement has the same verdict, as a share, and Cohen's kappa (None where it is undefined).

    Both are over the `n` items with a valid verdict in both.
    """
    both = [(item.verdict, other[item.questions[0].pair.id]) for item in judged]
    valid = [pair for pair in both if "invalid" not in pair]
    kappa = cohens_kappa([ours for ours, _ in valid], [theirs for _, theirs in valid]) if valid else None
    return {"share": fmean(x == y for x, y in valid) if valid else None, "kappa": kappa, "n": len(valid)}


def read_verdicts(folder: Path, pairs: Pairs) -> dict[str, str]:
    """The verdicts of another judgement of these pairs by id.

    Raises:
        BadInput: it is not finished, damaged, or of other pairs.
    """
    try:
        result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
        found = {str(row["id"]): str(row["verdict"]) for row in read_lines(folder / "judgements.jsonl")}
        same = result["pairs"] == pairs.fingerprint() and found.keys() == {pair.id for pair in pairs.pairs}
    except (OSError, ValueError, KeyError, TypeError) as error:
        why = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise BadInput(f"agreement={folder}: no finished judgement ({why}); give a folder of outputs/judge") from error
    if not same:
        raise BadInput(f"agreement={folder}: judges other pairs; give a judgement of the same a, b and rows")
    return found
