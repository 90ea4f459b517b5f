"""One text against another: ROUGE, GLEU; and a set of answers by itself: length, diversity."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cache, lru_cache
from itertools import pairwise
from statistics import fmean
from typing import Any

from rapidfuzz.distance import LCSseq

WORD = re.compile("[a-z0-9]+")


@cache
def _porter() -> Callable[[str], str]:
    from nltk.stem.porter import PorterStemmer  # nltk takes a second to import, so only when a score is wanted

    return PorterStemmer().stem  # type: ignore[no-any-return]


@lru_cache(maxsize=1 << 17)  # stemming is the price of ROUGE, and words come back
def _stem(word: str) -> str:
    return word if len(word) <= 3 else _porter()(word)


def tokenise(text: str, stem: bool = True) -> list[str]:
    """The words that ROUGE compares: runs of a-z and 0-9 in the lower-cased text, words over 3 letters Porter-stemmed.

    Equal to the default tokenizer of `rouge_score` 0.1.2: everything else, accented letters included, separates words.
    """
    words = WORD.findall(text.lower())
    return list(map(_stem, words)) if stem else words


def _f(matches: int, prediction: int, reference: int) -> float:
    """The harmonic mean of matches / prediction and matches / reference; 0 where nothing matches."""
    if not matches:
        return 0.0
    precision, recall = matches / prediction, matches / reference
    return 2 * precision * recall / (precision + recall)  # in rouge_score's order, so that the last digit agrees


def _overlap(prediction: Sequence[object], reference: Sequence[object]) -> float:
    ours, theirs = Counter(prediction), Counter(reference)
    matches = sum([min(n, theirs[gram]) for gram, n in ours.items() if gram in theirs])
    return _f(matches, len(prediction), len(reference))


def rouge1(prediction: list[str], reference: list[str]) -> float:
    """ROUGE-1 F of two token lists, in [0, 1]: words in common, however ordered (Lin 2004)."""
    return _overlap(prediction, reference)


def rouge2(prediction: list[str], reference: list[str]) -> float:
    """ROUGE-2 F of two token lists, in [0, 1]: pairs of neighbouring words in common (Lin 2004)."""
    return _overlap(list(pairwise(prediction)), list(pairwise(reference)))


def rouge_l(prediction: list[str], reference: list[str]) -> float:
    """ROUGE-L F of two token lists, in [0, 1]: the longest common subsequence of the whole texts (Lin 2004)."""
    return _f(LCSseq.similarity(prediction, reference), len(prediction), len(reference))


ROUGE: dict[str, Callable[[list[str], list[str]], float]] = {"rouge1": rouge1, "rouge2": rouge2, "rougeL": rouge_l}


def gleu(prediction: str, reference: str) -> float:
    """GLEU (Google-BLEU, Wu et al. 2016) in [0, 1] over 1- to 4-grams of whitespace-separated words, case kept."""
    return _sentence_gleu(prediction.split(), reference.split())


def gleu_char(prediction: str, reference: str) -> float:
    """GLEU in [0, 1] over 1- to 4-grams of characters, spaces included.

    Texts passed to NLTK unsplit give this, and it is what the numbers of the ESO paper's table 2 look like: the word
    scores of comparable systems are a third of them.
    """
    return _sentence_gleu(prediction, reference)


def _sentence_gleu(prediction: Sequence[str], reference: Sequence[str]) -> float:
    from nltk.translate.gleu_score import sentence_gleu

    return float(sentence_gleu([reference], prediction))


def length(text: str) -> int:
    """The number of whitespace-separated words."""
    return len(text.split())


def distinct2(texts: Sequence[str]) -> float:
    """Different bigrams over all bigrams of a set of answers, in [0, 1] (Li et al. 2016); 0 where there is none.

    Bigrams are of whitespace-separated, lower-cased words and do not cross from one answer to the next. More text of
    the same kind scores lower: compare sets of one size.
    """
    bigrams = [pair for text in texts for pair in pairwise(text.lower().split())]
    return len(set(bigrams)) / len(bigrams) if bigrams else 0.0


def score(prediction: str, reference: str) -> dict[str, float]:
    """One answer against its reference, as a line of predictions.jsonl keeps it.

    Returns rouge1, rouge2, rougeL (F-measure, stemmed), gleu (words) and gleu_char, each in [0, 1]. An empty answer or
    an empty reference scores 0 everywhere. The texts are compared as they are: strip them before.
    """
    ours, theirs = tokenise(prediction), tokenise(reference)
    rouge = {name: metric(ours, theirs) for name, metric in ROUGE.items()}
    return rouge | {"gleu": gleu(prediction, reference), "gleu_char": gleu_char(prediction, reference)}


def summarise(rows: Sequence[Mapping[str, Any]], predictions: Sequence[str]) -> dict[str, float | int]:
    """The scores of one set under one decoding, as result.json keeps them.

    `rows` are what `score` returned for each of `predictions` (other keys are left alone). Returns the number of
    answers n, the means of the five scores times 100, the mean length in words, and distinct2 in [0, 1].

    Raises ValueError where rows and predictions differ in number, or there are none.
    """
    if len(rows) != len(predictions) or not rows:
        raise ValueError(f"need one row of scores per prediction and at least one: {len(rows)} v {len(predictions)}")
    means = {name: 100 * fmean(row[name] for row in rows) for name in (*ROUGE, "gleu", "gleu_char")}
    lengths = fmean(map(length, predictions))
    return {"n": len(rows), **means, "length": lengths, "distinct2": distinct2(predictions)}


def summarise_pairs(margins: Sequence[float], longer: Sequence[int]) -> dict[str, float | int | None]:
    """How well rewards tell the replies of pairs apart, as result.json keeps it.

    `margins` are r_chosen - r_rejected; the sign of `longer` says whether the chosen reply is the longer one. Returns
    the number of pairs n; loss, the mean of -log sigmoid(margin); accuracy in [0, 1], a tie counting half, over all
    pairs and over those whose chosen reply is longer, and shorter (None where there are none): a mere length detector
    has 1 and 0 there; calibration, the expected calibration error of sigmoid(|margin|) as the chance that the reply
    with the higher reward is the chosen one, in ten bins from 0.5 to 1 (Guo et al. 2017); and the mean margin.

    Raises ValueError where the two differ in number, or there are none.
    """
    if len(margins) != len(longer) or not margins:
        raise ValueError(f"need one length per margin and at least one: {len(margins)} v {len(longer)}")
    right = [float(m > 0) + 0.5 * (m == 0) for m in margins]
    sure = [1 / (1 + math.exp(-abs(m))) for m in margins]
    bins = [min(9, int(20 * (p - 0.5))) for p in sure]
    gaps = [sum(hit - p for hit, p, own in zip(right, sure, bins, strict=True) if own == b) for b in range(10)]
    return {
        "n": len(margins),
        "loss": fmean(max(0.0, -m) - math.log(p) for m, p in zip(margins, sure, strict=True)),
        "accuracy": fmean(right),
        "accuracy_longer": _mean([hit for hit, more in zip(right, longer, strict=True) if more > 0]),
        "accuracy_shorter": _mean([hit for hit, more in zip(right, longer, strict=True) if more < 0]),
        "calibration": sum(map(abs, gaps)) / len(margins),
        "margin": fmean(margins),
    }


def _mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None
