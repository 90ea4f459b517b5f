"""A model as preflight loads it: weighed, or as shapes without numbers."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeVar

import torch

from esolab.models import Model
from esolab.policy import Policy, Tokenizer
from esolab.preflight.gauge import resident


@dataclass(frozen=True)
class Weighed(Model):
    """The same model; `before` gets the bytes of the process right before its policy is loaded."""

    before: list[int] = field(default_factory=list)

    def load_policy(self, tokenizer: Tokenizer) -> Policy:
        """See Model."""
        self.before.append(resident())
        return super().load_policy(tokenizer)


@dataclass(frozen=True)
class Shapes(Weighed):
    """The same model on torch's meta device, from its architecture or its config: no weight is read, none allocated."""

    def load_policy(self, tokenizer: Tokenizer) -> Policy:
        """See Model."""
        self.before.append(resident())
        with torch.device("meta"):
            policy = Model.load_policy(of(Model, replace(self, weights="random")), tokenizer)
        return Shell(policy.network).train()


class Shell(Policy):
    """A policy that has no numbers to send anywhere."""

    def to(self, *args: Any, **others: Any) -> Shell:
        """Itself."""
        return self


Kind = TypeVar("Kind", bound=Model)


def of(kind: type[Kind], model: Model) -> Kind:
    """The same model as `kind`."""
    return kind(**{f.name: getattr(model, f.name) for f in fields(Model)})
