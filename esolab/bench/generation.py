"""What the contenders that call `generate` share: rows padded on the left, and control of temperature and length."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
)

from esolab.batch import Tokens


class Temperatures(LogitsProcessor):
    """Logits over each row's own temperature."""

    def __init__(self, temperatures: Float[Tensor, "R"]) -> None:
        self.temperatures = temperatures[:, None]

    def __call__(self, input_ids: Int[Tensor, "R L"], scores: Float[Tensor, "R V"]) -> Float[Tensor, "R V"]:
        """`generate` calls this before it draws."""
        return scores / self.temperatures


class EndAt(StoppingCriteria):
    """Each row ends after so many new tokens of its own; `generate` writes padding from there on. `lengths` are the
    tokens after which it was told so."""

    eos_token_id = None  # `generate` pads ended rows where a criterion has this attribute

    def __init__(self, stops: Int[Tensor, "R"]) -> None:
        self.stops, self.lengths = stops, torch.zeros_like(stops)
        self.before: int | None = None  # places of the prompts

    def __call__(self, input_ids: Int[Tensor, "R L"], scores: Any, **_: Any) -> Bool[Tensor, "R"]:
        """`generate` calls this after each token."""
        if self.before is None:
            self.before = input_ids.shape[1] - 1
        done = self.stops <= input_ids.shape[1] - self.before
        self.lengths[done & (self.lengths == 0)] = input_ids.shape[1] - self.before
        return done


def close(answers: Int[Tensor, "R T"], stops: Int[Tensor, "R"], eos: int) -> Int[Tensor, "R T"]:
    """Answers whose one end token is their `stops`-th: what random weights wrote there counts for nothing."""
    answers = answers.masked_fill(answers == eos, 0)
    return answers.scatter(1, stops[:, None] - 1, eos)


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

    With an `eos` every answer is made to end with it at its length; without one all have the longest length. The
    lengths returned are those found in the answers.
    """
    batch, k = lengths.shape
    limit = int(lengths.max())
    processors = LogitsProcessorList()
    if len(set(temperatures)) > 1:
        processors.append(Temperatures(torch.tensor(temperatures, device=ids.device).repeat(batch)))
    end = EndAt(lengths.flatten().to(ids.device))
    config = GenerationConfig(
        do_sample=True,
        temperature=temperatures[0] if len(set(temperatures)) == 1 else 1.0,
        top_k=0,
        max_new_tokens=limit,
        num_return_sequences=k,
        eos_token_id=None,
        pad_token_id=0,
    )
    # autocast keeps no weights that it has cast in inference mode, and would cast them for every token
    quiet = torch.no_grad if torch.is_autocast_enabled(ids.device.type) else torch.inference_mode
    with quiet():
        rows = network.generate(
            input_ids=ids,
            attention_mask=mask,
            generation_config=config,
            logits_processor=processors,
            stopping_criteria=StoppingCriteriaList([] if eos is None else [end]),
        )
    answers = rows[:, ids.shape[1] :].clone()  # what inference mode made cannot be part of a graph
    found = torch.full_like(end.stops, answers.shape[1])
    if eos is not None:
        found = end.lengths
        answers = close(answers, found, eos)
    return Tokens(answers.view(batch, k, -1), found.view(batch, k))
