"""Gradient checkpointing: each block of a network is computed again in the backward, from its input alone.

transformers' own turns the cache of keys and values off, and scoring goes on from it: the prompt is read once.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import Cache, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

CACHE = object()  # stands where a block is given a cache


def recompute_blocks(network: PreTrainedModel) -> None:
    """From now on the blocks of a network keep their inputs (and what a reading leaves in a cache) where gradients are
    recorded, and compute the rest again in the backward, dropout's noise included. Values and gradients stay the same.
    """
    for block in network.base_model.modules():
        numbers: list[Any] = [m.layer_idx for m in block.modules() if hasattr(m, "layer_idx")]
        if isinstance(block, GradientCheckpointingLayer) and numbers:
            # on the instance: a strategy that shards weights changes the class, and its hooks must not run twice; a
            # partial of a bound method is copied with the block, as PPO copies policies
            block.forward = partial(_recomputed, block.forward, numbers[0])


class View(Cache):
    """A cache as one block sees it, which may fill it as often as it likes: the layer that it was made of stays as it
    was."""

    def __init__(self, layer: Any, number: int) -> None:
        super().__init__(layers=[layer] * (number + 1))

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **named: Any
    ) -> tuple[Tensor, Tensor]:
        """The keys and values of a layer with these after them."""
        self.layers[layer_idx] = copy.copy(self.layers[layer_idx])
        pair: tuple[Tensor, Tensor] = super().update(key_states, value_states, layer_idx, *args, **named)
        return pair


def _recomputed(forward: Callable[..., Any], number: int, *args: Any, **named: Any) -> Any:
    """What the forward of a block gives, to be computed again in the backward.

    A cache that was empty gets the layer that the block has made, as a reading is to leave its keys and values. One
    that begins with a prompt is left as it was: nobody asks for what went on after it, and it would be held.
    """
    if not torch.is_grad_enabled():
        return forward(*args, **named)
    cache = next((x for x in (*args, *named.values()) if isinstance(x, Cache)), None)  # its name differs by family
    before: Any = None if cache is None else cache.layers[number]

    def block(*args: Any, **named: Any) -> tuple[Any, Any]:
        view = View(before, number)
        return _changed(forward, lambda x: view if x is CACHE else x, args, named), view.layers[number]

    kept = partial(checkpoint, block, use_reentrant=False)
    out, layer = _changed(kept, lambda x: CACHE if isinstance(x, Cache) else x, args, named)
    if cache is not None and not before.get_seq_length():
        cache.layers[number] = layer
    return out


def _changed(
    function: Callable[..., Any], change: Callable[[Any], Any], args: Sequence[Any], named: Mapping[str, Any]
) -> Any:
    """The function of arguments each of which has been changed."""
    return function(*map(change, args), **{name: change(value) for name, value in named.items()})
