"""The paper's numbers stand beside runs that are the paper's, and beside no others."""

import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml

from esolab.report.findings import findings
from esolab.report.latex import write_tables
from esolab.report.markdown import write_markdown
from esolab.report.paper import beside, expected

Make = Callable[..., Path]
CONFIG = {
    "choices": {"scale": "paper", "model": "opt_350m", "data": "xsum", "method": "eso", "protocol": "paper"},
    "model": {"weights": "pretrained", "path": None},
    "trainer": {"epochs": 5, "max_steps": None},
    "method": {"lam": 0.05},
    "sampling": {"k": 4},
}
WHOLE = {"xsum": {"train": 204_045, "dev": 11_332, "test": 11_334}}


@pytest.fixture
def paper_run(run: Make) -> Make:
    """Make a run that is one of the paper's, as its files tell; `changes` are of its config.yaml, as node__key."""

    def make(method: str = "eso", n: int = 11_334, corpora: Any = WHOLE, **changes: Any) -> Path:
        row = {"n": n, "rouge1": 36.0, "rouge2": 14.0, "rougeL": 30.0, "gleu": 1.0, "gleu_char": 40.0, "length": 3.0}
        folder = run(
            f"method={method},seed=0-a",
            {"p": ("x", 0.5), "q": ("y", 0.5)},
            data="xsum",
            model="opt_350m",
            corpora=corpora,
            scores={"xsum": {"sample": row}},
            versions={"esolab": "0.1.0"},
        )
        config = deepcopy(CONFIG)
        for key, value in changes.items():
            node, _, leaf = key.partition("__")
            config[node][leaf] = value
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
        return folder

    return make


def texts(folder: Path, place: Path) -> dict[str, str]:
    """What the report of a folder writes by name, but for the page."""
    place.mkdir()
    found = findings([folder])
    return {path.name: path.read_text() for path in (write_markdown(found, place), *write_tables(found, place))}


def test_a_run_of_the_papers_stands_beside_its_numbers(paper_run: Make, tmp_path: Path) -> None:
    folder = paper_run()
    rows = beside(findings([folder]))
    said = [(row.source, row.metric, row.theirs, round(row.difference, 2)) for row in rows]
    assert said == [
        ("table 1, page 5338", "rouge1", 35.97, 0.03),
        ("table 1, page 5338", "rouge2", 14.06, -0.06),
        ("table 1, page 5338", "rougeL", 29.20, 0.80),
        ("table 4, page 5340", "rougeL", 29.20, 0.80),
        ("table 5, page 5340", "rougeL", 29.20, 0.80),
        ("section 5.8, page 5340", "rougeL", 29.54, 0.46),
    ]
    written = texts(folder, tmp_path / "out")
    assert "## Beside the paper" in written["report.md"]
    assert "| ESO | paper | xsum | ROUGE-L | 1 | 30.00 | 29.20 | +0.80 | table 1, page 5338 |" in written["report.md"]
    assert "ESO & xsum & ROUGE-L & 30.00 & 29.20 & +0.80 & table 1, page 5338 \\\\" in written["paper.tex"]


def test_another_lambda_and_another_k_have_numbers_of_their_own(paper_run: Make) -> None:
    half = beside(findings([paper_run(method__lam=0.5)]))
    assert [(row.source, row.theirs) for row in half] == [("table 5, page 5340", 30.27)]


def test_an_inferred_number_says_so(paper_run: Make) -> None:
    (six,) = beside(findings([paper_run(sampling__k=6)]))
    assert (six.theirs, six.source) == (30.32, "table 4, page 5340")
    assert six.note.endswith("k = 6 is inferred")


