"""What a run will do, before it does it: its steps by kind, the worst batch of each kind, and how long that takes.

On several devices a batch is what one of them has of it, and the answers are its share of all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from esolab import ranks
from esolab.assembly import Assembly
from esolab.data import Encoded, Order
from esolab.evaluate import TestSet
from esolab.methods.base import Method
from esolab.methods.onpolicy import OnPolicy

SFT, SAMPLING = "SFT", "sampling"


@dataclass(frozen=True)
class Kind:
    """The steps of one kind: how many a run makes in all and has yet to make, the mean tokens of one (prompts, replies,
    and answers at their limit), and the rows of the worst batch with its tokens: the most, padding counted."""

    name: str
    steps: int
    left: int
    tokens: float
    most: int
    worst: list[Encoded]


@dataclass(frozen=True)
class Answering:
    """What is left to be answered: tokens of all prompts and answers at their limit under all decodings, tokens of the
    references whose likelihood is asked with their prompts, and the worst batch of each."""

    answers: int
    tokens: int
    worst: TestSet
    told: int
    dev: list[Encoded]


def does_sample(method: Method, epoch: int, epochs: int) -> bool:
    """Whether the method samples in this epoch (from 0) of so many."""
    if not isinstance(method, OnPolicy) or method.lam == 0:
        return False
    last = epoch == epochs - 1
    return {"all": True, "last": last, "all_but_last": not last}[method.active_epochs]


def tokens(rows: Sequence[Encoded], answers: int, limit: int) -> int:
    """Tokens of the prompts, of their replies, and of so many answers to each at their limit."""
    replies = sum(len(row.reference) + len(row.rejected or ()) for row in rows)
    return sum(len(row.prompt) for row in rows) + replies + len(rows) * answers * limit


def batches(run: Assembly) -> Iterator[tuple[int, list[Encoded]]]:
    """The batches of the whole run in their order, each with its epoch; of several ranks the largest share of each."""
    trainer, total = run.trainer, run.trainer.steps(len(run.train))
    order = Order(len(run.train), run.config["seed"])
    for epoch in range(trainer.epochs):
        order.set_epoch(epoch)
        places = list(order)
        for start in range(0, len(places), trainer.batch_size):
            if total == 0:
                return
            total -= 1
            yield epoch, _share([run.train[i] for i in places[start : start + trainer.batch_size]], trainer.size)


def _share(rows: list[Encoded], size: int) -> list[Encoded]:
    """What the rank with the most tokens has of a batch."""
    return max((ranks.part(rows, rank, size) for rank in range(size)), key=lambda part: tokens(part, 0, 0))


def kinds(run: Assembly, done: int) -> list[Kind]:
    """The kinds of steps that the run makes, of which `done` steps are made; those that sample last."""
    sampling = run.method.parts.sampling
    found: dict[bool, list[tuple[int, int, int, list[Encoded]]]] = {}
    for number, (epoch, rows) in enumerate(batches(run)):
        samples = does_sample(run.method, epoch, run.trainer.epochs)
        size = tokens(rows, sampling.k if samples else 0, sampling.max_new_tokens)
        padded = min(run.trainer.micro_batch, len(rows)) * max(len(row.prompt) for row in rows)
        found.setdefault(samples, []).append((size + padded, size, number, rows))
    own = SFT if isinstance(run.method, OnPolicy) else run.label
    made = []
    for samples, steps in sorted(found.items()):
        _, most, _, worst = max(steps, key=lambda step: step[0])
        mean = sum(size for _, size, _, _ in steps) / len(steps)
        left = sum(number >= done for _, _, number, _ in steps)
        made.append(Kind(SAMPLING if samples else own, len(steps), left, mean, most, worst))
    return made


def watches(run: Assembly) -> bool:
    """Whether the run comes to a step at which ESO measures the two parts of its gradient, see ESO.watch."""
    every, trainer = getattr(run.method, "watch_every", 0), run.trainer
    if not every or run.method.policy.dropout or trainer.batch_size == 1:
        return False
    per_epoch = trainer.steps_per_epoch(len(run.train))
    steps = range(every - 1, trainer.steps(len(run.train)), every)
    return any(does_sample(run.method, step // per_epoch, trainer.epochs) for step in steps)


def answering(run: Assembly, done: int) -> Answering:
    """What is to be scored after `done` steps: the dev prompts after each epoch that is left, the test sets at the end,
    and before training where that is asked for."""
    per_epoch, total = run.trainer.steps_per_epoch(len(run.train)), run.trainer.steps(len(run.train))
    epochs = -(-total // per_epoch) - done // per_epoch
    dev = TestSet("dev", run.dev, run.corpus.max_response, 0)
    sets = [(test, 2 if run.evaluation.before else 1) for test in run.tests.values()] + [(dev, epochs)]
    size, decodings = run.evaluation.batch_size, len(run.evaluation.decodings)
    parts = [part for test, _ in sets for part in _parts(test, size)]
    chunks = [list(run.dev[start : start + size]) for start in range(0, len(run.dev), size)]
    return Answering(
        answers=decodings * sum(len(test.rows) * times for test, times in sets),
        tokens=decodings * sum(answer_tokens(test) * times for test, times in sets) // run.trainer.size,
        worst=max(parts, key=answer_tokens),
        told=epochs * tokens(run.dev, 0, 0) // run.trainer.size,
        dev=max(chunks, key=lambda rows: tokens(rows, 0, 0), default=[]),
    )


def answer_tokens(test: TestSet) -> int:
    """Tokens of the prompts and of one answer to each at its limit."""
    return sum(len(row.prompt) + test.max_new_tokens for row in test.rows)


def _parts(test: TestSet, size: int) -> list[TestSet]:
    """A test set batch by batch, as esolab.evaluate answers it: like lengths together."""
    rows = sorted(test.rows, key=lambda row: len(row.prompt))
    starts = range(0, len(rows), size)
    return [TestSet(test.name, rows[start : start + size], test.max_new_tokens, 0) for start in starts]


def step_seconds(measured: Mapping[str, float], parts: float, share: float) -> float:
    """Seconds of a mean step: those of one on the worst batch, its scoring and backward `parts` times (all
    micro-batches over those that were made), all of it `share` times (tokens of a mean batch over the worst's)."""
    update = measured.get("score", 0.0) + measured.get("backward", 0.0)
    return share * (sum(measured.values()) + (parts - 1) * update)


def scoring_seconds(answering: Answering, answer: float, told: float) -> float:
    """Seconds of all scoring that is left, from those of answering its worst batch and of the likelihood of its worst
    dev batch, as tokens grow."""
    likelihood = told * answering.told / tokens(answering.dev, 0, 0) if answering.dev else 0.0
    return answer * answering.tokens / answer_tokens(answering.worst) + likelihood
