"""`esolab`: the lab's own step, run by Lightning as in a training run."""

from __future__ import annotations

import logging
import warnings
from dataclasses import replace
from typing import Any

import pytorch_lightning as pl
import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import DataLoader

from esolab.batch import Batch, Rollout, Samples
from esolab.bench.contender import apart, now, small
from esolab.bench.job import Measured
from esolab.bench.job import Tokens as Counts
from esolab.bench.setting import Setting
from esolab.config import build
from esolab.methods.base import Parts
from esolab.methods.eso import ESO
from esolab.policy import Tokenizer
from esolab.rewards.base import Reward
from esolab.sampling import Sampling, noise_keys, sample

NEVER = (-1,)  # ids that end an answer: none


class Apart:
    """esolab's reward, its answers told apart."""

    def __init__(self, reward: Reward) -> None:
        self.reward = reward

    def __call__(self, prompts: list[str], responses: list[list[str]], references: list[str]) -> Float[Tensor, "B K"]:
        """See Reward."""
        return apart(self.reward(prompts, responses, references))


class Forced(ESO):
    """ESO whose answers have the lengths of the workload, and which leaves its gradients instead of using them."""

    stops: Tensor | None = None
    total = 0.0  # seconds of the last step

    def draw(self, batch: Batch, sampling: Sampling) -> Samples:
        """Answers that end where the workload says."""
        if self.stops is None:
            return super().draw(batch, sampling)
        keys = noise_keys(self.parts.seed, "train", self.current_epoch, batch.ids, sampling.k)
        return sample(self.policy, batch.prompts, sampling, keys, self.parts.tokenizer.eos, self.stops, self.reads)

    def scored(self, rollout: Rollout) -> Rollout:
        """All answers, whatever they are worth: the race is run on equal work."""
        return rollout

    def training_step(self, batch: Batch, index: int) -> None:
        """A step between two looks at the clock."""
        start = now()
        super().training_step(batch, index)
        self.total = now() - start

    def optimizer_step_and_schedule(self, batch: Batch, losses: dict[str, float]) -> dict[str, float]:
        """The race ends with the gradients."""
        return {}


class Esolab:
    """One Lightning training step on one batch."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        config = setting.config
        parts = Parts(
            policy=setting.policy,
            tokenizer=Tokenizer(setting.tokenizer.inner, eos=NEVER),
            reward=Apart(build(config["reward"])),
            sampling=build(config["sampling"]),
            optimizer=build(config["optimizer"]),
            total_steps=1,
            micro_batch=config["trainer"]["micro_batch"],
        )
        settings = {k: v for k, v in config["method"].items() if not k.startswith("_")}
        self.method = Forced(parts, **settings)
        self.method.train()

    def warm_up(self) -> None:
        """A step on one short prompt with answers of two tokens."""
        whole = self.method.parts
        self.method.parts = replace(whole, sampling=replace(whole.sampling, max_new_tokens=2))
        self._step(small(self.setting.workload.batch), None)
        self.method.parts = whole

    def step(self) -> Measured:
        """The whole step."""
        return self._step(self.setting.workload.batch, self.setting.workload.stops)

    def _step(self, batch: Batch, stops: Tensor | None) -> Measured:
        method = self.method
        method.policy.zero_grad(set_to_none=True)
        method.stops = stops
        method.account.counts.clear()
        trainer = self._trainer()
        with warnings.catch_warnings():  # as in esolab.run
            warnings.filterwarnings("ignore", message=".*does not have many workers.*")
            warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)
            warnings.filterwarnings("ignore", message=".*isinstance.treespec.*")
            trainer.fit(method, DataLoader([batch], batch_size=None))  # type: ignore[arg-type]  # a list is a data set
        method.policy.to(torch.device(self.setting.job.device))  # Lightning hands it back on the CPU
        references = int(batch.references.lengths.sum())
        tokens = Counts(
            prompts=int(batch.prompts.lengths.sum()),
            sampled=method.account.counts["sampled_tokens"],
            scored=method.account.counts["scored_tokens"] - references,
            references=references,
        )
        return Measured(method.total, dict(method.account.seconds), tokens)

    def _trainer(self) -> pl.Trainer:
        logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
        own: dict[str, Any] = self.setting.config["trainer"]
        return pl.Trainer(
            max_epochs=1,
            accelerator=own["accelerator"],
            devices=own["devices"],
            precision=own["precision"],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
