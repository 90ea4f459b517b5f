"""Whose code a configuration may name: ours, that of what we stand on, and what a person names on the command line.

A configuration file may come from anywhere, and to import a module is to run it. So a `_target_` or a `function` of a
module that nobody here has named is refused before anything is imported; and so is a model that brings its own.
"""

from __future__ import annotations

import inspect
import json
import pickle
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from esolab.errors import BadInput

HOUSE = ("esolab", "torch", "pytorch_lightning", "transformers")
MAKERS = ("esolab.loggers",)  # modules whose functions make what is configured, as classes do elsewhere
KINDS = ("Module", "Optimizer", "LRScheduler", "Logger", "Callback")  # of classes of the libraries that do nothing else
NAMES = re.compile(
    r"""(?<!\w)(_target_|function)['"]?\s*[=:]\s*['"]?([\w.]+)"""
)  # in an override, or a node within one
_given: ContextVar[tuple[str, ...]] = ContextVar("given", default=())


def given() -> list[str]:
    """The modules that a person has named, beside ours."""
    return list(dict.fromkeys(_given.get()))


@contextmanager
def allowing(modules: Iterable[str]) -> Iterator[None]:
    """Inside, configurations may name code of these modules, and of those below them, too."""
    token = _given.set((*_given.get(), *modules))
    try:
        yield
    finally:
        _given.reset(token)


def flags(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The modules that `--allow MODULE` names in a command line, and the rest of it. Raises BadInput."""
    modules, rest, left = [], [], iter(arguments)
    for argument in left:
        flag, equals, module = argument.partition("=")
        if flag != "--allow":
            rest.append(argument)
            continue
        module = module if equals else next(left, "")
        if not re.fullmatch(r"\w+(\.\w+)*", module):
            raise BadInput(f"--allow {module}: no name of a module; give --allow MODULE, as --allow mypackage.rewards")
        modules.append(module)
    return modules, rest


def named(overrides: Iterable[str]) -> list[str]:
    """The modules whose code overrides name, as reward._target_=MODULE.Class or reward.function=MODULE:name."""
    found = [match.groups() for override in overrides for match in NAMES.finditer(override)]
    modules = [name.rpartition(".")[0] or name if key == "_target_" else name for key, name in found]
    return [module for module in dict.fromkeys(modules) if not _within(module, HOUSE[:1])]


def strangers(node: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Where a configuration names code that nobody has allowed, and what to say of it. Nothing is imported."""
    for place, value, module in _code(node, path):
        if not _within(module, (*HOUSE, *given())):
            yield place.rpartition(".")[0], refused(place, value, module)


def trusted(config: Any) -> list[str]:
    """The flags that allow, in a process of its own, what a configuration names that has been checked here."""
    modules = dict.fromkeys(module for _, _, module in _code(config, "") if not _within(module, HOUSE[:1]))
    return [f"--allow={module}" for module in modules]


def _code(node: Any, path: str) -> Iterator[tuple[str, str, str]]:
    """Where a configuration names code: its place, value and module."""
    for place, value in _leaves(node, path):
        key = place.rpartition(".")[2]
        if key == "_target_":
            yield place, str(value), str(value).rpartition(".")[0] or str(value)
        elif key == "function" and isinstance(value, str) and value.partition(":")[0] and ":" in value:
            yield place, value, value.partition(":")[0]


def references(node: Any) -> Iterator[str]:
    """Places of a configuration that refer to others, to the environment or to whatever a resolver may do: what has
    been resolved has none, and what they stand for would escape every check."""
    yield from (place for place, value in _leaves(node, "") if isinstance(value, str) and "${" in value)


def _leaves(node: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Every value of a configuration by its place."""
    if isinstance(node, dict | list):
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            yield from _leaves(value, f"{path}.{key}" if path else str(key))
    else:
        yield path, node


def refused(place: str, value: str, module: str) -> str:
    """What to say of code that nobody has allowed."""
    return (
        f"{place}={value}: code from elsewhere, which was not imported; a configuration may name {', '.join(HOUSE)}, "
        f"and what the command line names: give --allow {module} if you trust it"
    )


def fits(target: Any, name: str) -> bool:
    """Whether what was found under an allowed name may be called: what a person has named, or a class. Behind names
    such as torch.os.system there is more, and functions such as torch.hub.load run what they are given."""
    if _within(name, given()) or getattr(target, "__module__", None) in MAKERS:
        return True
    bases = inspect.getmro(target) if inspect.isclass(target) else ()
    return any(
        _within(base.__module__, HOUSE[:1]) or (base.__name__ in KINDS and _within(base.__module__, HOUSE))
        for base in bases
    )


def refuse_code(place: str, folder: Path) -> None:
    """Refuse the folder of a model that comes with code of its own, which transformers would run, or ask whether to.

    Raises:
        BadInput: it does.
    """
    for file in (folder / "config.json", folder / "tokenizer_config.json"):
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):  # said by whoever needs it
            continue
        if isinstance(found, dict) and "auto_map" in found:
            raise BadInput(
                f"{place}={folder}: its {file.name} names code of its own (auto_map: {str(found['auto_map'])[:100]}), "
                "which esolab never runs; give a model of a family that transformers has, without auto_map"
            )


def why_unread(error: Exception) -> str:
    """Why a model's files could not be read, on one line of at most 200 characters: errors of the libraries have their
    reasons on any of their lines, and torch's of a pickle explains how to run what is in it."""
    if isinstance(error, pickle.UnpicklingError):
        return "it holds more than weights, such as code, and nothing of it was run; give weights in safetensors"
    said = " ".join(str(error).split())
    if "trust_remote_code" in said:
        return "it needs code of its own, which esolab never runs"
    return said if len(said) <= 200 else said[:199] + "…"


def _within(module: str, allowed: Iterable[str]) -> bool:
    return any(module == one or module.startswith(f"{one}.") for one in allowed)
