"""Examples to batches: tokenising, limits, and an order that depends on seed and epoch alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytorch_lightning as pl
import torch
from torch.utils.data import BatchSampler, DataLoader, Dataset, Sampler

from esolab import ranks
from esolab.batch import Batch, Example, Tokens
from esolab.errors import BadInput
from esolab.policy import Tokenizer
from esolab.store import kept

LONG_WORD = 40  # characters


@dataclass(frozen=True)
class Encoded:
    """An example with its token ids: prompt; reference, and the rejected reply of a pair, closed by the end token."""

    example: Example
    prompt: list[int]
    reference: list[int]
    rejected: list[int] | None = None

    @property
    def response(self) -> int:
        """Tokens of the reference, or of the longer reply of a pair."""
        return max(len(self.reference), len(self.rejected or ()))


def encode(examples: Sequence[Example], tokenizer: Tokenizer, cache: Path | None = None) -> list[Encoded]:
    """Tokenise examples, each whole. Where there is a folder `cache`, the token ids of large corpora are kept in it."""
    texts = [e.prompt for e in examples]
    replies = [e.reference for e in examples] + [e.rejected for e in examples if e.rejected is not None]
    if cache is None:
        prompts, references = tokenizer.prompts(texts), tokenizer.responses(replies)
    else:
        prompts, references = kept(cache, tokenizer, texts, replies)
    for example, prompt in zip(examples, prompts, strict=True):
        if not prompt:
            raise BadInput(f"data: the prompt of example {example.id!r} has no token; remove it or write a prompt")
    others = iter(references[len(examples) :])
    return [
        Encoded(example, prompt, reference, None if example.rejected is None else next(others))
        for example, prompt, reference in zip(examples, prompts, references[: len(examples)], strict=True)
    ]


def within(
    encoded: Sequence[Encoded], max_prompt: int, max_response: int, max_total: int | None = None
) -> list[Encoded]:
    """The examples whose prompt, response and sum of both keep their limits, in tokens; of a pair, both replies do."""
    total = max_total or max_prompt + max_response
    return [
        e
        for e in encoded
        if len(e.prompt) <= max_prompt and e.response <= max_response and len(e.prompt) + e.response <= total
    ]


def shorten(rows: Sequence[Encoded], tokenizer: Tokenizer, max_prompt: int) -> tuple[list[Encoded], int]:
    """Cut the input field of over-long prompts on its left, and count those cut.

    Raises:
        BadInput: a prompt is too long even without its input field and what stands before it.
    """
    encoded, count = list(rows), 0
    for i, whole in enumerate(encoded):
        if len(whole.prompt) > max_prompt:
            encoded[i] = replace(whole, prompt=_cut(whole.example, tokenizer, max_prompt))
            count += 1
    return encoded, count


def _cut(example: Example, tokenizer: Tokenizer, limit: int) -> list[int]:
    """Token ids of the prompt without the left of its input field; where that is not enough, without all of it and the
    left of what stands before it. What follows the input field, the cue that asks for an answer, stays."""
    start, end = example.span
    ids = _cut_left(example.prompt, start, end, tokenizer, limit)
    if len(ids) > limit:
        ids = _cut_left(example.prompt[:start] + example.prompt[end:], 0, start, tokenizer, limit)
    if not 0 < len(ids) <= limit:
        raise BadInput(
            f"data.max_prompt: the prompt of example {example.id!r} has {len(ids)} tokens without its input, "
            f"the limit is {limit}; raise data.max_prompt"
        )
    return ids


def _cut_left(prompt: str, start: int, end: int, tokenizer: Tokenizer, limit: int) -> list[int]:
    """Token ids with as little as possible taken off the left of [start, end): at a word's start, or inside of a run of
    characters that is longer than a word (a text without blanks, a long URL)."""

    def without(cut: int) -> list[int]:
        return tokenizer.prompts([prompt[:start] + prompt[cut:end].lstrip() + prompt[end:]])[0]

    def least(cuts: Sequence[int]) -> int:
        """The place, in order, of the first cut after which the prompt fits; the last one where none does."""
        low, high = 0, len(cuts) - 1
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if len(without(cuts[middle])) <= limit else (middle + 1, high)
        return low

    words = [start, *(i for i in range(start, end) if prompt[i].isspace()), end]
    found = least(words)
    before, cut = words[max(0, found - 1)], words[found]
    if cut - before > LONG_WORD:
        cuts = range(before, cut + 1)
        cut = cuts[least(cuts)]
    return without(cut)


def collate(rows: Sequence[Encoded], spare: bool = False) -> Batch:
    """One optimizer batch of encoded examples, with pairs where all are."""
    rejected = [row.rejected for row in rows if row.rejected is not None]
    return Batch(
        spare=spare,
        ids=[row.example.id for row in rows],
        prompts=Tokens.pack([row.prompt for row in rows]),
        references=Tokens.pack([row.reference for row in rows]),
        prompt_texts=[row.example.prompt for row in rows],
        reference_texts=[row.example.reference.strip() for row in rows],
        rejected=Tokens.pack(rejected) if len(rejected) == len(rows) else None,
    )


class Order(Sampler[int]):
    """A fresh permutation for every epoch, a function of (seed, epoch) alone. Of the epoch `begun`, the first `given`
    examples are left out: those that a run had before it was stopped."""

    def __init__(self, size: int, seed: int, begun: int = 0, given: int = 0) -> None:
        self.size, self.seed, self.epoch, self.begun, self.given = size, seed, 0, begun, given

    def set_epoch(self, epoch: int) -> None:
        """Lightning calls this before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        order = torch.randperm(self.size, generator=generator).tolist()
        return iter(order[self.given :] if self.epoch == self.begun else order)


class Batches(BatchSampler):
    """The batches of an epoch, of all ranks; the last may be smaller."""

    def __init__(self, order: Order, size: int) -> None:
        super().__init__(order, size, drop_last=False)
        self.set_epoch = order.set_epoch  # Lightning calls it before each epoch


class Shares(Dataset[Batch]):
    """Training rows by batches: of each, this rank's part. A rank that has none takes the first as a spare."""

    def __init__(self, rows: Sequence[Encoded]) -> None:
        self.rows = rows

    def __getitem__(self, chosen: list[int]) -> Batch:
        own = ranks.part(chosen)
        return collate([self.rows[i] for i in own or chosen[:1]], spare=not own)


class TrainingData(pl.LightningDataModule):
    """Training batches. The last batch of an epoch may be smaller; none is dropped. Set `steps` to what a run has done
    before it goes on."""

    def __init__(self, rows: Sequence[Encoded], batch_size: int, seed: int) -> None:
        super().__init__()
        self.rows, self.batch_size, self.seed, self.steps = list(rows), batch_size, seed, 0

    def train_dataloader(self) -> DataLoader[Batch]:
        """Batches in the order of the epoch."""
        begun, batches = divmod(self.steps, -(-len(self.rows) // self.batch_size))
        return DataLoader(
            Shares(self.rows),
            batch_size=None,  # the sampler makes the batches
            sampler=Batches(Order(len(self.rows), self.seed, begun, batches * self.batch_size), self.batch_size),
            generator=torch.Generator(),  # its draw would otherwise come from the noise of dropout
        )
