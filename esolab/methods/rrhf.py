"""RRHF: rank answers by their rewards through length-normalised log-probs (Yuan et al. 2023)."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from pydantic import NonNegativeFloat
from torch import Tensor

from esolab.batch import Rollout
from esolab.methods.base import Parts
from esolab.methods.onpolicy import ActiveEpochs, Lambda, OnPolicy

Pairs = Literal["all", "author"]


def rrhf_loss(scores: Float[Tensor, "B K"], rewards: Float[Tensor, "B K"], pairs: Pairs = "all") -> Float[Tensor, "B"]:
    """sum of max(0, p_i - p_j) over pairs with r_i < r_j: no margin, ties excluded, not divided by their number.

    `scores` p are mean token log-probs; an answer whose reward is NaN is in no pair. `author` keeps the pairs i < j
    only, as the authors' sampler lists them.
    """
    worse = rewards[:, :, None] < rewards[:, None, :]
    if pairs == "author":
        worse = worse & torch.ones_like(worse).triu(1)
    return ((scores[:, :, None] - scores[:, None, :]).clamp(min=0) * worse).sum((1, 2))


class RRHF(OnPolicy):
    """SFT + lambda RRHF.

    Args:
        parts: see Parts.
        lam: weight of the ranking term, for all methods alike.
        active_epochs: see OnPolicy.
        keep_eos: see OnPolicy.
        pairs: all ordered pairs, or those of the authors' sampler.
        ft_target: what is made likely: the `reference`; the `best` answer, as in the original RRHF (there lam is 1);
            or `both`.
        length_penalty: exponent of the length that a log-prob is divided by.
    """

    def __init__(
        self,
        parts: Parts,
        lam: Lambda,
        active_epochs: ActiveEpochs = "last",
        keep_eos: bool = True,
        pairs: Pairs = "all",
        ft_target: Literal["reference", "best", "both"] = "reference",
        length_penalty: NonNegativeFloat = 1.0,
    ) -> None:
        super().__init__(parts, lam, active_epochs, keep_eos)
        self.pairs, self.ft_target, self.length_penalty = pairs, ft_target, length_penalty
        self.sft_weight = 0.0 if ft_target == "best" else 1.0

    def own_loss(self, rollout: Rollout, logprobs: Float[Tensor, "B K T"]) -> Float[Tensor, "B"]:
        """lambda times the ranking loss, and the likelihood of the best answer where that is a target."""
        total = self.sequence_logprobs(rollout, logprobs)
        lengths = self.counted(rollout, logprobs.shape[-1]).sum(-1).clamp(min=1)
        rewards = rollout.rewards.masked_fill(~rollout.good, torch.nan)
        loss = self.lam * rrhf_loss(total / lengths**self.length_penalty, rewards, self.pairs)
        if self.ft_target == "reference":
            return loss
        best = rollout.rewards.masked_fill(~rollout.good, -torch.inf).argmax(1, keepdim=True)
        return loss - (total * rollout.good).gather(1, best)[:, 0]
