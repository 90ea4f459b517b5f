"""PPO: proximal policy optimization of a reward less a price for leaving the reference policy (Schulman et al. 2017;
Ziegler et al. 2019), with the four models of the paper's appendix B."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn

from esolab import ranks, sharding, zero
from esolab.batch import Batch, Rollout, join
from esolab.errors import BadInput
from esolab.logprobs import branch_logprobs
from esolab.methods.base import Parts
from esolab.methods.onpolicy import OnPolicy
from esolab.methods.reward_model import scorer
from esolab.policy import Policy
from esolab.rewards.base import Share


def token_rewards(
    scores: Float[Tensor, "B K"],
    logprobs: Float[Tensor, "B K T"],
    reference: Float[Tensor, "B K T"],
    lengths: Int[Tensor, "B K"],
    kl: float,
) -> Float[Tensor, "B K T"]:
    """- kl (log pi - log pi_ref) for every token, and the score of the answer for its last one; 0 beyond its end."""
    places = torch.arange(logprobs.shape[-1], device=lengths.device)
    rewards = -kl * (logprobs - reference) * (places < lengths[..., None])
    return rewards + scores[..., None] * (places == lengths[..., None] - 1)


def gae(
    rewards: Float[Tensor, "*B T"], values: Float[Tensor, "*B T"], mask: Bool[Tensor, "*B T"], gamma: float, lam: float
) -> tuple[Float[Tensor, "*B T"], Float[Tensor, "*B T"]]:
    """Advantages (generalized advantage estimation, Schulman et al. 2016) and returns of tokens; 0 beyond an answer's
    end, which is worth nothing."""
    values = values * mask
    after, advantage = torch.zeros_like(values[..., 0]), torch.zeros_like(values[..., 0])
    found = torch.zeros_like(values)
    for t in reversed(range(values.shape[-1])):
        delta = rewards[..., t] + gamma * after - values[..., t]
        advantage = (delta + gamma * lam * advantage) * mask[..., t]
        after, found[..., t] = values[..., t], advantage
    return found, found + values


def whitened(
    values: Float[Tensor, "*B T"], mask: Bool[Tensor, "*B T"], over: Float[Tensor, "N"] | None = None
) -> Float[Tensor, "*B T"]:
    """Mean 0 and (unbiased) variance 1 over the tokens of the mask, or `over` those of all ranks; 0 elsewhere."""
    inside = values[mask] if over is None else over
    return (values - inside.mean()) / (inside.var() + 1e-8).sqrt() * mask if inside.numel() > 1 else values * mask


def policy_loss(
    logprobs: Float[Tensor, "*B T"], old: Float[Tensor, "*B T"], advantages: Float[Tensor, "*B T"], clip: float
) -> Float[Tensor, "*B T"]:
    """max(-A rho, -A clip(rho, 1 - clip, 1 + clip)) of each token, rho = pi / pi_old."""
    ratio = (logprobs - old).exp()
    return torch.maximum(-advantages * ratio, -advantages * ratio.clamp(1 - clip, 1 + clip))


def value_loss(
    values: Float[Tensor, "*B T"], old: Float[Tensor, "*B T"], returns: Float[Tensor, "*B T"], clip: float
) -> Float[Tensor, "*B T"]:
    """Half the larger square of V - R and of the same with V within `clip` of what it was, of each token."""
    near = old + (values - old).clamp(-clip, clip)
    return 0.5 * torch.maximum((values - returns).square(), (near - returns).square())


class ValueModel(Policy):
    """A policy's body with a scalar head, 0 at first, in place of the vocabulary: its "log-probs" of branches are
    values, each read where the token is predicted."""

    def __init__(self, policy: Policy) -> None:
        super().__init__(scorer(copy.deepcopy(policy.network), seed=0))
        nn.init.zeros_(self.head)

    @property
    def head(self) -> Tensor:
        """The weights of the scalar head, [1, D]."""
        weight: Tensor = self.network.score.weight  # type: ignore[assignment,union-attr]
        return weight

    def _picked(self, hidden: Float[Tensor, "N D"], targets: Int[Tensor, "N"]) -> Float[Tensor, "N"]:
        return (hidden.float() * self.head.float()).sum(-1)  # a product in fp32 under autocast, too


@dataclass(frozen=True)
class Before:
    """What stands before the first inner step, by token of the answers; 0 beyond their ends."""

    logprobs: Float[Tensor, "B K T"]
    values: Float[Tensor, "B K T"]
    advantages: Float[Tensor, "B K T"]
    returns: Float[Tensor, "B K T"]
    mask: Bool[Tensor, "B K T"]  # tokens that count: of answers with a usable reward

    def __getitem__(self, rows: list[int]) -> Before:
        return Before(*(getattr(self, f.name)[rows] for f in fields(self)))


class PPO(OnPolicy):
    """Answers at temperature 1, then `inner_epochs` passes over them in `minibatches` optimizer steps each.

    Four models: the policy, the reference it started as, a value model that starts as a copy of its body, the reward.
    Dropout is off. A step of the run is a Batch, whatever the number of optimizer steps in it.

    Args:
        parts: see Parts; sampling.temperatures are not used.
        kl: price of a nat of log pi / log pi_ref.
        kl_target: nats an answer; the price follows it (Ziegler et al. 2019, section 2.2). None: the price is fixed.
        kl_horizon: answers over which it does.
        inner_epochs, minibatches: passes over the answers of a Batch, and optimizer steps in each.
        clip, value_clip: how far ratios and values may move in a Batch and still be followed.
        value_weight: of the value loss beside the policy's.
        gamma, gae_lam: of the advantages, see `gae`.
        sft_weight: of the likelihood of the references beside it.
    """

    min_k = 1
    tamed_by = "optimizer.lr"

    def __init__(
        self,
        parts: Parts,
        kl: NonNegativeFloat = 0.05,
        kl_target: PositiveFloat | None = None,
        kl_horizon: PositiveInt = 10_000,
        inner_epochs: PositiveInt = 4,
        minibatches: PositiveInt = 1,
        clip: PositiveFloat = 0.2,
        value_clip: PositiveFloat = 0.2,
        value_weight: NonNegativeFloat = 0.1,
        gamma: Share = 1.0,
        gae_lam: Share = 0.95,
        sft_weight: NonNegativeFloat = 0.0,
    ) -> None:
        super().__init__(parts, lam=1.0, active_epochs="all", keep_eos=True)
        if (drawn := parts.sampling).top_k or drawn.top_p < 1 or drawn.greedy:
            raise BadInput(
                "method=ppo: ratios are of the whole distribution; take sampling.top_k=0 sampling.top_p=1.0 "
                "sampling.greedy=false"
            )
        if kl_target is not None and kl == 0:
            raise BadInput(f"method.kl=0.0: a price of 0 never changes, and method.kl_target={kl_target:g} wants it to")
        self.drawn = replace(drawn, temperatures=[1.0] * drawn.k)
        self.kl, self.kl_target, self.kl_horizon = kl, kl_target, kl_horizon
        self.inner_epochs, self.minibatches = inner_epochs, minibatches
        self.clip, self.value_clip, self.value_weight = clip, value_clip, value_weight
        self.gamma, self.gae_lam, self.sft_weight = gamma, gae_lam, sft_weight
        self.value = ValueModel(self.policy)
        self._reference = [copy.deepcopy(self.policy).requires_grad_(False).eval()]  # in a list: no weights of ours

    def configure_model(self) -> None:
        """Share the policy and the value model out between ranks, where that is the trainer's strategy.

        Raises:
            BadInput: DeepSpeed trains.
        """
        if zero.trains(self.trainer):
            raise BadInput(
                "trainer.strategy=deepspeed: ppo makes several optimizer steps of one, which its engine does not know; "
                "take trainer=fsdp or trainer=ddp"
            )
        super().configure_model()

    @classmethod
    def begins_as_sft(cls, settings: Mapping[str, Any]) -> bool:
        """It is active from the start."""
        return False

    @property
    def reference(self) -> Policy:
        """The policy as it was before training, also where training goes on."""
        return self._reference[0]

    def models(self) -> dict[str, nn.Module]:
        """The policy, its reference, the value model, and the reward's."""
        return {**super().models(), "reference": self.reference, "value": self.value}

    def on_train_start(self) -> None:
        """The reference goes where the policy is."""
        super().on_train_start()
        self.reference.to(self.device)

    def reads_once(self, prompts: int) -> bool:
        """Never: the weights change between the readings of a prompt."""
        return False

    def rollout(self, batch: Batch) -> Rollout:
        """Sample k answers to every prompt of the batch at temperature 1, read and reward them."""
        with self.account.phase("sample"):
            drawn = self.draw(batch, self.drawn)
        return self.rewarded(batch, drawn)

    def backward_all(self, batch: Batch, rollout: Rollout | None, *args: Any, **others: Any) -> dict[str, float]:
        """All inner steps but the optimizer's last, whose gradients are left; loss terms are means over the steps."""
        assert rollout is not None
        losses: dict[str, float] = defaultdict(float)
        with self.quiet():
            before = self.before(batch, rollout)
            turns = self.own_turns(batch)
            for number, own in enumerate(turns, 1):
                self.spare, rows = not own, own or [0]
                found = self.turn(batch[rows], rollout[rows], before[rows], 1 / len(turns))
                for name, value in found.items():
                    losses[name] += value / len(turns)
                if number < len(turns):
                    self.inner_step(batch, found)
        self.spare = batch.spare
        self.numbers["clipped"] = ranks.mean(self.numbers["clipped"])
        self.follow(rollout)
        return dict(losses)

    def inner_step(self, batch: Batch, losses: dict[str, float]) -> None:
        """An optimizer step that is none of the run's."""
        self.average(batch, losses)
        optimizer: Any = self.optimizers()
        optimizer.optimizer.step()  # not Lightning's, which would count it as a step of the run
        optimizer.optimizer.zero_grad()
        sharding.gather_(self)

    @torch.no_grad()
    def before(self, batch: Batch, rollout: Rollout) -> Before:
        """Log-probs, values and advantages of the answers as the models stand."""
        shape = rollout.logprobs.shape
        logprobs, reference, values = (torch.zeros(shape, device=self.device) for _ in range(3))
        for rows in self.micro_batches(batch):
            asked = (batch.prompts[rows], rollout.branches[rows], self.parts.micro_k)
            for model, found in ((self.policy, logprobs), (self.reference, reference), (self.value, values)):
                found[rows] = branch_logprobs(model, *asked)
        lengths = rollout.branches.lengths
        mask = (torch.arange(shape[-1], device=self.device) < lengths[..., None]) & rollout.good[..., None]
        mask = mask & (not self.spare)
        rewards = token_rewards(rollout.rewards, logprobs, reference, lengths, self.kl)
        advantages, returns = gae(rewards, values, mask, self.gamma, self.gae_lam)
        columns = [x[mask] for x in (advantages, returns, values, logprobs - reference)]
        (over, *tokens), own = ranks.joined(*columns)
        self.tell(sum(ranks.gathered(int(mask.any(-1).sum()))), *tokens)
        local = self.parts.sft.normalise == "local"
        return Before(logprobs, values, whitened(advantages, mask, over[own] if local else over), returns, mask)

    def tell(
        self, answers: int, returns: Float[Tensor, "N"], values: Float[Tensor, "N"], nats: Float[Tensor, "N"]
    ) -> None:
        """Numbers of this step, from the N tokens of the answers of all ranks."""
        self.numbers["kl"] = float(nats.sum() / max(answers, 1))
        self.numbers["kl_price"] = self.kl
        if len(returns) and float(spread := returns.var(correction=0)) > 0:
            self.numbers["value/explained"] = float(1 - (returns - values).var(correction=0) / spread)

    def own_turns(self, batch: Batch) -> list[list[int]]:
        """Of the prompts of each inner step those that are this rank's; there may be none."""
        counts = ranks.gathered(0 if self.spare else len(batch))
        first = sum(counts[: ranks.number()])
        own = range(first, first + counts[ranks.number()])
        return [[row - first for row in rows if row in own] for rows in self.turns(sum(counts))]

    def turns(self, prompts: int) -> Iterator[list[int]]:
        """The prompts of each inner step, of all ranks, in an order of this seed and step."""
        generator = torch.Generator().manual_seed(self.parts.seed * 1_000_003 + self.account.steps)
        for _ in range(self.inner_epochs):
            order = torch.randperm(prompts, generator=generator)
            parts = order.tensor_split(min(self.minibatches, prompts))
            yield from (part.sort().values.tolist() for part in parts)

    def turn(self, batch: Batch, rollout: Rollout, before: Before, share: float) -> dict[str, float]:
        """Add the gradients of one inner step; the value of each loss term."""
        losses: dict[str, float] = defaultdict(float)
        each = (not self.spare) / max(self.per_rank(float(before.mask.sum())), 1 / ranks.size())
        sft = self.sft_shares(batch) * self.sft_weight if self.sft_weight else before.values.new_zeros(len(batch))
        for rows in self.micro_batches(batch):
            prompts, branches, was = batch.prompts[rows], rollout.branches[rows], before[rows]
            values = branch_logprobs(self.value, prompts, branches, self.parts.micro_k)
            if self.sft_weight:
                branches = join(branches, batch.references[rows].unsqueeze())
            logprobs = branch_logprobs(self.policy, prompts, branches, self.parts.micro_k)
            terms = {}
            if self.sft_weight:
                terms["sft"] = -(sft[rows] * logprobs[:, -1].sum(-1)).sum()
                logprobs = logprobs[:, :-1, : was.mask.shape[-1]]
            moved = policy_loss(logprobs, was.logprobs, was.advantages, self.clip)
            terms["policy"] = (moved * was.mask).sum() * each
            missed = value_loss(values, was.values, was.returns, self.value_clip)
            terms["value"] = self.value_weight * (missed * was.mask).sum() * each
            self.descend(terms, losses)
            ratio = (logprobs.detach() - was.logprobs).exp()[was.mask]
            self.numbers["clipped"] += float(((ratio - 1).abs() > self.clip).sum()) * each * share
        return dict(losses)

    def follow(self, rollout: Rollout) -> None:
        """Let the price of the KL follow its target."""
        if self.kl_target is not None:
            error = min(max(self.numbers["kl"] / self.kl_target - 1, -0.2), 0.2)
            answers = sum(ranks.gathered(0 if self.spare else rollout.rewards.numel()))
            self.kl *= 1 + error * min(1.0, answers / self.kl_horizon)

    def count(self, batch: Batch, rollout: Rollout | None, scored: Rollout | None, read_once: bool) -> None:
        """Forward tokens are those of the policy's answers; of three models before, and of policy and value model in
        each inner epoch. Backward tokens are the latter."""
        assert rollout is not None
        prompts, answers, rows = int(batch.prompts.lengths.sum()), rollout.branches.lengths, rollout.rewards.numel()
        answered = prompts + int(answers.sum()) - rows  # the last token of an answer goes through nothing
        references = int(batch.references.lengths.sum()) if self.sft_weight else 0
        taught = 2 * answered + max(references - len(batch), 0)
        again = self.parts.micro_k is not None and self.parts.micro_k < answers.shape[1]
        counts, twice = self.account.counts, 2 if self.parts.recompute else 1
        counts["sampled_tokens"] += int(answers.sum())
        counts["scored_tokens"] += self.inner_epochs * (int(answers.sum()) + references)
        counts["backward_tokens"] += self.inner_epochs * taught
        counts["forward_tokens"] += 4 * answered + self.inner_epochs * taught * twice
        counts["forward_tokens"] += self.inner_epochs * (taught - 2 * prompts) if again else 0

    def on_train_epoch_end(self) -> None:
        """Nothing to say where the answers to a prompt got the same reward: those to others teach it, and the price."""
        self.flat.clear()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the price of the KL."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["kl"] = self.kl

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on at the same price."""
        super().on_load_checkpoint(checkpoint)
        self.kl = checkpoint["kl"]
