"""Answers from the policy: k for each prompt, one prompt pass, every row at its own temperature.

Noise is counted, not drawn: it depends on (seed, purpose, epoch, example id, sample index, token position) alone, so
the same answers come out whatever the batch, the step or the rank.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor

from esolab.batch import Samples, Tokens
from esolab.cache import Branches, Read, gather
from esolab.errors import BadInput
from esolab.policy import Policy

Reads = Sequence[tuple[list[int], Read]]  # which prompts, as read


@dataclass(frozen=True)
class Sampling:
    """How answers are drawn.

    Args:
        max_new_tokens: response limit, the end token included.
        k: answers per prompt.
        temperatures: one per answer; None spreads them evenly from 0.5 to 2.0 (one answer: 1.0).
        top_k: keep the so many likeliest tokens, 0 keeps all.
        top_p: keep the smallest set of likeliest tokens that holds this probability, 1 keeps all.
        greedy: the first answer takes the likeliest token each time, whatever its temperature.
    """

    max_new_tokens: PositiveInt
    k: PositiveInt = 4
    temperatures: list[PositiveFloat] | None = None
    top_k: NonNegativeInt = 0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    greedy: bool = False

    def __post_init__(self) -> None:
        if self.temperatures is not None and len(self.temperatures) != self.k:
            raise BadInput(
                f"sampling.temperatures: {len(self.temperatures)} values {list(self.temperatures)} for "
                f"sampling.k={self.k}; give k values, or null for an even spread from 0.5 to 2.0"
            )

    @property
    def ladder(self) -> list[float]:
        """The k temperatures, 0 for greedy."""
        even = [0.5 + 1.5 * j / (self.k - 1) for j in range(self.k)] if self.k > 1 else [1.0]
        ladder = list(self.temperatures or even)
        return [0.0, *ladder[1:]] if self.greedy else ladder


def decoding(name: str, max_new_tokens: int) -> Sampling:
    """An evaluation decoding by its name: `sample` (T=1), `greedy`, `t0.5` (any temperature), `top5` (any top-k)."""
    if name in ("sample", "greedy"):
        return Sampling(max_new_tokens, k=1, greedy=name == "greedy")
    if (match := re.fullmatch(r"t(\d+(?:\.\d+)?)", name)) and float(match[1]) > 0:
        return Sampling(max_new_tokens, k=1, temperatures=[float(match[1])])
    if (match := re.fullmatch(r"top(\d+)", name)) and int(match[1]) > 0:
        return Sampling(max_new_tokens, k=1, top_k=int(match[1]))
    raise BadInput(
        f"evaluation.decodings: {name!r} is not a decoding; "
        "use sample, greedy, t<temperature> or top<k>, as t0.5 or top5"
    )


def noise_keys(seed: int, purpose: str, epoch: int, ids: Sequence[str], k: int) -> Int[Tensor, "B K"]:
    """One 64-bit key for the noise of each answer: all that tells one answer's noise from another's."""

    def key(example: str, j: int) -> int:
        digest = hashlib.blake2b(f"{seed}\n{purpose}\n{epoch}\n{j}\n{example}".encode(), digest_size=8).digest()
        return int.from_bytes(digest, "little", signed=True)

    return torch.tensor([[key(example, j) for j in range(k)] for example in ids], dtype=torch.long).view(len(ids), k)


def sample(
    policy: Policy,
    prompts: Tokens,
    sampling: Sampling,
    keys: Int[Tensor, "B K"],
    eos: Sequence[int],
    stops: Int[Tensor, "B K"] | None = None,
    reads: Reads | None = None,
) -> Samples:
    """Draw `sampling.k` answers to each prompt [B, P] until one of the `eos` ids or the length limit. An answer
    that is as long as its `stops` ends there, too (the benchmark makes answers of known lengths). `reads` are the
    prompts where they have been read already, by `Policy.read_all`.

    The policy is in evaluation mode without gradients meanwhile, and back as it was after, also after an error. The
    prompt is read once and its cache is never repeated; answers that have ended leave the batch.
    """
    with _frozen(policy):
        whole = gather(reads or policy.read_all(prompts.to(policy.device)))
        return _sample(policy, whole, sampling, keys.to(policy.device), eos, stops)


def _sample(
    policy: Policy,
    read: Read,
    sampling: Sampling,
    keys: Int[Tensor, "B K"],
    eos: Sequence[int],
    stops: Int[Tensor, "B K"] | None,
) -> Samples:
    batch, k, limit, device = len(read.lengths), sampling.k, sampling.max_new_tokens, policy.device
    ladder = torch.tensor(sampling.ladder, device=device)
    temperature, key, start = ladder.repeat(batch), keys.flatten(), read.lengths.repeat_interleave(k)
    ends = torch.tensor(list(eos), device=device)
    stop = torch.full_like(keys, limit + 1).flatten() if stops is None else stops.to(device).flatten()
    tokens = torch.zeros(batch * k, limit, dtype=torch.long, device=device)
    logprobs = torch.zeros(batch * k, limit, device=device)
    lengths = torch.full((batch * k,), limit, device=device)
    finished = torch.zeros(batch * k, dtype=torch.bool, device=device)

    logits, state = policy.next(read.last).repeat_interleave(k, 0), Branches(read, k, limit)
    rows = torch.arange(batch * k, device=device).view(batch, k)  # the answers that are still in the batch
    look = 1 if device.type == "cpu" else 8  # tokens between looks at who has ended: a look waits for the device
    with policy.growing():
        for t in range(limit):
            row = rows.flatten()
            heat, going = temperature[row], ~finished[row]
            token, logprob = draw(truncate(logits, heat, sampling), key[row], t, heat == 0 if sampling.greedy else None)
            tokens[row, t], logprobs[row, t] = token.where(going, 0), logprob.where(going, 0)
            ended = going & (torch.isin(token, ends) | (stop[row] == t + 1))
            lengths[row], finished[row] = lengths[row].where(~ended, t + 1), finished[row] | ended
            if t == limit - 1:
                break
            if (t + 1) % look == 0:
                alive = ~finished[rows]
                if not alive.any():
                    break
                if (width := int(alive.sum(1).max())) * int(alive.any(1).sum()) <= 0.75 * rows.numel():
                    rows, token = _regroup(rows, alive, width, token, state)
            logits = policy.step(token, start[rows.flatten()] + t, state)
    width = int(lengths.max())
    return Samples(
        branches=Tokens(tokens[:, :width].view(batch, k, width), lengths.view(batch, k)),
        finished=finished.view(batch, k),
        temperatures=ladder.expand(batch, k),
        logprobs=logprobs[:, :width].view(batch, k, width),
    )


def _regroup(
    rows: Int[Tensor, "B K"], alive: Bool[Tensor, "B K"], width: int, token: Int[Tensor, "R"], state: Branches
) -> tuple[Int[Tensor, "B2 K2"], Int[Tensor, "R2"]]:
    """Leave out prompts whose answers have all ended, and keep `width` rows of the others, those alive first."""
    prompts = alive.any(1).nonzero()[:, 0]
    columns = alive.int().argsort(dim=1, descending=True, stable=True)[prompts, :width]
    flat = (prompts[:, None] * rows.shape[1] + columns).flatten()
    state.keep(prompts, flat, width)
    return rows[prompts].gather(1, columns), token[flat]


def truncate(logits: Float[Tensor, "R V"], temperature: Float[Tensor, "R"], sampling: Sampling) -> Float[Tensor, "R V"]:
    """Logits over temperature (over 1 where it is 0), -inf where top-k or top-p leaves a token out."""
    logits = logits / torch.where(temperature == 0, 1.0, temperature)[:, None]
    if 0 < sampling.top_k < logits.shape[1]:
        least = logits.topk(sampling.top_k).values[:, -1:]
        logits = logits.masked_fill(logits < least, -math.inf)
    if sampling.top_p < 1:
        likeliest, order = logits.softmax(-1).sort(descending=True)
        beyond = likeliest.cumsum(-1) - likeliest >= sampling.top_p
        logits = logits.masked_fill(torch.zeros_like(beyond).scatter(1, order, beyond), -math.inf)
    return logits


def draw(
    logits: Float[Tensor, "R V"], keys: Int[Tensor, "R"], position: int, greedy: Bool[Tensor, "R"] | None = None
) -> tuple[Int[Tensor, "R"], Float[Tensor, "R"]]:
    """A token from softmax(logits) of each row, or the likeliest where `greedy`, with its log-prob.

    Gumbel-max in two stages, the same law as argmax(logits + Gumbel): first a block of about sqrt(V) tokens by its
    logsumexp, then a token within it. That takes 2 sqrt(V) noises a row instead of V, and small rounding differences of
    the logits change the outcome as rarely as with one stage (an inverse-CDF draw would flip often).
    """
    rows, vocabulary = logits.shape
    size = math.isqrt(vocabulary - 1) + 1
    blocks = -(-vocabulary // size)
    padded = torch.nn.functional.pad(logits, (0, blocks * size - vocabulary), value=-math.inf).view(rows, blocks, size)
    mass = padded.logsumexp(-1)
    noise = gumbel(keys, position, blocks + size)
    block = (mass + noise[:, :blocks]).argmax(-1)
    within = padded[torch.arange(rows, device=logits.device), block]
    token = block * size + (within + noise[:, blocks:]).argmax(-1)
    if greedy is not None:
        token = torch.where(greedy, logits.argmax(-1), token)
    return token, logits.gather(1, token[:, None])[:, 0] - mass.logsumexp(-1)


def gumbel(keys: Int[Tensor, "R"], position: int, n: int) -> Float[Tensor, "R N"]:
    """n standard Gumbel noises for each key at a token position, by the SplitMix64 hash of (key, position, index)."""
    counter = torch.arange(n, device=keys.device) + position * 1_000_003
    state = keys[:, None] + counter * -7046029254386353131  # the golden ratio in 64 bits; int64 arithmetic wraps
    for shift, factor in ((30, -4658895280553007687), (27, -7723592293110705685)):
        state = (state ^ _shift_right(state, shift)) * factor
    bits = _shift_right(state ^ _shift_right(state, 31), 11)  # 53 of them, as many as a double holds
    return -(-((bits.double() + 0.5) / 2**53).log()).log().float()


def _shift_right(bits: Tensor, n: int) -> Tensor:
    """Shift without copying the sign."""
    return (bits >> n) & ((1 << (64 - n)) - 1)


@contextmanager
def _frozen(policy: Policy) -> Iterator[None]:
    """Evaluation mode without gradients; every module's mode is restored after, also after an error."""
    modes = [(module, module.training) for module in policy.modules()]
    policy.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode
