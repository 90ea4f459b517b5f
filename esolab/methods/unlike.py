"""Unlike: push the worst of k answers down (Huang et al. 2025, section 2.2; unlikelihood of Welleck et al. 2020)."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float
from pydantic import NonPositiveFloat
from torch import Tensor

from esolab.batch import Rollout
from esolab.methods.base import Parts
from esolab.methods.onpolicy import ActiveEpochs, Lambda, OnPolicy


def direct_loss(logprobs: Float[Tensor, "B T"], floor: float = -20.0) -> Float[Tensor, "B"]:
    """Lower the log-prob of an answer: sum_T log p, each token down to `floor` nats and no further.

    The gradient of a token does not vanish with its probability, so without the floor the loss has no minimum.
    """
    return logprobs.clamp(min=floor).sum(1)


def welleck_loss(logprobs: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"]) -> Float[Tensor, "B"]:
    """Unlikelihood of an answer: -sum_T log(1 - p), 1 - p at least 1e-20. Nearly inert where p is small already."""
    return -((1 - logprobs.exp()).clamp(min=1e-20).log() * mask).sum(1)


class Unlike(OnPolicy):
    """SFT + lambda Unlike. Only the answer with the lowest reward, the first of them on ties, is scored.

    Args:
        parts: see Parts.
        lam: weight of the term, for all methods alike.
        active_epochs: see OnPolicy.
        keep_eos: see OnPolicy.
        loss: the authors do not publish it; `direct` is what their text says, `welleck` the original unlikelihood.
        min_logp_per_token: the floor of `direct`, in nats.
    """

    def __init__(
        self,
        parts: Parts,
        lam: Lambda,
        active_epochs: ActiveEpochs = "last",
        keep_eos: bool = True,
        loss: Literal["direct", "welleck"] = "direct",
        min_logp_per_token: NonPositiveFloat = -20.0,
    ) -> None:
        super().__init__(parts, lam, active_epochs, keep_eos)
        self.loss, self.floor = loss, min_logp_per_token

    def scored(self, rollout: Rollout) -> Rollout:
        """The worst answer to each prompt."""
        return rollout.pick(rollout.rewards.masked_fill(~rollout.good, torch.inf).argmin(1))

    def own_loss(self, rollout: Rollout, logprobs: Float[Tensor, "B K T"]) -> Float[Tensor, "B"]:
        """lambda times the loss of the worst answer."""
        mask = self.counted(rollout, logprobs.shape[-1])[:, 0]
        worst = logprobs[:, 0] * mask
        loss = direct_loss(worst, self.floor) if self.loss == "direct" else welleck_loss(worst, mask)
        return self.lam * loss * rollout.good[:, 0]
