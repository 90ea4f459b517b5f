"""The step of a policy whose optimizer is shared out by DeepSpeed (ZeRO, stage 1): every rank has all weights, and of
what AdamW keeps its part.

Each rank makes as many forwards and backwards as its own examples take, and none waits for another until the end of the
step, when gradients are averaged once.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from pytorch_lightning.strategies import DeepSpeedStrategy
from torch import nn


def engine(trainer: Any) -> Any:
    """DeepSpeed's engine, where it is what trains; else None."""
    return trainer.strategy.deepspeed_engine if trains(trainer) else None


def trains(trainer: Any) -> bool:
    """Whether DeepSpeed does, from before its engine is there."""
    return isinstance(getattr(trainer, "strategy", None), DeepSpeedStrategy)


def keep_apart(engine: Any) -> None:
    """From here on backward leaves gradients where they are, in each rank's weights."""
    engine.set_gradient_accumulation_boundary(False)


def average_(engine: Any, weights: Iterable[nn.Parameter]) -> None:
    """Gradients become their means over ranks, of which each rank keeps its part, and leave the weights."""
    for weight in weights:
        if weight.grad is None:
            weight.grad = torch.zeros_like(weight)  # what one rank has not used, others have
    engine.set_gradient_accumulation_boundary(True)
    engine.allreduce_gradients()


def norm(engine: Any) -> float:
    """Of the averaged gradients, before the engine clips them in its step; nan where one of them is not finite."""
    found = float(engine.optimizer.scaled_global_norm())
    return found if 0 <= found < math.inf else math.nan  # -1 is what DeepSpeed calls it


def state(optimizer: Any) -> dict[str, Any]:
    """What this rank keeps for its part of the weights, on the CPU: AdamW's moments, and the weights in fp32."""
    kept = optimizer.optimizer.state_dict()
    moments = {
        place: {name: value.cpu() if isinstance(value, torch.Tensor) else value for name, value in found.items()}
        for place, found in kept["state"].items()
    }
    masters = [part.detach().cpu().clone() for part in optimizer.single_partition_of_fp32_groups]
    return {"adamw": {**kept, "state": moments}, "masters": masters}


def load_state_(optimizer: Any, state: dict[str, Any]) -> None:
    """Take up what `state` has kept."""
    optimizer.optimizer.load_state_dict(state["adamw"])
    for part, master in zip(optimizer.single_partition_of_fp32_groups, state["masters"], strict=True):
        part.data.copy_(master)
