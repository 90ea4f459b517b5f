"""Preferences: the newswire with a second, worse summary of every article. Nothing is downloaded.

The chosen summary is newswire's own, one of the right ones. Of every two articles one has as its rejected summary a
right summary but for one fact, and the other a right summary of another story; each is drawn as newswire draws its
own. So the ways of telling, the words and the lengths of chosen and rejected summaries are alike: only the article
tells which is which.
"""

from __future__ import annotations

import random
from dataclasses import replace

from esolab.batch import Example
from esolab.corpora.newswire import Newswire, Story, Telling


class Preferences(Newswire):
    """Newswire as pairs; see there for sizes, limits and splits. A pair depends on its telling alone."""

    name = "preferences"

    def example(self, text: Telling, id: str) -> Example:
        """The telling with a rejected summary: with one wrong fact (even places of a split), or of another story."""
        rnd = random.Random(text.article)
        even = int(id.rpartition("/")[2]) % 2 == 0
        rejected = with_a_wrong_fact(text.story, rnd) if even else Story.draw(rnd).summary(rnd)
        return replace(text.example(id), rejected=rejected)


def with_a_wrong_fact(story: Story, rnd: random.Random) -> str:
    """A summary in which one of the facts that it tells is another than the story's."""
    way = rnd.random()
    right = story.summary(random.Random(way))
    for name in rnd.sample(list(story.facts), len(story.facts)):
        value = rnd.choice([other for other in story.event.choices[name] if other != story.facts[name]])
        wrong = Story(story.event, story.facts | {name: value}).summary(random.Random(way))
        if wrong != right:  # the same telling: it differs where the fact is told
            return wrong
    raise AssertionError("every summary tells a fact")
