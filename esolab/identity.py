"""What a run is: the settings that make it another, and those that do not."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

ELSEWHERE = (
    "logger",
    "outputs",
    "rerun",
    "scale",
    "about",
    "slug",
    "stages",
    "sweep",
    "trunks",
)  # not what a run is, but where it is kept, and why
FORWARDS = ("trainer.micro_batch", "trainer.micro_k")  # what goes through a forward together
HOW = (
    "trainer.save_every",
    "trainer.gradient_checkpointing",
    "evaluation.batch_size",
    *FORWARDS,
)  # how much is held at a time: the first two change no number, the others none but by rounding


def identity(config: Mapping[str, Any], fingerprints: Iterable[str]) -> str:
    """Eight characters that tell runs apart: a hash of the resolved configuration and of the local data it reads."""
    text = json.dumps([_own(config), list(fingerprints)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def differing(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """The dotted keys of what tells two resolved configurations apart as runs."""
    mine, other = dict(flat(_own(a))), dict(flat(_own(b)))
    return [key for key in {**mine, **other} if mine.get(key) != other.get(key)]


def flat(node: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """The values of a nested mapping with their dotted keys; a list is one value."""
    for key, value in node.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def _own(config: Mapping[str, Any]) -> Any:
    """The part of a resolved configuration that is what a run is."""
    own = {k: v for k, v in config.items() if k not in ELSEWHERE}
    own["choices"] = {k: v for k, v in own["choices"].items() if k not in ("experiments", "logger", "scale")}
    model = own.get("model")
    if isinstance(model, dict) and not model.get("lora", {}).get("r"):  # without adapters it says nothing
        own["model"] = {k: v for k, v in model.items() if k != "lora"}
    none = aside(config)
    for group in ("trainer", "evaluation"):  # a judgement has none
        if isinstance(own.get(group), dict):
            own[group] = {k: v for k, v in own[group].items() if f"{group}.{k}" not in none and (k, v) != ("nodes", 1)}
    return _alike(own)


def aside(config: Mapping[str, Any]) -> set[str]:
    """The dotted keys of HOW whose values make no other run of this one."""
    return set(HOW) - set(FORWARDS if noisy(config) else ())


def noisy(config: Mapping[str, Any]) -> bool:
    """Whether each forward draws noise of its own: under dropout."""
    model = config.get("model")
    return isinstance(model, Mapping) and bool(model.get("dropout"))


def _alike(value: Any) -> Any:
    """The same numbers written alike: lam=0 is lam=0.0."""
    if isinstance(value, dict):
        return {key: _alike(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_alike(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
