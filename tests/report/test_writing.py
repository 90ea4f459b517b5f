"""The files of a report: where they go, and what the text and the tables say."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from esolab.report.__main__ import main
from esolab.report.costs import cost
from esolab.report.findings import findings
from esolab.report.latex import tex, write_tables
from esolab.report.markdown import inline, write_markdown

Make = Callable[..., Path]
Say = Callable[..., str]


@pytest.fixture
def two(run: Make, tmp_path: Path) -> Path:
    """SFT and ESO, two seeds each, ESO 5 points above; the question of the experiment has every sign in it."""
    for seed in (0, 1):
        for method, gain in (("sft", 0.0), ("eso", 0.05)):
            answers = {f"p{i}": ("an answer", 0.2 + 0.01 * i + gain + 0.001 * seed) for i in range(12)}
            row = {
                "n": 12,
                "rouge1": 30.0,
                "rouge2": 10.0,
                "rougeL": 25.5 + 100 * gain + seed,
                "gleu": 8.0,
                "gleu_char": 9.0,
            }
            train = {"sampled_tokens": 100 * seed, "forward_tokens": 3000, "backward_tokens": 2000, "scored_tokens": 9}
            steps = [
                {"step": 1, "epoch": 0, "seconds/update": 9.0},
                *({"step": 2, "epoch": 1, "seconds/update": s, "seconds/sample": 2.0} for s in (0.5, 1.5, 7.0)),
            ]
            folder = run(
                f"method={method},seed={seed}-{seed}",
                answers,
                steps if method == "eso" else steps[:1],
                data="news_wire",
                seed=seed,
                setting=f"s{seed}",
                but_for_seed=method,
                scores={"news_wire": {"sample": {**row, "length": 3.0}}},
                train=train,
                timing={"wall_seconds": 60.0 + 120 * seed, "phases": {"update": 9.0}},
                peak_rss_bytes=500_000_000,
                versions={"esolab": "0.1.0", "torch": "2.13.0"},
                device="cpu",
                threads=1,
                git_commit=None,
            )
            config = {"choices": {"scale": "mini"}, "about": "Does *ESO* beat <b>SFT</b> | on `news`?"}
            (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return tmp_path


def test_one_folder_gets_the_report_and_the_paths_are_printed(two: Path, say: Say) -> None:
    out = say(folder=two)
    files = ("report.html", "report.md", "tables/rouge.tex", "tables/gleu.tex", "figures/scores-news_wire.pdf")
    assert [name for name in files if not (two / name).is_file()] == []
    assert f"written in {two}: report.html, report.md" in out
    assert f"written in {two / 'tables'}: rouge.tex, gleu.tex" in out
    assert "news_wire, sample: ESO scores 5.00 ROUGE-L points above SFT, 95% interval" in out
    assert "ESO seed=0 scores" not in out  # over seeds, not seed by seed
    assert say(folder=two) == out  # its own files are no runs


def test_several_folders_are_printed_and_written_elsewhere(two: Path, tmp_path: Path, say: Say) -> None:
    runs = sorted(str(path) for path in two.iterdir())
    assert "written" not in say(*runs[1:], folder=Path(runs[0]))
    assert "written" not in say(folder=Path(runs[0]))  # the folder of a run is the run's
    place = tmp_path / "a" / "report"
    assert f"written in {place}: report.html, report.md" in say(*runs[1:], "--out", str(place), folder=Path(runs[0]))
    assert sorted(path.name for path in place.iterdir()) == ["figures", "report.html", "report.md", "tables"]
    assert sorted(str(path) for path in two.iterdir() if path.name != "a") == runs


def test_single_seeds_are_compared_one_by_one(two: Path, say: Say) -> None:
    runs = sorted(str(path) for path in two.glob("*seed=1*"))
    assert "ESO scores 5.00 ROUGE-L points above SFT, 95% interval 5.00 to 5.00 (12 prompts): distinguishable." in say(
        runs[1], folder=Path(runs[0])
    )


def test_a_place_that_cannot_be_written_is_bad_input(two: Path, refuse: Callable[..., str]) -> None:
    file = two / "file"
    file.write_text("")
    said = refuse("--out", str(file / "report"))
    assert said == f"cannot write {file / 'report'} (Not a directory); give --out DIR"
    assert refuse("--out", "x", "--cases", "1").startswith("--out x goes without --cases")


def test_the_text_has_the_question_the_verdict_and_all_it_rests_on(two: Path) -> None:
    text = write_markdown(findings([two]), two).read_text()
    lines = text.splitlines()
    assert lines[0] == f"# {inline(two.name)}"
    assert lines[2] == r"Does \*ESO\* beat \<b\>SFT\</b\> \| on \`news\`?"
    assert lines[4] == "Scale: mini. Seeds: 0, 1."
    assert lines[6:8] == ["## Verdict", ""]
    assert lines[8:10] == [r"**news\_wire**", ""]
    assert lines[10].startswith("- sample: ESO scores 5.00 ROUGE-L points above SFT")
    row = next(line for line in lines if line.startswith("| ESO | 2 |"))
    assert [cell.strip() for cell in row.strip("|").split("|")] == [
        *("ESO", "2", "30.00 ± 0.00", "10.00 ± 0.00", "31.00 ± 0.71", "8.00 ± 0.00", "9.00 ± 0.00", "3.00 ± 0.00"),
        *(r"+5.00 \*\*\*", "5.00 to 5.00", "0.0005", "inf"),
    ]
    assert "ROUGE-L less SFT" in text
    assert r"\* p < .05".replace("<", r"\<") in text
    assert "| ESO | 2.000 | 1.500 | 3.500 | 50 | 3,000 | 2,000 | 500 | 2.0 |" in lines
    assert lines[-2:] == ["- esolab: 0.1.0", "- torch: 2.13.0"]
    assert "What is missing" not in text


def test_what_is_missing_and_the_command_are_in_the_text(two: Path) -> None:
    job: dict[str, Any] = {"name": "method=drl", "folder": None, "state": "failed", "exit": 1, "said": ["<script>"]}
    sweep = {"schema": 1, "command": "python -m esolab -m method=sft,eso,drl", "jobs": [job]}
    (two / "sweep.json").write_text(json.dumps(sweep))
    text = write_markdown(findings([two]), two).read_text()
    assert "## What is missing\n\n- method=drl: failed with exit code 1: \\<script\\>\n" in text
    assert "\n    python -m esolab -m method=sft,eso,drl\n" in text


def test_a_cost_is_the_mean_over_seeds_of_sampled_steps(two: Path) -> None:
    sft, eso = findings([two]).variants
    assert cost(eso) == {
        "sample": 2.0,
        "update": 1.5,
        "step": 3.5,  # medians of the three steps that sampled
        "sampled": 50.0,
        "forward": 3000.0,
        "backward": 2000.0,
        "peak": 500.0,
        "wall": 2.0,
    }
    assert cost(sft)["update"] == 9.0
    assert "sample" not in cost(sft)


def test_tables_have_methods_in_rows_and_metrics_by_corpus(two: Path) -> None:
    rouge, gleu = write_tables(findings([two]), two)
    lines = rouge.read_text().splitlines()
    assert lines[4:10] == [
        r"Model & Method & \multicolumn{3}{c}{news\_wire} \\",
        r"\cmidrule(lr){3-5}",
        r" & & ROUGE-1 & ROUGE-2 & ROUGE-L \\",
        r"\midrule",
        r"tiny & SFT & \textbf{30.00} {\scriptsize$\pm$0.00} & \textbf{10.00} {\scriptsize$\pm$0.00}"
        r" & 26.00 {\scriptsize$\pm$0.71} \\",
        r" & ESO & \textbf{30.00} {\scriptsize$\pm$0.00} & \textbf{10.00} {\scriptsize$\pm$0.00}"
        r" & \textbf{31.00} {\scriptsize$\pm$0.71}$^{***}$ \\",
    ]
    assert (
        r"\caption{ROUGE F x100 of tiny on news\_wire (sample, 12 test prompts); mini scale, seeds 0, 1:" in lines[12]
    )
    assert r"tiny & SFT & \textbf{9.00} {\scriptsize$\pm$0.00} \\" in gleu.read_text()


def test_what_is_trained_on_several_corpora_is_one_row(run: Make, tmp_path: Path) -> None:
    for data, score in (("dolly", 20.0), ("xsum", 30.0)):
        row = {"n": 1, "rouge1": 1.0, "rouge2": 1.0, "rougeL": score, "gleu": 1.0, "length": 1.0}
        run(f"method=eso,data={data}-a", {"p": ("x", 0.5)}, data=data, scores={data: {"sample": row}})
    (rouge,) = write_tables(findings([tmp_path]), tmp_path)
    assert r"tiny & ESO & 1.00 & 1.00 & 20.00 & 1.00 & 1.00 & 30.00 \\" in rouge.read_text()


def test_every_sign_is_only_a_sign() -> None:
    assert tex(r"a_b & 5% \x {y} #~^<$") == (
        r"a\_b \& 5\% \textbackslash{}x \{y\} \#\textasciitilde{}\textasciicircum{}\textless{}\$"
    )
    assert inline("a\n| <b> *c* _d_ [e](f)\x1b[0m") == r"a \| \<b\> \*c\* \_d\_ \[e\](f)\\x1b\[0m"


def test_help_names_where_the_files_go(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    assert "--out DIR" in capsys.readouterr().out
