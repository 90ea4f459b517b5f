"""The values in which the paper and its released code differ, for other parts of the configuration to refer to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt


@dataclass(frozen=True)
class Protocol:
    """See conf/protocol/paper.yaml and released.yaml: each value is used where a yaml says `${protocol.<name>}`."""

    lam: NonNegativeFloat
    active_epochs: Literal["last", "all", "all_but_last"]
    temperatures: list[PositiveFloat] | None
    reward_threshold: float | None
    batch_reduction: Literal["mean", "sum"]
    max_response: PositiveInt
    max_total: PositiveInt | None
    weight_decay: NonNegativeFloat
    keep_eos: bool
    dropout: Annotated[float, Field(ge=0, lt=1)]
    normalise: Literal["global", "local"]
    bos: bool
    dialogue: Literal["raw", "alpaca"]
