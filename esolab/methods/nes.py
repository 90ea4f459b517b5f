"""NES: evolution strategies in the space of the weights, which the paper starts from (equations 5 to 7)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from jaxtyping import Float
from pydantic import PositiveFloat
from torch import Tensor

from esolab import ranks
from esolab.batch import Batch, Rollout, Samples, Tokens
from esolab.errors import BadInput
from esolab.methods import advantages
from esolab.methods.base import Parts
from esolab.methods.onpolicy import ActiveEpochs, Lambda, OnPolicy


def search_weights(fitness: Float[Tensor, "N"], sigma: float, advantage: advantages.Name) -> Float[Tensor, "N"]:
    """Coefficients w of the search gradient sum_j w_j eps_j, the ascent direction: shaped fitness / (sigma N).

    With `eso` (fitness minus its mean) this is equation 7, an unbiased estimate up to (N - 1) / N, and without that
    factor for antithetic noise.
    """
    shaped = advantages.BY_NAME[advantage](fitness[None], torch.ones_like(fitness[None], dtype=torch.long), 1)[0]
    return shaped / (sigma * len(fitness))


class NES(OnPolicy):
    """SFT + lambda NES: the policy's weights are perturbed sampling.k times a step, in antithetic pairs.

    Every perturbed policy answers the batch once, with the same sampling noise; its fitness is the mean reward. Noise
    is made again from its seed when it is needed, so beside the weights only a master copy of them is held, from which
    they are restored exactly.

    Args:
        parts: see Parts; sampling.k is the size of the population, an even number.
        lam: weight of the search gradient.
        active_epochs: see OnPolicy.
        sigma: standard deviation of the noise on every weight.
        advantage: fitness shaping over the population, a function of `advantages.py`.
        temperature: at which a perturbed policy answers.
    """

    even_k = "sampling.k={k}: nes perturbs in pairs; give an even number"

    def __init__(
        self,
        parts: Parts,
        lam: Lambda,
        active_epochs: ActiveEpochs = "last",
        sigma: PositiveFloat = 0.003,
        advantage: advantages.Name = "rank",
        temperature: PositiveFloat = 1.0,
    ) -> None:
        super().__init__(parts, lam, active_epochs, keep_eos=True)
        if parts.sampling.k % 2:
            raise BadInput(self.even_k.format(k=parts.sampling.k))
        self.sigma, self.advantage, self.readings = sigma, advantage, parts.sampling.k
        self.one = replace(parts.sampling, k=1, temperatures=[temperature])

    def noise(self, pair: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The weights with their standard normal noise of this step's pair, the same whenever it is asked for."""
        step = (self.parts.seed * 1_000_003 + self.account.steps) * 1_009 + pair
        generator = torch.Generator(self.device).manual_seed(step)
        for weight in self.policy.parameters():
            if weight.requires_grad:
                yield weight, torch.randn(weight.shape, generator=generator, device=weight.device)

    def reads_once(self, prompts: int) -> bool:
        """Never: each perturbed policy reads the prompts for itself."""
        return False

    def rollout(self, batch: Batch) -> Rollout:
        """One answer of each perturbed policy to every prompt: K is the population, pair by pair."""
        drawn: list[Samples] = []
        with self.account.phase("sample"):
            weights = [weight for weight in self.policy.parameters() if weight.requires_grad]
            master = [weight.detach().clone() for weight in weights]
            for member in range(self.readings):
                with torch.no_grad():
                    for weight, noise in self.noise(member // 2):
                        weight.add_(noise, alpha=self.sigma if member % 2 == 0 else -self.sigma)
                try:
                    drawn.append(self.draw(batch, self.one))
                finally:
                    with torch.no_grad():
                        for weight, whole in zip(weights, master, strict=True):
                            weight.copy_(whole)
        return self.rewarded(batch, _side_by_side(drawn))

    def scored(self, rollout: Rollout) -> None:
        """Nothing: the gradient comes from the rewards alone."""

    def add_gradients(self, rollout: Rollout) -> dict[str, float]:
        """Add minus lambda times the search gradient; the value is minus lambda times shaped fitness times fitness.
        Fitness is over the prompts of all ranks, so that all add the same, which is its own mean over ranks."""
        (rewards,), _ = ranks.joined(rollout.rewards[: 0 if self.spare else None])
        fitness = rewards.mean(0)
        weights = search_weights(fitness, self.sigma, self.advantage)
        for pair in range(self.readings // 2):
            coefficient = float(weights[2 * pair] - weights[2 * pair + 1])
            for weight, noise in self.noise(pair):
                if weight.grad is None:
                    weight.grad = torch.zeros_like(weight)
                weight.grad.add_(noise, alpha=-self.lam * coefficient)
        return {"own": -self.lam * self.sigma * float((weights * fitness).sum())}


def _side_by_side(drawn: list[Samples]) -> Samples:
    """Samples [B, 1] of several policies as [B, K]."""
    width = max(s.branches.ids.shape[-1] for s in drawn)

    def wide(x: Tensor) -> Tensor:
        return torch.nn.functional.pad(x, (0, width - x.shape[-1]))

    return Samples(
        branches=Tokens(
            torch.cat([wide(s.branches.ids) for s in drawn], 1), torch.cat([s.branches.lengths for s in drawn], 1)
        ),
        finished=torch.cat([s.finished for s in drawn], 1),
        temperatures=torch.cat([s.temperatures for s in drawn], 1),
        logprobs=torch.cat([wide(s.logprobs) for s in drawn], 1),
    )
