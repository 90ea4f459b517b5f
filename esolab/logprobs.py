"""Log-probabilities of branches that share a prompt: the one primitive, and the only place where labels meet logits.

A row of the forward is [prompt, branch 1, ..., branch K], packed without padding between the branches. A tree mask lets
a branch see the prompt and itself; position ids restart at the end of the prompt. The prompt is read once, not K times.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from esolab.batch import Tokens
from esolab.policy import Policy


@dataclass(frozen=True)
class Tree:
    """Rows ready for the policy: N scored tokens in B rows of L places. The last token of a branch predicts nothing and
    is not in the row."""

    ids: Int[Tensor, "B L"]
    positions: Int[Tensor, "B L"]
    segments: Int[Tensor, "B L"]  # 0 prompt, 1..K branch, -1 padding
    at: Int[Tensor, "N"]  # the place, in B * L, that predicts the token
    targets: Int[Tensor, "N"]
    scored: Bool[Tensor, "B K T"]  # where the N tokens stand in the branches

    @property
    def mask(self) -> Bool[Tensor, "B L L"]:
        """Whether a place (dim 1) may look at another (dim 2)."""
        length = self.ids.shape[1]
        earlier = torch.ones(length, length, dtype=torch.bool, device=self.ids.device).tril()
        query, key = self.segments[:, :, None], self.segments[:, None, :]
        return earlier & ((key == 0) | (key == query))


def plant(prompts: Tokens, branches: Tokens) -> Tree:
    """Lay prompts [B, P] and their branches [B, K, T] out as rows. Prompts have at least one token."""
    batch, _, width = branches.ids.shape
    device = branches.ids.device
    inner = (branches.lengths - 1).clamp(min=0)  # places a branch takes
    start = prompts.lengths[:, None] + inner.cumsum(1) - inner
    length = int((prompts.lengths + inner.sum(1)).max())

    ids = torch.zeros(batch, length, dtype=torch.long, device=device)
    positions, segments = torch.zeros_like(ids), torch.full_like(ids, -1)
    b, p = prompts.mask.nonzero(as_tuple=True)
    ids[b, p], positions[b, p], segments[b, p] = prompts.ids[b, p], p, 0
    b, k, t = (torch.arange(width, device=device) < inner[..., None]).nonzero(as_tuple=True)
    place = start[b, k] + t
    ids[b, place], positions[b, place], segments[b, place] = branches.ids[b, k, t], prompts.lengths[b] + t, k + 1

    scored = branches.mask
    b, k, t = scored.nonzero(as_tuple=True)
    before = torch.where(t == 0, prompts.lengths[b] - 1, start[b, k] + t - 1)
    return Tree(ids, positions, segments, b * length + before, branches.ids[scored], scored)


def branch_logprobs(
    policy: Policy, prompts: Tokens, branches: Tokens, micro_k: int | None = None
) -> Float[Tensor, "B K T"]:
    """Token log-probs (nats, temperature 1) of branches [B, K, T] after prompts [B, P]; 0 where a branch has ended.

    The first EOS counts, as lengths include it; nothing after it does. With active dropout every branch is a row of its
    own, so that no two share a mask; otherwise the K branches of a prompt share one row. `micro_k` branches of a prompt
    go through the policy at a time, None: all; where there are several such parts, the backward computes each again.
    """
    k = branches.ids.shape[1]
    if micro_k is None or micro_k >= k:
        return _rows(policy, prompts, branches)
    parts = [branches[:, start : start + micro_k] for start in range(0, k, micro_k)]
    return torch.cat([checkpoint(_rows, policy, prompts, part, use_reentrant=False) for part in parts], 1)


def _rows(policy: Policy, prompts: Tokens, branches: Tokens) -> Float[Tensor, "B K T"]:
    if policy.training and policy.dropout:
        batch, k, width = branches.ids.shape
        alone = Tokens(branches.ids.reshape(batch * k, 1, width), branches.lengths.reshape(batch * k, 1))
        return _score(policy, prompts.repeat(k), alone).view(batch, k, width)
    return _score(policy, prompts, branches)


def _score(policy: Policy, prompts: Tokens, branches: Tokens) -> Float[Tensor, "B K T"]:
    tree = plant(prompts, branches)
    logprobs: Tensor = policy(tree.ids, tree.mask, tree.positions, tree.at, tree.targets)
    return logprobs.new_zeros(tree.scored.shape).masked_scatter(tree.scored, logprobs)
