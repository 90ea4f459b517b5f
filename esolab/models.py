"""A policy and its tokenizer, from a hub id, a local folder, or nothing (random weights)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import transformers
from huggingface_hub import snapshot_download
from pydantic import Field, PositiveInt
from tokenizers import Tokenizer as Bpe
from tokenizers import decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.activations import GELUTanh, NewGELUActivation

from esolab.allowed import refuse_code, why_unread
from esolab.batch import Tokens
from esolab.cache import Branches
from esolab.errors import BadInput
from esolab.logprobs import branch_logprobs
from esolab.lora import Lora
from esolab.policy import DROPOUTS, Policy, Tokenizer
from esolab.store import content_hash

EXACT = ("gpt2", "opt", "gpt_neox", "llama")  # families whose tree forward the tests compare with plain forwards
END = "<|endoftext|>"


@dataclass(frozen=True)
class Model:
    """Where a policy comes from. Nothing is read before a method is called.

    Args:
        id: hub id, looked up where no `path` is given; `revision` pins it.
        path: local folder with weights and tokenizer (save_pretrained layout), or the folder of the run that left it.
        tokenizer: local tokenizer folder; None takes the model's, or trains one where the model has none.
        weights: "random" builds the same architecture without reading or downloading weights.
        architecture: settings of the transformers config, `model_type` among them, for random weights.
        dropout: of every dropout the family has, while training; 0 makes the policy scored the policy sampled.
        dtype: of the weights in memory, whatever the stored one is.
        bos: keep the leading tokens that the tokenizer puts before a prompt.
        vocab_size: entries of a byte-level BPE trained on the corpus, where there is no tokenizer to read.
        lora: adapters that are trained in place of the weights.
    """

    id: str | None = None
    revision: str | None = None
    path: str | None = None
    tokenizer: str | None = None
    weights: Literal["pretrained", "random"] = "pretrained"
    architecture: dict[str, Any] | None = None
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    bos: bool = True
    vocab_size: PositiveInt | None = None
    lora: Lora = field(default_factory=Lora)

    def __post_init__(self) -> None:
        if self.path is not None and (Path(self.path) / "policy").is_dir():
            object.__setattr__(self, "path", str(Path(self.path) / "policy"))
        if self.path is None and self.id is None and self.architecture is None:
            raise BadInput(
                "model.path: no model is named; give model.path=DIR (a save_pretrained folder) or model.id=ID"
            )
        for key, folder in (("path", self.path), ("tokenizer", self.tokenizer)):
            if folder is not None and not Path(folder).is_dir():
                raise BadInput(f"model.{key}: {folder!r} is not a folder")
            if folder is not None:
                refuse_code(f"model.{key}", Path(folder))
        if self.weights == "pretrained" and self.path is None and self.id is None:
            raise BadInput(
                "model.path: pretrained weights need a model.path or a model.id; or take model.weights=random"
            )

        if self.lora.r and find_spec("peft") is None:
            raise BadInput(f"model.lora.r={self.lora.r}: needs peft; pip install 'esolab[peft]'")

    @property
    def max_positions(self) -> int | None:
        """Tokens that prompt and response may take together, where that is known without the hub."""
        return None if self.architecture is None and self.path is None else self.positions()

    def positions(self) -> int | None:
        """Tokens that prompt and response may take together; of a hub model, what its config says. Raises BadInput."""
        config = self._config()
        sizes = [getattr(config, "max_position_embeddings", None)]
        if getattr(config, "use_sliding_window", True):  # a window of attention is not part of the shared forward
            sizes.append(getattr(config, "sliding_window", None))
        return min((int(size) for size in sizes if size), default=None)

    def fetch(self) -> None:
        """Read the small files of a hub model, so that a missing network is noticed before any work.

        Raises:
            BadInput: the hub has been tried and cannot be reached, or does not know the id.
        """
        if self._needs_hub():
            self._hub_folder()

    def fingerprint(self) -> str:
        """SHA-256 over the names and bytes of the local files that are read, in order; "" where there are none."""
        folders = dict.fromkeys(Path(place) for place in (self.path, self.tokenizer) if place is not None)
        return content_hash(*folders) if folders else ""

    def load_tokenizer(self, texts: Sequence[str]) -> Tokenizer:
        """The policy's tokenizer; `texts` (the training corpus) serve only where one has to be trained."""
        source = self.tokenizer or self.path or (self._hub_folder() if self.id else None)
        if source is None:
            return Tokenizer(_train_bpe(texts, self.vocab_size or 1024), eos=(0,), bos=self.bos)
        inner = _read(
            f"tokenizer of {source!r}", lambda: AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        )
        return Tokenizer(inner, eos=_end_ids(inner, source), bos=self.bos)

    def load_policy(self, tokenizer: Tokenizer) -> Policy:
        """The policy, its special ids those of the tokenizer. A family outside EXACT is checked on two rows.

        Raises:
            BadInput: the folder does not hold a causal language model that esolab can score exactly, or no layer is
                called like a target of adapters.
        """
        network = self._random(tokenizer) if self.weights == "random" else self._pretrained()
        fuse(network)
        if self.lora.r:
            self.lora.adapt(network, self.dropout)
        policy = Policy(network).train()
        size = policy.vocabulary
        if size < len(tokenizer.inner):
            raise BadInput(
                f"model.tokenizer: {len(tokenizer.inner)} tokens, but the model has embeddings for {size}; "
                "name the tokenizer that belongs to the model"
            )
        eos = list(tokenizer.eos)
        network.generation_config = GenerationConfig(
            bos_token_id=network.config.bos_token_id, eos_token_id=eos, pad_token_id=eos[0], do_sample=False
        )
        if network.config.model_type not in EXACT:
            _check_tree(policy)
        return policy

    def _needs_hub(self) -> bool:
        weights = self.path is None and self.weights == "pretrained"
        words = self.path is None and self.tokenizer is None and self.id is not None
        return weights or words

    def _hub_folder(self) -> str:
        assert self.id is not None
        logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
        patterns = ["*.json", "*.txt", "*.model"]
        try:
            return snapshot_download(self.id, revision=self.revision, allow_patterns=patterns)
        except (OSError, ValueError) as error:
            raise BadInput(
                f"model.id: cannot read {self.id!r} from the Hugging Face hub ({why_unread(error)}); "
                "give model.path=DIR (a local copy), or model.weights=random model.tokenizer=DIR"
            ) from error

    def _config(self) -> PreTrainedConfig:
        if self.architecture is not None and self.path is None:
            settings = dict(self.architecture)
            kind = settings.pop("model_type", None)
            if kind not in transformers.CONFIG_MAPPING:
                raise BadInput(f"model.architecture.model_type: {kind!r} is not a model type of transformers")
            made: PreTrainedConfig = _read("architecture", lambda: AutoConfig.for_model(kind, **settings))
            return made
        source = self.path or self._hub_folder()
        config: PreTrainedConfig = _read(
            f"config of {source!r}", lambda: AutoConfig.from_pretrained(source, trust_remote_code=False)
        )
        return config

    def _with_dropout(self, config: PreTrainedConfig) -> PreTrainedConfig:
        for name in DROPOUTS:
            if hasattr(config, name):
                setattr(config, name, self.dropout)
        return config

    def _random(self, tokenizer: Tokenizer) -> PreTrainedModel:
        config = self._with_dropout(self._config())
        if self.path is None and self.tokenizer is None and self.id is None:
            config.vocab_size = len(tokenizer.inner)
        config.eos_token_id = tokenizer.eos[0]
        config.bos_token_id = (
            tokenizer.inner.bos_token_id if tokenizer.inner.bos_token_id is not None else tokenizer.eos[0]
        )
        dtype = getattr(torch, self.dtype)
        network: PreTrainedModel = _read(
            f"architecture {config.model_type!r}",
            lambda: AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="sdpa"),
        )
        return network

    def _pretrained(self) -> PreTrainedModel:
        source, revision = (self.path, None) if self.path else (self.id, self.revision)
        assert source is not None  # see __post_init__

        def load() -> PreTrainedModel:
            network: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
                source,
                revision=revision,
                trust_remote_code=False,
                config=self._with_dropout(
                    AutoConfig.from_pretrained(source, revision=revision, trust_remote_code=False)
                ),
                dtype=getattr(torch, self.dtype),
                attn_implementation="sdpa",
            )
            return network

        network: PreTrainedModel = _read(f"weights of {source!r}", load)
        return network


