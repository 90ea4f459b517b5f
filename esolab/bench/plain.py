"""`plain`: what a careful user writes with transformers and torch alone.

One `generate` call with k return sequences, each at its own temperature; padding only to the longest row of a
micro-batch; logits only where a token is predicted; rows padded on the right need no mask, so attention is causal sdpa.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from esolab.batch import Batch, Tokens
from esolab.bench.generation import generate, pad_left
from esolab.bench.job import Tokens as Counts
from esolab.bench.twopass import TwoPass


class Plain(TwoPass):
    """Two passes with dynamic padding."""

    micro_batch = 4  # prompts; 4 times k rows are scored at once

    def sample(self, batch: Batch, lengths: Tensor) -> Tokens:
        """One call for all answers."""
        ids, mask = pad_left(batch.prompts)
        return generate(self.network, ids, mask, self.setting.ladder, lengths, self.eos)

    def update(self, batch: Batch, answers: Tokens, fitness: Float[Tensor, "B K"]) -> Counts:
        """SFT on the references, then ESO on the answers, micro-batch by micro-batch."""
        total, references, scored = batch.references.lengths.sum(), 0, 0
        for start in range(0, len(batch), self.micro_batch):
            part = slice(start, start + self.micro_batch)
            logprobs, count = self.logprobs(batch.prompts[part], batch.references[part])
            torch.autograd.backward(-logprobs.sum() / total)
            references += count
            flat = Tokens(answers.ids[part].flatten(0, 1), answers.lengths[part].flatten())
            logprobs, count = self.logprobs(batch.prompts[part].repeat(self.k), flat)
            own = -(fitness[part] * logprobs.view(-1, self.k)).sum()
            torch.autograd.backward(self.setting.lam * own / len(batch))
            scored += count
        return Counts(int(batch.prompts.lengths.sum()), int(answers.lengths.sum()), scored, references)

    def logprobs(self, prompts: Tokens, responses: Tokens) -> tuple[Float[Tensor, "R"], int]:
        """Log-prob of each response, and how many tokens it took to say so."""
        ids, predicts = self.rows(prompts, responses)
        hidden = self.network.base_model(input_ids=ids, use_cache=False)[0]
        logits = self.network.get_output_embeddings()(hidden[predicts])
        targets = ids[:, 1:][predicts[:, :-1]]
        tokens = -F.cross_entropy(logits.float(), targets, reduction="none")
        row = predicts.nonzero()[:, 0]
        return tokens.new_zeros(len(ids)).index_add(0, row, tokens), len(targets)
