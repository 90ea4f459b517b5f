import hashlib
import random
import re
from itertools import islice, product
from pathlib import Path
from statistics import median

import pytest
from conftest import Lengths
from hydra.utils import instantiate
from omegaconf import OmegaConf

from esolab.corpora.alpaca import unwrap
from esolab.corpora.base import Splits
from esolab.corpora.instructions import Exchange, Instructions, exchanges
from esolab.corpora.tasks import TASKS, compared, in_order
from esolab.errors import BadInput
from esolab.metrics import rouge_l, tokenise


@pytest.fixture(scope="module")
def corpus() -> Instructions:
    return instantiate(OmegaConf.load(Path(__file__).parents[2] / "conf/data/instructions.yaml"))


@pytest.fixture(scope="module")
def splits(corpus: Instructions) -> Splits:
    return corpus()


@pytest.fixture(scope="module")
def made(corpus: Instructions) -> list[Exchange]:
    return list(islice(exchanges(), corpus.test + corpus.dev + corpus.train))


def test_sizes_ids_and_spans(corpus: Instructions, splits: Splits) -> None:
    for name in ("train", "dev", "test"):
        examples = getattr(splits, name)
        assert [e.id for e in examples] == [f"instructions/{name}/{i}" for i in range(getattr(corpus, name))]
        for example in examples:
            instruction, given = unwrap(example.prompt)
            assert example.prompt[slice(*example.span)] == (given or instruction)
    assert corpus.fingerprint() == ""


def test_the_same_text_everywhere(splits: Splits) -> None:
    """Of every process and machine: later scores are compared with earlier ones."""
    text = "\n".join(e.id + e.prompt + e.reference for e in [*splits.test, *splits.dev, *splits.train])
    assert (
        hashlib.sha256(text.encode()).hexdigest() == "2addc1bbb8ba93ec03c533a6136905749f44d8a8383c38721cf7a698fe86c629"
    )


def test_the_test_split_does_not_depend_on_the_others(splits: Splits) -> None:
    small = Instructions(max_prompt=96, max_response=24, train=3, dev=0, test=1000)()
    assert small.test == splits.test
    assert (len(small.train), len(small.dev)) == (3, 0)


def test_no_prompt_facts_or_answer_occur_twice(splits: Splits, made: list[Exchange]) -> None:
    examples = [*splits.test, *splits.dev, *splits.train]
    assert [(*unwrap(e.prompt), e.reference) for e in examples] == [(m.instruction, m.input, m.answer) for m in made]
    for distinct in ({e.prompt for e in examples}, {m.answer for m in made}, {m.request.key for m in made}):
        assert len(distinct) == len(made)


def test_every_way_to_ask_tells_all_facts() -> None:
    for task in TASKS:
        for instruction, given in product(task.instructions, task.inputs or [""]):
            sure = re.sub(r"\[.*?\]", "", instruction + given)  # what stands in a choice may be left out
            assert set(re.findall(r"{(\w+)}", sure)) == set(task.facts), task.name


def test_answers_tell_at_least_two_facts_and_nothing_but_the_prompts(made: list[Exchange]) -> None:
    values = {v for task in TASKS for values in task.facts.values() for v in values}
    fact = re.compile(rf"\b({'|'.join(sorted(values, key=len, reverse=True))})\b", re.IGNORECASE)
    for one in made[:40]:
        asked = {f.lower() for f in fact.findall(f"{one.instruction} {one.input}")}
        for answer in one.request.answers():
            told = {f.lower() for f in fact.findall(answer)}
            assert len(told) >= 2
            assert told <= asked


def test_every_reference_is_one_of_many_right_answers(made: list[Exchange]) -> None:
    numbers = []
    for one in made:
        right = one.request.answers()
        assert one.answer in right
        assert len(set(right)) == len(right)
        numbers.append(len(right))
    assert median(numbers) >= 30
    assert min(numbers) >= 20


def test_usual_answers_overlap_more_with_the_references_than_drawn_ones(made: list[Exchange]) -> None:
    """In ROUGE-L the best answer to a prompt is far above a perfect sampler: a reward has something to do."""
    rnd = random.Random(0)
    drawn = usual = 0.0
    for one in made[:50]:
        right, fresh = ([tokenise(one.request.answer(rnd)) for _ in range(50)] for _ in range(2))
        best = max(right, key=lambda own: sum(rouge_l(own, other) for other in right))
        drawn += sum(map(rouge_l, right, fresh))
        usual += sum(rouge_l(best, other) for other in fresh)
    assert (usual - drawn) / (50 * 50) > 0.08


def test_golden_examples(splits: Splits) -> None:
    assert [(*unwrap(e.prompt), e.reference) for e in splits.test[:4]] == [
        ("Sort 77, 51 and 38.", "77, 51, 38", "First 38, then 51, and 77."),
        (
            "Tell people that the clinic is closed.",
            "Clinic, closed from Tuesday to Wednesday, reason: a festival, questions: room 40",
            "No entry from Tuesday to Wednesday: a festival. Visit room 40.",
        ),
        (
            "What did Kaya buy?",
            "Kaya went to the market in Oslo and bought bread, garlic and pears. The market had no sugar.",
            "In Oslo, Kaya found bread, garlic and pears.",
        ),
        (
            "Write a notice for the door.",
            "Museum, closed from Thursday to Tuesday, reason: illness, questions: room 57",
            "Because of illness, the museum is closed from Thursday to Tuesday.",
        ),
    ]


def test_what_follows_from_the_facts() -> None:
    numbers = {"a": "70", "b": "9", "c": "31"}
    assert in_order(numbers) == numbers | {"low": "9", "mid": "31", "high": "70"}
    prices = {"x": "lamp", "y": "sofa", "a": "70", "b": "31"}
    assert compared(prices) == prices | {"cheap": "sofa", "low": "31", "dear": "lamp", "high": "70"}


def test_no_task_is_rare(made: list[Exchange]) -> None:
    names = [m.request.task.name for m in made]
    assert all(0.8 < names.count(t.name) * len(TASKS) / len(names) < 1.2 for t in TASKS)


def test_the_boundary_is_clean_and_the_limits_hold(
    corpus: Instructions, splits: Splits, lengths_in_tokens: Lengths
) -> None:
    prompt, reference = lengths_in_tokens(splits.train, [*splits.train, *splits.dev, *splits.test])
    assert (prompt, reference) == (81, 20)  # as the yaml says
    assert prompt <= corpus.max_prompt
    assert reference <= corpus.max_response


def test_the_vocabulary_is_small(splits: Splits) -> None:
    """A word can be a token of a vocabulary of 2,000."""
    words = {w for e in splits.train for w in re.findall(r" ?\w+|[^\w\s]+", e.prompt + e.reference)}
    assert len(words) < 900


@pytest.mark.parametrize(
    ("sizes", "named"),
    [({"train": -1}, "data.train=-1"), ({"test": 0}, "data.test=0"), ({"test": 60_000}, "Lower data.test")],
)
def test_sizes_that_cannot_be_had(sizes: dict[str, int], named: str) -> None:
    with pytest.raises(BadInput, match=f"{named}.*instructions|instructions.*{named}"):
        Instructions(**{"max_prompt": 96, "max_response": 24, "train": 10, "dev": 10, "test": 10} | sizes)()
