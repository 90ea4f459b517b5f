"""A reward model: a scalar head on the policy's body, trained on pairs (Bradley, Terry 1952; Ouyang et al. 2022)."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import NonNegativeFloat
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import AutoModelForSequenceClassification, PreTrainedModel, PreTrainedTokenizerBase

from esolab.batch import Batch, Rollout, Tokens, rows_of
from esolab.data import Encoded, collate
from esolab.errors import BadInput
from esolab.methods.base import Parts
from esolab.methods.pairs import Pairs
from esolab.policy import Policy, Tokenizer

PAD = "<|pad|>"


def bradley_terry_loss(
    chosen: Float[Tensor, "B"], rejected: Float[Tensor, "B"], centre: float = 0.0
) -> Float[Tensor, ""]:
    """mean -log sigmoid(r_c - r_r), which a shift of all rewards leaves alone, + centre * mean (r_c + r_r)^2, which
    it does not (Eisenstein et al. 2023; 0.01 is their suggestion)."""
    loss = -F.logsigmoid(chosen - rejected).mean()
    return loss + centre * (chosen + rejected).square().mean()


class RewardModel(Pairs):
    """The policy's body with a scalar head, read at the end token of prompt and reply.

    The run leaves `reward_model/` in place of `policy/`, and its test scores are of pairs.

    Args:
        parts: see Parts; the reward and the sampling are not used.
        centre: weight of the pull of rewards towards 0; 0 is none.
    """

    sft_weight = 0.0

    def __init__(self, parts: Parts, centre: NonNegativeFloat = 0.0) -> None:
        super().__init__(parts)
        self.centre = centre
        self.policy = Policy(scorer(parts.policy.network, parts.seed))

    @property
    def alone(self) -> bool:
        """Each reply is read after a prompt of its own: the end token is read, too, which no tree of branches has."""
        return True

    def scores(self, batch: Batch) -> Float[Tensor, "B 2"]:
        """Rewards (fp32) of the chosen and the rejected replies; `micro_k=1` reads them one after the other, and again
        in the backward."""
        most, pairs = self.parts.micro_k, batch.pairs

        def read(part: Tokens) -> Float[Tensor, "B k"]:
            last = self.policy.read(rows_of(batch.prompts, part)).last.float()
            return (last * self.head.float()).sum(-1).view(len(batch), -1)  # a product in fp32 under autocast, too

        if most is None or most >= 2:
            return read(pairs)
        return torch.cat([checkpoint(read, pairs[:, j : j + 1], use_reentrant=False) for j in range(2)], 1)

    @property
    def head(self) -> Float[Tensor, "D"]:
        """The weights of the scalar head."""
        score: Any = self.policy.network.score
        weight: Tensor = score.weight
        return weight[0]

    def terms(self, pairs: Batch, share: float, sft: Float[Tensor, "B"]) -> dict[str, Tensor]:
        """The Bradley-Terry loss."""
        chosen, rejected = self.scores(pairs).unbind(1)
        self.note(chosen, rejected, share)
        return {"own": bradley_terry_loss(chosen, rejected, self.centre) * share}

    def count(self, batch: Batch, rollout: Rollout | None, scored: Rollout | None, read_once: bool) -> None:
        """As any method, and the end tokens, which go through the network here."""
        super().count(batch, rollout, scored, read_once)
        self.account.counts["backward_tokens"] += 2 * len(batch)
        self.account.counts["forward_tokens"] += 2 * len(batch) * (1 + self.parts.recompute + (self.parts.micro_k == 1))

    @torch.no_grad()
    def compare(self, rows: Sequence[Encoded]) -> Float[Tensor, "B 2"]:
        """Rewards of the chosen and the rejected replies of these pairs, on the CPU; nothing is learned."""
        with self.quiet():
            return self.scores(collate(rows).to(self.policy.device)).cpu()


def scorer(network: PreTrainedModel, seed: int) -> PreTrainedModel:
    """The family's model for sequence classification, of one label, around the body of a causal language model.

    Raises:
        BadInput: transformers has none for this family.
    """
    config = copy.deepcopy(network.config)
    config.num_labels = 1
    try:
        with torch.device("meta"):  # its own body is thrown away
            found: Any = AutoModelForSequenceClassification.from_config(config)
    except ValueError as error:
        raise BadInput(
            f"method=reward_model: transformers has no {config.model_type!r} for sequence classification; "
            "take a model of another family"
        ) from error
    size = found.score.in_features
    weight = torch.randn(1, size, generator=torch.Generator().manual_seed(seed)) / (size + 1) ** 0.5
    setattr(found, found.base_model_prefix, network.base_model)
    found.score.weight = nn.Parameter(weight.to(network.device, network.dtype))
    made: PreTrainedModel = found.train()
    return made


def finish(
    network: PreTrainedModel, tokenizer: Tokenizer, replies: Iterable[str], max_prompt: int
) -> PreTrainedTokenizerBase:
    """Make a scoring network, and a copy of its tokenizer, say all that others need to score as we do.

    transformers reads a row at its last token that is not the padding token. Where that is the end token, as in many
    tokenizers, it would miss the end; padding then gets a token of its own. Also kept in the config: the end token,
    whether the tokenizer's leading tokens stand before a prompt, the white space that most replies begin with, and the
    tokens that were left of a prompt.
    """
    inner: Any = copy.deepcopy(tokenizer.inner)
    if inner.pad_token_id is None or inner.pad_token_id in tokenizer.eos:
        inner.add_special_tokens({"pad_token": PAD})
    inner.padding_side = "right"
    embeddings: Any = network.get_input_embeddings()
    if (size := embeddings.num_embeddings) < len(inner):
        network.resize_token_embeddings(len(inner), mean_resizing=False)
        embeddings = network.get_input_embeddings()
        embeddings.weight.data[size:] = 0  # of padding, which nothing looks at
    network.config.pad_token_id, network.config.eos_token_id = inner.pad_token_id, tokenizer.eos[0]
    network.config.leading_tokens, network.config.max_prompt = tokenizer.bos, max_prompt
    begins = Counter(reply[: len(reply) - len(reply.lstrip())] for reply in replies)
    network.config.reply_begins = begins.most_common(1)[0][0] if begins else ""
    made: PreTrainedTokenizerBase = inner
    return made
