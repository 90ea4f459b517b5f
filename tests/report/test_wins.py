"""Win rates side by side: whose they are, whom SFT is compared with, and on which prompts."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from esolab.report.__main__ import main

Make = Callable[..., Path]
HEADS = ["run", "n", "wins", "ties", "losses", "invalid", "win rate", "95% interval", "at equal lengths", "words"]
ANSWERS = {f"p{i}": ("text", 0.5) for i in range(40)}


def verdicts(wins: int, n: int = 40) -> dict[str, str]:
    return {f"p{i}": "a" if i < wins else "b" for i in range(n)}


def below(text: str, title: str) -> str:
    """What is printed from this title to the next table."""
    return text[text.index(title) :].split("\nhh, ")[0].split("┏")[1]


def test_win_rates_stand_beside_that_of_sft(
    run: Make, judgement: Make, say: Callable[..., str], cells: Callable[[str, str], list[str]]
) -> None:
    judgement(run("method=dpo-0000000d", ANSWERS), {**verdicts(30), "p38": "tie", "p39": "invalid"})
    judgement(run("method=sft-0000000a", ANSWERS), verdicts(10))
    out = say()
    title = "hh, sample: win rate over chosen by gpt, in %"
    table = below(out, title)
    assert cells(table, "run") == [*HEADS, "words of chosen"]
    assert [line[2:5] for line in table.splitlines() if line.startswith("│")] == ["SFT", "DPO"]
    assert cells(table, "DPO") == [
        *("DPO", "40", "30", "1", "8", "1", f"{100 * 30.5 / 39:.2f}", "12.50 to 87.50", "37.50", "5.50", "7.25")
    ]
    # the 39 valid of DPO: 20 better by a whole verdict, p38 by half of one
    (line,) = (line for line in out.splitlines() if "win-rate points" in line)
    gap = 100 * 20.5 / 39
    assert line.startswith(f"hh, sample: win rate over chosen by gpt: DPO scores {gap:.2f} win-rate points above SFT")
    assert line.endswith("(39 prompts): distinguishable.")


def test_a_difference_is_that_of_the_same_prompts(run: Make, judgement: Make, say: Callable[..., str]) -> None:
    """Intervals of both rates would overlap widely; each prompt's verdict is the same or better."""
    judgement(run("method=sft-0000000a", ANSWERS), {**verdicts(16, n=41), "p40": "invalid"})
    judgement(run("method=eso-0000000b", ANSWERS), {**verdicts(22, n=41), "p40": "a", "p41": "a"})
    judgement(run("method=ppo-0000000c", ANSWERS), {f"p{i}": "a" if i >= 22 else "b" for i in range(40)})
    eso, ppo = (line for line in say().splitlines() if "win-rate points" in line)
    assert "ESO scores 15.00 win-rate points above SFT" in eso
    assert eso.endswith("(40 prompts): distinguishable.")
    assert "PPO scores 5.00 win-rate points above SFT" in ppo
    assert ppo.endswith(": not distinguishable.")


def test_methods_are_compared_with_sft_of_their_seed(run: Make, judgement: Make, say: Callable[..., str]) -> None:
    for seed, wins in ((0, 10), (1, 20)):
        judgement(run(f"method=sft,seed={seed}-0000000{seed}", ANSWERS, seed=seed), verdicts(wins))
        judgement(run(f"method=eso,seed={seed}-0000001{seed}", ANSWERS, seed=seed), verdicts(24))
    judgement(run("method=dpo-0000002a", ANSWERS, seed=5), verdicts(24))
    lines = [line.partition("gpt: ")[2].partition(",")[0] for line in say().splitlines() if "win-rate" in line]
    assert sorted(lines) == [
        "DPO scores 35.00 win-rate points above SFT seed=0",
        "ESO seed=0 scores 35.00 win-rate points above SFT seed=0",
        "ESO seed=1 scores 10.00 win-rate points above SFT seed=1",
    ]


def test_only_what_was_judged_alike_shares_a_table(
    run: Make, judgement: Make, say: Callable[..., str], cells: Callable[[str, str], list[str]]
) -> None:
    sft, eso = run("method=sft-0000000a", ANSWERS), run("method=eso-0000000b", ANSWERS)
    reward = run("method=reward_model-0000000c")
    judgement(sft, verdicts(10))
    for other in (
        {"data": "file"},
        {"decoding": "greedy"},
        {"b": f"x/{sft.name}"},
        {"judge": f"Preference {reward.name}"},
        {"orders": "both"},
        {"how": "0123abcd"},  # a judge of the same name with other settings
    ):
        judgement(eso, verdicts(20), **other)
    out = say()
    titles = [line.strip() for line in out.splitlines() if line.rstrip().endswith(", in %")]
    over = "win rate over chosen by"
    assert titles == [
        f"hh, sample: {over} gpt, in %",
        f"file, sample: {over} gpt, in %",
        f"hh, greedy: {over} gpt, in %",
        "hh, sample: win rate over SFT by gpt, in %",
        f"hh, sample: {over} Preference REWARD_MODEL, in %",
        f"hh, sample: {over} gpt, both orders, in %",
        f"hh, sample: {over} gpt, in %",
    ]
    assert cells(below(out, titles[3]), "run")[-1] == "words of SFT"
    assert "win-rate points" not in out


