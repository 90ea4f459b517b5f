"""What a reward is: a call that turns the answers to a batch of prompts into numbers."""

from __future__ import annotations

import math
import traceback
from collections.abc import Sequence
from numbers import Real
from typing import Annotated, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor


@runtime_checkable
class Reward(Protocol):
    """Anything that scores answers; up is better. A function will do, a class where there is something to set.

    One that is made of several may keep what each of them gave in its last call as `parts`, tensors [B, K] by name; the
    mean of each is logged. One that clips rewards, or shortens texts, may count those of its last call as `clipped` and
    `shortened`; result.json has the sums. One that holds models says which by `models()`, and by `fingerprint()` what
    files they are.
    """

    def __call__(self, prompts: list[str], responses: list[list[str]], references: list[str]) -> Float[Tensor, "B K"]:
        """Score K answers to each of B prompts: float32, on the CPU.

        Texts come without special tokens and stripped. Raises ValueError where the lists do not match.
        """
        ...


def failed(reward: object, error: Exception, ids: Sequence[str]) -> str:
    """What to say of a reward that has raised: what it is, its error and where, and over which examples."""
    own = getattr(reward, "function", reward)  # of a person's own, see rewards/callable.py
    name = getattr(own, "__qualname__", type(own).__qualname__)
    module = getattr(own, "__module__", type(own).__module__)
    last = traceback.extract_tb(error.__traceback__)[-1]
    said = " ".join(str(error).split())[:200]
    return (
        f"reward: {module}.{name} failed with {type(error).__name__}: {said} ({last.filename}, line {last.lineno}) on "
        f"the answers to {', '.join(ids)}; mend it, and the same command goes on from the last checkpoint"
    )


def check_lengths(prompts: list[str], responses: list[list[str]], references: list[str]) -> None:
    """Raise ValueError unless there is at least one prompt, each with one reference and equally many answers."""
    if not len(prompts) == len(responses) == len(references) or not prompts:
        found = f"{len(prompts)} prompts, {len(responses)} lists of responses, {len(references)} references"
        raise ValueError(f"a reward needs one list of responses and one reference per prompt: {found}")
    counts = sorted({len(answers) for answers in responses})
    if len(counts) > 1:
        raise ValueError(f"a reward needs equally many responses to every prompt, found {counts}")


MAX_BAD_SHARE = 0.1  # of a reward that does not say its own
Share = Annotated[float, Field(ge=0, le=1)]


def usable(raw: object, prompts: int, k: int) -> tuple[Float[Tensor, "B K"], Bool[Tensor, "B K"]]:
    """What a reward returned as numbers, and where they were numbers.

    An answer whose reward is missing, not a number or not finite gets the mean of the others of its prompt (0 where
    there is none), so that it neither gains nor loses. A result of another shape has no usable number at all.
    """
    rows = _listed(raw)
    fits = isinstance(rows, list | tuple) and len(rows) == prompts
    fits = fits and all(isinstance(row, list | tuple) and len(row) == k for row in rows)  # type: ignore[attr-defined]
    values = [[_number(x) for x in row] for row in rows] if fits else [[math.nan] * k] * prompts  # type: ignore[attr-defined]
    exact = torch.tensor(values, dtype=torch.float64).view(prompts, k)
    good = exact.float().isfinite()
    mean = exact.where(good, 0).sum(1, keepdim=True) / good.sum(1, keepdim=True).clamp(min=1)
    return exact.where(good, mean).float(), good


def _listed(raw: object) -> object:
    """Tensors and arrays, whole or as rows or as single numbers, as plain lists."""
    plain = raw.tolist() if isinstance(raw, Tensor | np.ndarray) else raw
    return [_listed(item) for item in plain] if isinstance(plain, list | tuple) else plain


def _number(value: object) -> float:
    try:
        return float(value) if isinstance(value, Real) and not isinstance(value, bool) else math.nan
    except OverflowError:
        return math.nan
