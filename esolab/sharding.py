"""A policy shared out between ranks by FSDP2: each holds a part of its weights, of their gradients and of what the
optimizer keeps for them.

Answers need every weight at every token, and ranks have answers of other lengths. So the weights are gathered once for
a step, or once for an evaluation, and until they are shared out again no rank waits for another: each makes as many
forwards and backwards as its own examples take. The gradients of a step are averaged and shared out once, at its end.
A policy that is not shared out passes through all of this as it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import MethodType
from typing import Any

from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor
from transformers.modeling_layers import GradientCheckpointingLayer

from esolab.policy import Policy


def share_out(policy: Policy, mesh: DeviceMesh) -> None:
    """Leave this rank its part of each block's weights, and of what stands around the blocks."""
    for block in [m for m in policy.modules() if isinstance(m, GradientCheckpointingLayer)]:
        fully_shard(block, mesh=mesh, reshard_after_forward=False)
    fully_shard(policy, mesh=mesh, reshard_after_forward=False)
    setattr(policy, "nothing", MethodType(_nothing, policy))  # noqa: B010
    for name in ("read_rows", "next", "step", "nothing"):  # `forward` is one already
        register_fsdp_forward_method(policy, name)
    assert isinstance(policy, FSDPModule)
    policy.set_reduce_scatter_unused_params(True)  # what one rank has not used, others have
    _syncing(policy, False)


def gather_(module: nn.Module) -> None:
    """Every rank gets all weights of the policies in a module, until they are shared out again."""
    for part in _parts(module):
        part.unshard()


def share_out_again_(policy: Policy) -> None:
    """Each rank keeps its part of the weights only."""
    for part in _parts(policy):
        part.reshard()


@contextmanager
def whole(policy: Policy) -> Iterator[None]:
    """Inside, every rank has all weights."""
    gather_(policy)
    try:
        yield
    finally:
        share_out_again_(policy)


def average_(policy: Policy) -> None:
    """Gradients become their means over ranks, of which each rank keeps its part, as of the weights."""
    if not isinstance(policy, FSDPModule):
        return
    _syncing(policy, True)
    nothing: Any = policy.nothing
    nothing().backward()  # what FSDP2 does at the end of a backward, it does for all that has come together
    _syncing(policy, False)


def weights(network: nn.Module) -> dict[str, Tensor] | None:
    """By name, the weights of a network that is shared out, while they are `whole`; None of another, which can say them
    itself."""
    if not any(isinstance(module, FSDPModule) for module in network.modules()):
        return None
    found: dict[str, Tensor] = {name: weight.detach() for name, weight in network.named_parameters()}
    for path, module in network.named_modules():
        kept = set(module._buffers) - module._non_persistent_buffers_set
        found |= {
            f"{path}.{name}".lstrip("."): buffer for name in kept if (buffer := module._buffers[name]) is not None
        }
    return found


def local(value: Tensor) -> Tensor:
    """A number that ranks have worked out together, as this one can read it."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def _parts(module: nn.Module) -> list[FSDPModule]:
    return [part for part in module.modules() if isinstance(part, FSDPModule)]


def _nothing(policy: Policy) -> Tensor:
    """0, with a gradient of 0."""
    return next(weight for weight in policy.parameters() if weight.requires_grad).flatten()[0] * 0


def _syncing(policy: FSDPModule, on: bool) -> None:
    policy.set_requires_gradient_sync(on)
    policy.set_reshard_after_backward(on)
