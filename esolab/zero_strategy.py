"""Lightning's DeepSpeed strategy as we use it: its configuration, what it cannot do, and checkpoints as of any run."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any, cast

import pytorch_lightning as pl
import torch.distributed as dist
from pytorch_lightning.plugins import DeepSpeedPrecision
from pytorch_lightning.strategies import DeepSpeedStrategy
from torch import nn

from esolab import ranks, zero
from esolab.errors import BadInput
from esolab.methods.base import Method

OLDEST, BEFORE = (0, 19, 8), (0, 20)  # of deepspeed's versions, as in pyproject.toml; the first was tried


def refuse(strategy: str, kind: str, shares: int, devices: object, precision: str) -> None:
    """Raises BadInput where DeepSpeed cannot train: `strategy` as Lightning calls it, `kind` of device, how many of
    them share, as trainer.devices says them, at trainer.precision."""
    said = f"trainer.strategy={strategy}"
    if strategy != "deepspeed":
        raise BadInput(
            f"{said}: gradients are averaged once a step, and weights whole at every token, which is ZeRO's stage 1; "
            "give trainer=deepspeed for that, or trainer=fsdp to share out weights and gradients, too"
        )
    if kind != "gpu":
        raise BadInput(f"{said}: its run needs CUDA GPUs, and none is used here; trainer=fsdp shares out on any device")
    if find_spec("deepspeed") is None:
        raise BadInput(f"{said}: it is not installed; pip install 'esolab[deepspeed]', or take trainer=fsdp")
    found = version("deepspeed")
    if not OLDEST <= tuple(map(int, re.findall(r"\d+", found)[:3])) < BEFORE:
        raise BadInput(f"{said}: not with deepspeed {found}; pip install 'esolab[deepspeed]' brings one that was tried")
    if shares == 1:
        raise BadInput(f"{said}: it shares out between devices, and there is one; take trainer=default")
    if isinstance(devices, list) and devices != list(range(len(devices))):
        raise BadInput(
            f"trainer.devices={devices}: DeepSpeed takes the first GPUs only; give trainer.devices={len(devices)}, and "
            f"CUDA_VISIBLE_DEVICES={','.join(map(str, devices))} before the command"
        )
    if precision == "bf16-mixed":
        raise BadInput(
            f"trainer.precision={precision}: DeepSpeed has no weights in fp32 beside products in bf16; give bf16-true, "
            "where it keeps fp32 copies for AdamW"
        )


def configuration(narrow: bool, clip: float, micro_batch: int) -> dict[str, Any]:
    """What DeepSpeed is told: `narrow`, weights and gradients in bf16, with fp32 copies where AdamW is; `clip`, the
    largest gradient norm; `micro_batch`, prompts of a forward, of which it counts no more than one a step."""
    return {
        "train_micro_batch_size_per_gpu": micro_batch,
        "gradient_accumulation_steps": 1,  # backwards of a step are ours to count
        "gradient_clipping": clip,
        "zero_optimization": {
            # Stage 2 would send gradients in each backward, of which ranks have different numbers; in stage 3, ranks
            # would wait for each other's weights in each forward, too
            "stage": 1,
            "overlap_comm": False,
            "reduce_bucket_size": 50_000_000,
        },
        "zero_allow_untested_optimizer": True,  # torch's AdamW, of which it knows nothing
        "bf16": {"enabled": narrow},
    }


class AsTheyAre(DeepSpeedPrecision):
    """Nothing is cast by Lightning: DeepSpeed casts the weights, and a batch has token ids only."""

    def convert_module(self, module: nn.Module) -> nn.Module:
        """The module."""
        return module

    def convert_input(self, data: Any) -> Any:
        """The data."""
        return data


class SharedOptimizer(DeepSpeedStrategy):
    """DeepSpeed, stage 1: each rank has all weights, and of the optimizer's state its part. Clipping is that of the
    method's optimizer. A checkpoint is one file that the first rank writes, as of any run.

    Args:
        narrow: weights in bf16.
        micro_batch: prompts of a forward.
    """

    def __init__(self, narrow: bool, micro_batch: int) -> None:
        super().__init__(config=configuration(narrow, 1.0, micro_batch))

    def setup(self, trainer: pl.Trainer) -> None:
        """Begin, with the method's clipping; and with a way to gather states that takes no memory of GPUs."""
        method = trainer.lightning_module
        assert isinstance(method, Method)
        self.config = {**cast("dict[str, Any]", self.config), "gradient_clipping": method.parts.optimizer.clip}
        self.side = dist.new_group(backend="gloo")
        super().setup(trainer)

    def _format_config(self) -> None:
        """Leave the configuration as it is: all is said."""

    @property
    def lightning_restore_optimizer(self) -> bool:
        """As of any run."""
        return True

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        """Write it where this is the first rank."""
        super(DeepSpeedStrategy, self).save_checkpoint(checkpoint, filepath, storage_options)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Read it."""
        return super(DeepSpeedStrategy, self).load_checkpoint(checkpoint_path, weights_only)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Take up the weights."""
        super(DeepSpeedStrategy, self).load_model_state_dict(checkpoint, strict)

    def optimizer_state(self, optimizer: Any) -> dict[str, Any]:
        """The parts of all ranks, on the first; nothing on the others."""
        parts: list[Any] | None = [None] * ranks.size() if ranks.lead() else None
        dist.gather_object(zero.state(self.optimizers[0]), parts, group=self.side)
        return {"zero": parts} if parts is not None else {}

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Take up this rank's part.

        Raises:
            BadInput: other ranks have written it.
        """
        parts = checkpoint["optimizer_states"][0]["zero"]
        if len(parts) != ranks.size():
            raise BadInput(
                f"trainer.devices: {len(parts)} ranks have written the checkpoint, {ranks.size()} go on, and DeepSpeed "
                "has shared the optimizer out between them; give as many as before"
            )
        zero.load_state_(self.optimizers[0], parts[ranks.number()])
