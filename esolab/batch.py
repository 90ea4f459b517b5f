"""The nouns of the lab, with their shapes. B prompts, K branches, P prompt tokens, T branch tokens, V vocabulary."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Drawn = TypeVar("Drawn", bound="Samples")  # typing.Self is not understood by the shape checker of the tests
Rows = slice | list[int]


@dataclass(frozen=True)
class Example:
    """One prompt with its reference answer, as text.

    `span` are the characters of the prompt, [start, end), that may be shortened, from the left, when the prompt is too
    long for the policy: the input field, so that the instruction and the cue that asks for an answer survive.
    `rejected` is a reply to which people (or the grammar) prefer the reference, where the corpus holds such pairs.
    `broken` says what is wrong with a pair of the test set, which is answered all the same.
    """

    id: str
    prompt: str
    reference: str
    span: tuple[int, int]
    rejected: str | None = None
    broken: str = ""


@dataclass(frozen=True)
class Tokens:
    """Ragged token sequences in a rectangle, filled from the left.

    What lies beyond a sequence's length is arbitrary: lengths, never token ids, say where a sequence ends.
    """

    ids: Int[Tensor, "*B T"]
    lengths: Int[Tensor, "*B"]

    @staticmethod
    def pack(sequences: list[list[int]]) -> Tokens:
        """Lay sequences of token ids side by side: ids [B, longest], lengths [B]."""
        lengths = torch.tensor([len(s) for s in sequences], dtype=torch.long)
        ids = torch.zeros(len(sequences), max(map(len, sequences), default=0), dtype=torch.long)
        for row, sequence in zip(ids, sequences, strict=True):
            row[: len(sequence)] = torch.tensor(sequence, dtype=torch.long)
        return Tokens(ids, lengths)

    @property
    def mask(self) -> Bool[Tensor, "*B T"]:
        """True where there is a token."""
        return torch.arange(self.ids.shape[-1], device=self.ids.device) < self.lengths[..., None]

    def __getitem__(self, rows: Rows | tuple[slice, slice]) -> Tokens:
        return Tokens(self.ids[rows], self.lengths[rows])

    def to(self, device: torch.device) -> Tokens:
        """The same sequences on another device."""
        return Tokens(self.ids.to(device), self.lengths.to(device))

    def unsqueeze(self) -> Tokens:
        """Sequences [B, T] as one branch each, [B, 1, T]."""
        return Tokens(self.ids[:, None], self.lengths[:, None])

    def repeat(self, k: int) -> Tokens:
        """Every row k times, neighbours side by side: [B * k, T]."""
        return Tokens(self.ids.repeat_interleave(k, 0), self.lengths.repeat_interleave(k, 0))


def join(first: Tokens, second: Tokens) -> Tokens:
    """Branches [B, K1, T1] and [B, K2, T2] of the same prompts as [B, K1 + K2, max(T1, T2)]."""
    width = max(first.ids.shape[-1], second.ids.shape[-1])
    pad = [torch.nn.functional.pad(t.ids, (0, width - t.ids.shape[-1])) for t in (first, second)]
    return Tokens(torch.cat(pad, 1), torch.cat([first.lengths, second.lengths], 1))


def rows_of(prompts: Tokens, branches: Tokens) -> Tokens:
    """Each branch of [B, K, T] after its prompt of [B, P], as a row of its own: [B * K, P + T]."""
    flat = Tokens(branches.ids.flatten(0, 1), branches.lengths.flatten())
    rows = prompts.repeat(branches.ids.shape[1])
    ids = torch.nn.functional.pad(rows.ids, (0, flat.ids.shape[1]))
    places = rows.lengths[:, None] + torch.arange(flat.ids.shape[1], device=ids.device)
    return Tokens(ids.scatter(1, places, flat.ids), rows.lengths + flat.lengths)


def _take(column: Any, rows: Rows) -> Any:
    """Some rows of a tensor, of Tokens or of a list, or of each of several by name; none of what is not there."""
    if column is None or isinstance(column, bool):
        return column
    if isinstance(column, dict):
        return {name: _take(one, rows) for name, one in column.items()}
    return [column[i] for i in rows] if isinstance(column, list) and isinstance(rows, list) else column[rows]


@dataclass(frozen=True)
class Batch:
    """One optimizer batch: tokens for the policy, text for the reward. Prompts [B, P], references [B, T].

    `rejected` [B, T] are the other replies where all examples are pairs; the references are then the chosen ones. A
    `spare` batch counts nothing: its rank has no example of this step.
    """

    ids: list[str]
    prompts: Tokens
    references: Tokens
    prompt_texts: list[str]
    reference_texts: list[str]
    rejected: Tokens | None = None
    spare: bool = False

    @property
    def pairs(self) -> Tokens:
        """The chosen and the rejected reply of each prompt as its two branches, [B, 2, T]."""
        assert self.rejected is not None, "a method with needs_pairs is given pairs only, see run.py"
        return join(self.references.unsqueeze(), self.rejected.unsqueeze())

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, rows: Rows) -> Batch:
        return Batch(**{f.name: _take(getattr(self, f.name), rows) for f in fields(self)})

    def to(self, device: torch.device) -> Batch:
        """The same batch with its tokens on another device (Lightning calls this)."""
        rejected = None if self.rejected is None else self.rejected.to(device)
        return replace(self, prompts=self.prompts.to(device), references=self.references.to(device), rejected=rejected)


@dataclass(frozen=True)
class Samples:
    """k answers to each prompt, as tokens.

    `branches` end with the first EOS where there was one (`finished`); a response cut at the length limit has none.
    `logprobs` are the sampler's: of the tempered, and where asked truncated, distribution each token was drawn from;
    0 beyond a branch's end. A temperature of 0 means greedy.
    """

    branches: Tokens  # [B, K, T]
    finished: Bool[Tensor, "B K"]
    temperatures: Float[Tensor, "B K"]
    logprobs: Float[Tensor, "B K T"]

    def __getitem__(self: Drawn, rows: Rows) -> Drawn:
        return type(self)(**{f.name: _take(getattr(self, f.name), rows) for f in fields(self)})


@dataclass(frozen=True)
class Rollout(Samples):
    """The policy's own answers to a batch, read and rewarded."""

    texts: list[list[str]]
    rewards: Float[Tensor, "B K"]  # where there was none, the mean of the others of the prompt
    good: Bool[Tensor, "B K"]  # where there was a usable reward
    advantages: Float[Tensor, "B K"]  # what each answer is worth to the method, from the whole batch; 0 without reward
    parts: dict[str, Float[Tensor, "B K"]] = field(default_factory=dict)  # of a reward that has some; NaN: no number

    def pick(self, answer: Int[Tensor, "B"]) -> Rollout:
        """One answer to each prompt: K = 1."""
        row = torch.arange(len(answer), device=answer.device)
        ids, lengths = (x[row, answer][:, None] for x in (self.branches.ids, self.branches.lengths))
        names = ("finished", "temperatures", "logprobs", "rewards", "good", "advantages")
        own = {name: getattr(self, name)[row, answer][:, None] for name in names}
        texts = [[texts[j]] for texts, j in zip(self.texts, answer.tolist(), strict=True)]
        parts = {name: values[row, answer][:, None] for name, values in self.parts.items()}
        return Rollout(branches=Tokens(ids, lengths), texts=texts, parts=parts, **own)
