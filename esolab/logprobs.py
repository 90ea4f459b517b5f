"""Log-probabilities of branches that share a prompt: the one primitive, and the only place where labels meet logits.

The prompt is read once, not K times. What goes on after it is one row, [branch 1, ..., branch K], packed without
padding between the branches. A tree mask lets a branch see the prompt and itself; position ids restart at the end of
the prompt.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from esolab.batch import Tokens
from esolab.cache import Read
from esolab.policy import Policy, like_lengths


@dataclass(frozen=True)
class Tree:
    """Rows ready for the policy: N scored tokens, and the places of B rows of L that they take after their prompts. The
    last token of a branch predicts nothing and has no place."""

    ids: Int[Tensor, "B L"]
    positions: Int[Tensor, "B L"]
    segments: Int[Tensor, "B L"]  # which branch, -1 padding
    at: Int[Tensor, "N"]  # where the token is predicted, see Policy.forward
    targets: Int[Tensor, "N"]
    scored: Bool[Tensor, "B K T"]  # where the N tokens stand in the branches

    def mask(self, prompts: Bool[Tensor, "B P"]) -> Bool[Tensor, "B L S"]:
        """Whether a place (dim 1) may look at a place of its prompt or its row (dim 2)."""
        batch, length = self.ids.shape
        earlier = torch.ones(length, length, dtype=torch.bool, device=self.ids.device).tril()
        own = earlier & (self.segments[:, :, None] == self.segments[:, None, :])
        return torch.cat([prompts[:, None].expand(batch, length, -1), own], 2)


def plant(lengths: Int[Tensor, "B"], branches: Tokens) -> Tree:
    """Lay branches [B, K, T] out as rows that go on after prompts of these lengths."""
    batch, _, width = branches.ids.shape
    device = branches.ids.device
    inner = (branches.lengths - 1).clamp(min=0)  # places a branch takes
    start = inner.cumsum(1) - inner
    length = max(1, int(inner.sum(1).max()))  # a network wants one place

    ids = torch.zeros(batch, length, dtype=torch.long, device=device)
    positions, segments = torch.zeros_like(ids), torch.full_like(ids, -1)
    b, k, t = (torch.arange(width, device=device) < inner[..., None]).nonzero(as_tuple=True)
    place = start[b, k] + t
    ids[b, place], positions[b, place], segments[b, place] = branches.ids[b, k, t], lengths[b] + t, k

    scored = branches.mask
    b, k, t = scored.nonzero(as_tuple=True)
    at = torch.where(t == 0, b, batch + b * length + start[b, k] + t - 1)
    return Tree(ids, positions, segments, at, branches.ids[scored], scored)


def branch_logprobs(
    policy: Policy, prompts: Tokens, branches: Tokens, micro_k: int | None = None, read: Read | None = None
) -> Float[Tensor, "B K T"]:
    """Token log-probs (nats, temperature 1) of branches [B, K, T] after prompts [B, P]; 0 where a branch has ended.

    The first EOS counts, as lengths include it; nothing after it does. `read` are the prompts where they have been read
    already, with gradients where those are wanted. `micro_k` branches of a prompt go through the policy at a time,
    None: all; where there are several such parts, the backward computes each again. With active dropout every branch
    has a prompt of its own, so that no two share a mask.
    """
    k = branches.ids.shape[1]
    alone = policy.training and policy.dropout
    if read is None and not alone:
        read = policy.read(prompts)

    def score(part: Tokens) -> Float[Tensor, "B k T"]:
        return _alone(policy, prompts, part) if read is None else _after(policy, read, part)

    if micro_k is None or micro_k >= k:
        return score(branches)
    parts = [branches[:, start : start + micro_k] for start in range(0, k, micro_k)]
    return torch.cat([checkpoint(score, part, use_reentrant=False) for part in parts], 1)


def _alone(policy: Policy, prompts: Tokens, branches: Tokens) -> Float[Tensor, "B K T"]:
    batch, k, width = branches.ids.shape
    rows = Tokens(branches.ids.reshape(batch * k, 1, width), branches.lengths.reshape(batch * k, 1))
    return _after(policy, policy.read(prompts.repeat(k)), rows).view(batch, k, width)


def _after(policy: Policy, read: Read, branches: Tokens) -> Float[Tensor, "B K T"]:
    """Rows of like length go through the policy together."""
    groups = like_lengths((branches.lengths - 1).clamp(min=0).sum(1))
    if len(groups) == 1:
        return _score(policy, read, branches)
    parts = [_score(policy, read[rows], branches[rows]) for rows in groups]
    order = torch.tensor([row for rows in groups for row in rows], device=policy.device).argsort()
    return torch.cat(parts)[order]


def _score(policy: Policy, read: Read, branches: Tokens) -> Float[Tensor, "B K T"]:
    tree = plant(read.lengths, branches)
    logprobs: Tensor = policy(read, tree.ids, tree.positions, tree.mask(read.mask), tree.at, tree.targets)
    return logprobs.new_zeros(tree.scored.shape).masked_scatter(tree.scored, logprobs)
