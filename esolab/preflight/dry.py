"""A run on devices that are not here: the policy is built, shared out and taken through its steps without a number.

torch's fake tensors have shapes and no memory, and its fake process group answers for ranks that nobody has started.
What a rank would hold is counted storage by storage while our own sampler, scoring, backward and optimizer run.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint

from esolab import sharding
from esolab.assembly import Assembly
from esolab.cache import Branches, Read, gather
from esolab.policy import Policy
from esolab.preflight.estimate import step
from esolab.preflight.memory import Step
from esolab.preflight.plan import Kind
from esolab.sampling import Sampling, draw, truncate

AVERAGE = "average"  # the phase in which weights are given back


class Live(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of all tensors that are made inside and still held; `peaks` are the most in each phase."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.held: dict[int, tuple[weakref.ref[Any], int]] = {}
        self.phase, self.total, self.peaks = "load", 0, dict[str, int]()

    def add(self, tensor: Tensor) -> None:
        """Count the storage of a tensor from now on, until it is freed."""
        storage = (tensor.to_local() if isinstance(tensor, DTensor) else tensor).untyped_storage()
        key = id(storage)
        if key not in self.held:
            self.held[key] = weakref.ref(storage, lambda _: self._forget(key)), storage.nbytes()
            self.total += storage.nbytes()

    def enter(self, phase: str) -> None:
        """What is held from now on is of this phase."""
        self.phase = phase
        self.weigh()

    def weigh(self) -> None:
        """Count all again: FSDP2 takes the room of whole weights, and gives it back, without a word."""
        for key, (ref, _) in list(self.held.items()):
            if (storage := ref()) is not None:
                self.held[key] = ref, storage.nbytes()
        self.total = sum(size for _, size in self.held.values())
        self.peaks[self.phase] = max(self.peaks.get(self.phase, 0), self.total)

    def _forget(self, key: int) -> None:
        self.total -= self.held.pop(key)[1]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """The operation, and what it has made."""
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self.add(leaf)
        if self.phase == AVERAGE:
            self.weigh()
        self.peaks[self.phase] = max(self.peaks.get(self.phase, 0), self.total)
        return out


def shared_out(run: Assembly, kinds: Sequence[Kind]) -> dict[str, int]:
    """Peak bytes of each phase on one of the run's ranks, its policy (on torch's meta device) shared out by FSDP2. Each
    kind of step is made twice: what the optimizer keeps is there from the first on.

    Raises:
        RuntimeError: torch can do without numbers what the policy does no more.
    """
    policy, live = run.method.policy, Live()
    with fake_ranks(run.trainer.size) as mesh, FakeTensorMode(allow_non_fake_inputs=True):
        policy.to_empty(device="cpu")
        policy.network.tie_weights()
        sharding.share_out(policy, mesh)
        for weight in policy.parameters():
            live.add(weight)
        optimizer = run.method.parts.optimizer.build(policy)
        mixed = run.trainer.precision.endswith("-mixed")
        with live, torch.autocast("cpu", torch.bfloat16) if mixed else nullcontext():
            live.weigh()
            for kind in [kind for kind in kinds for _ in range(2)]:
                _step(policy, step(run.method, kind), optimizer, run.method.parts.optimizer.clip, live)
    return live.peaks


@contextmanager
def fake_ranks(n: int) -> Iterator[DeviceMesh]:
    """Inside, this process is the first of n, and the others say nothing."""
    from torch.testing._internal.distributed.fake_pg import FakeStore  # torch's own, for tests; it may move

    dist.init_process_group("fake", rank=0, world_size=n, store=FakeStore())
    try:
        yield init_device_mesh("cpu", (n,))
    finally:
        dist.destroy_process_group()


def _step(policy: Policy, step: Step, optimizer: torch.optim.Optimizer, clip: float, live: Live) -> None:
    """A step as a method makes it, of answers at their limit."""
    live.enter("sample" if step.drawn else "score")
    sharding.gather_(policy)
    live.weigh()
    read = _answer(policy, step) if step.drawn else None
    for _ in range(2 if len(step.prompts) > step.rows else 1):
        live.enter("score")
        loss, read = _score(policy, step, read), None
        live.enter("backward")
        loss.backward()  # type: ignore[no-untyped-call]
        del loss
    live.enter(AVERAGE)
    sharding.average_(policy)
    live.enter("optimizer")
    nn.utils.clip_grad_norm_(policy.parameters(), clip)
    optimizer.step()
    optimizer.zero_grad()


def _answer(policy: Policy, step: Step) -> Read | None:
    """The prompts are read, and the room of the answers is made and used for two tokens; the prompts as read, where
    they are read once for the scoring, too."""
    with torch.set_grad_enabled(step.read_once):
        read = _read(policy, len(step.prompts), step.longest)
    with torch.no_grad(), policy.growing():
        whole = gather([(list(range(len(step.prompts))), read)])
        branches = Branches(whole, step.drawn, step.limit)
        logits = policy.next(whole.last).repeat_interleave(step.drawn, 0)
        heat = torch.ones(len(logits))
        for place in range(2):
            token, _ = draw(truncate(logits, heat, Sampling(step.limit)), torch.zeros(len(logits)).long(), place)
            logits = policy.step(token, torch.full_like(token, step.longest + place), branches)
    return read if step.read_once else None


def _score(policy: Policy, step: Step, read: Read | None) -> Tensor:
    """The log-probs of a micro-batch, as branch_logprobs asks for them; of a reward model the rewards."""
    if step.scalar:
        return _read(policy, 2 * step.rows, step.longest + max(step.replies)).last.float().sum()
    score = partial(_branches, policy, read or _read(policy, step.rows, step.longest), step.longest)
    lengths = step.branches
    size = step.micro_k or len(lengths)
    parts = [lengths[start : start + size] for start in range(0, len(lengths), size)]
    if len(parts) == 1:
        return score(lengths)
    return torch.stack([checkpoint(score, part, use_reentrant=False) for part in parts]).sum()


def _read(policy: Policy, rows: int, length: int) -> Read:
    return policy.read_rows(torch.zeros(rows, length, dtype=torch.long), torch.full((rows,), length))


def _branches(policy: Policy, read: Read, prompt: int, lengths: Sequence[int]) -> Tensor:
    """The sum of the log-probs of branches of these lengths, packed after each prompt."""
    rows, places = len(read.last), max(1, sum(length - 1 for length in lengths))
    ids = torch.zeros(rows, places, dtype=torch.long)
    mask = torch.ones(rows, places, prompt + places, dtype=torch.bool)
    at = torch.zeros(rows * sum(lengths), dtype=torch.long)
    total: Tensor = policy(read, ids, ids, mask, at, at).sum()
    return total
