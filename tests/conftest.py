"""What the tests share: tiny random policies of the four exact families, a tiny tokenizer, fixture F of methods.md."""

import os
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from families import ARCHITECTURES
from faults import fault, pytest_sessionfinish, pytest_testnodedown  # noqa: F401  # fixtures and hooks of this suite
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

import esolab.sweep
from esolab.__main__ import main
from esolab.batch import Batch, Example, Rollout, Samples, Tokens
from esolab.data import Encoded, encode
from esolab.judge.__main__ import main as judge
from esolab.methods.base import Optimizer, Parts
from esolab.methods.onpolicy import OnPolicy
from esolab.policy import Policy, Tokenizer
from esolab.processes import Ended, Local
from esolab.sampling import Sampling

torch.set_num_threads(1)

VOCABULARY = 23
DROPOUTS = {
    "gpt2": ("resid_pdrop", "embd_pdrop", "attn_pdrop"),
    "opt": ("dropout", "attention_dropout"),
    "gpt_neox": ("hidden_dropout", "attention_dropout"),
    "llama": ("attention_dropout",),
}


@pytest.fixture(params=sorted(ARCHITECTURES))
def family(request: pytest.FixtureRequest) -> str:
    """The families that the lab claims to score exactly, one after the other."""
    return request.param


@pytest.fixture(scope="session")
def make_policy() -> Callable[..., Policy]:
    """make_policy("opt", seed=1, dropout=0.1, **config): a tiny policy in evaluation mode whose every weight is large
    enough to be felt, so that log-probs differ by nats and a token, a position or a mask that is wrong shows."""

    def make(family: str, seed: int = 0, dropout: float = 0.0, **settings: object) -> Policy:
        rates = dict.fromkeys(DROPOUTS[family], dropout)
        settings = {"vocab_size": VOCABULARY, "pad_token_id": None, **ARCHITECTURES[family], **rates, **settings}
        config = AutoConfig.for_model(family, **settings)
        network = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, weight in network.named_parameters():
                noise = torch.randn(weight.shape, generator=generator)
                if weight.ndim > 1:
                    scale = 0.8 if "emb" in name or "wte" in name or "wpe" in name else 1.2 * weight.shape[-1] ** -0.5
                    weight.copy_(scale * noise)
                else:
                    weight.copy_(0.3 * noise + (1.0 if _is_gain(name) else 0.0))
        return Policy(network).eval()

    return make


def _is_gain(name: str) -> bool:
    return name.endswith("weight")


@pytest.fixture
def policy(family: str, make_policy: Callable[..., Policy]) -> Policy:
    """A fresh tiny policy of each family."""
    return make_policy(family)


@pytest.fixture(scope="session")
def ragged() -> Callable[..., Tokens]:
    """ragged([3, 1, 5], seed=1): random sequences of these lengths; ragged([[2, 0], [1, 4]]): branches [B, K, T]. What
    lies beyond their ends is garbage on purpose."""

    def make(lengths: Sequence, seed: int = 0, width: int | None = None) -> Tokens:
        sizes = torch.tensor(lengths)
        shape = (*sizes.shape, width or int(sizes.max()))
        return Tokens(torch.randint(VOCABULARY, shape, generator=torch.Generator().manual_seed(seed)), sizes)

    return make


