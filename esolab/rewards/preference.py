"""What people prefer, as a reward model has learned it: any sequence classification model with one label."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer, PreTrainedConfig

from esolab.allowed import refuse_code, why_unread
from esolab.batch import Tokens
from esolab.errors import BadInput
from esolab.policy import Tokenizer
from esolab.rewards.base import MAX_BAD_SHARE, Share, check_lengths
from esolab.store import content_hash
from esolab.terminal import log

FOLDER = "reward_model"  # what a run of method=reward_model leaves


class Preference:
    """The score that a reward model gives to prompt and answer. It is loaded at the first call, and is no part of what
    is trained.

    Args:
        path: a folder that AutoModelForSequenceClassification and AutoTokenizer open, or the run's folder around it.
        device: where it scores: cpu, cuda, cuda:N, or auto: a GPU if there is one.
        batch_size: texts in a forward.
        clip: rewards beyond plus or minus this are clipped and counted; None clips none.
        max_bad_share: see OnPolicy.judge.
    """

    def __init__(
        self,
        path: str,
        device: str = "auto",
        batch_size: PositiveInt = 16,
        clip: PositiveFloat | None = None,
        max_bad_share: Share = MAX_BAD_SHARE,
    ) -> None:
        place = Path(path)
        self.folder = place / FOLDER if (place / FOLDER).is_dir() else place
        if not self.folder.is_dir():
            raise BadInput(f"reward.path={path}: there is no such folder (looked from {Path.cwd()})")
        refuse_code("reward.path", self.folder)
        gpus = torch.cuda.device_count()
        device = ("cuda" if gpus else "cpu") if device == "auto" else device
        named = re.fullmatch(r"cpu|cuda(?::(\d+))?", device)
        if named is None or (device != "cpu" and int(named[1] or 0) >= gpus):
            raise BadInput(f"reward.device={device}: torch finds {gpus} GPUs here; give auto, cpu, cuda or cuda:N")
        _check(self.folder)
        self.device, self.batch_size, self.clip, self.max_bad_share = device, batch_size, clip, max_bad_share
        self.clipped = 0  # answers of the last call whose reward was beyond clip
        self.shortened = 0  # answers of the last call whose text was too long, and lost the left of its prompt
        self.said: set[str] = set()
        self.scorer: Scorer | None = None

    def __call__(self, prompts: list[str], responses: list[list[str]], references: list[str]) -> Float[Tensor, "B K"]:
        """Score K answers to each of B prompts: float32, on the CPU. Raises ValueError on unequal lists."""
        check_lengths(prompts, responses, references)
        if self.scorer is None:
            self.scorer = Scorer.load(self.folder, self.device)
        k = len(responses[0])
        asked = [prompt for prompt in prompts for _ in range(k)]
        rows, self.shortened = self.scorer.encode(asked, [text for answers in responses for text in answers])
        rewards = self.scorer.score(rows, self.batch_size).view(len(prompts), k)
        if self.clip is not None:
            self.clipped = int((rewards.abs() > self.clip).sum())
            rewards = rewards.clamp(-self.clip, self.clip)
        self._say("texts over its limit, which lose the left of their prompts", self.shortened, rewards.numel())
        self._say(f"rewards beyond reward.clip={self.clip}", self.clipped, rewards.numel())
        return rewards

    def _say(self, what: str, found: int, answers: int) -> None:
        if found and what not in self.said:
            self.said.add(what)
            log.warning(f"reward=preference: {found} of {answers} answers have {what} (said once, counted always)")

    def fingerprint(self) -> str:
        """A hash of the reward model's files: another model at the same place is another run."""
        return content_hash(self.folder)

    def models(self) -> dict[str, nn.Module]:
        """The reward model, once it is loaded."""
        return {} if self.scorer is None else {"reward": self.scorer.network}


