"""Case studies: picked by rule, the same prompts for all, and harmless to a terminal."""

from collections.abc import Callable
from pathlib import Path

import pytest

from esolab.report.__main__ import main
from esolab.report.cases import PROMPT, escaped, shortened

Make = Callable[..., Path]


def picked(out: str) -> list[str]:
    """The ids of the cases, in their order."""
    return [line.split(": ")[1].split(",")[0] for line in out.splitlines() if line.startswith("case ")]


@pytest.fixture
def two(run: Make) -> tuple[Path, Path]:
    """Spreads of ROUGE-L: p0 10, p1 50, p2 0, p3 50, and p4, p5 answered by one run only."""
    sft = {"p0": ("zero", 0.5), "p1": ("one", 0.0), "p2": ("two [b]", 0.9), "p3": ("three", 0.7), "p4": ("four", 1.0)}
    eso = {"p0": ("0", 0.4), "p1": ("1", 0.5), "p2": ("2", 0.9), "p3": ("3 thrice", 0.2), "p5": ("5", 0.0)}
    return run("method=sft-0000000a", sft), run("method=eso-0000000b", eso)


def test_the_largest_spread_of_rouge_comes_first(
    two: tuple[Path, Path], say: Callable[..., str], cells: Callable[[str, str], list[str]]
) -> None:
    out = say("--cases", "3")
    assert picked(out) == ["p1", "p3", "p0"]  # of equals the first
    rule = "the largest spread of ROUGE-L, the highest less the lowest of the answers', in points"
    assert out.splitlines()[0] == f"3 of 4 prompts of hh, sample, to which SFT, ESO have answers: {rule}"
    case = out.split("\ncase ")[2]
    assert case.splitlines()[:2] == ["2 of 3: p3, 50.00", "Prompt p3?"]
    assert cells(case, "run") == ["run", "answer", "ROUGE-L", "words"]
    assert cells(case, "reference") == ["reference", "right p3", "", "2"]
    assert cells(case, "SFT") == ["SFT", "three", "70.00", "1"]
    assert cells(case, "ESO") == ["ESO", "3 thrice", "20.00", "2"]
    assert cells(say("--cases", "9").split("\ncase ")[4], "SFT")[1] == "two [b]"


def test_random_cases_are_those_of_the_seed(run: Make, say: Callable[..., str], tmp_path: Path) -> None:
    """They do not change when the runs' order of prompts does, or when a prompt joins that is not drawn."""
    ids = [f"p{i}" for i in range(30)]
    for method in ("sft", "eso"):
        run(f"one/method={method}-0", dict.fromkeys(ids, (method, 0.5)))
        run(f"two/method={method}-0", dict.fromkeys(reversed(ids[:29]), (method, 0.5)))
    first, again, other = (
        picked(say("--cases", "5", "--by", "random", *seed, folder=tmp_path / "one"))
        for seed in ([], ["--seed", "0"], ["--seed", "1"])
    )
    assert first == again
    assert len(set(first)) == 5
    assert first != other
    assert first != ids[:5]
    assert "p29" not in first
    assert picked(say("--cases", "5", "--by", "random", folder=tmp_path / "two")) == first
    assert "random with seed 0" in say("--cases", "5", "--by", "random", folder=tmp_path / "one")


def test_the_largest_gap_of_reward_needs_judgements(
    two: tuple[Path, Path], judgement: Make, say: Callable[..., str], cells: Callable[[str, str], list[str]]
) -> None:
    """A reward is a run's whichever side of a judgement it was on; an answer without one is never picked."""
    sft, eso = two
    ties = {f"p{i}": "tie" for i in range(4)}
    judgement(sft, {**ties, "p3": "a"}, {f"p{i}": (float(i), 9.0) for i in range(4)}, judge="Preference rm")
    vs = {"p0": (0.5, 9.0), "p1": (None, 9.0), "p2": (-2.0, 9.0), "p3": (3.0, 9.0)}
    judgement(eso, {**ties, "p1": "invalid", "p0": "b"}, vs, judge="Preference rm")
    judgement(eso, ties, {f"p{i}": (100.0 * i, 9.0) for i in range(4)}, judge="Rouge")
    judgement(eso, ties, {f"p{i}": (100.0 * i, 9.0) for i in range(4)}, judge="Preference rm", decoding="greedy")
    out = say("--cases", "2", "--by", "reward")
    assert picked(out) == ["p2", "p0"]
    assert "2 of 3 prompts of hh, sample" in out
    assert "the largest gap of reward by Preference rm, the highest less the lowest of the answers'" in out
    case = out.split("\ncase ")[2]
    assert case.startswith("2 of 2: p0, 0.50\n")
    assert cells(case, "SFT") == ["SFT", "zero", "50.00", "1", "0.000", "tie", ""]
    assert cells(case, "ESO") == ["ESO", "0", "40.00", "1", "0.500", "lost", "tie"]
    three = say("--cases", "1", "--by", "random", "--seed", "3").split("\ncase ")[1]
    assert "reward" not in cells(three, "run")


def test_both_sides_of_a_judgement_have_rewards(
    two: tuple[Path, Path], judgement: Make, say: Callable[..., str]
) -> None:
    sft, eso = two
    judgement(eso, {"p0": "a", "p2": "b"}, {"p0": (1.0, 0.0), "p2": (0.0, 4.0)}, b=str(sft), judge="Rouge")
    assert picked(say("--cases", "2", "--by", "reward")) == ["p2", "p0"]


