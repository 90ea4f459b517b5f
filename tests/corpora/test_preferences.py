import hashlib
from collections import Counter
from itertools import islice
from pathlib import Path
from statistics import fmean

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from esolab.batch import Example
from esolab.corpora.newswire import Newswire, Story, Telling, wire
from esolab.corpora.preferences import Preferences
from esolab.errors import BadInput

SIZES = {"train": 300, "dev": 20, "test": 100}


@pytest.fixture(scope="module")
def told_pairs() -> list[tuple[Telling, Example]]:
    """The first tellings of the wire, each with its pair."""
    pairs = Preferences(max_prompt=96, max_response=24, **SIZES)().test
    return list(zip(islice(wire(), 100), pairs, strict=True))


def test_the_chosen_side_is_newswire() -> None:
    ours, theirs = (kind(max_prompt=96, max_response=24, **SIZES)() for kind in (Preferences, Newswire))
    for name, size in SIZES.items():
        pairs = getattr(ours, name)
        assert [(e.prompt, e.reference, e.span) for e in pairs] == [
            (e.prompt, e.reference, e.span) for e in getattr(theirs, name)
        ]
        assert [e.id for e in pairs] == [f"preferences/{name}/{i}" for i in range(size)]


def test_chosen_summaries_are_right_and_rejected_ones_are_not(told_pairs: list[tuple[Telling, Example]]) -> None:
    for told, pair in told_pairs:
        right = told.story.summaries()
        assert pair.reference in right
        assert pair.rejected not in right


def almost_right(story: Story) -> set[str]:
    """The summaries of all stories that share all facts but one with this one."""
    return {
        summary
        for name, values in story.event.choices.items()
        for value in values
        for summary in Story(story.event, story.facts | {name: value}).summaries()
    }


def test_half_of_the_rejected_summaries_are_right_but_for_one_fact(
    told_pairs: list[tuple[Telling, Example]],
) -> None:
    found = [pair.rejected in almost_right(told.story) for told, pair in told_pairs[:4]]
    assert found == [True, False, True, False]


def test_neither_length_nor_words_tell_them_apart() -> None:
    pairs = Preferences(max_prompt=96, max_response=24, train=3000, dev=0, test=1)().train
    chosen, rejected = ([len(text.split()) for text in texts] for texts in zip(*map(texts_of, pairs), strict=True))
    assert fmean(chosen) == pytest.approx(fmean(rejected), abs=0.15)
    ours, theirs = (
        Counter(word for text in texts for word in text.split()) for texts in zip(*map(texts_of, pairs), strict=True)
    )
    assert sum(abs(ours[word] - theirs[word]) for word in ours | theirs) / 2 < 0.07 * ours.total()


def texts_of(pair: Example) -> tuple[str, str]:
    assert pair.rejected is not None
    return pair.reference, pair.rejected


def test_the_same_text_everywhere() -> None:
    """Of every process and machine, and whatever the sizes of the splits: scores are compared."""
    yaml = Path(__file__).parents[2] / "conf/data/preferences.yaml"
    splits = instantiate(OmegaConf.load(yaml))()
    assert (len(splits.train), len(splits.dev), len(splits.test)) == (4000, 300, 1000)
    pairs = [*splits.test, *splits.dev, *splits.train]
    text = "\n".join(e.id + e.prompt + e.reference + (e.rejected or "") for e in pairs)
    assert (
        hashlib.sha256(text.encode()).hexdigest() == "2bbfd540fb110208e9fea7a5ea33cb0199c951963951e4b6406c04b86165baa4"
    )
    small = Preferences(max_prompt=96, max_response=24, train=3, dev=0, test=1000)()
    assert small.test == splits.test


def test_sizes_that_cannot_be_had() -> None:
    with pytest.raises(BadInput, match=r"data.test=0: preferences needs"):
        Preferences(max_prompt=96, max_response=24, train=1, dev=1, test=0)()
