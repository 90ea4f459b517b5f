"""LoRA: low-rank adapters beside the linear layers of a network, which are trained in place of its weights (Hu et al.
2022), by peft. When training is over they are merged into the weights, and nothing tells the network from any other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import torch
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.pytorch_utils import Conv1D

from esolab.errors import BadInput


@dataclass(frozen=True)
class Lora:
    """Which adapters there are.

    Args:
        r: rank of each; 0: none, and all weights are trained.
        alpha: an adapter's product counts alpha / r times.
        targets: names of the linear layers that get one, as `c_attn`; None: all of the blocks.
    """

    r: NonNegativeInt = 0
    alpha: PositiveInt | PositiveFloat = 16
    targets: Annotated[list[str], Field(min_length=1)] | None = None

    def adapt(self, network: PreTrainedModel, dropout: float) -> None:
        """Freeze a network and put adapters beside its layers, which change nothing as yet. They are held in fp32 where
        the weights are narrower: steps are too small for bf16.

        Raises:
            BadInput: no layer is called like one of the targets.
        """
        from peft import LoraConfig, inject_adapter_in_model

        layers = self._chosen(linear(network))
        if not layers:
            raise BadInput("model.lora.r: the model's blocks have no linear layers; give model.lora.r=0")
        turned = any(isinstance(layer, Conv1D) for layer in layers.values())  # GPT-2 keeps matrices the other way round
        config = LoraConfig(
            r=self.r,
            lora_alpha=self.alpha,
            lora_dropout=dropout,
            target_modules=list(layers),
            fan_in_fan_out=turned,
        )
        inject_adapter_in_model(config, network)
        for weight in network.parameters():
            if weight.requires_grad and weight.dtype != torch.float32:
                weight.data = weight.data.float()
        body: Any = network.base_model
        body.adapters_dropout = dropout  # see Policy.dropout
        network.train(network.training)  # those that are new, too

    def _chosen(self, layers: dict[str, nn.Module]) -> dict[str, nn.Module]:
        """Of layers by their names those that get an adapter."""
        if self.targets is None:
            return layers
        for target in self.targets:
            if not any(_called(name, target) for name in layers):
                there = ", ".join(dict.fromkeys(name.rpartition(".")[2] for name in layers))
                raise BadInput(f"model.lora.targets: no layer is called {target!r}; the model has {there}")
        return {n: layer for n, layer in layers.items() if any(_called(n, target) for target in self.targets)}


def linear(network: PreTrainedModel) -> dict[str, nn.Module]:
    """The linear layers of the blocks by their names."""
    blocks = [f"{name}." for name, m in network.named_modules() if isinstance(m, GradientCheckpointingLayer)]
    kinds = (nn.Linear, Conv1D)
    return {n: m for n, m in network.named_modules() if isinstance(m, kinds) and n.startswith(tuple(blocks))}


def _called(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")


def merge(network: PreTrainedModel) -> None:
    """Add what adapters there are to the weights, and leave a network without any; nothing where there is none."""
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if hasattr(child, "get_base_layer"):
                layer: Any = child
                layer.merge()
                setattr(parent, name, layer.get_base_layer())
    if hasattr(network.base_model, "adapters_dropout"):
        del network.base_model.adapters_dropout
    for holder in (network, network.base_model):
        vars(holder).pop("peft_config", None)
