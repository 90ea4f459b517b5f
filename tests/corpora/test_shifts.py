"""newswire_shift and instructions_shift: the tasks of their bases in other words."""

import hashlib
import re
from itertools import product
from pathlib import Path
from statistics import median

import pytest
from conftest import Lengths
from hydra.utils import instantiate
from omegaconf import OmegaConf

from esolab.corpora import grammar, grammar_shift, tasks, tasks_shift
from esolab.corpora.alpaca import unwrap
from esolab.corpora.base import Splits
from esolab.corpora.instructions_shift import InstructionsShift
from esolab.corpora.newswire_shift import NewswireShift
from esolab.errors import BadInput
from esolab.metrics import tokenise

BASES = ["newswire", "instructions"]
SHIFTS = {"newswire": NewswireShift, "instructions": InstructionsShift}


def load(name: str) -> NewswireShift | InstructionsShift:
    return instantiate(OmegaConf.load(Path(__file__).parents[2] / f"conf/data/{name}.yaml"))


@pytest.fixture(scope="module")
def splits() -> dict[str, Splits]:
    return {name: load(name)() for base in BASES for name in (base, f"{base}_shift")}


@pytest.mark.parametrize("base", BASES)
def test_all_is_test(splits: dict[str, Splits], base: str) -> None:
    found = splits[f"{base}_shift"]
    assert (found.train, found.dev) == ([], [])
    assert [e.id for e in found.test] == [f"{base}_shift/test/{i}" for i in range(1000)]
    assert load(f"{base}_shift").fingerprint() == ""


@pytest.mark.parametrize(
    ("base", "digest"),
    [
        ("newswire", "8199376213ce0e6bfd9fee4aa525d248c829052dde535c34e624d8d52d925094"),
        ("instructions", "7c0cd2b13376d7ba33cb05fbbe1ea66f1ad27a750ffe47385b2cb5b83386ebe6"),
    ],
)
def test_the_same_text_everywhere(splits: dict[str, Splits], base: str, digest: str) -> None:
    text = "\n".join(e.id + e.prompt + e.reference for e in splits[f"{base}_shift"].test)
    assert hashlib.sha256(text.encode()).hexdigest() == digest


@pytest.mark.parametrize("base", BASES)
def test_nothing_occurs_twice_nor_in_the_base(splits: dict[str, Splits], base: str) -> None:
    own, other = splits[f"{base}_shift"].test, splits[base]
    theirs = [*other.test, *other.dev, *other.train]
    assert len({e.prompt for e in own} - {e.prompt for e in theirs}) == len(own)
    assert len({e.reference for e in own}) == len(own)
    assert len({e.reference for e in own} & {e.reference for e in theirs}) <= 20  # "20, 43, 61": numbers stay


@pytest.mark.parametrize("base", BASES)
def test_no_prompt_is_shortened_and_every_reference_can_be_answered(
    splits: dict[str, Splits], base: str, lengths_in_tokens: Lengths
) -> None:
    """In the tokenizer of a policy that was trained on the base, and of one trained on few of its examples."""
    corpus, examples = load(f"{base}_shift"), splits[f"{base}_shift"].test
    sizes = {n: lengths_in_tokens(splits[base].train[:n], examples) for n in (64, 4000)}
    assert sizes[4000] == {"newswire": (82, 37), "instructions": (103, 37)}[base]  # as the yaml says
    for prompt, reference in sizes.values():
        assert prompt <= corpus.max_prompt
        assert reference <= corpus.max_response
    assert corpus.max_prompt + corpus.max_response <= 256  # the positions of model=tiny


def test_names_places_things_and_sources_are_other_ones() -> None:
    for ours, theirs in zip(grammar_shift.EVENTS, grammar.EVENTS, strict=True):
        assert (ours.name, ours.choices.keys()) == (theirs.name, theirs.choices.keys())
        for fact in {"first", "last", "place", "source", "thing", "seller", "rival"} & ours.choices.keys():
            assert set(ours.choices[fact]).isdisjoint(theirs.choices[fact]), fact
    for mine, base in zip(tasks_shift.TASKS, tasks.TASKS, strict=True):
        assert (mine.name, mine.facts.keys(), mine.derive) == (base.name, base.facts.keys(), base.derive)
        for fact in {"first", "last", "host", "city", "x", "y"} & mine.facts.keys():
            assert set(mine.facts[fact]).isdisjoint(base.facts[fact]), fact


