"""`trl`: GRPOTrainer of TRL 1.16 on the same prompts, answers per prompt and lengths.

GRPO has one temperature (1 here) and no likelihood term for the references, so it does less than the others. Beta 0,
one inner step; answers are scored 16 at a time. What is timed is its own training_step, without the optimizer.
"""

from __future__ import annotations

from functools import partial
from tempfile import TemporaryDirectory
from typing import Any

import torch
from datasets import Dataset
from rouge_score.rouge_scorer import RougeScorer
from torch import Tensor
from transformers import StoppingCriteriaList
from trl import GRPOConfig, GRPOTrainer
from trl.trainer import utils as trl_utils

from esolab.batch import Batch
from esolab.bench.contender import Clock, apart, now, small
from esolab.bench.generation import EndAt, close
from esolab.bench.job import Measured
from esolab.bench.job import Tokens as Counts
from esolab.bench.setting import Setting

# TRL's fused head leaves out the places that are not scored only where it finds Triton, although its torch code can do
# so as well; without this line a CPU would project every place of every prompt to the vocabulary
trl_utils._use_triton = lambda device: True

ROWS = 16  # answers in one forward and backward


class Timed(GRPOTrainer):  # type: ignore[misc]
    """A trainer that looks at the clock and counts tokens."""

    clock: Clock
    total = 0.0
    read = sampled = scored = 0

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        """A micro-batch; the first of a step samples and rewards for all of them."""
        start = now()
        loss = super().training_step(*args, **kwargs)
        self.total += now() - start
        return loss

    def _generate(self, prompts: list[Any]) -> Any:
        with self.clock.phase("sample"):
            made = super()._generate(prompts)
        self.read += sum(map(len, made[0])) // self.num_generations
        self.sampled += sum(map(len, made[1]))
        return made

    def _calculate_rewards(self, *args: Any, **kwargs: Any) -> Any:
        with self.clock.phase("reward"):
            return super()._calculate_rewards(*args, **kwargs)

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Any:
        self.scored += int(inputs["completion_mask"].sum())
        return super()._compute_loss(model, inputs)


class Grpo:
    """One step of GRPO."""

    def __init__(self, setting: Setting) -> None:
        self.setting, self.k = setting, setting.job.k
        self.inner = setting.tokenizer.inner
        self.inner.pad_token = self.inner.eos_token
        self.scorer = RougeScorer(["rougeL"], use_stemmer=True)
        self.plain_generate: Any = setting.policy.network.generate

    def warm_up(self) -> None:
        """A step on one short prompt with answers of two tokens."""
        self._step(small(self.setting.workload.batch), 2, None)

    def step(self) -> Measured:
        """The whole step, on a trainer of its own."""
        return self._step(self.setting.workload.batch, self.setting.workload.max_new, self.setting.workload.stops)

    def _step(self, batch: Batch, max_new: int, stops: Any) -> Measured:
        network: Any = self.setting.policy.network
        network.generate = partial(self._generate, stops)
        with TemporaryDirectory() as folder:
            trainer = Timed(
                model=network,
                reward_funcs=self.reward,
                args=self.arguments(folder, len(batch), max_new),
                train_dataset=self.dataset(batch),
                processing_class=self.inner,
            )
            trainer.clock = clock = Clock()
            trainer.train()
        clock.seconds["update"] = trainer.total - clock.seconds["sample"] - clock.seconds["reward"]
        tokens = Counts(trainer.read, trainer.sampled, trainer.scored, references=0)
        return Measured(trainer.total, clock.seconds, tokens)

    def _generate(self, stops: Tensor | None, *args: Any, **settings: Any) -> Tensor:
        """The network's `generate`, with answers of the lengths of the workload; they close with the end token, by
        which TRL knows where an answer ends."""
        eos, width = self.setting.tokenizer.eos[0], settings["input_ids"].shape[1]
        if stops is not None:
            stops = stops.flatten().to(self.setting.policy.device)
            settings["stopping_criteria"] = StoppingCriteriaList([EndAt(stops)])
        rows: Tensor = self.plain_generate(*args, **settings)
        answers = rows[:, width:]
        answers = answers.masked_fill(answers == eos, 0) if stops is None else close(answers, stops, eos)
        return torch.cat([rows[:, :width], answers], 1)

    def arguments(self, folder: str, prompts: int, max_new: int) -> GRPOConfig:
        """TRL's settings; the rest are its defaults."""
        rows = min(ROWS, prompts * self.k)
        return GRPOConfig(
            output_dir=folder,
            num_generations=self.k,
            max_completion_length=max_new,
            generation_kwargs={"eos_token_id": None},  # see _generate
            per_device_train_batch_size=rows,
            gradient_accumulation_steps=prompts * self.k // rows,
            max_steps=1,
            learning_rate=0.0,
            optim="sgd",
            beta=0.0,
            temperature=1.0,
            loss_type="dr_grpo",
            scale_rewards="none",
            activation_checkpointing=False,
            shuffle_dataset=False,
            use_cpu=self.setting.job.device == "cpu",
            bf16=self.setting.job.dtype == "bfloat16",
            report_to=[],
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
        )

    def dataset(self, batch: Batch) -> Dataset:
        """The prompts as text, which tokenise to what the others are given."""
        ids = [row[:n] for row, n in zip(batch.prompts.ids.tolist(), batch.prompts.lengths.tolist(), strict=True)]
        texts = [self.inner.decode(row, clean_up_tokenization_spaces=False) for row in ids]
        if self.inner(texts)["input_ids"] != ids:
            raise RuntimeError("a prompt's text does not tokenise to the prompt")
        return Dataset.from_list(
            [{"prompt": t, "reference": r} for t, r in zip(texts, batch.reference_texts, strict=True)]
        )

    def reward(self, completions: list[str], reference: list[str], **_: Any) -> list[float]:
        """ROUGE-L of each answer's text."""
        values = [
            self.scorer.score(target, text)["rougeL"].fmeasure
            for target, text in zip(reference, completions, strict=True)
        ]
        rewards: list[float] = apart(torch.tensor(values).view(-1, self.k)).flatten().tolist()
        return rewards
