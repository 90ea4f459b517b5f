"""`plain`: what a careful user writes with transformers and torch alone.

One `generate` call with k return sequences, each at its own temperature; padding only to the longest row of a
micro-batch; logits only where a token is predicted; rows padded on the right need no mask, so attention is causal sdpa.
"""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from esolab.batch import Batch, Tokens
from esolab.bench.generation import generate, pad_left
from esolab.bench.twopass import TwoPass


class Plain(TwoPass):
    """Two passes with dynamic padding."""

    references_at_once = prompts_at_once = 4

    def sample(self, batch: Batch, lengths: Tensor) -> Tokens:
        """One call for all answers."""
        ids, mask = pad_left(batch.prompts)
        return generate(self.network, ids, mask, self.setting.ladder, lengths, self.eos)

    def logprobs(self, prompts: Tokens, responses: Tokens) -> tuple[Float[Tensor, "R"], int]:
        """Log-prob of each response, and how many tokens it took to say so."""
        ids, predicts = self.rows(prompts, responses)
        hidden = self.network.base_model(input_ids=ids, use_cache=False)[0]
        logits = self.network.get_output_embeddings()(hidden[predicts])
        targets = ids[:, 1:][predicts[:, :-1]]
        tokens = -F.cross_entropy(logits.float(), targets, reduction="none")
        row = predicts.nonzero()[:, 0]
        return tokens.new_zeros(len(ids)).index_add(0, row, tokens), len(targets)
