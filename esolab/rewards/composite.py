"""A reward that is a weighted sum of other rewards."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Float
from pydantic import ConfigDict, Field, with_config
from torch import Tensor, nn
from typing_extensions import TypedDict  # pydantic reads no other before Python 3.12

from esolab.errors import BadInput
from esolab.rewards.base import MAX_BAD_SHARE, Share, check_lengths, usable
from esolab.terminal import log

Normalise = Literal["none", "center", "z"]
TAKEN = ("mean", "spread", "flat")  # columns reward/... of metrics.csv that are not a part's


def normalised(values: Float[Tensor, "B K"], how: Normalise) -> Float[Tensor, "B K"]:
    """Scores beside those of the same prompt's other answers: as they are, less their mean (`center`), or that over
    their standard deviation (`z`). NaN stays NaN and the others are normalised without it."""
    if how == "none":
        return values
    highest = values.where(values.isfinite(), -math.inf).amax(1, keepdim=True)
    below = values - highest  # equal scores become exactly 0
    centred = below - below.nanmean(1, keepdim=True)
    if how == "center":
        return centred
    deviation = centred.square().nanmean(1, keepdim=True).sqrt()
    return centred / deviation.where(deviation > 0, 1)


@with_config(ConfigDict(extra="forbid"))
class Part(TypedDict):
    """What a part is made of: a Reward (in a configuration, its node), and its weight in the sum."""

    reward: Any
    weight: Annotated[float, Field(allow_inf_nan=False)]


class Composite:
    """sum_p weight_p * normalised(reward_p): up is better, whatever the parts are.

    After a call `parts` holds the scores of each part by name, [B, K], before normalisation and weight, NaN where there
    was no usable number. An answer that a part has no number for has none in the sum, even if that part weighs 0.

    Args:
        parts: rewards and weights by name; metrics.csv has the mean of each as reward/<name>.
        normalise: see `normalised`; over the answers of a prompt, each part by itself.
        max_bad_share: of the sum; that of a part is not read.

    Raises:
        BadInput: no parts, or parts that are no rewards or whose names are taken, a line each.
    """

    def __init__(
        self, parts: dict[str, Part], normalise: Normalise = "none", max_bad_share: Share = MAX_BAD_SHARE
    ) -> None:
        if misfits := list(_misfits(parts)):
            raise BadInput("\n".join(misfits))
        self.made_of, self.normalise, self.max_bad_share = parts, normalise, max_bad_share
        self.parts: dict[str, Tensor] = {}
        self.warned: set[str] = set()

    def __call__(self, prompts: list[str], responses: list[list[str]], references: list[str]) -> Float[Tensor, "B K"]:
        """Score K answers to each of B prompts: float32, NaN where a part had no number. Raises ValueError on unequal
        lists."""
        check_lengths(prompts, responses, references)
        self.parts = {
            name: self._scores(name, part["reward"](prompts, responses, references), len(prompts), len(responses[0]))
            for name, part in self.made_of.items()
        }
        terms = [p["weight"] * normalised(self.parts[n].double(), self.normalise) for n, p in self.made_of.items()]
        return torch.stack(terms).sum(0).float()

    def models(self) -> dict[str, nn.Module]:
        """The models that the parts hold, by the names of the parts."""
        held: dict[str, nn.Module] = {}
        for name, part in self.made_of.items():
            held |= {f"{kind} {name}": model for kind, model in getattr(part["reward"], "models", dict)().items()}
        return held

    def fingerprint(self) -> str:
        """The fingerprints of the parts that are models, "" where none is."""
        return "".join(getattr(part["reward"], "fingerprint", str)() for part in self.made_of.values())

    @property
    def clipped(self) -> int:
        """Rewards of the last call that parts clipped."""
        return sum(getattr(part["reward"], "clipped", 0) for part in self.made_of.values())

    @property
    def shortened(self) -> int:
        """Texts of the last call that were too long for parts."""
        return sum(getattr(part["reward"], "shortened", 0) for part in self.made_of.values())

    def _scores(self, name: str, raw: object, prompts: int, k: int) -> Float[Tensor, "B K"]:
        """What a part returned as numbers, NaN where they were none; said once, as the sum does not show which part."""
        values, good = usable(raw, prompts, k)
        if not good.all() and name not in self.warned:
            self.warned.add(name)
            log.warning(
                f"reward.parts.{name}: no usable number for {int((~good).sum())} of {good.numel()} answers, which have "
                f"no reward then (said once, counted always); the part gave {' '.join(str(raw).split())[:200]}"
            )
        return values.where(good, math.nan)


def _misfits(parts: dict[str, Part]) -> Iterator[str]:
    if not parts:
        yield "reward.parts: there is none; give +reward.parts.NAME={reward:{_target_:...},weight:1}"
    for name, part in parts.items():
        if not name.isidentifier() or name in TAKEN:
            yield (
                f"reward.parts.{name}: reward/{name} cannot be its column in metrics.csv; give a name of letters, "
                f"digits and _ that is none of {', '.join(TAKEN)}"
            )
        if not callable(part["reward"]):
            yield f"reward.parts.{name}.reward={part['reward']}: no reward; give {{_target_:...}} with its settings"
