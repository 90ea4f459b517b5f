import json
import math
import random
import string
import subprocess
import sys
from pathlib import Path

import pytest
from nltk.translate.gleu_score import sentence_gleu
from rouge_score.rouge_scorer import RougeScorer

from esolab.metrics import (
    ROUGE,
    distinct2,
    gleu,
    gleu_char,
    length,
    score,
    summarise,
    summarise_pairs,
    tokenise,
)

XSUM = Path(__file__).parents[1].parent / "shared" / "data" / "xsum"
REFERENCE, ANSWER = "the cats are sitting on the mats", "a cat sat on the mat"
ENDINGS = ["s", "es", "ies", "ied", "ed", "eed", "ing", "y", "yyy", "ation", "ational", "ousness", "alli", "logi", "0"]
ENDINGS += ["ement", "ion", "e", "ll", "ness", "ful", "ss", "ence", "ize", "iviti", "bli"]
AWKWARD = [
    "The",
    "the",
    "THE",
    "cat's",
    "can't",
    "o'clock",
    "sky",
    "dying",
    "news",
    "u.s.",
    "snake_case",
    "3.14",
    "1,000",
]
ALPHABET = (
    string.printable
    + "éÉßŒİ\u0131\u017f\u212a\u0301\u00a0\u2009\u200b\u2028\u2019“—…\ufb01漢字жЖ😀\U0001d41a٣²\ud800\x1c"
)
SCORER = {stem: RougeScorer(list(ROUGE), use_stemmer=stem) for stem in (True, False)}


def assert_rouge_agrees(prediction: str, reference: str) -> None:
    for stem, scorer in SCORER.items():
        ours = {name: f(tokenise(prediction, stem), tokenise(reference, stem)) for name, f in ROUGE.items()}
        theirs = {name: found.fmeasure for name, found in scorer.score(reference, prediction).items()}
        assert ours == pytest.approx(theirs, rel=0, abs=1e-12), (prediction, reference, stem)


def assert_gleu_agrees(prediction: str, reference: str) -> None:
    assert gleu(prediction, reference) == sentence_gleu([reference.split()], prediction.split())
    assert gleu_char(prediction, reference) == sentence_gleu([list(reference)], list(prediction))


def random_word(rng: random.Random) -> str:
    """A word that the stemmer acts on, one of the awkward ones, or any characters at all."""
    kind = rng.random()
    if kind < 0.5:
        return "".join(rng.choices("abeilnorstyz", k=rng.randint(0, 6))) + rng.choice(ENDINGS)
    if kind < 0.8:
        return rng.choice(AWKWARD)
    return "".join(rng.choices(ALPHABET, k=rng.randint(1, 6)))


def random_pair(rng: random.Random) -> tuple[str, str]:
    vocabulary = [random_word(rng) for _ in range(rng.randint(1, 20))]
    separators = [" ", " ", "  ", "\n", "\t", "-", "_", "'", ""]
    one, other = (
        "".join(rng.choice(vocabulary) + rng.choice(separators) for _ in range(rng.randint(0, 40))) for _ in range(2)
    )
    return one, other


@pytest.mark.parametrize(
    ("stem", "expected"),
    [
        (True, [0.6153846153846153, 0.3636363636363636, 0.6153846153846153]),
        (False, [0.30769230769230765, 0.1818181818181818, 0.30769230769230765]),
    ],
)
def test_rouge_of_the_oracle(stem, expected):  # O-ROUGE
    answer, reference = tokenise(ANSWER, stem), tokenise(REFERENCE, stem)
    assert [f(answer, reference) for f in ROUGE.values()] == pytest.approx(expected, rel=0, abs=1e-12)


def test_gleu_of_the_oracle():  # O-GLEU
    assert gleu(ANSWER, REFERENCE) == pytest.approx(0.13636363636363635, rel=0, abs=1e-12)
    assert gleu_char(ANSWER, REFERENCE) == pytest.approx(0.4344262295081967, rel=0, abs=1e-12)


def test_score_is_the_stemmed_one():
    expected = [0.6153846153846153, 0.3636363636363636, 0.6153846153846153, 0.13636363636363635, 0.4344262295081967]
    assert score(ANSWER, REFERENCE) == pytest.approx(
        dict(zip(["rouge1", "rouge2", "rougeL", "gleu", "gleu_char"], expected, strict=True)), rel=0, abs=1e-12
    )


def test_random_texts_agree_with_the_references():
    rng = random.Random(0)
    pairs = [random_pair(rng) for _ in range(1500)]
    for prediction, reference in pairs:
        assert_rouge_agrees(prediction, reference)
    for prediction, reference in pairs[:500]:
        assert_gleu_agrees(prediction, reference)
    some = [score(*pair)["rouge2"] for pair in pairs]
    assert sum(0 < value < 1 for value in some) > 500, "these texts test nothing if they have nothing in common"


@pytest.mark.parametrize(
    ("prediction", "reference"),
    [
        ("one", "one"),
        ("one", "one two"),
        ("can't won't it's", "cant wont its can t"),
        ("snake_case __init__", "snake case init"),
        ("naïve café ÉCOLE", "na ve caf cole"),
        ("K İstanbul", "k istanbul"),
        ("1,000.50 in 2016-17", "1 000 50 in 201617"),
        ("a a a a b", "a b a"),
        ("x" * 5000 + " yes", "x" * 5000),
        ("running runner ran " * 700, "the runner runs " * 800),
    ],
)
def test_awkward_texts_agree_with_the_references(prediction, reference):
    assert_rouge_agrees(prediction, reference)
    assert_gleu_agrees(prediction, reference)


