"""What a step holds in memory, phase by phase: pure arithmetic on shapes, in bytes.

Weights, gradients and the optimizer's moments are exact. Of activations, what the families' layers keep for the
backward is counted (`KEPT`), with the keys and values that every branch looks at and the float mask between them, and
what a layer has in hand at its widest. Not counted: fragments of the heap, workspaces of kernels, a reward's own work.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn
from transformers.pytorch_utils import Conv1D

from esolab.errors import BadInput
from esolab.policy import DROPOUTS, WHOLE

KEPT = {"gpt2": (8, 2), "opt": (6, 1), "gpt_neox": (6, 2), "llama": (8, 4)}
# Numbers that a layer keeps of a token for its backward: so many times the width, and so many times the width of its
# feed-forward part. Keys and values come on top. tests/test_preflight.py counts them in torch's own graph.
FOR_NORMS = {"llama": 2}  # of these widths, for the gradients of norms' own weights, which adapters leave alone
DRAWING = 5  # copies of the logits that drawing a token has in hand, see sampling.draw


@dataclass(frozen=True)
class Shape:
    """A transformer. `width` is of its layers, `inner` of their feed-forward part, `keys` of the keys of a token (fewer
    than `width` where heads share them).

    Bytes of a number: `item` of activations, `stream` of what norms are given, `weight` of weights. `turned` bytes of
    weights are copied to sample (GPT-2 keeps its matrices the other way round), `cast` by autocast, which keeps copies
    of weights that are trained; those that are frozen, `recast` bytes, it copies for each forward anew.
    """

    family: str
    layers: int
    width: int
    inner: int
    keys: int
    vocabulary: int
    parameters: int
    largest: int  # parameters of the largest weight that is trained
    item: int = 4
    stream: int = 4
    weight: int = 4
    turned: int = 0
    cast: int = 0
    recast: int = 0
    ranks: int = 0  # of all adapters of a layer together
    recomputed: bool = False  # layers keep their inputs alone, see esolab.recompute

    @property
    def weights(self) -> int:
        """Bytes of the weights."""
        return self.weight * self.parameters

    @property
    def kept(self) -> int:
        """Bytes that a layer keeps of a token for its backward, keys and values left out. Two widths are norms'."""
        own, inner = KEPT[self.family]
        own -= FOR_NORMS.get(self.family, 0) if self.ranks else 0
        rest = (own - 2) * self.width + inner * self.inner + self.ranks
        return self.item * rest + self.stream * 2 * self.width


