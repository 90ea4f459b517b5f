"""What `authors` and `plain` have in common: sample, reward with rouge_score, then one pass for SFT and one for ESO."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from rouge_score.rouge_scorer import RougeScorer
from torch import Tensor

from esolab.batch import Batch, Tokens
from esolab.bench.contender import Clock, apart, small
from esolab.bench.job import Measured
from esolab.bench.job import Tokens as Counts
from esolab.bench.setting import Setting


class TwoPass(ABC):
    """An ESO step in plain transformers and torch."""

    references_at_once: int  # rows of an SFT pass
    prompts_at_once: int  # of an ESO pass, k rows each

    def __init__(self, setting: Setting) -> None:
        self.setting, self.batch = setting, setting.workload.batch.to(setting.policy.device)
        self.network, self.k = setting.policy.network, setting.job.k
        self.lengths = setting.workload.lengths(self.k)
        ends = setting.workload.stops is not None
        self.eos = setting.tokenizer.eos[0] if ends else None
        self.network.generation_config.eos_token_id = None  # rows end where they are told to
        self.scorer = RougeScorer(["rougeL"], use_stemmer=True)

    @abstractmethod
    def sample(self, batch: Batch, lengths: Tensor) -> Tokens:
        """Answers [B, K, T] of the lengths asked for."""

    @abstractmethod
    def logprobs(self, prompts: Tokens, responses: Tokens) -> tuple[Float[Tensor, "R"], int]:
        """Log-prob of each response [R, T] after its prompt, and how many tokens it took to say so."""

    def update(self, batch: Batch, answers: Tokens, fitness: Float[Tensor, "B K"]) -> Counts:
        """Add the gradients of SFT on the references, then of ESO on the answers."""
        total, references, scored = batch.references.lengths.sum(), 0, 0
        for part in self.parts(batch, self.references_at_once):
            logprobs, count = self.logprobs(batch.prompts[part], batch.references[part])
            torch.autograd.backward(-logprobs.sum() / total)
            references += count
        for part in self.parts(batch, self.prompts_at_once):
            flat = Tokens(answers.ids[part].flatten(0, 1), answers.lengths[part].flatten())
            logprobs, count = self.logprobs(batch.prompts[part].repeat(self.k), flat)
            own = -(fitness[part] * logprobs.view(-1, self.k)).sum()
            torch.autograd.backward(self.setting.lam * own / len(batch))
            scored += count
        return Counts(int(batch.prompts.mask.sum()), int(answers.mask.sum()), scored, references)

    @staticmethod
    def parts(batch: Batch, size: int) -> list[slice]:
        """A batch cut into micro-batches."""
        return [slice(start, start + size) for start in range(0, len(batch), size)]

    def warm_up(self) -> None:
        """A step on one short prompt with answers of two tokens."""
        self._step(small(self.batch), self.lengths[:1].clamp(max=2))

    def step(self) -> Measured:
        """The whole step."""
        return self._step(self.batch, self.lengths)

    def _step(self, batch: Batch, lengths: Tensor) -> Measured:
        self.network.zero_grad(set_to_none=True)
        clock = Clock()
        with clock.phase("sample"), self.setting.autocast():
            self.network.eval()
            answers = self.sample(batch, lengths)
        with clock.phase("reward"):
            rewards = self.reward(batch, answers)
        with clock.phase("update"), self.setting.autocast():
            self.network.train()
            fitness = (rewards - rewards.mean(1, keepdim=True)).to(answers.ids.device)
            tokens = self.update(batch, answers, fitness)
        return Measured(sum(clock.seconds.values()), clock.seconds, tokens)

    def reward(self, batch: Batch, answers: Tokens) -> Float[Tensor, "B K"]:
        """ROUGE-L of each answer's text."""
        rows = []
        for ids, lengths, reference in zip(
            answers.ids.tolist(), answers.lengths.tolist(), batch.reference_texts, strict=True
        ):
            texts = self.setting.tokenizer.decode([row[:n] for row, n in zip(ids, lengths, strict=True)])
            rows.append([self.scorer.score(reference, text)["rougeL"].fmeasure for text in texts])
        return apart(torch.tensor(rows))

    def rows(self, prompts: Tokens, responses: Tokens, width: int | None = None) -> tuple[Tensor, Tensor]:
        """Prompts [R, P] followed by responses [R, T], padded on the right to `width` (None: the longest): ids [R, L],
        and True at the places that predict a token of a response."""
        whole = prompts.lengths + responses.lengths
        width = width or int(whole.max())
        ids = torch.zeros(len(whole), width, dtype=torch.long, device=prompts.ids.device)
        for row, prompt, p, response, t in zip(
            ids, prompts.ids, prompts.lengths.tolist(), responses.ids, responses.lengths.tolist(), strict=True
        ):
            row[:p], row[p : p + t] = prompt[:p], response[:t]
        place = torch.arange(width, device=ids.device)
        predicts = (place >= prompts.lengths[:, None] - 1) & (place < whole[:, None] - 1)
        return ids, predicts