def test_without_rewards_the_way_to_some_is_said(
    two: tuple[Path, Path], judgement: Make, refuse: Callable[..., str]
) -> None:
    def check() -> None:
        message = refuse("--cases", "1", "--by", "reward")
        assert message.startswith("--by reward: no two of the runs have rewards of answers to the same prompts; leave")

    check()
    judgement(two[0], {"p0": "a"}, {"p0": (1.0, 0.0)}, judge="Rouge")
    check()
    judgement(two[1], {"p1": "a"}, {"p1": (1.0, 0.0)}, judge="Rouge")
    check()
    judgement(two[1], {"p0": "a"}, judge="gpt")
    check()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--cases", "0"], "--cases 0: nothing to show; give a number of prompts, as --cases 4"),
        (["--cases", "x"], "argument --cases: invalid int value: 'x'; -h lists what it takes"),
        (["--cases"], "argument --cases: expected one argument; -h lists what it takes"),
        (["--by", "reward"], "--by goes with --cases N; give that, too, or leave it out"),
        (["--seed", "0"], "--seed goes with --cases N; give that, too, or leave it out"),
        (["--cases", "1", "--seed", "0"], "--seed 0 goes with --by random; give that, too, or leave it out"),
        (["--case", "1"], "unrecognized arguments: --case 1; -h lists what it takes"),
        (["--cases", "1", "--data", "xsum"], "--data xsum: no run answered it; give one of hh"),
        (["--cases", "1", "--decoding", "top5"], "--decoding top5: no run answered hh so; give one of sample"),
    ],
)
def test_what_does_not_fit_is_refused(
    two: tuple[Path, Path], refuse: Callable[..., str], arguments: list[str], message: str
) -> None:
    assert refuse(*arguments) == message


def test_one_run_is_no_comparison(run: Make, judgement: Make, refuse: Callable[..., str]) -> None:
    judgement(Path("method=eso-0000000b"), {"p0": "a"})
    assert refuse("--cases", "1") == (
        "--cases compares the answers of several runs, and there are none; name the folders of more"
    )
    folder = run("method=sft-0000000a", {"p0": ("a", 0.5)})
    run("method=reward_model-0000000c", scores={"hh": {"preference": {"n": 1}}})
    run("method=eso-0000000d", {"p0": ("a", 0.5)}, decoding="greedy")
    assert refuse("--cases", "1") == (
        f"--cases compares the answers of several runs, and only {folder} has answers; name the folders of more"
    )


def test_runs_must_share_prompts_not_only_their_ids(run: Make, refuse: Callable[..., str]) -> None:
    folders = [run(f"method=sft-{i}", {"p0": ("a", 0.5)}, prompt=f"{i} {{}}") for i in range(2)]
    assert refuse("--cases", "1") == (
        f"no prompt was answered by all of {folders[0]}, {folders[1]}; name runs with the same data, max_prompt"
    )


def test_of_several_corpora_one_is_named(run: Make, say: Callable[..., str], refuse: Callable[..., str]) -> None:
    for data in ("hh", "file"):
        for method in ("sft", "eso"):
            run(f"method={method},data={data}-0", {f"{data}0": ("a", 0.5)}, data=data, decoding="greedy")
    assert refuse("--cases", "1") == "the runs answered file, hh; give --data NAME, one of them"
    assert picked(say("--cases", "1", "--data", "file")) == ["file0"]
    assert picked(say("--cases", "1", "--data", "hh", "--decoding", "greedy")) == ["hh0"]


def test_a_damaged_answer_is_named(two: tuple[Path, Path], refuse: Callable[..., str]) -> None:
    file = two[1] / "predictions.jsonl"
    file.write_text(file.read_text().replace('"rougeL"', '"rouge"'))
    assert refuse("--cases", "1").startswith(f"{file} is damaged (no 'rougeL'); repeat its run")


def test_texts_cannot_move_or_colour_a_terminal(run: Make, say: Callable[..., str]) -> None:
    bad = "[red]x[/nope] \x1b[31m\r\x07\u202e\ud800 :heart: tab\t"
    for method in ("sft", "eso"):
        run(f"method={method}-0", {"p\x1b0": (bad, 0.5)}, prompt="\x1b]0;title\x07{}\n\nHuman: [bold]hi")
    out = say("--cases", "1")
    assert out.isascii() is False  # the table's frame
    assert not set("\x1b\r\x07\u202e") & set(out)
    assert "[red]x[/nope] \\x1b[31m\\r\\x07\\u202e\\ud800 :heart: tab\\t" in out
    assert "\\x1b]0;title\\x07p\\x1b0\n\nHuman: [bold]hi\n" in out


def test_the_end_of_a_long_prompt_is_shown() -> None:
    assert shortened("x" * PROMPT) == "x" * PROMPT
    assert shortened("a" * 1500 + "\x1b" + "x" * (PROMPT - 1)) == (
        f"[1,500 of {1500 + PROMPT:,} characters cut] \\x1b{'x' * (PROMPT - 1)}"
    )
    assert escaped("naïve 漢字\n") == "naïve 漢字\n"


def test_help_names_the_rules(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-h"]) == 0
    out = capsys.readouterr().out
    assert all(word in out for word in ("FOLDER", "--cases", "disagreement", "reward", "random"))
