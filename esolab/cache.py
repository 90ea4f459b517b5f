"""Keys and values while k answers grow from each prompt: the prompt's are held once, each answer's own beside them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import AttentionInterface

Pair = tuple[Tensor, Tensor]  # keys and values

NAME = "esolab_branches"  # the attention that transformers calls by this name is `_attend` below
_now: list[Branches] = []  # whose step is running


@dataclass(frozen=True)
class Read:
    """Prompts as a network has read them: all that answers need to grow from them and to be scored after them."""

    last: Float[Tensor, "B D"]  # hidden state of the last token of each
    layers: list[Pair]  # of each layer, [B, H, P, D]
    lengths: Int[Tensor, "B"]

    def __getitem__(self, rows: list[int]) -> Read:
        return Read(self.last[rows], [(keys[rows], values[rows]) for keys, values in self.layers], self.lengths[rows])

    @property
    def mask(self) -> Bool[Tensor, "B P"]:
        """True where there is a token."""
        return torch.arange(self.layers[0][0].shape[2], device=self.lengths.device) < self.lengths[:, None]


class Branches:
    """The attention state of k answers to each of B prompts, layer by layer; rows are prompt-major: row = b * k + j.

    Prompt keys and values are [B, H, P, D] and never repeated; an answer's are [B * k, H, limit, D], written in place.
    """

    def __init__(self, read: Read, k: int, limit: int) -> None:
        self.prompt, self.mask = read.layers, read.mask
        self.k, self.limit, self.length = k, limit, 0
        self.own: dict[int, Pair] = {}

    @contextmanager
    def step(self) -> Iterator[None]:
        """One more token for every row: attention layers that run inside read and extend this state."""
        _now.append(self)
        try:
            yield
        finally:
            _now.pop()
        self.length += 1

    def keep(self, prompts: Int[Tensor, "B"], rows: Int[Tensor, "R"], k: int) -> None:
        """Go on with these prompts and these of their rows, k for each."""
        self.prompt = [(keys[prompts], values[prompts]) for keys, values in self.prompt]
        self.mask, self.k = self.mask[prompts], k
        used = slice(0, self.length)
        for layer, pair in self.own.items():
            self.own[layer] = self._room(*(x[rows, :, used] for x in pair))

    def _room(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Buffers up to the limit that begin with these keys and values."""
        rows, heads, length, _ = keys.shape
        pair = tuple(x.new_empty(rows, heads, self.limit, x.shape[-1]) for x in (keys, values))
        for buffer, x in zip(pair, (keys, values), strict=True):
            buffer[:, :, :length] = x
        return pair[0], pair[1]

    def attend(
        self, layer: int, query: Float[Tensor, "R H 1 D"], key: Tensor, value: Tensor, scaling: float
    ) -> Float[Tensor, "R 1 H D"]:
        """Attention of each row's new token over its prompt, its own earlier tokens and itself."""
        rows, heads, _, size = query.shape
        groups = key.shape[1]  # fewer than the query's heads where keys are shared (Llama)
        if layer not in self.own:
            self.own[layer] = self._room(key, value)
        keys, values = self.own[layer]
        keys[:, :, self.length], values[:, :, self.length] = key[:, :, 0], value[:, :, 0]
        keys, values = keys[:, :, : self.length + 1], values[:, :, : self.length + 1]
        prompt_keys, prompt_values = self.prompt[layer]
        batch, width = self.mask.shape

        own = (query * scaling).reshape(rows, groups, heads // groups, size)
        shared = own.view(batch, self.k, groups, -1, size).transpose(1, 2).reshape(batch, groups, -1, size)
        to_prompt = (shared @ prompt_keys.transpose(2, 3)).masked_fill(~self.mask[:, None, None], -torch.inf)
        to_prompt = to_prompt.view(batch, groups, self.k, -1, width).transpose(1, 2).reshape(rows, groups, -1, width)
        weights = torch.cat([to_prompt, own @ keys.transpose(2, 3)], -1).float().softmax(-1).to(query.dtype)

        to_prompt = weights[..., :width].reshape(batch, self.k, groups, -1, width).transpose(1, 2)
        out = to_prompt.reshape(batch, groups, -1, width) @ prompt_values
        out = out.reshape(batch, groups, self.k, -1, size).transpose(1, 2).reshape(rows, groups, -1, size)
        return (out + weights[..., width:] @ values).reshape(rows, 1, heads, size)


def gather(reads: Sequence[tuple[list[int], Read]]) -> Read:
    """Groups of prompts as one, in the order of the rows that they are, without gradients."""
    order = torch.tensor([row for rows, _ in reads for row in rows], device=reads[0][1].lengths.device).argsort()
    width = max(read.layers[0][0].shape[2] for _, read in reads)

    def joined(xs: Iterable[Tensor]) -> Tensor:
        return torch.cat([x.detach() for x in xs])[order]

    def wide(xs: Iterable[Tensor]) -> Tensor:
        return joined(F.pad(x, (0, 0, 0, width - x.shape[2])) for x in xs)

    pairs = (zip(*layer, strict=True) for layer in zip(*(read.layers for _, read in reads), strict=True))
    return Read(
        joined(read.last for _, read in reads),
        [(wide(keys), wide(values)) for keys, values in pairs],
        joined(read.lengths for _, read in reads),
    )


def _attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Any, scaling: float | None = None, **_: Any
) -> tuple[Tensor, None]:
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return _now[-1].attend(int(module.layer_idx), query, key, value, scale), None  # type: ignore[arg-type]


AttentionInterface.register(NAME, _attend)
