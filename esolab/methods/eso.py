"""ESO: Evolution Strategy Optimization (Huang et al., COLING 2025), equations 10 and 11, and its cousins.

RLOO, GRPO and the rest differ from ESO in what an answer is worth (`advantages.py`) and in what is summed or averaged;
conf/method/rloo.yaml and grpo.yaml are this class with other values.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from jaxtyping import Float, Int
from pydantic import NonNegativeFloat, NonNegativeInt
from torch import Tensor

from esolab import ranks
from esolab.batch import Batch, Rollout, Tokens
from esolab.errors import BadInput
from esolab.methods import advantages
from esolab.methods.base import Parts
from esolab.methods.onpolicy import ActiveEpochs, Lambda, OnPolicy


def eso_loss(logprobs: Float[Tensor, "B K"], fitness: Float[Tensor, "B K"]) -> Float[Tensor, "B"]:
    """Raise the likelihood of answers fitter than their population, lower the rest: -sum_K fitness log p.

    `logprobs` are log pi(answer | prompt) in nats at temperature 1, whatever the answer was sampled at; the fitness of
    equation 10 is r - mean r (`advantages.eso`) and carries no gradient. No 1/k, no spread, no clipping.
    """
    return -(fitness.detach() * logprobs).sum(dim=1)


def temperature_pull(fitness: Float[Tensor, "B K"]) -> Float[Tensor, "B K"]:
    """The part of the fitness that the temperature alone explains, estimated from the batch.

    Under a ladder of temperatures the gradient is a policy gradient plus a pull towards the temperatures that score
    well, which needs no reward signal within a temperature: E sum_j (r_j - u) g_j = (1 - 1/k) sum_j Cov_j(r, g) +
    sum_j (mu_j - mean mu) E_j g. Here mu_j - mean mu is the batch's mean fitness at temperature j; the rest of the
    fitness is the policy gradient's, of which a batch of B takes 1 / B for its own mean. So corrected, both parts are
    right on average for any B > 1.
    """
    own = fitness - (fitness.mean(0) - fitness.mean())
    return fitness - own * (len(fitness) / max(1, len(fitness) - 1))


class ESO(OnPolicy):
    """SFT + lambda ESO, equation 11.

    Args:
        parts: see Parts.
        lam: the paper's lambda.
        active_epochs: when ESO is on, see OnPolicy.
        keep_eos: see OnPolicy.
        advantage: what an answer is worth; a function of `advantages.py`. dr_grpo and bnpo divide by a length
            themselves and belong to the sum over tokens.
        logp: an answer's log-prob is the sum over its tokens (equation 10) or their mean.
        k_reduction: the k answers are summed (equation 10) or averaged.
        iw: weight each answer by pi(answer) / its sampler's probability. The gradient is then exactly that of the
            expected reward at temperature 1 (times k - 1 for `eso`, k for a summed `rloo`), at a high variance. Needs
            answers drawn from the whole distribution (no top_k, top_p, greedy) and keep_eos.
        reward_threshold: leave out prompts whose mean reward is not above it (released code only); None keeps all.
        batch_reduction: mean over the prompts kept, or their sum. The released code means the former and computes the
            latter, over all prompts of a device unless none is above the threshold.
        sft_weight: of the likelihood of the references while ESO is on; 0 leaves equation 8 alone.
        watch_every: measure the two parts of the gradient every so many steps, at the price of two more backwards; 0
            never. With dropout it is never measured, as that would change the run, nor on several devices.
    """

    def __init__(
        self,
        parts: Parts,
        lam: Lambda,
        active_epochs: ActiveEpochs = "last",
        keep_eos: bool = True,
        advantage: advantages.Name = "eso",
        logp: Literal["sum", "mean"] = "sum",
        k_reduction: Literal["sum", "mean"] = "sum",
        iw: bool = False,
        reward_threshold: float | None = None,
        batch_reduction: Literal["mean", "sum"] = "mean",
        sft_weight: NonNegativeFloat = 1.0,
        watch_every: NonNegativeInt = 25,
    ) -> None:
        super().__init__(parts, lam, active_epochs, keep_eos)
        self.sft_weight = sft_weight
        drawn = parts.sampling
        if iw and (drawn.top_k or drawn.top_p < 1 or drawn.greedy or not keep_eos):
            raise BadInput(
                "method.iw=true: importance weights are right for answers from the whole distribution, ends included; "
                "take sampling.top_k=0 sampling.top_p=1.0 sampling.greedy=false method.keep_eos=true"
            )
        self.advantage, self.logp, self.k_reduction, self.iw = advantages.BY_NAME[advantage], logp, k_reduction, iw
        self.reward_threshold, self.batch_reduction, self.watch_every = reward_threshold, batch_reduction, watch_every

    def weigh(self, rewards: Float[Tensor, "B K"], lengths: Int[Tensor, "B K"]) -> Float[Tensor, "B K"]:
        """The fitness of each answer."""
        return self.advantage(rewards, lengths, self.parts.sampling.max_new_tokens)

    def scored(self, rollout: Rollout) -> Rollout:
        """Answers that are worth something: where all answers to a prompt got the same reward, nothing is learned from
        them, and their log-probs are not needed."""
        if self.iw:  # weights of answers without log-probs are no numbers
            return rollout
        branches = rollout.branches
        return replace(rollout, branches=Tokens(branches.ids, branches.lengths * (rollout.advantages != 0)))

    def watch(self, batch: Batch, rollout: Rollout) -> dict[str, float]:
        """Norms of the two parts of the gradient, and their cosine, every so many steps (see `temperature_pull`)."""
        if not self.watch_every or (self.account.steps + 1) % self.watch_every:
            return {}
        if self.policy.dropout or len(batch) == 1 or ranks.size() > 1:
            return {}
        self.reads = None  # two more backwards need the room; the prompts are read again afterwards
        pull = temperature_pull(rollout.advantages) * rollout.good
        weights = [p for p in self.policy.parameters() if p.requires_grad]
        parts = []
        for part in (rollout.advantages - pull, pull):
            self.backward_all(batch, replace(rollout, advantages=part), sft_weight=0.0)
            parts.append([p.grad if p.grad is not None else torch.zeros_like(p) for p in weights])
            self.policy.zero_grad(set_to_none=True)
        own, pulled = parts
        dot = sum(float((a * b).sum()) for a, b in zip(own, pulled, strict=True))
        norms = [sum(float(g.square().sum()) for g in part) ** 0.5 for part in parts]
        return {
            "gradient/policy": norms[0],
            "gradient/pull": norms[1],
            "gradient/cosine": dot / max(norms[0] * norms[1], 1e-30),
        }

    def shares(self, rollout: Rollout) -> Float[Tensor, "B"]:
        """1 / prompts kept, or 1 for each prompt where the batch is summed."""
        means = rollout.rewards.mean(1)
        kept = torch.ones_like(means) if self.reward_threshold is None else (means > self.reward_threshold).float()
        if self.batch_reduction == "sum":
            alone = self.parts.sft.normalise == "local"  # as the released code: gradients are averaged over devices
            some = float(kept.max()) if alone else ranks.size() * float(ranks.anywhere(bool(kept.any())))
            return torch.full_like(means, some)
        return kept / max(self.per_rank(float(kept.sum())), 1 / ranks.size())

    def own_loss(self, rollout: Rollout, logprobs: Float[Tensor, "B K T"]) -> Float[Tensor, "B"]:
        """lambda times equation 10 for each prompt."""
        fitness = rollout.advantages
        if self.iw:
            fitness = fitness * (logprobs.detach().sum(-1) - rollout.logprobs.sum(-1)).exp()
        own = eso_loss(self.sequence_logprobs(rollout, logprobs, mean=self.logp == "mean"), fitness)
        return self.lam * own / (1 if self.k_reduction == "sum" else logprobs.shape[1])