@pytest.mark.parametrize(
    "changes",
    [
        {"choices__scale": "mini"},
        {"choices__model": "gpt2"},
        {"model__weights": "random"},
        {"model__path": "somewhere"},
        {"trainer__max_steps": 100},
        {"trainer__epochs": 1},
        {"method__lam": 0.2},
        {"n": 500},
        {"corpora": {"xsum": {"train": 4000, "dev": 300, "test": 11_334}}},
        {"corpora": {}},
    ],
    ids=str,
)
def test_any_other_run_has_no_number_and_no_heading_of_the_papers(
    paper_run: Make, tmp_path: Path, changes: dict[str, Any]
) -> None:
    written = texts(paper_run(**changes), tmp_path / "out")
    assert sorted(written) == ["gleu.tex", "report.md", "rouge.tex"]
    for text in written.values():
        assert "aper" not in text.replace("| paper |", "").replace("paper scale", "").replace("Scale: paper", "")
        assert "able 1" not in text
        assert "29.20" not in text


def test_a_mini_report_has_none_of_the_papers_numbers(run: Make, tmp_path: Path) -> None:
    """Not even where it is of the same methods on data of the same name."""
    for method in ("sft", "eso"):
        folder = run(f"method={method}-a", {"p": ("x", 0.25), "q": ("y", 0.5)}, data="dolly")
        config = {**CONFIG, "choices": {"scale": "mini", "model": "tiny", "data": "dolly"}}
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
    text = "\n".join(texts(tmp_path, tmp_path / "out").values())
    numbers = {f"{value:.2f}" for number in expected()["numbers"] for value in number["values"].values()}
    assert len(numbers) > 60
    assert [number for number in sorted(numbers) if f" {number} " in text] == []
    assert "aper" not in text
    assert "mini scale" in text


def test_the_papers_numbers_are_whole() -> None:
    """57 rows; some known by heart, and what they must share."""
    numbers = expected()["numbers"]
    by_source: dict[str, int] = {}
    for number in numbers:
        by_source[number["source"]] = by_source.get(number["source"], 0) + 1
        assert number["model"] in ("gpt2_medium", "opt_350m", "pythia_2_8b")
        assert {number["data"], number["evaluated"]} <= set(expected()["sizes"])
        assert str(number["page"])[:2] == "53"
    assert by_source == {
        "table 1": 20,
        "table 2": 10,
        "table 3": 10,
        "table 4": 3,
        "table 5": 4,
        "section 5.8": 2,
        "figure 2 and section 5.7": 3,
        "section 5.7": 1,
        "section 5.10": 4,
    }
    best = next(n for n in numbers if (n["source"], n["evaluated"], n["method"]) == ("table 3", "vicuna", "eso"))
    assert best["values"] == {"rouge1": 22.37, "rouge2": 6.54, "rougeL": 14.96}


def test_a_win_rate_stands_beside_the_papers(run: Make, judgement: Make, tmp_path: Path) -> None:
    """ESO starts from the SFT run's policy, which is the paper's model."""
    settings = {"trainer": {"max_steps": None}, "data": {"subset": "all"}}
    start = {"choices": {"scale": "paper", "model": "pythia_2_8b", "data": "hh"}, **settings}
    begun = run("method=sft-a", {"p": ("x", 0.5)})
    (begun / "config.yaml").write_text(yaml.safe_dump({**start, "model": {"weights": "pretrained", "path": None}}))
    corpora = {"hh": {"train": 160_800, "dev": 0, "test": 8_552}}
    folder = run("method=eso-b", {"p": ("x", 0.5)}, corpora=corpora)
    choices = {"scale": "paper", "model": "hf", "data": "hh"}
    model = {"weights": "pretrained", "path": str(begun / "policy")}
    (folder / "config.yaml").write_text(yaml.safe_dump({"choices": choices, "model": model, **settings}))
    judgement(folder, {"p": "a"}, n=1000, win_rate=0.41, judge="gpt-4-0613")
    (row,) = beside(findings([tmp_path]))
    assert (row.metric, row.ours, row.theirs, round(row.difference, 1)) == ("win_rate", 41.0, 40.7, 0.3)
    result = json.loads((tmp_path / "judge" / "method=eso-b-vs-0" / "result.json").read_text())
    (tmp_path / "judge" / "method=eso-b-vs-0" / "result.json").write_text(json.dumps({**result, "judge": "gpt-3.5"}))
    assert beside(findings([tmp_path])) == []
