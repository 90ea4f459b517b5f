"""A penalty for long answers, made to stand beside another reward."""

from __future__ import annotations

import torch
from jaxtyping import Float
from pydantic import PositiveInt
from torch import Tensor

from esolab.errors import BadInput
from esolab.rewards.base import MAX_BAD_SHARE, Share, check_lengths


def length_penalty(words: int, target: int, limit: int) -> float:
    """0 up to `target` words, falling linearly to -1 at `limit` words, -1 beyond: the soft overlong punishment of DAPO
    (Yu et al. 2025, equation 13), in words."""
    return -min(max(words - target, 0) / (limit - target), 1.0)


class Length:
    """A penalty in [-1, 0] on answers of too many words (split at whitespace).

    Args:
        target: words that cost nothing; None: as many as the reference of the prompt has, at least one.
        limit: words at which the penalty is whole; None: twice the target.
        max_bad_share: see conf/reward/length.yaml.

    Raises:
        BadInput: a limit without a target, or one that is not above it.
    """

    def __init__(
        self,
        target: PositiveInt | None = None,
        limit: PositiveInt | None = None,
        max_bad_share: Share = MAX_BAD_SHARE,
    ) -> None:
        if limit is not None and (target is None or limit <= target):
            raise BadInput(
                f"reward.limit={limit}: goes with a smaller reward.target, not with {target}; change one of them, or "
                "give reward.limit=null"
            )
        self.target, self.limit, self.max_bad_share = target, limit, max_bad_share

    def __call__(self, prompts: list[str], responses: list[list[str]], references: list[str]) -> Float[Tensor, "B K"]:
        """The penalty on K answers to each of B prompts: float32. Raises ValueError on unequal lists."""
        check_lengths(prompts, responses, references)
        rows = []
        for answers, reference in zip(responses, references, strict=True):
            target = self.target or max(len(reference.split()), 1)
            limit = self.limit or 2 * target
            rows.append([length_penalty(len(answer.split()), target, limit) for answer in answers])
        return torch.tensor(rows, dtype=torch.float32)
