"""The same prompts' answers by several runs (the paper's table 6), picked by rule, never by hand."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from esolab.errors import BadInput
from esolab.report.folders import JUDGE_AGAIN, Judgement, Prompt, Run, answered, label, whole
from esolab.report.wins import asked, named

By = Literal["disagreement", "reward", "random"]
PROMPT = 600  # characters of a prompt that are shown, its end, which the answers go on from
OUTCOMES = {"a": "won", "b": "lost"}  # of a verdict, for a
Numbers = dict[Path, dict[str, float]]  # of a run's answers, by the prompt's id


@dataclass(frozen=True)
class Cases:
    """Which prompts are shown: `n` by a rule, of one corpus under one decoding.

    None is the only corpus that was answered; `sample`, or the first decoding where there is none of that name.
    """

    n: int
    by: By = "disagreement"
    seed: int = 0
    data: str | None = None
    decoding: str | None = None


@dataclass(frozen=True)
class Side:
    """A run, and its answers to the prompts of one corpus under one decoding: texts, and ROUGE-L in points (x100)."""

    run: Run
    texts: dict[Prompt, str]
    rouge: dict[Prompt, float]


def show_cases(runs: Sequence[Run], judgements: Sequence[Judgement], cases: Cases, console: Console) -> None:
    """Print the rule, and for each prompt that it picks the prompt, its reference, and each run's answer with scores.

    Raises:
        BadInput: no two runs answered the same prompts, or the rule needs rewards that are not there.
    """
    data, decoding, sides = _sides(runs, cases)
    names = label(runs)
    about = [j for j in judgements if j.question[:2] == (data, decoding)]
    judge, rewards = _rewards(about, runs) if cases.by == "reward" else ("", {})
    rule, ranks = _ranks(cases, sides, named(judge, runs, names), rewards)
    picked = sorted(ranks, key=lambda prompt: -ranks[prompt])[: cases.n]
    compared = ", ".join(names[side.run.folder] for side in sides)
    head = f"{len(picked)} of {len(ranks):,} prompts of {data}, {decoding}, to which {compared} have answers: {rule}"
    console.print(Text(head), soft_wrap=True)
    won = {asked(q, runs, names): _verdicts(about, q) for q in dict.fromkeys(j.question for j in about)}
    for number, prompt in enumerate(picked):
        why = "" if cases.by == "random" else f", {ranks[prompt]:.2f}"
        console.print(Text(f"\ncase {number + 1} of {len(picked)}: {escaped(prompt[0])}{why}", "bold"), soft_wrap=True)
        console.print(Text(shortened(prompt[1])), soft_wrap=True)
        console.print(_table(prompt, sides, names, rewards, won))


def _ranks(cases: Cases, sides: Sequence[Side], judge: str, rewards: Numbers) -> tuple[str, dict[Prompt, float]]:
    """The rule in words, and what it ranks prompts by, the highest first; of equals the first run's first."""
    prompts = [prompt for prompt in sides[0].texts if all(prompt in side.texts for side in sides)]
    if not prompts:
        folders = ", ".join(str(side.run.folder) for side in sides)
        raise BadInput(f"report: no prompt was answered by all of {folders}; name runs with the same data, max_prompt")
    if cases.by == "random":
        return f"random with seed {cases.seed}", {prompt: drawn(cases.seed, prompt) for prompt in prompts}
    if cases.by == "disagreement":
        rule = "the largest spread of ROUGE-L, the highest less the lowest of the answers', in points"
        return rule, {prompt: _spread([side.rouge[prompt] for side in sides]) for prompt in prompts}
    found = [rewards[side.run.folder] for side in sides if side.run.folder in rewards]
    known = [prompt for prompt in prompts if all(prompt[0] in numbers for numbers in found)]
    if len(found) < 2 or not known:
        raise BadInput(
            "report: --by reward: no two of the runs have rewards of answers to the same prompts; leave some with "
            "python -m esolab.judge a=RUN b=chosen judge=preference judge.reward=DIR, and name those folders, too"
        )
    rule = f"the largest gap of reward by {judge}, the highest less the lowest of the answers'"
    return rule, {prompt: _spread([numbers[prompt[0]] for numbers in found]) for prompt in known}