def fuse(network: PreTrainedModel) -> None:
    """Take torch's own kernel for the activation that GPT-2's configs call gelu_new: the same function, which
    transformers spells out in eight operations over the widest tensors of a layer, most of them kept for the backward.
    """
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, NewGELUActivation):
                setattr(module, name, GELUTanh())


def _end_ids(inner: PreTrainedTokenizerFast, folder: str) -> tuple[int, ...]:
    """The ids that end a text. A model's generation settings know best: stories260K ends with `<s>`, not `</s>`."""
    if (Path(folder) / "generation_config.json").is_file():
        eos = GenerationConfig.from_pretrained(folder).eos_token_id
        if eos is not None:
            return tuple(eos) if isinstance(eos, list) else (eos,)
    if inner.eos_token_id is None:
        raise BadInput(f"model.tokenizer: {folder!r} names no end-of-text token (eos_token in tokenizer_config.json)")
    return (inner.eos_token_id,)


def _read(what: str, load: Any) -> Any:
    try:
        return load()
    except BadInput:
        raise
    except Exception as error:  # whatever transformers, tokenizers or safetensors raise for a file they cannot use
        raise BadInput(f"model: cannot read the {what} ({why_unread(error)})") from error


def _train_bpe(texts: Sequence[str], size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE of the corpus; id 0 ends a text. The same texts give the same tokenizer."""
    bpe = Bpe(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=[END], initial_alphabet=alphabet, show_progress=False, min_frequency=2
    )
    bpe.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token=END, bos_token=END, model_max_length=10**9)


def _check_tree(policy: Policy) -> None:
    """Compare scoring with a shared prompt, and answering from it, with plain forwards; refuse what differs."""
    ids = torch.randint(policy.vocabulary, (2, 3, 4), generator=torch.Generator().manual_seed(0)).to(policy.device)
    prompts = Tokens(ids[:, 0], torch.tensor([3, 4], device=policy.device))
    branches = Tokens(ids[:, 1:], torch.tensor([[4, 2], [1, 3]], device=policy.device))
    family, mode = policy.network.config.model_type, policy.training
    exact = 1e-5 if policy.network.dtype == torch.float32 else 1e-2
    policy.eval()
    try:
        with torch.no_grad():
            tree = branch_logprobs(policy, prompts, branches)
            read = policy.read(Tokens(ids[:, 0], torch.full_like(ids[:, 0, 0], 4)))
            with policy.growing():
                grown = policy.step(
                    ids[:, 1:, 0].flatten(), torch.full_like(ids[:, 1:, 0].flatten(), 4), Branches(read, 2, 1)
                )
            for b in range(2):
                for k in range(2):
                    p, t = int(prompts.lengths[b]), int(branches.lengths[b, k])
                    row = torch.cat([prompts.ids[b, :p], branches.ids[b, k, :t]])
                    logits = policy.network(input_ids=row[None]).logits[0, p - 1 : -1].float()
                    plain = logits.log_softmax(-1).gather(1, row[p:, None])[:, 0]
                    after = policy.network(input_ids=torch.cat([ids[b, 0], ids[b, k + 1, :1]])[None]).logits[0, -1]
                    allowed = exact * (1 + float(logits.abs().max()))
                    if max((tree[b, k, :t] - plain).abs().max(), (grown[2 * b + k] - after).abs().max()) > allowed:
                        raise ValueError("its log-probs differ from a plain forward's")
            policy.train()
            if not policy.dropout and not torch.equal(*(policy.network(input_ids=ids[:, 0]).logits for _ in range(2))):
                raise ValueError("it has dropout by a name that esolab does not know")
    except Exception as error:  # a family may fail in any way when its attention is not the usual one
        raise BadInput(
            f"model: the family {family!r} cannot be scored with a shared prompt ({why_unread(error)}); "
            f"families known to be exact: {', '.join(EXACT)}"
        ) from error
    finally:
        policy.train(mode)
