"""DPO: direct preference optimization (Rafailov et al. 2023, equation 7); conservative DPO (Mitchell 2023)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field, NonNegativeFloat, PositiveFloat
from torch import Tensor

from esolab import ranks, sharding
from esolab.batch import Batch
from esolab.data import Encoded, TrainingData, collate
from esolab.logprobs import branch_logprobs
from esolab.methods.base import Parts
from esolab.methods.pairs import Pairs
from esolab.terminal import log, progress


def dpo_loss(
    policy_chosen: Float[Tensor, "B"],
    policy_rejected: Float[Tensor, "B"],
    reference_chosen: Float[Tensor, "B"],
    reference_rejected: Float[Tensor, "B"],
    beta: float,
    smoothing: float = 0.0,
) -> Float[Tensor, ""]:
    """mean -(1 - smoothing) log sigmoid(m) - smoothing log sigmoid(-m), m the margin of the implicit rewards.

    Arguments are log pi(reply | prompt) in nats, summed over the reply's tokens, its end included; the implicit reward
    of a reply is beta (log pi - log pi_ref). At policy = reference the loss is ln 2.
    """
    margin = beta * ((policy_chosen - reference_chosen) - (policy_rejected - reference_rejected))
    return -((1 - smoothing) * F.logsigmoid(margin) + smoothing * F.logsigmoid(-margin)).mean()


class DPO(Pairs):
    """DPO against the policy that training starts from.

    The reference's log-probs of all training pairs are computed once in a run, before its first step, so that only one
    model is held. They are kept in the run's checkpoint, as a run that goes on has no starting policy to ask again, and
    nowhere else: every run computes its own.

    Args:
        parts: see Parts; the reward and the sampling are not used.
        beta: how dear leaving the reference is.
        smoothing: the chance that a pair's order is wrong.
        sft_weight: of the likelihood of the chosen replies, added to the loss.
    """

    def __init__(
        self,
        parts: Parts,
        beta: PositiveFloat = 0.1,
        smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.0,
        sft_weight: NonNegativeFloat = 0.0,
    ) -> None:
        super().__init__(parts)
        self.beta, self.smoothing, self.sft_weight = beta, smoothing, sft_weight
        self.reference: dict[str, list[float]] = {}  # log-probs of the chosen and the rejected reply, by example id

    def on_fit_start(self) -> None:
        """Ask the reference, unless a checkpoint has its answers; at a time when no other bar is shown."""
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        assert isinstance(data, TrainingData)
        if not self.reference:
            log.info(f"dpo: log-probs of {len(data.rows):,} pairs under the starting policy, once")
            with self.trainer.precision_plugin.train_step_context(), sharding.whole(self.policy):
                self.ask(data.rows)

    @torch.no_grad()
    def ask(self, rows: Sequence[Encoded]) -> None:
        """Keep the log-probs of these pairs under the policy as it stands, behind a bar; tokens and seconds count. Each
        rank asks for its part of them."""
        order = sorted(rows, key=lambda row: len(row.prompt) + row.response)  # like lengths together: less padding
        order = order[ranks.number() :: ranks.size()]
        with progress(disable=not ranks.lead()) as bar, self.account.phase("reference"), self.quiet():
            task = bar.add_task("dpo: the starting policy", total=len(order), note="pairs")
            for start in range(0, len(order), self.parts.micro_batch):
                batch = collate(order[start : start + self.parts.micro_batch]).to(self.device)
                self.reference.update(zip(batch.ids, self.logprobs(batch).tolist(), strict=True))
                read = int(batch.prompts.lengths.sum() + (batch.pairs.lengths - 1).sum())
                self.account.counts["forward_tokens"] += read  # the end tokens go through nothing
                bar.advance(task, len(batch))
        for others in ranks.gathered(self.reference):
            self.reference.update(others)
        self.account.spent["reference"] += self.account.seconds.pop("reference")

    def logprobs(self, pairs: Batch) -> Float[Tensor, "B 2"]:
        """log pi of the chosen and the rejected reply to each prompt, which is read once for both."""
        return branch_logprobs(self.policy, pairs.prompts, pairs.pairs, self.parts.micro_k).sum(-1)

    def terms(self, pairs: Batch, share: float, sft: Float[Tensor, "B"]) -> dict[str, Tensor]:
        """The DPO loss, and the likelihood of the chosen replies where it has a weight."""
        ours = self.logprobs(pairs)
        theirs = torch.tensor([self.reference[id] for id in pairs.ids], device=ours.device)
        rewards = self.beta * (ours - theirs)
        self.note(rewards[:, 0], rewards[:, 1], share)
        loss = dpo_loss(ours[:, 0], ours[:, 1], theirs[:, 0], theirs[:, 1], self.beta, self.smoothing)
        terms = {"own": share * loss}
        if self.sft_weight:
            terms["sft"] = -(sft * ours[:, 0]).sum()
        return terms

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what the reference said."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["reference"] = self.reference

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on against the same reference."""
        super().on_load_checkpoint(checkpoint)
        self.reference = checkpoint["reference"]
