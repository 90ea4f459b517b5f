"""The least time that one ESO step can take on a machine of measured speed: pure arithmetic.

A transformer of L layers of width d with a feed-forward part of width 4d multiplies each token with 12 L d^2 weights.
Every prompt is counted once: forward when it is read to be answered, backward when its answers are scored. A position
meets the vocabulary only where a token has to be sampled or scored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Shape:
    """A transformer: layers, width d, vocabulary V, and bytes per weight."""

    layers: int
    width: int
    vocabulary: int
    item: int = 4


@dataclass(frozen=True)
class Lengths:
    """Tokens of one batch: of each prompt, of the answers to each prompt, and of each reference; ends included."""

    prompts: Sequence[int]
    answers: Sequence[Sequence[int]]
    references: Sequence[int]


@dataclass(frozen=True)
class Rates:
    """What the machine does, measured: floating-point operations a second in the layers' matrix products (`body`) and
    in the projection to the vocabulary, at the rows of one decoding step and at those of a scoring pass; bytes moved a
    second by a copy, read and written counted."""

    decode_body: float
    decode_vocabulary: float
    score_body: float
    score_vocabulary: float
    copy: float


@dataclass(frozen=True)
class Need:
    """What a part of the step cannot do without: operations in the layers, in the vocabulary, and bytes of memory."""

    body: int
    vocabulary: int
    bytes: int

    def seconds(self, body: float, vocabulary: float, copy: float) -> float:
        """The longer of computing and moving: max(body / rate + vocabulary / rate, bytes / bandwidth)."""
        return max(self.body / body + self.vocabulary / vocabulary, self.bytes / copy)


def layers(shape: Shape, tokens: int, contexts: int) -> int:
    """Operations of one forward through the layers: 2 * 12 L d^2 for each token, and 4 L d for each pair of a token and
    a place it looks at (`contexts` of them: a product with the key, one with the value)."""
    return 24 * shape.layers * shape.width**2 * tokens + 4 * shape.layers * shape.width * contexts


def projection(shape: Shape, places: int) -> int:
    """Operations of the projection to the vocabulary: 2 d V at each place."""
    return 2 * shape.width * shape.vocabulary * places


def weight_bytes(shape: Shape) -> int:
    """Bytes of the weights that a forward reads: 12 L d^2 of the layers and d V of the vocabulary."""
    return shape.item * (12 * shape.layers * shape.width**2 + shape.width * shape.vocabulary)


def key_bytes(shape: Shape, tokens: int) -> int:
    """Bytes of the keys and values of so many tokens: 2 L d each."""
    return shape.item * 2 * shape.layers * shape.width * tokens


def triangle(n: int) -> int:
    """Pairs of a token and a place it looks at in n tokens, itself included: n (n + 1) / 2."""
    return n * (n + 1) // 2


def branch_contexts(prompt: int, length: int) -> int:
    """Pairs of tokens and places of one branch: its n = length - 1 tokens that predict something look at the prompt, at
    their predecessors and at themselves: n * prompt + n (n + 1) / 2."""
    inner = max(length - 1, 0)
    return inner * prompt + triangle(inner)


def reading(shape: Shape, lengths: Lengths) -> Need:
    """The prompts, forward once; the last place of each meets the vocabulary; the weights are read once."""
    contexts = sum(triangle(p) for p in lengths.prompts)
    return Need(
        layers(shape, sum(lengths.prompts), contexts), projection(shape, len(lengths.prompts)), weight_bytes(shape)
    )


def decoding(shape: Shape, lengths: Lengths) -> Need:
    """All tokens of the answers but the last of each, one after the other: at each of the (longest - 1) steps the
    weights are read once, and the keys and values of each prompt that still grows once, whatever k is."""
    inner = [[max(n - 1, 0) for n in answers] for answers in lengths.answers]
    tokens = sum(map(sum, inner))
    contexts = sum(branch_contexts(p, n) for p, row in zip(lengths.prompts, lengths.answers, strict=True) for n in row)
    prompt_keys = sum(p * max(row) for p, row in zip(lengths.prompts, inner, strict=True))
    own_keys = sum(triangle(n) for row in inner for n in row)
    steps = max(max(row) for row in inner)
    moved = steps * weight_bytes(shape) + key_bytes(shape, prompt_keys + own_keys)
    return Need(layers(shape, tokens, contexts), projection(shape, tokens), moved)


def scoring(shape: Shape, lengths: Lengths) -> Need:
    """Answers and references forward and backward (three forwards), prompts backward only (two, as they were read
    before). The first tokens of all branches are predicted by one place. The weights are read forward and backward, and
    their gradients written."""
    tokens = contexts = 0
    for prompt, answers, reference in zip(lengths.prompts, lengths.answers, lengths.references, strict=True):
        for n in (*answers, reference):
            tokens += max(n - 1, 0)
            contexts += branch_contexts(prompt, n)
    body = 3 * layers(shape, tokens, contexts)
    body += 2 * layers(shape, sum(lengths.prompts), sum(triangle(p) for p in lengths.prompts))
    return Need(body, 3 * projection(shape, tokens + len(lengths.prompts)), 3 * weight_bytes(shape))


def least_seconds(shape: Shape, lengths: Lengths, rates: Rates) -> dict[str, float]:
    """The least seconds of each phase of a step (rewards are free)."""
    read, decode, score = reading(shape, lengths), decoding(shape, lengths), scoring(shape, lengths)
    return {
        "sample": read.seconds(rates.score_body, rates.score_vocabulary, rates.copy)
        + decode.seconds(rates.decode_body, rates.decode_vocabulary, rates.copy),
        "reward": 0.0,
        "update": score.seconds(rates.score_body, rates.score_vocabulary, rates.copy),
    }
