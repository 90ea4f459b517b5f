"""Runs side by side: their names, and what is averaged over seeds."""

import json
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from esolab.report import show
from esolab.report.folders import Run, label, read


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two methods with three seeds each, and a third with one; ROUGE-L at `sample` is 10 * method + seed."""
    for m, method in enumerate(("sft", "eso", "drl")):
        for seed in range(3 if method != "drl" else 1):
            row = {"n": 2, "rouge1": 1.0, "rouge2": 1.0, "rougeL": 10.0 * m + seed, "gleu": 1.0, "length": 3.0}
            tokens = {f"{kind}_tokens": 100 * m + seed for kind in ("sampled", "scored", "forward", "backward")}
            result: dict[str, Any] = {
                "schema": 1,
                "method": method,
                "model": "tiny",
                "data": "d",
                "protocol": "paper",
                "seed": seed,
                "but_for_seed": method,
                "setting": f"s{seed}",
                "scores": {"d": {"sample": row}},
                "train": tokens,
            }
            run = tmp_path / f"method={method},seed={seed},sampling.temperatures=[1.0,2.0],trainer.threads=1-0000000{m}"
            run.mkdir()
            (run / "result.json").write_text(json.dumps(result))
            (run / "metrics.csv").write_text("step\n")
            line = {"data": "d", "decoding": "sample", "prompt": "p", "reference": "r", "rougeL": 0.5}
            (run / "predictions.jsonl").write_text("".join(json.dumps({**line, "id": i}) + "\n" for i in "ab"))
    return tmp_path


def test_a_run_is_named_by_what_tells_it_from_the_others(folder: Path) -> None:
    names = label(read([folder])[0])
    assert sorted(names.values()) == ["DRL", *(f"{m} seed={s}" for m in ("ESO", "SFT") for s in range(3))]
    one = label(read([next(folder.glob("method=eso,seed=1*"))])[0])
    assert list(one.values()) == ["ESO"]


def test_what_all_runs_of_a_method_share_is_not_in_their_names(tmp_path: Path) -> None:
    words = ("method=sft,seed=0-a", "method=eso,lam=1,seed=0-b", "method=eso,lam=1,seed=1-c")
    runs = [Run(tmp_path / name, {"method": name[7:10]}) for name in words]
    assert list(label(runs).values()) == ["SFT", "ESO seed=0", "ESO seed=1"]


def test_seeds_are_averaged(folder: Path) -> None:
    console = Console(width=200, record=True, file=StringIO())
    show([folder], console)
    text = console.export_text()
    assert "mean and standard deviation over seeds" in text
    summary = text[text.index("over seeds") :].splitlines()
    (sft,) = (line for line in summary if line.startswith("│ SFT"))
    assert "3" in sft
    assert "1.00 ± 1.00" in sft
    (eso,) = (line for line in summary if line.startswith("│ ESO"))
    assert "11.00 ± 1.00" in eso
    assert "101" in eso
    assert not any(line.startswith("│ DRL") for line in summary)


def test_runs_that_differ_in_more_than_their_seed_are_not_averaged(folder: Path) -> None:
    """Whatever their folders are called: a long name is cut, and an experiment's values are in no name."""
    for seed in (0, 1):
        (run,) = folder.glob(f"method=eso,seed={seed},*")
        found = json.loads((run / "result.json").read_text())
        (run / "result.json").write_text(json.dumps({**found, "but_for_seed": f"another {seed}"}))
        run.rename(folder / f"method=eso,a-long-name-that-is-cut-{seed}{seed}{seed}")
    console = Console(width=200, record=True, file=StringIO())
    show([folder], console)
    summary = console.export_text().split("over seeds")[1].splitlines()
    assert not any(line.startswith("│ ESO") for line in summary)
    names = label(read([folder])[0])
    assert len(set(names.values())) == len(names)


def test_runs_of_one_seed_have_no_such_table(folder: Path) -> None:
    console = Console(width=200, record=True, file=StringIO())
    show([*folder.glob("method=*,seed=1,*")], console)
    assert "over seeds" not in console.export_text()


def test_reward_models_have_a_table_of_their_own(folder: Path) -> None:
    """They leave no answers: neither a row among those that do, nor a difference from SFT."""
    row = {"n": 1000, "loss": 0.5, "accuracy": 0.75, "accuracy_longer": None, "accuracy_shorter": 0.5}
    row |= {"calibration": 0.0625, "margin": 1.5, "left_out": 0}
    (run,) = folder.glob("method=drl*")
    found = json.loads((run / "result.json").read_text())
    scores = {"d": {"preference": row}}
    (run / "result.json").write_text(
        json.dumps({**found, "method": "reward_model", "scores": scores, "before": scores})
    )
    (run / "predictions.jsonl").write_text(json.dumps({"data": "d", "decoding": "preference", "id": "a"}) + "\n")
    console = Console(width=200, record=True, file=StringIO())
    show([folder], console)
    text = console.export_text()
    (line,) = (line for line in text.splitlines() if line.startswith("│ REWARD_MODEL"))
    assert [cell.strip() for cell in line.strip("│").split("│")] == [
        *("REWARD_MODEL", "1,000", "0.750", "", "0.500", "0.062", "1.500")
    ]
    assert "REWARD_MODEL scores" not in text
    console = Console(width=200, record=True, file=StringIO())
    show([run], console)
    assert "test pairs told apart" in console.export_text()
    assert "ROUGE-L" not in console.export_text()