@pytest.mark.parametrize(("place", "above"), [("deep/down", 0), ("deep/down", 1), ("figure2/judge", 2)])
def test_judgements_alone_go_by_the_names_of_their_folders(
    judgement: Make, say: Callable[..., str], cells: Callable[[str, str], list[str]], place: str, above: int
) -> None:
    """They are named, or in the folder that is, or in `judge` there."""
    folder = judgement(Path("runs/method=eso-0000000b"), verdicts(20), place=place)
    out = say(folder=[folder, *folder.parents][above])
    assert cells(out, "method=eso-0000000b")[1:4] == ["40", "20", "0"]
    assert "win-rate" not in out
    assert f"judgement: {folder}" in out.splitlines()


def test_a_folder_named_twice_is_shown_once(
    run: Make, judgement: Make, say: Callable[..., str], tmp_path: Path
) -> None:
    folder = judgement(run("method=sft-0000000a", ANSWERS), verdicts(10))
    shown = [line for line in say().splitlines() if not line.startswith("written in ")]
    assert say(str(tmp_path / "judge"), str(folder)).splitlines() == shown


def test_without_a_valid_verdict_there_is_no_rate(
    run: Make, judgement: Make, say: Callable[..., str], cells: Callable[[str, str], list[str]]
) -> None:
    judgement(run("method=sft-0000000a", ANSWERS), verdicts(10))
    judgement(run("method=eso-0000000b", ANSWERS), {"p0": "invalid", "p1": "invalid"})
    out = say()
    assert cells(below(out, "win rate over"), "ESO")[1:] == ["2", "0", "0", "0", "2", "", "", "", "5.50", "7.25"]
    assert "ESO and SFT share 0 prompts with a valid verdict: not compared." in out


@pytest.mark.parametrize(
    ("file", "content", "why"),
    [
        ("result.json", '{"schema": 1, "judge": "gpt"}', "no 'data'"),
        ("result.json", None, "no 'win_rate_95'"),
        ("judgements.jsonl", '{"id": "p0"}', "no 'verdict'"),
        ("judgements.jsonl", '{"id": "p0", "verdict": "c"}', "no 'c'"),
        ("judgements.jsonl", "{", "Expecting"),
    ],
)
def test_a_damaged_judgement_is_named(
    run: Make,
    judgement: Make,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    file: str,
    content: str | None,
    why: str,
) -> None:
    judgement(run("method=sft-0000000a", ANSWERS), verdicts(10))
    folder = judgement(run("method=eso-0000000b", ANSWERS), verdicts(10))
    if content is None:
        found = json.loads((folder / file).read_text())
        content = json.dumps({key: value for key, value in found.items() if key != "win_rate_95"})
    (folder / file).write_text(content)
    assert main([str(tmp_path)]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"esolab: report: {folder / file} is damaged ({why}")
    assert err.endswith("); judge once more with the same command, or name the other folders\n")
    assert err.count("\n") == 1


def test_names_with_brackets_and_colons_are_shown_as_they_are(run: Make, say: Callable[..., str]) -> None:
    for seed in range(2):
        run(f"method=sft,evaluation.data=[b,i{seed}],x=:heart:{seed}-0", ANSWERS)
    for seed in range(2):
        assert f"│ SFT evaluation.data=[b,i{seed}] x=:heart:{seed} " in say()


def test_what_lies_deeper_is_not_taken_in(judgement: Make, say: Callable[..., str], tmp_path: Path) -> None:
    """A folder of experiments is not one experiment."""
    judgement(Path("method=eso-0000000b"), verdicts(20), place="judge")
    judgement(Path("method=dpo-0000000c"), verdicts(20), place="other")
    assert "method=eso-0000000b" in (out := say())
    assert "method=dpo-0000000c" not in out


def test_a_judgement_of_another_schema_is_refused(judgement: Make, refuse: Callable[..., str]) -> None:
    folder = judgement(Path("method=eso-0000000b"), verdicts(1), schema=2)
    assert refuse() == f"{folder} has schema 2, this esolab reads 1"
