"""The policy and its tokenizer as every station sees them: what can be asked of a causal language model here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase
from transformers.pytorch_utils import Conv1D

from esolab.batch import Tokens
from esolab.cache import NAME, Branches, Read

DROPOUTS = (  # what the families call their dropouts; some apply them without a module
    "resid_pdrop",
    "embd_pdrop",
    "attn_pdrop",
    "dropout",
    "hidden_dropout",
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "attention_dropout",
    "activation_dropout",
)

WORTH = {"cpu": 256, "cuda": 4096}  # places of padding that take about as long as starting another forward
# Bytes of logits (fp32) that a forward may hold. More are made an eighth at a time, and again in the backward: 1.6
# times the time at the head for a third of its memory (torch's linear_cross_entropy: twice the time, a twentieth).
WHOLE = 1 << 31


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
        own = any(getattr(self.network.config, name, 0) for name in DROPOUTS)
        return own or bool(getattr(self.network.base_model, "adapters_dropout", 0))

    def read(self, prompts: Tokens) -> Read:
        """Read prompts [B, P] in one forward. Padding follows a prompt, so that causality alone keeps it out."""
        return self.read_rows(prompts.ids[:, : int(prompts.lengths.max())], prompts.lengths)

    def read_rows(self, ids: Int[Tensor, "B P"], lengths: Int[Tensor, "B"]) -> Read:
        """The same, of prompts as wide as the longest; no number is looked at."""
        positions = torch.arange(ids.shape[1], device=self.device).expand(ids.shape)
        cache = DynamicCache(config=self.network.config)
        hidden = self.network.base_model(input_ids=ids, position_ids=positions, past_key_values=cache, use_cache=True)[
            0
        ]
        last = hidden[torch.arange(len(hidden), device=self.device), lengths - 1]
        layers: Any = [(layer.keys, layer.values) for layer in cache.layers]  # type: ignore[union-attr]
        return Read(last, layers, lengths)

    def read_all(self, prompts: Tokens) -> list[tuple[list[int], Read]]:
        """Read prompts [B, P] in as many forwards as their lengths make worth while: which of them, as read."""
        return [(rows, self.read(prompts[rows])) for rows in like_lengths(prompts.lengths)]

    def forward(
        self,
        read: Read,
        ids: Int[Tensor, "B L"],
        positions: Int[Tensor, "B L"],
        mask: Bool[Tensor, "B L S"],
        at: Int[Tensor, "N"],
        targets: Int[Tensor, "N"],
    ) -> Float[Tensor, "N"]:
        """Log-probability (nats, fp32, temperature 1) of each target. Rows of L places go on after prompts of P;
        `mask[b, q, s]` says whether place q of a row may look at place s of the P + L of its prompt and itself. `at`
        is where the target is predicted: b is the last place of prompt b, B + b * L + q is place q of row b. Only
        these N places meet the vocabulary."""
        body = self.network.base_model
        cache = DynamicCache(read.layers, config=self.network.config)
        hidden = body(
            input_ids=ids, attention_mask=mask[:, None], position_ids=positions, past_key_values=cache, use_cache=True
        )[0]
        places = torch.cat([read.last, hidden.flatten(0, 1)])[at]
        if 4 * len(at) * self.vocabulary <= WHOLE:
            return self._picked(places, targets)
        size = max(1, WHOLE // (32 * self.vocabulary))
        parts = zip(torch.split(places, size), torch.split(targets, size), strict=True)
        return torch.cat([checkpoint(self._picked, *part, use_reentrant=False) for part in parts])

    def _picked(self, hidden: Float[Tensor, "N D"], targets: Int[Tensor, "N"]) -> Float[Tensor, "N"]:
        return -F.cross_entropy(self._logits(hidden), targets, reduction="none")

    def next(self, hidden: Float[Tensor, "R D"]) -> Float[Tensor, "R V"]:
        """Logits (fp32) of the token after places of these hidden states."""
        return self._logits(hidden)

    def _logits(self, hidden: Float[Tensor, "R D"]) -> Float[Tensor, "R V"]:
        logits: Tensor = self.network.get_output_embeddings()(hidden).float()
        return logits

    @contextmanager
    def growing(self) -> Iterator[None]:
        """Inside, `step` may be called: attention layers look at the branches that a step is given, and layers multiply
        weights with rows (see `weights_first`), which autocast need not cast at every step. No weight may change."""
        usual = self.network.config._attn_implementation
        kind = self.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
        layers: list[Any] = [m for m in self.network.modules() if type(m) in (nn.Linear, Conv1D)]
        try:
            self.network.set_attn_implementation(NAME)
            for layer in layers:
                weight = layer.weight.t() if isinstance(layer, Conv1D) else layer.weight
                weight = weight.detach().to(dtype or weight.dtype).contiguous()
                layer.forward = partial(weights_first, weight, layer.bias)
            yield
        finally:
            self.network.set_attn_implementation(usual)
            for layer in layers:
                vars(layer).pop("forward", None)

    def step(self, tokens: Int[Tensor, "R"], positions: Int[Tensor, "R"], branches: Branches) -> Float[Tensor, "R V"]:
        """Logits (fp32) of the token after one more token of every answer; only inside `growing`."""
        with branches.step():
            hidden = self.network.base_model(
                input_ids=tokens[:, None], position_ids=positions[:, None], use_cache=False
            )[0]
        return self._logits(hidden[:, -1])


def weights_first(
    weight: Float[Tensor, "O I"], bias: Float[Tensor, "O"] | None, rows: Float[Tensor, "*R I"]
) -> Float[Tensor, "*R O"]:
    """The linear map of rows as (weight rows^T)^T: where there are few rows, matrix products are quicker with the large
    factor first."""
    turned = rows.flatten(0, -2).t()
    out = weight @ turned if bias is None else torch.addmm(bias[:, None], weight, turned)
    return out.t().view(*rows.shape[:-1], -1)


def like_lengths(lengths: Int[Tensor, "B"], most: int | None = None) -> list[list[int]]:
    """Rows in groups of at most so many, longest first; a group is cut where that saves more padding than another
    forward is worth."""
    worth = WORTH.get(lengths.device.type, WORTH["cuda"])
    order = lengths.argsort(descending=True, stable=True)
    sizes, most = lengths[order].tolist(), most or len(lengths)
    starts = [0]
    for i, size in enumerate(sizes):
        first = starts[-1]
        saved = (sizes[first] - size) * (min(first + most, len(sizes)) - i)
        if i == first + most or saved > worth:
            starts.append(i)
    return [part.tolist() for part in order.tensor_split(starts[1:])]


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
        # a tokenizer that closes a text by itself (T5 style) would end the answer before it begins
        probe = next(filter(None, texts), "")
        closing = _closing(*(self._ids([probe], special)[0] for special in (self.bos, False)))
        return [row[: len(row) - closing] for row in self._ids(texts, self.bos)]

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