def _sides(runs: Sequence[Run], cases: Cases) -> tuple[str, str, list[Side]]:
    """The corpus, the decoding, and the runs that answered it so."""
    there = list(dict.fromkeys(data for run in runs for data in run.result["scores"] if _decodings(run, data)))
    if cases.data is None and len(there) > 1:
        raise BadInput(f"report: the runs answered {', '.join(there)}; give --data NAME, one of them")
    if cases.data is not None and there and cases.data not in there:
        raise BadInput(f"report: --data {cases.data}: no run answered it; give one of {', '.join(there)}")
    data = cases.data or (there[0] if there else "")
    hows = list(dict.fromkeys(how for run in runs for how in _decodings(run, data)))
    decoding = cases.decoding or ("sample" if "sample" in hows or not hows else hows[0])
    if hows and decoding not in hows:
        raise BadInput(f"report: --decoding {decoding}: no run answered {data} so; give one of {', '.join(hows)}")
    sides = [_side(run, data, decoding) for run in runs if decoding in _decodings(run, data)]
    if len(sides) < 2:
        found = f"only {sides[0].run.folder} has answers" if sides else "there are none"
        raise BadInput(f"report: --cases compares the answers of several runs, and {found}; name the folders of more")
    return data, decoding, sides


def _decodings(run: Run, data: str) -> list[str]:
    return list(answered(run.result["scores"], data))


def _side(run: Run, data: str, decoding: str) -> Side:
    answers = run.answers(data, decoding)
    with whole(run.folder / "predictions.jsonl"):
        texts = {prompt: str(row["prediction"]) for prompt, row in answers.items()}
    return Side(run, texts, run.scores(data, decoding, "rougeL"))


def drawn(seed: int, prompt: Prompt) -> float:
    """Counted, not drawn: it depends neither on the other prompts nor on how many there are."""
    return int.from_bytes(hashlib.sha256(f"case {seed} {prompt[0]}".encode()).digest()[:6]) / 2**48


def _spread(values: Sequence[float]) -> float:
    return max(values) - min(values)


def _rewards(about: Sequence[Judgement], runs: Sequence[Run]) -> tuple[str, Numbers]:
    """A judge, and the rewards it gave to runs' answers on either side of its judgements: the judge of most runs."""
    by_judge: dict[str, Numbers] = {}
    for judgement in about:
        rows = judgement.rewards()
        for side, place in (("a", judgement.a), ("b", judgement.question[2])):
            with whole(judgement.folder / "rewards.jsonl", JUDGE_AGAIN):
                numbers = {i: float(reward) for i, row in rows.items() if (reward := row[side]) is not None}
            for run in runs:
                if run.folder.name == place:
                    by_judge.setdefault(judgement.result["judge"], {}).setdefault(run.folder, {}).update(numbers)
    return max(by_judge.items(), key=lambda item: len(item[1]), default=("", {}))


def _verdicts(about: Sequence[Judgement], question: tuple[str, ...]) -> dict[str, dict[str, str]]:
    """What was said of each run's answers, by the name of its folder and the prompt's id."""
    return {j.a: j.verdicts() for j in about if j.question == question}


def _table(
    prompt: Prompt,
    sides: Sequence[Side],
    names: dict[Path, str],
    rewards: Numbers,
    won: dict[str, dict[str, dict[str, str]]],
) -> Table:
    table = Table(show_lines=True)
    table.add_column("run", max_width=30)
    table.add_column("answer", min_width=20)
    for head in ("ROUGE-L", "words", *(["reward"] if rewards else []), *won):
        table.add_column(head, justify="right", max_width=22)
    table.add_row("reference", Text(escaped(prompt[2].strip())), "", f"{len(prompt[2].split())}")
    for side in sides:
        text, folder = side.texts[prompt], side.run.folder
        cells = [f"{side.rouge[prompt]:.2f}", f"{len(text.split())}"]
        if rewards:
            reward = rewards.get(folder, {}).get(prompt[0])
            cells.append("" if reward is None else f"{reward:.3f}")
        verdicts = [by_run.get(folder.name, {}).get(prompt[0], "") for by_run in won.values()]
        table.add_row(names[folder], Text(escaped(text)), *cells, *(OUTCOMES.get(said, said) for said in verdicts))
    return table


def escaped(text: str) -> str:
    """The text with what could move or colour a terminal, or is no character, as escapes; lines stay lines."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


def shortened(text: str) -> str:
    """The end of a prompt, after how much was cut."""
    cut = len(text) - PROMPT
    return escaped(text) if cut <= 0 else f"[{cut:,} of {len(text):,} characters cut] {escaped(text[cut:])}"
