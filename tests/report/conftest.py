"""Folders of runs and of judgements, made by hand."""

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from esolab.report.__main__ import main

Make = Callable[..., Path]


@pytest.fixture
def run(tmp_path: Path) -> Make:
    """Make a run; `answers` are texts with their ROUGE-L (0 to 1) by the prompt's id, `metrics` rows of metrics.csv."""

    def make(
        name: str,
        answers: Mapping[str, tuple[str, float]] | None = None,
        metrics: Sequence[Mapping[str, Any]] = (),
        data: str = "hh",
        decoding: str = "sample",
        prompt: str = "Prompt {}?",
        **result: Any,
    ) -> Path:
        method = name.partition("method=")[2].partition(",")[0].partition("-")[0]
        answers = answers or {}
        row = {"n": len(answers), "rouge1": 1.0, "rouge2": 1.0, "rougeL": 1.0, "gleu": 1.0, "length": 3.0}
        common = {"schema": 1, "model": "tiny", "data": data, "protocol": "paper", "seed": 0, "setting": method}
        found = {
            **common,
            "method": method,
            "scores": {data: {decoding: row}} if answers else {},
            "train": {},
            **result,
        }
        folder = tmp_path / name
        folder.mkdir(parents=True)
        (folder / "result.json").write_text(json.dumps(found))
        where = {"data": data, "decoding": decoding}
        rows = [
            {
                "id": i,
                **where,
                "prompt": prompt.format(i),
                "reference": f"right {i}",
                "prediction": text,
                "rougeL": rouge,
            }
            for i, (text, rouge) in answers.items()
        ]
        (folder / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        with (folder / "metrics.csv").open("w", newline="") as file:
            heads = dict.fromkeys(["step", "epoch", *(key for row in metrics for key in row)])
            writer = csv.DictWriter(file, list(heads))
            writer.writeheader()
            writer.writerows(metrics)
        return folder

    return make


@pytest.fixture
def judgement(tmp_path: Path) -> Make:
    """Make a judgement of the run in the folder `a`, with a verdict an id, and the rewards of a and b if there are."""

    def make(
        a: Path,
        verdicts: Mapping[str, str],
        rewards: Mapping[str, tuple[float | None, float | None]] | None = None,
        place: str = "judge",
        **result: Any,
    ) -> Path:
        said = list(verdicts.values())
        names = {"wins": "a", "losses": "b", "ties": "tie", "invalid": "invalid"}
        counts = {name: said.count(verdict) for name, verdict in names.items()}
        valid = len(said) - counts["invalid"]
        rate = (counts["wins"] + counts["ties"] / 2) / valid if valid else None
        found = {
            "schema": 1, "a": f"elsewhere/{a.name}", "b": "chosen", "judge": "gpt", "data": "hh", "decoding": "sample",
            "orders": "one", "n": len(said), **counts, "win_rate": rate,
            "win_rate_95": [0.125, 0.875] if valid else None, "length_controlled": 0.375 if valid else None,
            "words_a": 5.5, "words_b": 7.25, **result,
        }  # fmt: skip
        number = len(list((tmp_path / place).glob("*")))
        folder = tmp_path / place / f"{a.name[:20]}-vs-{number}"
        folder.mkdir(parents=True)
        (folder / "result.json").write_text(json.dumps(found))
        rows = [json.dumps({"id": i, "verdict": verdict}) + "\n" for i, verdict in verdicts.items()]
        (folder / "judgements.jsonl").write_text("".join(rows))
        if rewards is not None:
            rows = [json.dumps({"id": i, "a": ours, "b": theirs}) + "\n" for i, (ours, theirs) in rewards.items()]
            (folder / "rewards.jsonl").write_text("".join(rows))
        return folder

    return make


@pytest.fixture
def say(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """What the report of a folder, or of all, prints, given further arguments; it must succeed."""
    monkeypatch.setenv("COLUMNS", "200")

    def report(*arguments: str, folder: Path = tmp_path) -> str:
        assert main([str(folder), *arguments]) == 0
        out, err = capsys.readouterr()
        assert err == ""
        return out

    return report


@pytest.fixture
def refuse(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """What bad input gets to hear: one line, nothing else, exit code 2."""

    def report(*arguments: str) -> str:
        assert main([str(tmp_path), *arguments]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("esolab: report: ")
        assert err.count("\n") == 1
        return err.removeprefix("esolab: report: ").removesuffix("\n")

    return report


def cells(text: str, name: str) -> list[str]:
    """The cells of the one row that begins with this name, or of a heading."""
    rows = [
        [cell.strip() for cell in line.strip("│┃").split(line[0])] for line in text.splitlines() if line[:1] in "│┃"
    ]
    (found,) = (row for row in rows if row[0] == name)
    return found


@pytest.fixture(name="cells")
def _cells() -> Callable[[str, str], list[str]]:
    return cells