@dataclass
class Scorer:
    """A reward model as loaded, with the way its texts are written."""

    network: Any
    tokenizer: Tokenizer
    begins: str | None  # what an answer began with in training; None: what keeps it apart from the prompt
    max_prompt: int | None  # tokens that training left of a prompt, where that is known
    max_length: int | None  # tokens of a text that it can read

    @staticmethod
    def load(folder: Path, device: str) -> Scorer:
        """Read a reward model. Raises BadInput."""
        config = _check(folder)
        try:
            network, found = AutoModelForSequenceClassification.from_pretrained(
                folder, dtype=torch.float32, output_loading_info=True, trust_remote_code=False
            )
            inner = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        except Exception as error:  # whatever transformers, tokenizers or safetensors raise for a file they cannot use
            raise BadInput(f"reward.path={folder}: cannot be read as a reward model ({why_unread(error)})") from error
        if missing := sorted(found["missing_keys"]):
            raise BadInput(
                f"reward.path={folder}: has no weights for {', '.join(missing)[:200]}, so its scores would be random; "
                "give a reward model that has been trained"
            )
        end = _end(config, inner)
        if end is None:
            raise BadInput(f"reward.path={folder}: neither its config nor its tokenizer names an end token")
        tokenizer = Tokenizer(inner, eos=(end,), bos=getattr(config, "leading_tokens", True))
        log.info(
            f"reward=preference: answers are read again as text, by the tokenizer of {folder}: prompt, answer without "
            f"a separator, end token {inner.convert_ids_to_tokens(end)!r}"
        )
        sizes = [size for size in (_positions(network), inner.model_max_length) if size]
        begins, most = getattr(config, "reply_begins", None), getattr(config, "max_prompt", None)
        return Scorer(network.to(device).eval(), tokenizer, begins, most, min(sizes, default=None))

    @torch.no_grad()
    def score(self, rows: list[list[int]], batch_size: int) -> Float[Tensor, "N"]:
        """The reward of each row of token ids, float32 on the CPU. Equal rows are read once: the last digits of a score
        depend on the rows beside it, and equal answers are to be worth the same."""
        pad = self.network.config.pad_token_id
        size = 1 if pad is None else batch_size  # without padding its last token can only be found in single rows
        distinct = sorted({tuple(row) for row in rows}, key=lambda row: (len(row), row))  # like lengths: less padding
        scores: dict[tuple[int, ...], float] = {}
        for start in range(0, len(distinct), size):
            chosen = distinct[start : start + size]
            scores |= zip(chosen, self.forward([list(row) for row in chosen], pad).tolist(), strict=True)
        return torch.tensor([scores[tuple(row)] for row in rows])

    def forward(self, rows: list[list[int]], pad: int | None) -> Float[Tensor, "N"]:
        """The model's own scores of rows of token ids, padded on the right."""
        packed = Tokens.pack(rows).to(self.network.device)
        ids = packed.ids if pad is None else packed.ids.masked_fill(~packed.mask, pad)
        with torch.autocast(self.network.device.type, enabled=False):  # the policy's precision is not the judge's
            logits: Tensor = self.network(input_ids=ids, attention_mask=packed.mask.long()).logits
        return logits[:, 0].float().cpu()

    def encode(self, prompts: Sequence[str], replies: Sequence[str]) -> tuple[list[list[int]], int]:
        """Token ids as in training: prompt, reply, end token. Too long prompts and texts lose their left, but for the
        tokens that the family puts before a text; also returns how many did."""
        lead = 1 + len(self.tokenizer.prompts(["a"])[0]) - len(self.tokenizer.responses(["a"])[0])
        texts = [self.begin(*pair) for pair in zip(prompts, replies, strict=True)]
        rows, shortened = [], 0
        for prompt, reply in zip(self.tokenizer.prompts(prompts), self.tokenizer.responses(texts), strict=True):
            rows.append(_cut_left(_cut_left(prompt, self.max_prompt, lead) + reply, self.max_length, lead))
            shortened += len(rows[-1]) < len(prompt) + len(reply)
        return rows, shortened

    def begin(self, prompt: str, reply: str) -> str:
        """A reply, which comes stripped, with the white space that stood before replies in training."""
        blank = "" if prompt[-1:].isspace() else " "
        begins = blank if self.begins is None else self.begins
        return begins + reply if reply else reply


def _check(folder: Path) -> PreTrainedConfig:
    """The config of a reward model. Raises BadInput where it is none, or has not one label."""
    wanted = f"give the {FOLDER} folder of a method=reward_model run, or any such model with one label"
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # see Scorer.load
        raise BadInput(f"reward.path={folder}: holds no model ({why_unread(error)}); {wanted}") from error
    kinds = config.architectures or []
    if not any(kind.endswith("ForSequenceClassification") for kind in kinds):
        raise BadInput(f"reward.path={folder}: {', '.join(kinds) or 'it'} has no head that scores a text; {wanted}")
    if config.num_labels != 1:
        raise BadInput(f"reward.path={folder}: scores {config.num_labels} labels, a reward is one; {wanted}")
    return config


def _cut_left(row: list[int], limit: int | None, lead: int) -> list[int]:
    """At most so many tokens of a row: its first `lead` ones, and the last."""
    if limit is None or len(row) <= limit:
        return row
    return row[:lead] + row[len(row) - limit + lead :]


def _positions(network: Any) -> int | None:
    """Tokens of the longest text that a network can read; None where there is no limit."""
    for name, module in network.named_modules():
        if name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None:
            return int(module.num_embeddings) - int(module.padding_idx) - 1  # RoBERTa's begin after its padding's id
    size: int | None = getattr(network.config, "max_position_embeddings", None)
    return size


def _end(config: PreTrainedConfig, inner: Any) -> int | None:
    """The id that closed a text in training: the config's, the tokenizer's, or an encoder's separator."""
    end = getattr(config, "eos_token_id", None)
    if end is None:
        end = inner.eos_token_id if inner.eos_token_id is not None else inner.sep_token_id
    return end[0] if isinstance(end, list) else end  # type: ignore[no-any-return]
