"""`authors`: the loop of the paper's released code, as methods.md of the project describes it.

Four `generate` calls, one per temperature, over prompts padded on the left to 512; a pass over [prompt, reference] and
one over [prompt, answer], both padded on the right to 512 + max_new and with the full logits. Micro-batches keep the
logits in memory; they cost nothing at these sizes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from esolab.batch import Batch, Tokens
from esolab.bench.contender import WARM_PROMPT
from esolab.bench.generation import generate, pad_left
from esolab.bench.setting import Setting
from esolab.bench.twopass import TwoPass


class Authors(TwoPass):
    """The released loop."""

    references_at_once, prompts_at_once = 8, 2  # 8 rows of 4 answers either way

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self.width = setting.job.max_prompt  # of every prompt

    def warm_up(self) -> None:
        """As for all, without the padding."""
        whole, self.width = self.width, WARM_PROMPT
        super().warm_up()
        self.width = whole

    def sample(self, batch: Batch, lengths: Tensor) -> Tokens:
        """A call per temperature."""
        ids, mask = pad_left(batch.prompts, self.width)
        parts = [
            generate(self.network, ids, mask, [temperature], lengths[:, j : j + 1], self.eos)
            for j, temperature in enumerate(self.setting.ladder)
        ]
        width = int(lengths.max())
        padded = [F.pad(part.ids, (0, width - part.ids.shape[-1])) for part in parts]
        return Tokens(torch.cat(padded, 1), torch.cat([part.lengths for part in parts], 1))

    def logprobs(self, prompts: Tokens, responses: Tokens) -> tuple[Float[Tensor, "R"], int]:
        """Log-prob of each response from the logits of whole rows, and how many tokens were counted."""
        ids, predicts = self.rows(prompts, responses, self.width + self.setting.job.max_new)
        length = (prompts.lengths + responses.lengths)[:, None]
        mask = (torch.arange(ids.shape[1], device=ids.device) < length).long()
        logits = self.network(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1].float()
        tokens = logits.log_softmax(-1).gather(2, ids[:, 1:, None])[..., 0]
        predicts = predicts[:, :-1]
        return (tokens * predicts).sum(1), int(predicts.sum())
