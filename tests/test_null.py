"""A policy against itself: how often do the statistics see a difference where there is none?"""

import numpy as np
import pytest
import torch
from scipy.stats import binom

from esolab import evaluate
from esolab.config import build, resolve
from esolab.metrics import rouge_l, tokenise
from esolab.models import Model
from esolab.run import run
from esolab.stats import compare

PROMPTS, POOL, SEEDS, REPETITIONS = 300, 80, 5, 200
SETTINGS = [
    *("method=sft", "data=newswire", "data.train=1000", "data.dev=8", f"data.test={PROMPTS}", "trainer.epochs=3"),
    *("model.architecture.n_layer=1", "model.architecture.n_embd=64", "model.architecture.n_head=2"),
    *("trainer.threads=1", "evaluation.decodings=[sample]"),
]


@pytest.fixture(scope="module")
def scores(tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    """ROUGE-L points [sampling seed, prompt] of one policy trained by SFT."""
    folder = run(resolve([*SETTINGS, f"outputs={tmp_path_factory.mktemp('null')}"]))
    model = Model(path=str(folder))
    corpus = build(resolve(SETTINGS)["data"])
    tokenizer = model.load_tokenizer([])
    policy = model.load_policy(tokenizer).eval()
    test = evaluate.TestSet.make("newswire", corpus().test, tokenizer, corpus, None)
    references = [tokenise(row.example.reference.strip()) for row in test.rows]
    with torch.no_grad():
        pool = [evaluate.answer(policy, tokenizer, test, "sample", seed, batch_size=100) for seed in range(POOL)]
    return np.array(
        [
            [100 * rouge_l(tokenise(text), reference) for text, reference in zip(texts, references, strict=True)]
            for texts in pool
        ]
    )


def draws(seeds: int) -> np.ndarray:
    """Weights [repetition, sampling seed]: 1 / seeds for those of the one side, -1 / seeds for those of the other."""
    rng, weights = np.random.default_rng(0), np.zeros((REPETITIONS, POOL))
    for row in weights:
        chosen = rng.permutation(POOL)[: 2 * seeds]
        row[chosen[:seeds]], row[chosen[seeds:]] = 1 / seeds, -1 / seeds
    return weights


def band(weights: np.ndarray) -> tuple[float, float]:
    """What 99% of rejection counts lie between, of a test that rejects 5%, over repetitions that draw from one pool.

    Repetitions that share sampling seeds reject together, so the binomial band of as many independent ones would be too
    narrow: the pool is replaced by normal numbers 20,000 times, and the same draws are tested for a mean of 0.
    """
    means = weights @ np.random.default_rng(1).normal(size=(POOL, 20_000))
    counts = (np.abs(means) > 1.959964 * np.sqrt((weights**2).sum(axis=1, keepdims=True))).sum(axis=0)
    low, high = np.quantile(counts, [0.005, 0.995])
    return float(low), float(high)


def test_the_band_of_independent_repetitions_is_the_binomial_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("test_null.POOL", 2 * REPETITIONS)
    weights = np.kron(np.eye(REPETITIONS), [1.0, -1.0])
    assert band(weights) == pytest.approx(tuple(binom.ppf([0.005, 0.995], REPETITIONS, 0.05)), abs=1)


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [SEEDS, 1])
def test_a_policy_does_not_differ_from_itself(scores: np.ndarray, seeds: int) -> None:
    """Five sampling seeds against five others of the same policy, and one against one.

    Sampling is nearly all that its scores vary by: what a bootstrap of both axes would count up to three times.
    """
    assert scores.shape == (POOL, PROMPTS)
    assert len({row.tobytes() for row in scores}) == POOL
    assert scores.mean() > 5  # it has learned: random weights come to 1 point
    weights = draws(seeds)
    sides = [np.stack([scores[row * sign > 0] for row in weights]) for sign in (1, -1)]
    found = [compare([one], resamples=2000)[0] for one in sides[0] - sides[1]]  # each a family by itself
    low, high = band(weights)
    assert low <= sum(one.p < 0.05 for one in found) <= high
    assert low <= sum(not one.low <= 0 <= one.high for one in found) <= high
    assert sum(one.distinguishable for one in found) <= high
    print(
        f"{seeds} against {seeds}: p below .05 in {np.mean([one.p < 0.05 for one in found]):.1%}, "
        f"interval without 0 in {np.mean([not one.low <= 0 <= one.high for one in found]):.1%}"
    )
