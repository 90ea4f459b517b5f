"""DRL: self-critical training (Paulus et al. 2018), one sample against the greedy answer."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal

from jaxtyping import Float, Int
from pydantic import Field, PositiveFloat
from torch import Tensor

from esolab.batch import Rollout
from esolab.methods.base import Parts
from esolab.methods.onpolicy import ActiveEpochs, Lambda, OnPolicy
from esolab.terminal import log


def drl_loss(logprobs: Float[Tensor, "B"], advantage: Float[Tensor, "B"]) -> Float[Tensor, "B"]:
    """-(r(sample) - r(greedy)) log p(sample): a sample better than the greedy answer gets likelier."""
    return -advantage * logprobs


class DRL(OnPolicy):
    """SFT + lambda DRL.

    Args:
        parts: see Parts; whatever its k, one answer is greedy and one is sampled, as in the authors' sampler.
        lam: weight of the term where it is added; 0 never samples.
        active_epochs: see OnPolicy.
        keep_eos: see OnPolicy.
        temperature: of the sampled answer.
        combine: `additive`, like the other methods here, or `convex`, the original: gamma DRL + (1 - gamma) SFT.
        gamma: of `convex`.
    """

    min_k = 1

    def __init__(
        self,
        parts: Parts,
        lam: Lambda,
        active_epochs: ActiveEpochs = "last",
        keep_eos: bool = True,
        temperature: PositiveFloat = 1.0,
        combine: Literal["additive", "convex"] = "additive",
        gamma: Annotated[float, Field(ge=0, le=1)] = 0.9984,
    ) -> None:
        two = replace(parts.sampling, k=2, temperatures=[temperature, temperature], greedy=True)
        super().__init__(replace(parts, sampling=two), lam, active_epochs, keep_eos)
        self.weight, self.sft_weight = (lam, 1.0) if combine == "additive" else (gamma, 1 - gamma)
        if parts.sampling.k != 2:
            log.info(f"drl: one greedy and one sampled answer per prompt; sampling.k={parts.sampling.k} is not used")

    def weigh(self, rewards: Float[Tensor, "B K"], lengths: Int[Tensor, "B K"]) -> Float[Tensor, "B K"]:
        """Reward above the greedy answer's, which comes first."""
        return rewards - rewards[:, :1]

    def scored(self, rollout: Rollout) -> Rollout:
        """The sampled answer; the greedy one is only its baseline."""
        return rollout.pick(rollout.branches.lengths.new_ones(len(rollout.rewards)))

    def own_loss(self, rollout: Rollout, logprobs: Float[Tensor, "B K T"]) -> Float[Tensor, "B"]:
        """The weighted loss of the sampled answer."""
        return self.weight * drl_loss(self.sequence_logprobs(rollout, logprobs)[:, 0], rollout.advantages[:, 0])
