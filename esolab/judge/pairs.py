"""Two answers to each prompt, from the predictions of runs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

from pydantic import PositiveInt

from esolab.errors import BadInput

CHOSEN = "chosen"  # in the place of a run: the references, which are the chosen replies of a corpus of preferences
KEYS = ("id", "data", "decoding", "prompt", "reference", "prediction")  # of a line of predictions.jsonl
Row = dict[str, str]


@dataclass(frozen=True)
class Rows:
    """Which lines of predictions.jsonl are compared: of one corpus, under one decoding, a's first `limit` prompts.

    None is the only corpus there is; `sample`, or the first decoding where there is none of that name; all prompts.
    """

    data: str | None = None
    decoding: str | None = None
    limit: PositiveInt | None = None


@dataclass(frozen=True)
class Pair:
    """A prompt, its reference and the answers of the sides a and b; `broken` is what is wrong with the record."""

    id: str
    prompt: str
    reference: str
    a: str
    b: str
    broken: str = ""


@dataclass(frozen=True)
class Pairs:
    """The pairs of one corpus under one decoding, in the order of a's predictions."""

    data: str
    decoding: str
    pairs: Sequence[Pair]

    def fingerprint(self) -> str:
        """What tells other pairs apart: a hash of all that they say."""
        return hashlib.sha256(json.dumps([astuple(pair) for pair in self.pairs]).encode()).hexdigest()


def read_pairs(a: str, b: str, rows: Rows) -> Pairs:
    """Pair the answers in the folder `a` by id with those in the folder `b`, or with the references (`b` is "chosen").

    Raises:
        BadInput: a folder without such predictions, damaged ones, or other prompts in a than in b.
    """
    said_a, said_b = f"a={a}", f"b={b}"
    data, decoding, ours = _answers(said_a, Path(a), rows)
    theirs = {i: {**row, "prediction": row["reference"].strip()} for i, row in ours.items()}
    if b != CHOSEN:
        theirs = _answers(said_b, Path(b), Rows(data, decoding))[2]
    wanted = list(ours)[: rows.limit]
    more = [] if rows.limit is not None and rows.limit <= len(ours) else [i for i in theirs if i not in ours]
    if apart := [i for i in wanted if i not in theirs] + more:
        raise BadInput(_unlike(said_a, said_b, ours, theirs, apart[0]))
    for i in wanted:
        if ours[i]["prompt"] != theirs[i]["prompt"]:
            raise BadInput(
                f"{said_b}: prompt {i!r} is not that of {said_a}; give runs with the same data, template and max_prompt"
            )
    said = [(i, ours[i], theirs[i]["prediction"]) for i in wanted]
    pairs = [Pair(i, r["prompt"], r["reference"], r["prediction"], text, r["broken"]) for i, r, text in said]
    return Pairs(data, decoding, pairs)


def _unlike(said_a: str, said_b: str, ours: dict[str, Row], theirs: dict[str, Row], one: str) -> str:
    """What to say of two sides that answered other prompts."""
    side = said_a if one in ours else said_b
    counts = f"{said_a} has {len(ours)} prompts, {said_b} {len(theirs)}, {one!r} is in {side} alone"
    way_out = f"limit={min(len(ours), len(theirs))}, or " if len(ours) != len(theirs) else ""
    return f"{counts}; give {way_out}runs that answered the same prompts"


def _answers(said: str, folder: Path, rows: Rows) -> tuple[str, str, dict[str, Row]]:
    """Corpus, decoding, and the rows by id, in their order."""
    lines = _lines(said, folder / "predictions.jsonl")
    there = list(dict.fromkeys(row["data"] for row in lines))
    if rows.data is None and len(there) > 1:
        raise BadInput(f"{said}: answered {', '.join(there)}; give data=NAME, one of them")
    data = _one_of(said, "data", there, rows.data or there[0])
    lines = [row for row in lines if row["data"] == data]
    there = list(dict.fromkeys(row["decoding"] for row in lines))
    decoding = _one_of(said, "decoding", there, rows.decoding or ("sample" if "sample" in there else there[0]))
    lines = [row for row in lines if row["decoding"] == decoding]
    found = {row["id"]: row for row in lines}
    if len(found) < len(lines):
        raise BadInput(f"{said}: the same id more than once among {len(lines)} answers; give a run without")
    return data, decoding, found


def _one_of(said: str, key: str, there: Iterable[str], wanted: str) -> str:
    if wanted not in there:
        raise BadInput(f"{said}: no answers with {key}={wanted}; give {key}=NAME, one of {', '.join(there)}")
    return wanted


def _lines(said: str, file: Path) -> list[Row]:
    """The lines of predictions.jsonl, what is compared of each."""
    rows: list[Row] = []
    try:
        with file.open(encoding="utf-8") as stream:
            rows.extend(_row(said, json.loads(line)) for line in stream)
    except OSError as error:
        raise BadInput(
            f"{said}: cannot read its predictions.jsonl ({error.strerror}); give the folder of a finished run or of "
            "python -m esolab.evaluate"
        ) from error
    except (ValueError, TypeError, KeyError) as error:
        why = f"no {error}" if isinstance(error, KeyError) else str(error)
        place = f"{said}: line {len(rows) + 1} of its predictions.jsonl"
        raise BadInput(f"{place} is damaged ({why}); repeat the run with rerun=true") from error
    if not rows:
        raise BadInput(f"{said}: its predictions.jsonl is empty; give a run that answered a prompt")
    return rows


def _row(said: str, line: Any) -> Row:
    if line["decoding"] == "preference":
        raise BadInput(
            f"{said}: holds no answers, a reward model scored pairs there; give the run of a model that answers"
        )
    row = {**{key: line[key] for key in KEYS}, "broken": line.get("broken", "")}
    for key, value in row.items():
        if not isinstance(value, str):
            raise TypeError(f"{key} is no text: {value!r}")
    return row
