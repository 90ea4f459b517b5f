"""A few steps for real, on the worst batches of the run, with answers at their limit and a learning rate of 0: what
they hold in memory and how long they take. No weight changes, and nothing is written."""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader

from esolab.assembly import Assembly
from esolab.batch import Batch
from esolab.data import Encoded, TrainingData, collate
from esolab.evaluate import answer, reference_loss
from esolab.fitting import QUIETED
from esolab.methods.base import Method
from esolab.methods.onpolicy import OnPolicy
from esolab.methods.reward_model import RewardModel
from esolab.policy import Tokenizer
from esolab.preflight.gauge import Gauge
from esolab.preflight.plan import SAMPLING, Answering, Kind

NEVER = (-1,)  # ids that end an answer: none
PHASES = {  # functions of a method, and the phase that each is
    "read": "sample",
    "rollout": "sample",
    "judge": "reward",
    "backward_all": "score",
    "descend": "backward",
    "optimizer_step_and_schedule": "optimizer",
}


@dataclass
class Measured:
    """Peak bytes by phase; of a step of each kind its seconds by phase, and its micro-batches over those made, in
    tokens; seconds to answer the worst batch of prompts, and to be told the references of the worst dev batch."""

    peaks: dict[str, int] = field(default_factory=dict)
    steps: dict[str, dict[str, float]] = field(default_factory=dict)
    parts: dict[str, float] = field(default_factory=dict)
    answer: float = 0.0
    told: float = 0.0


class Worst(TrainingData):
    """One epoch of these very batches."""

    def __init__(self, batches: Sequence[list[Encoded]], seed: int) -> None:
        super().__init__([row for rows in batches for row in rows], 1, seed)
        self.batches = [collate(rows) for rows in batches]

    def train_dataloader(self) -> DataLoader[Any]:
        """In their order."""
        return DataLoader(self.batches, batch_size=None)  # type: ignore[arg-type]  # a list is a map-style dataset


class Rehearsal(Checkpoint):
    """Turns sampling on and off, reads the gauge after each step, and scores when the steps are over. A Checkpoint, so
    that Lightning adds none."""

    def __init__(self, run: Assembly, kinds: Sequence[Kind], answering: Answering) -> None:
        self.run, self.kinds, self.answering = run, kinds, answering
        self.gauge, self.measured, self.kind = Gauge(run.trainer.device), Measured(), kinds[0].name

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Whether this epoch, which is the first and the last, samples is up to `active_epochs`."""
        self.kind = self.kinds[batch_idx].name
        if isinstance(pl_module, OnPolicy):
            pl_module.active_epochs = "all" if self.kind == SAMPLING else "all_but_last"
        self.gauge.enter("step")
        self.gauge.clear()

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        """A step is over; of two of a kind the second counts."""
        self.measured.steps[self.kind] = self.gauge.clear()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Score as after every epoch of the run, while the optimizer is there."""
        for what, score in (("answer", _answer), ("told", _tell)):
            self.gauge.clear()
            with self.gauge.phase("evaluate"):
                score(self.run, self.answering)
            setattr(self.measured, what, self.gauge.clear()["evaluate"])
        self.measured.peaks = dict(self.gauge.peaks)

    def few(self, batch: Batch) -> list[list[int]]:
        """The micro-batches of a batch; where there are more than two, the first, whose prompts are longest, twice:
        without gradients, and beside them."""
        method = self.run.method
        groups = Method.micro_batches(method, batch)
        made = [groups[0]] * 2 if len(groups) > 2 else groups
        drawn = method.parts.sampling.k * method.parts.sampling.max_new_tokens if method.active else 0
        size = batch.prompts.lengths + batch.references.lengths + drawn
        whole, part = (float(sum(size[rows].sum() for rows in those)) for those in (groups, made))
        self.measured.parts[self.kind] = whole / part
        return made

    @contextmanager
    def measuring(self) -> Iterator[None]:
        """Inside, the method tells the gauge its phases, makes few micro-batches, ends no answer, learns nothing."""
        method, own = self.run.method, self.run.method.parts
        inner = own.tokenizer.inner
        method.parts = replace(own, tokenizer=Tokenizer(inner, eos=NEVER, bos=own.tokenizer.bos))
        others = {"micro_batches": self.few, "configure_optimizers": lambda: still(method)}
        if isinstance(method, OnPolicy):
            vars(method)["judge"] = partial(told_apart, method.judge)
        for name, phase in PHASES.items():
            if hasattr(method, name):
                others[name] = self.gauge.around(phase, getattr(method, name))
        vars(method).update(others)
        try:
            yield
        finally:
            method.parts = own
            for name in others:
                del vars(method)[name]


def rehearse(run: Assembly, kinds: Sequence[Kind], answering: Answering) -> Measured:
    """Make each kind of step, the first of them twice, and score a batch, as the run would; of several ranks as one of
    them would, alone."""
    made = [kinds[0], *kinds]
    rehearsal = Rehearsal(run, made, answering)
    trainer = replace(run.trainer, epochs=1, max_steps=None, devices=1, nodes=1, strategy="auto")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    with rehearsal.measuring(), tempfile.TemporaryDirectory() as nowhere, warnings.catch_warnings():
        for message, category in QUIETED:
            warnings.filterwarnings("ignore", message=message, category=category)
        data = Worst([kind.worst for kind in made], run.config["seed"])
        trainer.build(Path(nowhere), [], [rehearsal]).fit(run.method, data)
    return rehearsal.measured


def told_apart(judge: Callable[..., Any], batch: Batch, texts: list[list[str]]) -> tuple[Tensor, Tensor]:
    """Rewards of which no two of a prompt are the same, nor any their mean, all usable: what is worth nothing beside
    others need not be scored, as most answers of a policy that has learned nothing yet. The reward is asked, too."""
    rewards, good = judge(batch, texts)
    return torch.arange(rewards.shape[1]).to(rewards).sqrt().expand_as(rewards), torch.ones_like(good)


def still(method: Method) -> dict[str, Any]:
    """The method's optimizer under a schedule that lets no weight move."""
    optimizer = method.parts.optimizer.build(method)
    return {"optimizer": optimizer, "lr_scheduler": LambdaLR(optimizer, lambda step: 0.0)}


def _answer(run: Assembly, answering: Answering) -> None:
    """Score the worst batch of prompts, with answers at their limit."""
    if isinstance(run.method, RewardModel):
        run.method.compare(answering.worst.rows)
        return
    tokenizer = Tokenizer(run.tokenizer.inner, eos=NEVER, bos=run.tokenizer.bos)
    how, size = run.evaluation.decodings[0], run.evaluation.batch_size
    answer(run.method.policy, tokenizer, answering.worst, how, run.config["seed"], size)


def _tell(run: Assembly, answering: Answering) -> None:
    """The likelihood of the references of the worst dev batch."""
    if answering.dev and not isinstance(run.method, RewardModel):
        reference_loss(run.method.policy, answering.dev, run.evaluation.batch_size)
