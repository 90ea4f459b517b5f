"""Learning from the policy's own answers: sampled, read and rewarded here, for every method that does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor

from esolab import ranks
from esolab.batch import Batch, Rollout, Samples
from esolab.errors import BadInput, out_of_memory
from esolab.methods import advantages
from esolab.methods.base import Method, Parts
from esolab.policy import Tokenizer
from esolab.rewards.base import MAX_BAD_SHARE, failed, usable
from esolab.sampling import Sampling, noise_keys, sample
from esolab.terminal import log

Lambda = Annotated[float, Field(ge=0, allow_inf_nan=False)]
ActiveEpochs = Literal["last", "all", "all_but_last"]


class OnPolicy(Method):
    """A method that learns from the policy's own answers in its active epochs, beside the likelihood of the references.

    Args:
        parts: see Parts.
        lam: weight of the method's own loss, the paper's lambda. 0 never samples.
        active_epochs: the last epoch only (the paper, section 3.2), all, or all but the last (its released code).
        keep_eos: whether the end token is part of an answer's log-prob (the released code drops it).
    """

    min_k = 2
    tamed_by = "optimizer.lr or method.lam"

    def __init__(self, parts: Parts, lam: float, active_epochs: ActiveEpochs, keep_eos: bool) -> None:
        super().__init__(parts)
        self.lam, self.active_epochs, self.keep_eos = lam, active_epochs, keep_eos
        self.last_rollout: tuple[Batch, Rollout] | None = None  # of the current step, for those who watch
        self.flat: list[bool] = []  # of each sampled step of the epoch: whether no prompt had two rewards

    @classmethod
    def begins_as_sft(cls, settings: Mapping[str, Any]) -> bool:
        """Where it is active in the last epoch at most."""
        return bool(settings["lam"] == 0 or settings["active_epochs"] == "last")

    @property
    def active(self) -> bool:
        """Whether this epoch samples."""
        epochs = self.trainer.max_epochs or 1
        last = self.current_epoch == epochs - 1
        chosen = {"all": True, "last": last, "all_but_last": not last}[self.active_epochs]
        return chosen and self.lam > 0

    def rollout(self, batch: Batch) -> Rollout:
        """Sample k answers to every prompt of the batch, read and reward them."""
        with self.account.phase("sample"):
            drawn = self.draw(batch, self.parts.sampling)
        return self.rewarded(batch, drawn)

    def draw(self, batch: Batch, sampling: Sampling) -> Samples:
        """Answers of the policy as it stands, with the noise of this seed and epoch."""
        keys = noise_keys(self.parts.seed, "train", self.current_epoch, batch.ids, sampling.k)
        return sample(self.policy, batch.prompts, sampling, keys, self.parts.tokenizer.eos, reads=self.reads)

    def rewarded(self, batch: Batch, drawn: Samples) -> Rollout:
        """Answers read, rewarded and weighed."""
        with self.account.phase("reward"):
            texts = read(drawn.branches.ids, drawn.branches.lengths, self.parts.tokenizer)
            rewards, good = (x.to(self.device) for x in self.judge(batch, texts))
        worth = self.worth(rewards, drawn.branches.lengths) * good
        rollout = Rollout(
            **vars(drawn), texts=texts, rewards=rewards, good=good, advantages=worth, parts=self.reward_parts()
        )
        self.last_rollout = (batch, rollout)
        return rollout

    def note_rollout(self, metrics: dict[str, float]) -> None:
        """Also whether no prompt had two rewards."""
        super().note_rollout(metrics)
        self.flat.append(metrics["reward/flat"] == 1)

    def judge(self, batch: Batch, texts: list[list[str]]) -> tuple[Float[Tensor, "B K"], Bool[Tensor, "B K"]]:
        """Rewards of the answers, and which of them are usable. One that is not a finite number is masked: the others
        of its prompt are weighed beside their own mean in its place, and it takes no part in the loss.

        Raises:
            BadInput: the reward fails, or more than its `max_bad_share` of all answers so far had no usable reward.
        """
        raw = self.ask(batch, texts)
        rewards, good = usable(raw, len(texts), len(texts[0]))
        if self.spare:
            return rewards, good
        for what in ("clipped", "shortened"):
            self.account.counts[f"{what}_rewards"] += getattr(self.parts.reward, what, 0)
        self.account.counts["bad_rewards"] += int((~good).sum())
        self.account.counts["rewards"] += good.numel()
        share = self.account.counts["bad_rewards"] / self.account.counts["rewards"]
        most = getattr(self.parts.reward, "max_bad_share", MAX_BAD_SHARE)
        if share > most:
            raise BadInput(
                f"reward: {type(self.parts.reward).__name__} gave no usable number for {share:.0%} of the answers so "
                f"far, more than reward.max_bad_share={most}; the last batch got {' '.join(str(raw).split())[:200]}"
            )
        return rewards, good

    def ask(self, batch: Batch, texts: list[list[str]]) -> object:
        """What the reward says of the answers. Where it fails its traceback goes to the log.

        Raises:
            BadInput: it fails; with its name, its error and the examples.
        """
        try:
            return self.parts.reward(batch.prompt_texts, texts, batch.reference_texts)
        except Exception as error:  # whatever code of a person's own raises
            if isinstance(error, BadInput) or out_of_memory(error):
                raise
            log.error(f"reward: {type(error).__name__}, whose traceback is in run.log", exc_info=error)
            raise BadInput(failed(self.parts.reward, error, batch.ids)) from error

    def reward_parts(self) -> dict[str, Float[Tensor, "B K"]]:
        """What a reward that is made of several has kept of each since its last call, see `Reward`."""
        return {name: values.to(self.device) for name, values in getattr(self.parts.reward, "parts", {}).items()}

    def on_train_epoch_end(self) -> None:
        """Say when a whole epoch gave the method nothing to learn from."""
        if self.flat and all(self.flat):
            log.warning(
                f"reward: {type(self.parts.reward).__name__} gave all answers to a prompt the same reward, for every "
                f"prompt of data={self.parts.data} in epoch {self.current_epoch + 1}; nothing was learned from them"
            )
        self.flat.clear()

    def worth(self, rewards: Float[Tensor, "B K"], lengths: Int[Tensor, "B K"]) -> Float[Tensor, "B K"]:
        """What each answer of this rank is worth beside those of all ranks, or its own where losses are normalised
        locally; nothing on a spare rank."""
        if self.parts.sft.normalise == "local":
            return self.weigh(rewards, lengths)
        none = slice(0, 0) if self.spare else slice(None)
        (rewards_of_all, lengths_of_all), own = ranks.joined(rewards[none], lengths[none])
        worth = self.weigh(rewards_of_all, lengths_of_all)[own]
        return torch.zeros_like(rewards) if self.spare else worth

    def weigh(self, rewards: Float[Tensor, "B K"], lengths: Int[Tensor, "B K"]) -> Float[Tensor, "B K"]:
        """What each answer is worth, from the whole batch; reward above the mean of its population by default."""
        return advantages.eso(rewards, lengths, self.parts.sampling.max_new_tokens)

    def counted(self, rollout: Rollout, width: int) -> Bool[Tensor, "B K T"]:
        """Which tokens of the answers count: all, or all but the end token where `keep_eos` is off."""
        lengths = rollout.branches.lengths - (0 if self.keep_eos else rollout.finished.long())
        return torch.arange(width, device=lengths.device) < lengths[..., None]

    def sequence_logprobs(
        self, rollout: Rollout, logprobs: Float[Tensor, "B K T"], mean: bool = False
    ) -> Float[Tensor, "B K"]:
        """log pi of each answer: the sum, or the mean, over the tokens that count; 0 for an answer without any."""
        mask = self.counted(rollout, logprobs.shape[-1])
        total = (logprobs * mask).sum(-1)
        return total / mask.sum(-1).clamp(min=1) if mean else total


def read(ids: Int[Tensor, "B K T"], lengths: Int[Tensor, "B K"], tokenizer: Tokenizer) -> list[list[str]]:
    """Texts of sampled answers."""
    flat = [row[:n] for row, n in zip(ids.flatten(0, 1).tolist(), lengths.flatten().tolist(), strict=True)]
    texts = tokenizer.decode(flat)
    k = ids.shape[1]
    return [texts[i : i + k] for i in range(0, len(texts), k)]
