"""What the arithmetic of memory.py says of this run's own method, batches and machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn

from esolab.assembly import Assembly
from esolab.batch import Rollout, Tokens
from esolab.errors import BadInput
from esolab.methods.base import Method
from esolab.methods.nes import NES
from esolab.methods.pairs import Pairs
from esolab.methods.ppo import PPO
from esolab.methods.reward_model import RewardModel
from esolab.preflight.memory import Fixed, Step, evaluating, phases, shape_of
from esolab.preflight.plan import SAMPLING, Answering, Kind


def expected(run: Assembly, kinds: Sequence[Kind], answering: Answering, base: int) -> dict[str, int]:
    """Bytes that each phase of the run holds at most; `base` are those of the process before the policy was loaded.

    Raises:
        BadInput: the family of the model is not counted, or DeepSpeed's share of it.
    """
    trainer, method = run.trainer, run.method
    if trainer.strategy == "deepspeed":
        raise BadInput("trainer.strategy=deepspeed: what it holds is not counted; trainer=fsdp is")
    shape = shape_of(method.policy.network, trainer.precision)
    shape = replace(shape, recomputed=trainer.gradient_checkpointing)
    fixed = _fixed(run, base)
    gpu = trainer.device.type == "cuda"
    found = {"load": fixed.base + fixed.others + fixed.frozen + fixed.trained}  # whole, before it is shared out
    for kind in kinds:
        for phase, size in phases(shape, step(method, kind), fixed, gpu).items():
            found[phase] = max(found.get(phase, 0), size)
    longest = max(len(row.prompt) for row in answering.worst.rows)
    asked = (len(answering.worst.rows), longest, answering.worst.max_new_tokens)
    dev = answering.dev
    told = (len(dev), max((len(r.prompt) for r in dev), default=0), max((len(r.reference) for r in dev), default=0))
    return {**found, "evaluate": evaluating(shape, asked, told, fixed, gpu)}


def step(method: Method, kind: Kind) -> Step:
    """The worst step of a kind, as the method makes it."""
    parts, sampling = method.parts, kind.name == SAMPLING
    return Step(
        prompts=[len(row.prompt) for row in kind.worst],
        replies=[] if sampling and not method.sft_weight else [row.response for row in kind.worst],
        micro_batch=parts.micro_batch,
        micro_k=parts.micro_k,
        drawn=parts.sampling.k if sampling else 0,
        answers=answers(method) if sampling else 0,
        limit=parts.sampling.max_new_tokens,
        read_once=sampling and method.reads_once(len(kind.worst)),
        pair=isinstance(method, Pairs),
        scalar=isinstance(method, RewardModel),
        towers=2 if isinstance(method, PPO) else 1,
    )


def answers(method: Method) -> int:
    """How many answers to a prompt the method scores, where no two have the same reward."""
    k = method.parts.sampling.k
    one, numbers = torch.ones(1, k), torch.arange(float(k))[None]
    branches = Tokens(torch.zeros(1, k, 1, dtype=torch.long), one.long())
    flags, texts = one.bool(), [[""] * k]
    rollout = Rollout(branches, flags, one, one[..., None], texts, rewards=numbers, good=flags, advantages=numbers + 1)
    scored = method.scored(rollout)
    return 0 if scored is None else scored.branches.ids.shape[1]


def _fixed(run: Assembly, base: int) -> Fixed:
    method = run.method
    models = method.models()
    learn = learned(method)
    frozen = _bytes(method) - learn
    rest = sum(_bytes(model) for name, model in models.items() if name not in ("policy", "value"))
    buckets = learn if run.trainer.strategy == "ddp" and run.trainer.size > 1 else 0
    master = learn if isinstance(method, NES) else 0
    shares = run.trainer.size if run.trainer.strategy == "fsdp" else 1
    return Fixed(learn, base, rest, buckets + master, frozen, shares)


def learned(model: nn.Module) -> int:
    """Bytes of the weights that are trained, and of their gradients."""
    return sum(w.nbytes for w in model.parameters() if w.requires_grad)


def _bytes(model: nn.Module) -> int:
    return sum(w.nbytes for w in model.parameters())