@pytest.fixture(scope="session")
def plain() -> Callable[..., Tensor]:
    """plain(policy, prompt, response): token log-probs of one response by one ordinary forward, nothing shared."""

    def score(policy: Policy, prompt: Sequence[int], response: Sequence[int]) -> Tensor:
        row = torch.tensor([[*prompt, *response]], dtype=torch.long)
        logits = policy.network(input_ids=row).logits[0, len(prompt) - 1 : -1]
        return logits.log_softmax(-1).gather(1, row[0, len(prompt) :, None])[:, 0]

    return score


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    """Twenty-two letters and an end token, id 0, which is the unknown token too."""
    words = ["<end>", *"abcdefghijklmnopqrstuv"]
    backend = Backend(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<end>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.decoder = decoders.Fuse()
    inner = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>", bos_token="<end>")
    return Tokenizer(inner, eos=(0,))


def _spread(prompts: list[str], responses: list[list[str]], references: list[str]) -> Tensor:
    """A reward in [0, 1) that tells any two answers apart, whatever they say."""
    return torch.tensor([[zlib.crc32(answer.encode()) / 2**32 for answer in answers] for answers in responses])


@pytest.fixture
def make_parts(make_policy: Callable[..., Policy], tokenizer: Tokenizer) -> Callable[..., Parts]:
    """make_parts(micro_batch=4): a tiny GPT-2 and all that a method needs, with a reward that has spread."""

    def make(**other: Any) -> Parts:
        parts: dict[str, Any] = {
            "policy": make_policy("gpt2"),
            "tokenizer": tokenizer,
            "reward": _spread,
            "sampling": Sampling(max_new_tokens=6, k=4),
            "optimizer": Optimizer(lr=1e-2),
            "total_steps": 4,
        }
        return Parts(**{**parts, **other})

    return make


@pytest.fixture(scope="session")
def judged() -> Callable[..., Rollout]:
    """judged(method, branches, rewards, logprobs): the rollout that a method makes of answers [B, K, T] with these
    rewards and sampler's log-probs, in their precision (a reward is read in single)."""

    def make(method: OnPolicy, branches: Tokens, rewards: Tensor, logprobs: Tensor) -> Rollout:
        none, one = torch.zeros(rewards.shape, dtype=torch.bool), [""] * len(rewards)
        samples = Samples(branches, finished=none, temperatures=torch.ones(rewards.shape), logprobs=logprobs.detach())
        token = Tokens.pack([[1]] * len(rewards))
        method.parts = replace(method.parts, reward=lambda *_: rewards)
        rollout = method.rewarded(Batch(one, token, token, one, one), samples)
        return replace(rollout, rewards=rewards, advantages=method.weigh(rewards, branches.lengths))

    return make


@pytest.fixture(scope="session")
def rows(tokenizer: Tokenizer) -> list[Encoded]:
    """Sixteen examples, prompts of 2 to 7 tokens and references of 2 to 6, the end included."""
    letters = torch.randint(1, VOCABULARY, (16, 2, 7), generator=torch.Generator().manual_seed(10)).tolist()
    texts = tokenizer.inner.convert_ids_to_tokens
    examples = [
        Example(f"row {i}", " ".join(texts(p[: 2 + i % 6])), " ".join(texts(r[: 1 + i % 5])), (0, 0))
        for i, (p, r) in enumerate(letters)
    ]
    return encode(examples, tokenizer)


@pytest.fixture(scope="session")
def pairs(rows: list[Encoded], tokenizer: Tokenizer) -> list[Encoded]:
    """The sixteen examples with rejected replies of 2 to 6 tokens, the end included: other letters, other lengths."""
    replies = [row.example.reference for row in rows]
    examples = [replace(row.example, rejected=replies[(i + 7) % 16]) for i, row in enumerate(rows)]
    return encode(examples, tokenizer)


@pytest.fixture(scope="session")
def fixture_f() -> Callable[[], dict[str, Tensor]]:
    """Fixture F of methods.md section 4, anew at each call: logits [2, 4, 3, 5] (already shifted), tokens, lengths,
    rewards, mask, and the token log-probs of these logits; float64, logits with a gradient."""

    def make() -> dict[str, Tensor]:
        b, j, t, v = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in (2, 4, 3, 5)), indexing="ij")
        logits = (2 * torch.sin(0.7 * b + 1.3 * j + 0.9 * t + 2.1 * v + 0.5)).requires_grad_()
        tokens = ((b + 2 * j + 3 * t)[..., 0] % 5).long()
        lengths = torch.tensor([[3, 2, 1, 3], [2, 3, 3, 1]])
        rewards = torch.tensor([[0.30, 0.05, 0.10, 0.55], [0.02, 0.08, 0.01, 0.05]], dtype=torch.float64)
        mask = torch.arange(3) < lengths[..., None]
        logprobs = logits.log_softmax(-1).gather(-1, tokens[..., None])[..., 0].masked_fill(~mask, 0.0)
        return {
            "logits": logits,
            "tokens": tokens,
            "lengths": lengths,
            "rewards": rewards,
            "mask": mask,
            "logprobs": logprobs,
        }

    return make


@pytest.fixture
def front_door(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., int]:
    """front_door("-m", "seed=0,1"): the exit code of the command, in this process, from an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["esolab"])
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: str) -> int:
        try:
            return main(list(arguments))
        except SystemExit as leave:
            return int(leave.code or 0)

    return run


@pytest.fixture
def jobs_here(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Jobs of a sweep run in this process, which has already loaded torch; the commands that would have been run."""
    commands: list[list[str]] = []

    class Here(Local):
        def __call__(self, command: Sequence[str], aloud: bool) -> Ended:
            commands.append(list(command))
            if command[:3] == [sys.executable, "-m", "esolab.judge"]:
                return Ended(judge(list(command[3:])))
            assert command[:3] == [sys.executable, "-m", "esolab"]
            return Ended(main(list(command[3:])))

    monkeypatch.setattr(esolab.sweep, "Local", Here)
    return commands


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real tokenizers and weights beside the repository; the test is skipped where there is none."""
    folder = Path(__file__).parents[1].parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"REAL DATA NOT CHECKED: there is no {folder}")
    return folder


@pytest.fixture
def wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """W&B without a network or an account, and nothing of it left behind."""
    import wandb

    wandb.teardown()  # with what it has left in the environment, which would be put back after its service has ended
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.chdir(tmp_path)
    wandb.codes = []
    finish = wandb.finish

    def finish_and_tell(exit_code: int | None = None, **others: Any) -> None:
        wandb.codes.append(exit_code)
        finish(exit_code=exit_code, **others)

    monkeypatch.setattr(wandb, "finish", finish_and_tell)
    yield wandb
    finish()
    del wandb.codes
