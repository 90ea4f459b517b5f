"""Win rates side by side (the paper's figure 2), and how they differ from that of SFT."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.table import Table

from esolab.report.folders import JUDGE_AGAIN, Judgement, Run, whole
from esolab.stats import WORTH, paired_bootstrap, verdict

HEADS = ("n", "wins", "ties", "losses", "invalid", "win rate", "95% interval", "at equal lengths", "words")
Rows = list[tuple[str, Judgement]]  # in a table: the run's name, and what was said of its answers


def win_rates(
    runs: Sequence[Run], judgements: Sequence[Judgement], names: dict[Path, str]
) -> Iterator[tuple[Table, list[str]]]:
    """For all that was judged alike one table, SFT first, and below it how the methods differ from SFT."""
    order = {run.folder.name: place for place, run in enumerate(runs)}
    groups: dict[tuple[str, ...], list[Judgement]] = {}
    for judgement in sorted(judgements, key=lambda j: order.get(j.a, len(order))):
        groups.setdefault(judgement.question, []).append(judgement)
    for question, group in groups.items():
        said = f"{question[0]}, {question[1]}: {asked(question, runs, names)}"
        rows = [(short(j.a, runs, names), j) for j in group]
        yield _table(f"{said}, in %", short(question[2], runs, names), rows), _differences(said, rows, runs)


def short(folder: str, runs: Sequence[Run], names: dict[Path, str]) -> str:
    """The name of the run in this folder, or the folder's where no such run is shown."""
    return next((names[run.folder] for run in runs if run.folder.name == folder), folder)


def asked(question: tuple[str, ...], runs: Sequence[Run], names: dict[Path, str]) -> str:
    """What was judged, in words."""
    _, _, b, judge, orders, _ = question
    both = ", both orders" if orders == "both" else ""
    return f"win rate over {short(b, runs, names)} by {named(judge, runs, names)}{both}"


def named(judge: str, runs: Sequence[Run], names: dict[Path, str]) -> str:
    """The judge's name; a reward model that is a run shown here goes by its short name."""
    for run in runs:
        judge = judge.replace(run.folder.name, names[run.folder])
    return judge


def _table(title: str, other: str, rows: Rows) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("run")
    for head in (*HEADS, f"words of {other}"):
        table.add_column(head, justify="right")
    for name, judgement in rows:
        with whole(judgement.folder / "result.json", JUDGE_AGAIN):
            table.add_row(name, *_cells(judgement))
    return table


def _cells(judgement: Judgement) -> list[str]:
    row = judgement.result
    counts = [f"{row[key]:,}" for key in ("n", "wins", "ties", "losses", "invalid")]
    words = [f"{row[key]:.2f}" for key in ("words_a", "words_b")]
    if row["win_rate"] is None:  # no verdict was valid
        return [*counts, "", "", "", *words]
    low, high = row["win_rate_95"]
    rates = ["none" if row[key] is None else f"{100 * row[key]:.2f}" for key in ("win_rate", "length_controlled")]
    return [*counts, rates[0], f"{100 * low:.2f} to {100 * high:.2f}", rates[1], *words]


def _differences(said: str, rows: Rows, runs: Sequence[Run]) -> list[str]:
    """Each run's win rate less that of the SFT run with its seed (else of the first), on the prompts of both."""
    of = {run.folder.name: run.result for run in runs}
    starts = [(name, j) for name, j in rows if j.a in of and of[j.a]["method"] == "sft"]
    lines = []
    for name, judgement in rows:
        if not starts or judgement.a in (start.a for _, start in starts):
            continue
        seed = of[judgement.a]["seed"] if judgement.a in of else None
        base, start = next(((n, s) for n, s in starts if of[s.a]["seed"] == seed), starts[0])
        ours, theirs = _points(judgement), _points(start)
        shared = [i for i in ours if i in theirs]
        if len(shared) < 2:
            lines.append(f"{said}: {name} and {base} share {len(shared)} prompts with a valid verdict: not compared.")
            continue
        interval = paired_bootstrap([ours[i] for i in shared], [theirs[i] for i in shared])
        lines.append(f"{said}: {verdict(interval, name, base, 'win-rate')}")
    return lines


def _points(judgement: Judgement) -> dict[str, float]:
    """What each valid verdict is worth to a, in points (x100), by the prompt's id."""
    verdicts = judgement.verdicts()
    with whole(judgement.folder / "judgements.jsonl", JUDGE_AGAIN):
        return {i: 100 * WORTH[said] for i, said in verdicts.items() if said != "invalid"}
