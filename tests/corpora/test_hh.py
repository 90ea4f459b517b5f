from collections.abc import Callable
from pathlib import Path

import pytest

from esolab.config import resolve
from esolab.corpora.alpaca import unwrap
from esolab.corpora.hh import HH, SUBSETS
from esolab.errors import BadInput

PROMPT = "\n\nHuman: Hi\n\nAssistant: Hello!\n\nHuman: Help\n\nAssistant:"
GOOD = {"chosen": PROMPT + " Of course. ", "rejected": PROMPT + " No."}
NO_CUE = ({"chosen": "\n\nHuman: Hi", "rejected": "\n\nHuman: Hi"},)
BROKEN = (
    {"chosen": PROMPT, "rejected": PROMPT + " No."},
    {"chosen": PROMPT + " Yes.", "rejected": PROMPT + " "},
    {"chosen": PROMPT + " Yes.", "rejected": PROMPT + " Why?\n\nHuman: So\n\nAssistant: No."},
)


def test_the_dialogue_up_to_the_last_cue_is_the_prompt(write: Callable[..., Path]) -> None:
    path = write("hh/harmless-base/test.jsonl", [GOOD])
    (example,) = HH(root=str(path.parents[2]), subset="harmless-base")().test
    assert (example.id, example.prompt, example.reference) == ("hh/test/0", PROMPT, " Of course.")
    assert example.rejected == " No."
    assert example.span == (0, len(PROMPT))


def test_broken_pairs_are_left_out_of_training_and_flagged_in_the_test_set(write: Callable[..., Path]) -> None:
    write("harmless-base/train.jsonl", [*BROKEN, *[GOOD] * 9, *BROKEN, *NO_CUE])
    path = write("harmless-base/test.jsonl", [*BROKEN, GOOD, *NO_CUE])
    splits = HH(path=str(path.parents[1]), subset="harmless-base")()
    assert [e.broken for e in splits.test] == ["empty chosen reply", "empty rejected reply", "two prompts", ""]
    assert [e.prompt for e in splits.test] == [PROMPT] * 4
    assert [e.reference for e in splits.test] == ["", " Yes.", " Yes.", " Of course."]
    assert {e.broken for e in [*splits.train, *splits.dev]} == {""}
    assert (len(splits.train) + len(splits.dev), splits.skipped) == (9, 6 + 2)


def test_the_released_form_is_an_alpaca_prompt_whose_instruction_is_the_dialogue(write: Callable[..., Path]) -> None:
    path = str(write("any.jsonl", [GOOD] * 20))
    raw, wrapped = HH(path=path)(), HH(path=path, form="alpaca")()
    example = wrapped.test[0]
    assert (example.reference, example.rejected) == ("Of course.", "No.")
    assert unwrap(example.prompt) == (PROMPT.strip(), "")
    assert example.prompt[slice(*example.span)] == PROMPT.strip()
    assert (raw.cut_long, wrapped.cut_long) == (True, False)
    assert resolve(["data=hh", "model=gpt2", "protocol=released"])["data"]["form"] == "alpaca"
    assert resolve(["data=hh", "model=gpt2"])["data"]["form"] == "raw"


def test_all_subsets_in_order(write: Callable[..., Path], tmp_path: Path) -> None:
    for subset in SUBSETS:
        record = {"chosen": f"{PROMPT} {subset}", "rejected": PROMPT + " No."}
        write(f"{subset}/test.jsonl", [record])
        write(f"{subset}/train.jsonl", [record] * 5)
    write("red-team-attempts/red_team_attempts.jsonl", [{}])
    splits = HH(path=str(tmp_path))()
    assert [example.reference for example in splits.test] == [f" {subset}" for subset in SUBSETS]
    assert (len(splits.train), len(splits.dev), splits.dev[0].reference) == (18, 2, f" {SUBSETS[-1]}")


def test_one_file_is_cut(write: Callable[..., Path]) -> None:
    splits = HH(path=str(write("any.jsonl", [GOOD] * 20)))()
    assert (len(splits.train), len(splits.dev), len(splits.test)) == (16, 2, 2)


def test_a_missing_subset_names_those_there(write: Callable[..., Path], tmp_path: Path) -> None:
    write("helpful-base/test.jsonl", [GOOD])
    with pytest.raises(BadInput) as caught:
        HH(path=str(tmp_path))()
    assert str(caught.value) == (
        f"{tmp_path}: no folder harmless-base. data.subset=NAME reads one of {', '.join(SUBSETS)}; there: helpful-base"
    )


def test_a_file_beside_the_subsets_is_refused(write: Callable[..., Path], tmp_path: Path) -> None:
    write("helpful-base/test.jsonl", [GOOD])
    write("test.jsonl", [GOOD])
    with pytest.raises(BadInput) as caught:
        HH(path=str(tmp_path), subset="helpful-base")()
    assert f"{tmp_path}: the files read here are in the folders helpful-base; found test.jsonl." in str(caught.value)


def test_a_bad_record_is_not_left_out_in_silence(write: Callable[..., Path]) -> None:
    path = write("any.jsonl", [GOOD, {"chosen": PROMPT}])
    with pytest.raises(BadInput, match="line 2: no column 'rejected'; columns found: chosen"):
        HH(path=str(path))()


def test_the_hub_gives_only_the_subset(
    monkeypatch: pytest.MonkeyPatch, write: Callable[..., Path], tmp_path: Path
) -> None:
    write("helpful-base/test.jsonl", [GOOD])
    asked: list[str] = []
    monkeypatch.setattr("esolab.corpora.sources.fetch", lambda *what: asked.extend(what) or tmp_path)
    assert len(HH(hub="a/b", revision="abc", subset="helpful-base")().test) == 1
    assert asked == ["a/b", "abc", "helpful-base/*.jsonl.gz"]


def test_real(shared: Path) -> None:
    splits = HH(root=str(shared), subset="harmless-base")()
    assert (len(splits.train), len(splits.dev), len(splits.test), splits.skipped) == (1166, 129, 200, 5)
    assert all(example.prompt.endswith("\n\nAssistant:") for example in splits.train)
    for example in [*splits.train, *splits.dev, *splits.test]:
        assert example.rejected is not None
        assert all(reply == reply.rstrip() != "" for reply in (example.reference, example.rejected))