@pytest.mark.parametrize("base", BASES)
def test_a_fifth_to_two_fifths_of_the_words_of_references_are_new(splits: dict[str, Splits], base: str) -> None:
    known = {w for e in splits[base].train for w in tokenise(e.prompt + e.reference)}
    words = [w for e in splits[f"{base}_shift"].test for w in tokenise(e.reference)]
    assert 0.2 < sum(w not in known for w in words) / len(words) < 0.4


def test_no_way_to_tell_or_ask_is_the_same() -> None:
    for ours, theirs in zip(grammar_shift.EVENTS, grammar.EVENTS, strict=True):
        for way in ("leads", "details", "remarks", "sourcings"):
            assert set(getattr(ours, way)).isdisjoint(getattr(theirs, way))
    for mine, base in zip(tasks_shift.TASKS, tasks.TASKS, strict=True):
        for way in ("instructions", "inputs", "answers"):
            assert set(getattr(mine, way)).isdisjoint(getattr(base, way))


def test_every_prompt_tells_all_facts() -> None:
    for event in grammar_shift.EVENTS:
        for parts in product(event.leads, event.details, event.sourcings):
            assert facts_of("".join(parts)) == set(event.choices), event.name
    for task in tasks_shift.TASKS:
        for asked in product(task.instructions, task.inputs or [""]):
            assert facts_of("".join(asked)) == set(task.facts), task.name


def facts_of(template: str) -> set[str]:
    """The facts that are told whatever is chosen."""
    return set(re.findall(r"{(\w+)}", re.sub(r"\[.*?\]", "", template)))


def test_every_reference_is_a_right_one(splits: dict[str, Splits]) -> None:
    for told, example in zip(NewswireShift(112, 48, 1000).texts(), splits["newswire_shift"].test[:100], strict=False):
        assert example.reference == told.summary
        right = told.story.summaries()
        assert told.summary in right
        assert len(set(right)) == len(right) >= 35
    numbers = []
    made = InstructionsShift(128, 48, 1000).texts()
    for one, example in zip(made, splits["instructions_shift"].test[:100], strict=False):
        assert example.reference == one.answer
        right = one.request.answers()
        assert one.answer in right
        numbers.append(len(set(right)))
    assert median(numbers) >= 10


def test_golden_examples(splits: dict[str, Splits]) -> None:
    news = splits["newswire_shift"].test[:2]
    assert [(e.prompt, e.reference) for e in news] == [
        (
            "Flames were seen at the harbour in Salerno on Monday, and 45 people fled. Fire chief Henry "
            "Parker blamed lightning. Crews fought the fire until the morning. The Post reported the news "
            "first, and many people talked about it.\n"
            "Summary:\n",
            "A fire hit the harbour in Salerno.",
        ),
        (
            "A club sold the old gym in Oxford on Tuesday, and investor Nadia Lang bought it. People had "
            "hoped for more. It was sold for 30 million euros. The Tribune reported the news first, and many "
            "people talked about it.\n"
            "Summary:\n",
            "On Tuesday, it was reported that investor Nadia Lang bought the gym in Oxford.",
        ),
    ]
    asked = splits["instructions_shift"].test[:3]
    assert [(*unwrap(e.prompt), e.reference) for e in asked] == [
        ("In which order do the numbers come?", "77 and 51 and 38", "38, then 51, then 77."),
        (
            "Say no to this offer.",
            "Dear Ursula, do you want my rug? It is 54 euros. Wendy",
            "No, thank you, Wendy: the rug is nice, but 54 euros is too much. Ursula",
        ),
        (
            "Say which person found the flute.",
            "Iris Mason, a teacher, was at the farm on Wednesday and found a flute there.",
            "On Wednesday, the flute was found by Iris Mason.",
        ),
    ]


@pytest.mark.parametrize("base", BASES)
def test_sizes_that_cannot_be_had(base: str) -> None:
    with pytest.raises(BadInput, match=r"data\.test=0"):
        SHIFTS[base](112, 48, 0)()
    with pytest.raises(BadInput, match=r"50,001 examples.*Lower data\.test"):
        SHIFTS[base](112, 48, 50_001)()