def test_real_text_agrees_with_the_references():
    if not XSUM.is_dir():
        pytest.skip(f"NO REAL TEXT COMPARED: {XSUM} is not there")
    records = [json.loads(line) for line in (XSUM / "test.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(records) == 100
    for record, other in zip(records, records[1:] + records[:1], strict=True):
        lead = " ".join(record["document"].split()[:70])
        for answer in (lead, record["summary"], other["summary"]):
            assert_rouge_agrees(answer, record["summary"])
            assert_gleu_agrees(answer, record["summary"])


@pytest.mark.parametrize("pair", [("", "some text"), ("some text", ""), ("", "")])
def test_nothing_scores_0(pair):
    assert score(*pair) == dict.fromkeys([*ROUGE, "gleu", "gleu_char"], 0.0)
    assert all(isinstance(value, float) for value in score(*pair).values())


def test_a_text_without_words_has_no_rouge():
    assert [f(tokenise("…\n"), tokenise("…\n")) for f in ROUGE.values()] == [0.0, 0.0, 0.0]


def test_equal_texts_score_1():
    assert score("The cats sat, twice.", "The cats sat, twice.") == dict.fromkeys([*ROUGE, "gleu", "gleu_char"], 1.0)


def test_a_stem_is_never_empty():
    rng = random.Random(1)
    words = {"".join(rng.choices(ENDINGS, k=rng.randint(1, 4))) for _ in range(5000)}
    assert all(tokenise(word)[0] for word in words)


def test_length_and_distinct2():
    assert length("") == 0
    assert length(" two  words\n") == 2
    assert distinct2([]) == distinct2(["", "word"]) == 0.0
    assert distinct2(["a b c", "A B"]) == 2 / 3  # ab, bc, ab; none crosses from c to A
    assert distinct2(["a b a b a"]) == 2 / 4


def test_summary():
    pairs = [("a b c", "a b c"), ("", "a b"), ("x b", "a b")]
    rows = [{"id": "1", **score(*pair)} for pair in pairs]
    found = summarise(rows, [prediction for prediction, _ in pairs])
    assert list(found) == ["n", "rouge1", "rouge2", "rougeL", "gleu", "gleu_char", "length", "distinct2"]
    assert found["n"] == 3
    assert found["rouge1"] == pytest.approx(100 * (1 + 0 + 0.5) / 3)
    assert found["rouge2"] == pytest.approx(100 / 3)
    assert found["rougeL"] == pytest.approx(50)
    assert found["gleu"] == pytest.approx(100 * (1 + 0 + 1 / 3) / 3)
    assert found["gleu_char"] == pytest.approx(100 * (1 + 0 + 3 / 6) / 3)  # " ", "b", " b" of 3 + 2 + 1
    assert found["length"] == pytest.approx(5 / 3)
    assert found["distinct2"] == 1.0


@pytest.mark.parametrize(("rows", "predictions"), [([], []), ([score("a", "a")], ["a", "b"])])
def test_summary_of_what_does_not_match_is_refused(rows, predictions):
    with pytest.raises(ValueError, match="one row of scores per prediction"):
        summarise(rows, predictions)


def test_importing_loads_neither_nltk_nor_torch():
    code = "import sys, esolab.metrics; print([name for name in ('nltk', 'torch', 'scipy') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_pairs_by_hand():
    found = summarise_pairs([1.2 - 0.4, -0.3 - 0.1, 0.0], [3, -2, 0])
    assert found["n"] == 3
    assert found["loss"] == pytest.approx(0.6590876996358919, rel=1e-12)  # oracles.json: bt.loss
    assert found["accuracy"] == 0.5  # bt.acc tie=.5
    assert (found["accuracy_longer"], found["accuracy_shorter"]) == (1.0, 0.0)  # what a length detector has
    assert found["margin"] == pytest.approx(0.4 / 3)
    sure = [1 / (1 + math.exp(-m)) for m in (0.8, 0.4, 0.0)]  # 0.69, 0.60, 0.5: bins of their own
    assert found["calibration"] == pytest.approx((abs(1 - sure[0]) + sure[1] + 0) / 3)


def test_calibration_is_of_bins_and_0_where_confidence_is_right():
    """Three of four right at a confidence of 3/4."""
    margin = math.log(3)
    assert summarise_pairs([margin] * 3 + [-margin], [0] * 4)["calibration"] == pytest.approx(0, abs=1e-12)
    assert summarise_pairs([margin] * 4, [0] * 4)["calibration"] == pytest.approx(0.25)


def test_pairs_at_the_ends():
    found = summarise_pairs([1000.0, -1000.0], [1, 1])
    assert (found["loss"], found["accuracy"], found["accuracy_shorter"]) == (500.0, 0.5, None)
    for margins, longer in (([], []), ([1.0], [])):
        with pytest.raises(ValueError, match="one length per margin"):
            summarise_pairs(margins, longer)
