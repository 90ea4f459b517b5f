"""What the contenders that call `generate` share: rows padded on the left, and control of temperature and length."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from esolab.batch import Tokens


class Temperatures(LogitsProcessor):
    """Logits over each row's own temperature."""

    def __init__(self, temperatures: Float[Tensor, "R"]) -> None:
        self.temperatures = temperatures[:, None]

    def __call__(self, input_ids: Int[Tensor, "R L"], scores: Float[Tensor, "R V"]) -> Float[Tensor, "R V"]:
        """`generate` calls this before it draws."""
        return scores / self.temperatures


class EndAt(LogitsProcessor):
    """Each row's `stops`-th new token is the end token, and no earlier one is."""

    def __init__(self, stops: Int[Tensor, "R"], eos: int) -> None:
        self.stops, self.eos = stops, eos
        self.before: int | None = None  # places of the prompts

    def __call__(self, input_ids: Int[Tensor, "R L"], scores: Float[Tensor, "R V"]) -> Float[Tensor, "R V"]:
        """`generate` calls this before it draws."""
        if self.before is None:
            self.before = input_ids.shape[1]
        last = self.stops == input_ids.shape[1] - self.before + 1
        scores = scores.masked_fill(last[:, None], -torch.inf)
        scores[:, self.eos] = torch.where(last, 0.0, -torch.inf)
        return scores


def pad_left(prompts: Tokens, width: int | None = None) -> tuple[Int[Tensor, "B P"], Int[Tensor, "B P"]]:
    """Prompts that end together in rows of `width` (None: the longest), and 1 where there is a token."""
    width = width or int(prompts.lengths.max())
    ids = torch.zeros(len(prompts.lengths), width, dtype=torch.long, device=prompts.ids.device)
    for row, source, length in zip(ids, prompts.ids, prompts.lengths.tolist(), strict=True):
        row[width - length :] = source[:length]
    positions = torch.arange(width, device=ids.device)
    return ids, (positions >= width - prompts.lengths[:, None]).long()


def generate(
    network: Any,
    ids: Int[Tensor, "B P"],
    mask: Int[Tensor, "B P"],
    temperatures: list[float],
    lengths: Int[Tensor, "B K"],
    eos: int | None,
) -> Tokens:
    """One `generate` call for K answers to each prompt, at one temperature each: Tokens [B, K, T].

    With an `eos` every answer is made to end with it at its length; without one all have the longest length.
    """
    batch, k = lengths.shape
    limit = int(lengths.max())
    processors = LogitsProcessorList()
    if len(set(temperatures)) > 1:
        processors.append(Temperatures(torch.tensor(temperatures, device=ids.device).repeat(batch)))
    if eos is not None:
        processors.append(EndAt(lengths.flatten().to(ids.device), eos))
    config = GenerationConfig(
        do_sample=True,
        temperature=temperatures[0] if len(set(temperatures)) == 1 else 1.0,
        top_k=0,
        max_new_tokens=limit,
        num_return_sequences=k,
        eos_token_id=eos,
        pad_token_id=0,
    )
    with torch.inference_mode():
        rows = network.generate(
            input_ids=ids, attention_mask=mask, generation_config=config, logits_processor=processors
        )
    answers = rows[:, ids.shape[1] :].clone()  # what inference mode made cannot be part of a graph
    if answers.shape != (batch * k, limit):
        raise RuntimeError(f"generate returned answers of shape {tuple(answers.shape)}, not {(batch * k, limit)}")
    return Tokens(answers.view(batch, k, limit), lengths.to(ids.device))
