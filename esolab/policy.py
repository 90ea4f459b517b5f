"""The policy and its tokenizer as every station sees them: what can be asked of a causal language model here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from esolab.batch import Tokens
from esolab.cache import NAME, Branches, stack

DROPOUTS = (  # what the families call their dropouts; some apply them without a module
    "resid_pdrop",
    "embd_pdrop",
    "attn_pdrop",
    "dropout",
    "hidden_dropout",
    "attention_dropout",
    "activation_dropout",
)


class Policy(nn.Module):
    """A causal language model. Its methods are all that training and sampling ask of a network, so that a strategy that
    shards weights has just these to wrap."""

    def __init__(self, network: PreTrainedModel) -> None:
        super().__init__()
        self.network = network

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    @property
    def vocabulary(self) -> int:
        """Number of token embeddings."""
        weight = self.network.get_input_embeddings().weight
        assert isinstance(weight, Tensor)
        return weight.shape[0]

    @property
    def dropout(self) -> bool:
        """Whether a forward in training mode is random."""
        return any(getattr(self.network.config, name, 0) for name in DROPOUTS)

    def forward(
        self,
        ids: Int[Tensor, "B L"],
        mask: Bool[Tensor, "B L L"],
        positions: Int[Tensor, "B L"],
        at: Int[Tensor, "N"],
        targets: Int[Tensor, "N"],
    ) -> Float[Tensor, "N"]:
        """Log-probability (nats, fp32, temperature 1) of each target after the place `at`, an index into the B * L
        places of the rows. `mask[b, q, s]` says whether place q may look at place s. Only these N places meet the
        vocabulary."""
        body = self.network.base_model
        hidden = body(input_ids=ids, attention_mask=mask[:, None], position_ids=positions, use_cache=False)[0]
        logits = self.network.get_output_embeddings()(hidden.flatten(0, 1)[at])
        return -F.cross_entropy(logits.float(), targets, reduction="none")

    def read(self, prompts: Tokens, k: int, limit: int) -> tuple[Float[Tensor, "B V"], Branches]:
        """Read prompts [B, P]: logits (fp32) of the next token, and the state from which k answers of up to `limit`
        tokens grow. Prompts of like length go through the network together, so that little of it is padding."""
        logits: list[Tensor] = []
        pieces: list[list[Any]] = []
        groups = like_lengths(prompts.lengths)
        for group in groups:
            lengths = prompts.lengths[group]
            width = int(lengths.max())  # padding follows a prompt, so that causality alone keeps it out
            positions = torch.arange(width, device=self.device).expand(len(group), width)
            cache = DynamicCache(config=self.network.config)
            hidden = self.network.base_model(
                input_ids=prompts.ids[group, :width], position_ids=positions, past_key_values=cache, use_cache=True
            )[0]
            last = hidden[torch.arange(len(group), device=self.device), lengths - 1]
            logits.append(self.network.get_output_embeddings()(last).float())
            pieces.append([(layer.keys, layer.values) for layer in cache.layers])  # type: ignore[union-attr]
        order = torch.cat(groups).argsort()
        width = int(prompts.lengths.max())
        return torch.cat(logits)[order], Branches(stack(pieces, width, order), prompts.mask[:, :width], k, limit)

    @contextmanager
    def growing(self) -> Iterator[None]:
        """Inside, `step` may be called: attention layers look at the branches that a step is given."""
        usual = self.network.config._attn_implementation
        self.network.set_attn_implementation(NAME)
        try:
            yield
        finally:
            self.network.set_attn_implementation(usual)

    def step(self, tokens: Int[Tensor, "R"], positions: Int[Tensor, "R"], branches: Branches) -> Float[Tensor, "R V"]:
        """Logits (fp32) of the token after one more token of every answer; only inside `growing`."""
        with branches.step():
            out = self.network(input_ids=tokens[:, None], position_ids=positions[:, None], use_cache=False)
        logits: Tensor = out.logits[:, -1].float()
        return logits


def like_lengths(lengths: Int[Tensor, "B"], least: float = 0.8) -> list[Int[Tensor, "G"]]:
    """Rows in groups, longest first, none shorter than `least` of its group's longest."""
    order = lengths.argsort(descending=True, stable=True)
    starts, sizes = [0], lengths[order].tolist()
    for i, size in enumerate(sizes):
        if size < least * sizes[starts[-1]]:
            starts.append(i)
    return list(order.tensor_split(starts[1:]))


@dataclass(frozen=True)
class Tokenizer:
    """Text to token ids and back, with one rule for where a prompt starts and a response ends.

    `eos` are the ids that end a response when sampled; the first of them ends a reference. `bos` keeps the tokens that
    the family puts before a text (OPT's leading `</s>`); the paper's release leaves them out.
    """

    inner: PreTrainedTokenizerBase
    eos: tuple[int, ...]
    bos: bool = True

    def prompts(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of prompts, with the family's leading tokens where it has some, never a trailing EOS."""
        if not texts:
            return []
        rows, plain = self._ids(texts, self.bos), self._ids(texts, False)
        # a tokenizer that closes a text by itself (T5 style) would end the answer before it begins
        return [row[: len(row) - _closing(row, bare)] for row, bare in zip(rows, plain, strict=True)]

    def responses(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of references, each closed by the end token."""
        if not texts:
            return []
        return [[*row, self.eos[0]] for row in self._ids(texts, False)]

    def _ids(self, texts: Sequence[str], special: bool) -> list[list[int]]:
        # verbose=False: limits are the corpus's, so the tokenizer need not warn of long texts
        ids: list[list[int]] = self.inner(list(texts), add_special_tokens=special, verbose=False)["input_ids"]
        return ids

    def decode(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """Texts of responses: special tokens left out, stripped."""
        if not rows:
            return []
        texts = self.inner.batch_decode(
            [list(row) for row in rows], skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return [text.strip() for text in texts]

    def save(self, folder: Path) -> None:
        """Write the tokenizer where AutoTokenizer finds it."""
        self.inner.save_pretrained(folder)


def _closing(row: list[int], bare: list[int]) -> int:
    """How many tokens `row` has after its part `bare`."""
    for extra in range(len(row) - len(bare) + 1):
        if row[len(row) - len(bare) - extra : len(row) - extra] == bare:
            return extra
    return 0
