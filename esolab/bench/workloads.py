"""The work that every contender is given: a batch of prompts with references, and where its answers end.

Real records where there is a folder of them; elsewhere a synthetic twin, random tokens in the same lengths.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Int
from tokenizers import Tokenizer as Backend
from tokenizers import models, pre_tokenizers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from esolab.batch import Batch, Example
from esolab.corpora.dolly import Dolly
from esolab.corpora.sources import FromHub
from esolab.corpora.xsum import XSum
from esolab.data import Encoded, collate, encode, shorten
from esolab.errors import BadInput
from esolab.policy import Tokenizer

CORPORA: dict[str, type[FromHub]] = {"xsum": XSum, "dolly": Dolly}
VOCABULARY = 50257  # of GPT-2
END = "<|endoftext|>"
POOL = 256  # records of a corpus, evenly spaced by position, from which a batch and the ragged lengths are taken
# Tokens of prompts and references at evenly spaced quantiles, 0 to 1, of the eligible real records: see `quantiles`.
QUANTILES: dict[str, dict[str, list[int]]] = json.loads((Path(__file__).parent / "quantiles.json").read_text())


@dataclass(frozen=True)
class Workload:
    """One optimizer batch. `stops` [B, K] are the lengths at which answers are made to end; None lets all of them run
    to `max_new` tokens."""

    batch: Batch
    max_new: int
    stops: Int[Tensor, "B K"] | None

    def lengths(self, k: int) -> Int[Tensor, "B K"]:
        """Tokens of each answer."""
        return torch.full((len(self.batch), k), self.max_new) if self.stops is None else self.stops


def tokenizer_folder(data: str | None, scratch: Path) -> Path:
    """The folder of GPT-2's tokenizer, or `scratch` with a stand-in of as many whole words. Raises BadInput."""
    if data is not None:
        folder = Path(data) / "tokenizers" / "gpt2"
        if not folder.is_dir():
            raise BadInput(f"--data {data}: there is no folder {folder}; leave --data out for the synthetic twin")
        return folder
    words = {f"w{i}": i for i in range(VOCABULARY - 1)} | {END: VOCABULARY - 1}
    backend = Backend(models.WordLevel(words, unk_token=END))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=END, bos_token=END).save_pretrained(scratch)
    return scratch


def load(
    name: str, data: str | None, tokenizer: Tokenizer, prompts: int, k: int, lengths: str, max_new: int, max_prompt: int
) -> Workload:
    """The batch of a workload, the same at every call. Raises BadInput."""
    if data is None:
        rows = synthetic(name, tokenizer, prompts, max_prompt, max_new)
        pool = QUANTILES[name]["references"]
    else:
        rows = eligible(name, data, tokenizer, max_prompt, max_new)
        pool = [len(row.reference) for row in rows]
        if len(rows) < prompts:
            raise BadInput(f"--prompts {prompts}: {data} has {len(rows)} usable {name} records; ask for fewer")
        rows = [rows[i * len(rows) // prompts] for i in range(prompts)]
    stops = None
    if lengths == "ragged":
        generator = torch.Generator().manual_seed(0)
        chosen = torch.randint(len(pool), (prompts, k), generator=generator)
        stops = torch.tensor(pool)[chosen].clamp(1, max_new)
    return Workload(collate(rows), max_new, stops)


def eligible(
    name: str, data: str, tokenizer: Tokenizer, max_prompt: int, max_response: int, pool: int | None = POOL
) -> list[Encoded]:
    """Training records of a real corpus in their order, `pool` of them (None: all) before those with over-long
    references are left out, as in training; over-long prompts are shortened, as at evaluation."""
    corpus = CORPORA[name](path=str(Path(data) / name), max_prompt=max_prompt, max_response=max_response)
    examples = corpus().train
    count = min(pool or len(examples), len(examples))
    rows, _ = shorten(
        encode([examples[i * len(examples) // count] for i in range(count)], tokenizer), tokenizer, max_prompt
    )
    return [row for row in rows if len(row.reference) <= max_response]


def synthetic(name: str, tokenizer: Tokenizer, prompts: int, max_prompt: int, max_response: int) -> list[Encoded]:
    """Random tokens in the lengths of the real records."""
    generator = torch.Generator().manual_seed(0)
    sizes = {
        kind: spread(QUANTILES[name][kind], prompts, most)
        for kind, most in (("prompts", max_prompt), ("references", max_response))
    }
    order = torch.randperm(prompts, generator=generator).tolist()

    def words(count: int) -> str:
        return " ".join(f"w{i}" for i in torch.randint(VOCABULARY - 1, (count,), generator=generator).tolist())

    examples = [
        Example(f"{name}/{i}", words(sizes["prompts"][i]), words(sizes["references"][order[i]] - 1), (0, 0))
        for i in range(prompts)
    ]
    return encode(examples, tokenizer)


def spread(quantiles: list[int], count: int, most: int) -> list[int]:
    """`count` values at the middles of equal shares of a distribution given by evenly spaced quantiles, 2 to `most`."""
    values = []
    for i in range(count):
        place = (i + 0.5) / count * (len(quantiles) - 1)
        low = int(place)
        value = quantiles[low] + (place - low) * (quantiles[min(low + 1, len(quantiles) - 1)] - quantiles[low])
        values.append(min(max(round(value), 2), most))
    return values


def quantiles(data: str, tokenizer: Tokenizer, points: int = 17) -> dict[str, dict[str, list[int]]]:
    """What quantiles.json holds, from the real corpora in a folder; limits of 512 and 64 tokens."""
    table = {}
    for name in CORPORA:
        rows = eligible(name, data, tokenizer, max_prompt=512, max_response=64, pool=None)
        sizes = {"prompts": sorted(len(r.prompt) for r in rows), "references": sorted(len(r.reference) for r in rows)}
        table[name] = {
            kind: [size[round(i / (points - 1) * (len(size) - 1))] for i in range(points)]
            for kind, size in sizes.items()
        }
    return table