@dataclass(frozen=True)
class Step:
    """The tokens of one optimizer step: of each prompt, of each `replies` (references, ends included; the longer of a
    pair), and `limit` of each answer, of which `drawn` are sampled to a prompt and `answers` scored.

    `micro_batch` prompts go through a forward, `micro_k` branches of each (None: all). `read_once`: prompts are read to
    be answered with what their gradients need. `pair`: both replies are branches. `scalar`: a head reads each reply
    after a prompt of its own. `towers`: models that learn side by side.
    """

    prompts: Sequence[int]
    replies: Sequence[int]
    micro_batch: int
    micro_k: int | None = None
    drawn: int = 0
    answers: int = 0
    limit: int = 0
    read_once: bool = False
    pair: bool = False
    scalar: bool = False
    towers: int = 1

    @property
    def rows(self) -> int:
        """Prompts of a forward."""
        return min(self.micro_batch, len(self.prompts))

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt."""
        return max(self.prompts)

    @property
    def branches(self) -> list[int]:
        """Tokens of the branches of a prompt, with the longest reply."""
        return [self.limit] * self.answers + [max(self.replies, default=0)] * (2 if self.pair else 1)


@dataclass(frozen=True)
class Fixed:
    """Bytes that are there whatever the step: `base` of the process before the policy, `others` of models that do not
    learn, `trained` of the weights that do, `copied` of what a method or a strategy holds of them once more, `frozen`
    of the policy's weights beside adapters. The optimizer's moments take twice `trained`, gradients take it once.

    Where ranks share the policy out, each has one of `shares` parts of its weights and moments at all times, and the
    whole weights while it makes a step or answers; gradients are whole until they are averaged.
    """

    trained: int
    base: int = 0
    others: int = 0
    copied: int = 0
    frozen: int = 0
    shares: int = 1

    @property
    def kept(self) -> int:
        """All that and the moments, while no step is made."""
        return self.base + self.others + self.copied + -(-(3 * self.trained + self.frozen) // self.shares)

    @property
    def held(self) -> int:
        """The same while a step is made."""
        return self.kept + (self.trained + self.frozen if self.shares > 1 else 0)


def reading(shape: Shape, places: int) -> int:
    """What gradients need of so many places that look at their own prompt alone."""
    own = shape.stream * shape.width if shape.recomputed else shape.kept
    return shape.layers * places * (own + shape.item * 2 * shape.keys)


def branching(shape: Shape, rows: int, prompt: int, length: int) -> int:
    """What gradients need of `rows` rows of `length` places after prompts of `prompt`: their own, all keys and values
    that they look at, copied (a head's for each that shares it), and the mask as numbers; or inputs of layers alone."""
    if shape.recomputed:
        return shape.layers * rows * length * shape.stream * shape.width
    looked_at = (prompt + length) * (2 * shape.width + length)
    return shape.layers * rows * (length * shape.kept + shape.item * looked_at)


def again(shape: Shape, step: Step) -> int:
    """What the layer holds that is computed again in the backward; nothing where none is."""
    if not shape.recomputed:
        return 0
    one = replace(shape, layers=1, recomputed=False)
    if step.scalar:
        return reading(one, 2 * step.rows * (step.longest + max(step.replies)))
    _, length = _scored_branches(step)
    return max(reading(one, step.rows * step.longest), branching(one, step.rows, step.longest, length))


def widest(shape: Shape, places: int) -> int:
    """What a layer has in hand at its widest without gradients: input, norm, and the feed-forward part before and after
    its activation."""
    return shape.item * places * (2 * shape.width + 2 * shape.inner)


def cached(shape: Shape, places: int) -> int:
    """Keys and values."""
    return shape.item * shape.layers * places * 2 * shape.keys


def meeting(shape: Shape, places: int) -> int:
    """Logits of so many places in fp32 and their log-softmax (later its gradient); an eighth of the most at a time
    where they are more than `Policy` holds."""
    logits = 4 * shape.vocabulary * places
    return 2 * (logits if logits <= WHOLE else WHOLE // 8)


def answering(
    shape: Shape, prompts: int, longest: int, k: int, limit: int, kept: bool = False, gpu: bool = False
) -> int:
    """The most that answering holds beside the weights: while prompts are read, or while answers grow from their keys,
    gathered. `kept`: the prompts have been read with what their gradients need. On the CPU the keys as read are not
    given back: tensors under 32 MiB lie in the heap, which shrinks from its end only."""
    places = prompts * longest
    keys = cached(shape, places)
    grown = cached(shape, prompts * k * limit) + DRAWING * 4 * shape.vocabulary * prompts * k + shape.turned
    before = reading(shape, places) if kept else keys
    if gpu and not kept:
        return max(keys + widest(shape, places), 2 * keys, keys + grown)
    return max(keys + widest(shape, places), before + keys + grown)


def scored(shape: Shape, step: Step) -> int:
    """What the forward of the largest micro-batch has left when its backward begins, with logits and with copies of
    frozen weights."""
    if step.scalar:
        return reading(shape, 2 * step.rows * (step.longest + max(step.replies))) + _copies(shape, 1)
    lengths, length = _scored_branches(step)
    places = reading(shape, step.rows * step.longest) + branching(shape, step.rows, step.longest, length)
    return step.towers * places + meeting(shape, step.rows * sum(lengths)) + _copies(shape, 2)


def _copies(shape: Shape, forwards: int) -> int:
    """Of frozen weights, by autocast: all until the backward of each forward, or a layer's where it is made again."""
    return shape.recast // shape.layers if shape.recomputed else shape.recast * forwards


def waiting(shape: Shape, step: Step) -> int:
    """What is there when the backward has gone through the branches: the prompts as read, and the gradients of all keys
    and values. Those of the weights wait, too: torch adds them up before it adds them to what is there."""
    _, length = _scored_branches(step)
    gradients = cached(shape, step.rows * (step.longest + length))
    return step.towers * (reading(shape, step.rows * step.longest) + gradients) + _copies(shape, 1)


def _scored_branches(step: Step) -> tuple[list[int], int]:
    """Tokens of the branches of a prompt that are scored at a time, and the places that they take together."""
    lengths = sorted(step.branches, reverse=True)[: step.micro_k]
    return lengths, max(1, sum(n - 1 for n in lengths))


def phases(shape: Shape, step: Step, fixed: Fixed, gpu: bool = False) -> dict[str, int]:
    """The most that each phase of a step holds. The moments are there from the first step on, gradients from the first
    micro-batch of a step on. On a GPU the optimizer works on all weights at once."""
    held = fixed.held + shape.cast
    before = fixed.trained if len(step.prompts) > step.rows else 0
    head = shape.weight * shape.largest  # the gradient of the embeddings waits for that of the head
    found = {}
    if step.drawn:
        drawn = answering(shape, len(step.prompts), step.longest, step.drawn, step.limit, step.read_once, gpu)
        found["sample"] = held + drawn + (_copies(shape, 1) if step.read_once else 0)
    left, one = scored(shape, step), again(shape, step)
    logits = 0 if step.scalar else meeting(shape, step.rows * sum(_scored_branches(step)[0]))
    found["score"] = held + before + max(left, left - logits + one)  # the last layer in hand, or logits
    turning = held + fixed.trained + (0 if step.scalar else before + waiting(shape, step)) + one
    found["backward"] = max(found["score"], held + fixed.trained + 2 * head, turning)
    if shape.recomputed:  # the last layer, while the inputs of all are there
        found["backward"] = max(found["backward"], held + max(before, head) + left - logits + one)
    if fixed.shares > 1:  # a part of weights, gradients and moments; the norm or AdamW works on another
        part = -(-fixed.trained // fixed.shares)
        found["average"] = held + fixed.trained + part
        found["optimizer"] = fixed.kept + shape.cast + 2 * part
    else:
        found["optimizer"] = held + fixed.trained + (fixed.trained if gpu else 2 * head)
    return found


def evaluating(
    shape: Shape, answers: tuple[int, int, int], told: tuple[int, int, int], fixed: Fixed, gpu: bool = False
) -> int:
    """The most that scoring the policy holds: while it answers (prompts, the longest, limit), or while it is told
    (prompts, the longest, the longest reference)."""
    rows, prompt, reference = told
    prompts, longest, limit = answers
    keys = cached(shape, rows * prompt) + cached(shape, rows * (prompt + reference))
    likelihood = keys + meeting(shape, rows * reference)
    reads = cached(shape, rows * prompt) + widest(shape, rows * prompt)
    return fixed.held + max(answering(shape, prompts, longest, 1, limit, gpu=gpu), likelihood, reads)


def shape_of(network: Any, precision: str) -> Shape:
    """The shape of a transformers model, with or without numbers, under Lightning's precision.

    Raises:
        BadInput: a family that is not counted, or dropout, which is not.
    """
    config = network.config
    if (family := config.model_type) not in KEPT:
        raise BadInput(
            f"model: what the family {family!r} keeps is not counted, only {', '.join(KEPT)}; leave --no-measure out"
        )
    if rates := [name for name in DROPOUTS if getattr(config, name, 0)]:
        raise BadInput(f"model.dropout={getattr(config, rates[0])}: its masks are not counted; leave --no-measure out")
    weights = [p.numel() for p in network.parameters()]
    trained = [p.numel() for p in network.parameters() if p.requires_grad]
    ranks = sum(p.shape[0] for name, p in network.named_parameters() if ".lora_A." in name)
    layers = [m.weight for m in network.modules() if type(m) in (nn.Linear, Conv1D)]
    matrices = [weight.numel() for weight in layers]
    frozen = sum(weight.numel() for weight in layers if not weight.requires_grad)
    turned = sum(m.weight.numel() for m in network.modules() if type(m) is Conv1D)
    mixed, weight = precision.endswith("-mixed"), network.dtype.itemsize
    inner = [getattr(config, name, None) for name in ("n_inner", "intermediate_size", "ffn_dim")]
    heads = config.num_attention_heads
    return Shape(
        family=family,
        layers=config.num_hidden_layers,
        width=config.hidden_size,
        inner=next(filter(None, inner), 4 * config.hidden_size),
        keys=config.hidden_size // heads * (getattr(config, "num_key_value_heads", None) or heads),
        vocabulary=network.get_input_embeddings().weight.shape[0],
        parameters=sum(weights),
        largest=max(trained),
        item=2 if mixed else weight,
        stream=weight,
        weight=weight,
        turned=2 * sum(matrices) if mixed else weight * turned,
        cast=2 * (sum(matrices) - frozen) if mixed else 0,
        recast=2 * frozen if mixed else 0,
        ranks=ranks // config.num_hidden_layers,
    )


def gigabytes(size: int) -> str:
    """Bytes in words."""
    return f"{size / 1e9:.2f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"
