import hashlib
import random
import re
from itertools import islice, product
from pathlib import Path

import pytest
from conftest import Lengths
from hydra.utils import instantiate
from omegaconf import OmegaConf

from esolab.batch import Example
from esolab.corpora.base import Splits
from esolab.corpora.grammar import EVENTS, SOURCINGS
from esolab.corpora.newswire import CUE, Newswire, Telling, wire
from esolab.corpora.written import LARGEST
from esolab.errors import BadInput
from esolab.metrics import rouge_l, tokenise


@pytest.fixture(scope="module")
def corpus() -> Newswire:
    return instantiate(OmegaConf.load(Path(__file__).parents[2] / "conf/data/newswire.yaml"))


@pytest.fixture(scope="module")
def splits(corpus: Newswire) -> Splits:
    return corpus()


@pytest.fixture(scope="module")
def tellings(corpus: Newswire) -> list[Telling]:
    return list(islice(wire(), corpus.test + corpus.dev + corpus.train))


def article(example: Example) -> str:
    return example.prompt[slice(*example.span)]


def test_sizes_ids_and_spans(corpus: Newswire, splits: Splits) -> None:
    for name in ("train", "dev", "test"):
        examples = getattr(splits, name)
        assert [e.id for e in examples] == [f"newswire/{name}/{i}" for i in range(getattr(corpus, name))]
        assert all(e.prompt == article(e) + CUE and CUE.strip() not in article(e) for e in examples)
    assert corpus.fingerprint() == ""


def test_no_article_facts_or_summary_occur_twice(splits: Splits, tellings: list[Telling]) -> None:
    examples = [*splits.test, *splits.dev, *splits.train]
    assert [(article(e), e.reference) for e in examples] == [(t.article, t.summary) for t in tellings]
    for distinct in (
        {t.article for t in tellings},
        {t.summary for t in tellings},
        {(t.story.event.name, *sorted(t.story.facts.items())) for t in tellings},
    ):
        assert len(distinct) == len(tellings)


def test_the_same_text_everywhere(splits: Splits) -> None:
    """Of every process and machine: later scores are compared with earlier ones."""
    text = "\n".join(e.id + e.prompt + e.reference for e in [*splits.test, *splits.dev, *splits.train])
    assert (
        hashlib.sha256(text.encode()).hexdigest() == "3c939ed6325fd74eafe2d47a3e61da86603d56c1d9cc6a3252313fe1eaf81763"
    )


def test_the_test_split_does_not_depend_on_the_others(splits: Splits) -> None:
    small = Newswire(max_prompt=96, max_response=24, train=3, dev=0, test=1000)()
    assert small.test == splits.test
    assert (len(small.train), len(small.dev)) == (3, 0)


def test_articles_tell_every_fact_and_summaries_nothing_else(tellings: list[Telling]) -> None:
    values = {v for event in EVENTS for values in event.choices.values() for v in values}
    fact = re.compile(rf"\b({'|'.join(sorted(values, key=len, reverse=True)).lower()})\b")
    for told in tellings[:40]:
        facts = {value.lower() for value in told.story.facts.values()}  # the source that a summary names among them
        assert set(fact.findall(told.article.lower())) >= facts
        assert told.summary in told.story.summaries()
        for summary in told.story.summaries():
            mentioned = set(fact.findall(summary.lower()))
            assert len(mentioned) >= 3
            assert mentioned <= facts


def test_every_way_to_tell_a_story_tells_all_facts() -> None:
    for event in EVENTS:
        for lead in event.leads:
            for detail, sourcing in product(event.details, SOURCINGS):
                # what stands in a choice may be left out
                sure = re.sub(r"\[.*?\]", "", lead + detail + sourcing)
                assert set(re.findall(r"{(\w+)}", sure)) == set(event.choices)


def test_usual_summaries_overlap_more_with_the_references_than_drawn_ones(tellings: list[Telling]) -> None:
    """In ROUGE-L the best answer to an article is far above a perfect sampler: a reward has something to do."""
    rnd = random.Random(0)
    drawn = usual = 0.0
    for told in tellings[:50]:
        right, fresh = ([tokenise(told.story.summary(rnd)) for _ in range(50)] for _ in range(2))
        best = max(right, key=lambda own: sum(rouge_l(own, other) for other in right))
        drawn += sum(map(rouge_l, right, fresh))
        usual += sum(rouge_l(best, other) for other in fresh)
    assert (usual - drawn) / (50 * 50) > 0.08


def test_many_summaries_of_a_story_are_right(tellings: list[Telling]) -> None:
    for told in {t.story.event.name: t for t in tellings}.values():
        right = told.story.summaries()
        assert len(set(right)) == len(right) >= 200
        mentioned = {frozenset(f for f, v in told.story.facts.items() if v in summary) for summary in right}
        assert len(mentioned) >= 4  # not only other verbs: other facts
        assert len({summary.split()[0] for summary in right}) >= 2  # and another order


def test_lengths_in_words(tellings: list[Telling]) -> None:
    articles = [len(t.article.split()) for t in tellings]
    one_each = {t.story.event.name: t for t in tellings}.values()
    summaries = [len(s.split()) for t in one_each for s in t.story.summaries()] + [
        len(t.summary.split()) for t in tellings
    ]
    assert (min(articles), max(articles)) == (35, 58)
    assert (min(summaries), max(summaries)) == (5, 16)


def test_no_event_is_rare(tellings: list[Telling]) -> None:
    names = [t.story.event.name for t in tellings]
    assert all(0.8 < names.count(e.name) * len(EVENTS) / len(names) < 1.2 for e in EVENTS)


def test_the_boundary_is_clean_and_the_limits_hold(
    corpus: Newswire, splits: Splits, lengths_in_tokens: Lengths
) -> None:
    prompt, reference = lengths_in_tokens(splits.train, [*splits.train, *splits.dev, *splits.test])
    assert (prompt, reference) == (68, 20)  # as the yaml says
    assert prompt <= corpus.max_prompt
    assert reference <= corpus.max_response


@pytest.mark.parametrize(
    ("sizes", "named"),
    [
        ({"train": -1}, "data.train=-1"),
        ({"dev": -5}, "data.dev=-5"),
        ({"test": 0}, "data.test=0"),
        ({"train": 10**12}, f"1,000,000,000,020 examples.*{LARGEST:,}"),
    ],
)
def test_sizes_that_cannot_be_had(sizes: dict[str, int], named: str) -> None:
    with pytest.raises(BadInput, match=named):
        Newswire(**{"max_prompt": 96, "max_response": 24, "train": 10, "dev": 10, "test": 10} | sizes)()


def test_the_largest_corpus_comes_to_an_end() -> None:
    splits = Newswire(max_prompt=96, max_response=24, train=LARGEST - 2, dev=1, test=1)()
    assert len({e.reference for e in splits.train}) == LARGEST - 2
