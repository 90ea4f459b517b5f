"""SFT: maximum likelihood of the references (Huang et al., COLING 2025, equation 1)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from esolab.methods.base import Method, SftReduction, sft_weights


def sft_loss(
    logprobs: Float[Tensor, "B T"], lengths: Int[Tensor, "B"], reduction: SftReduction = "token_mean"
) -> Float[Tensor, ""]:
    """Minus the log-likelihood of references: token log-probs [B, T], 0 beyond a reference's length.

    `seq_sum` is equation 1 averaged over the batch; `token_mean`, the default, is what the paper's release computes;
    `seq_mean` averages the per-reference token means.
    """
    return -(sft_weights(lengths, reduction) * logprobs.sum(-1)).sum()


class SFT(Method):
    """Supervised fine-tuning: the likelihood term that every method here has, and nothing else."""

    @classmethod
    def begins_as_sft(cls, settings: Mapping[str, Any]) -> bool:
        """It goes on so, too."""
        return True
