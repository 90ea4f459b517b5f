"""Whether a configuration fits the constructors that it names: the constructor is the only schema."""

from __future__ import annotations

import difflib
import inspect
import logging
import re
import typing
from collections.abc import Iterator, Sequence
from dataclasses import is_dataclass
from functools import partial
from typing import Annotated, Any

from hydra.errors import InstantiationException
from hydra.utils import get_object, instantiate
from pydantic import BaseModel, Field, PositiveInt

from esolab import allowed
from esolab.errors import BadInput

logging.getLogger("hydra.utils").disabled = True  # it logs what it raises
build = partial(instantiate, _convert_="all")  # only plain Python crosses the border

FROM_ESOLAB = ("parts", "folder", "config")  # arguments that a run gives to what is built in parts


class Stage(BaseModel, extra="forbid"):
    """A stage of an experiment: a run or several, or judgements, as overrides in Hydra's grammar."""

    name: Annotated[str, Field(pattern=r"^\w+$")]
    run: list[str] | None = None
    judge: list[str] | None = None


class Sweep(BaseModel, extra="forbid"):
    """How a sweep is done."""

    jobs: PositiveInt


# types of what stands outside of a constructor call
Seed = Annotated[int, Field(ge=0, lt=2**32)]  # what numpy takes
OUTSIDE: dict[str, Any] = {
    "seed": Seed,
    "rerun": bool,
    "outputs": str,
    "data_root": str | None,
    "about": str | None,
    "stages": list[Stage] | None,
    "trunks": bool,
    "sweep": Sweep,
    "orders": typing.Literal["one", "both"],
}


def near(word: str, words: Sequence[str]) -> str:
    """The words `, did you mean X?` for the nearest X, nothing where none is near."""
    found = difflib.get_close_matches(word, words, n=1, cutoff=0.6)
    return f", did you mean {found[0]}?" if found else ""


def near_key(key: str, keys: Sequence[str]) -> str:
    """The same for a key in full: `lam` is near method.lam. The last part has to be alike, or else nearly all of it."""
    last = key.rpartition(".")[2]
    alike = {k: _alike(last, k.rpartition(".")[2]) for k in keys}
    found = sorted((alike[k] + _alike(key, k), k) for k in keys if alike[k] >= 0.6) or [
        (_alike(key, k), k) for k in keys if _alike(key, k) >= 0.8
    ]
    return f", did you mean {max(found)[1]}?" if found else ""


def _alike(word: str, other: str) -> float:
    return difflib.SequenceMatcher(None, word, other).ratio()


def check(config: dict[str, Any]) -> Iterator[str]:
    """Where the configuration does not fit the constructors it names, a line each. Nothing is trained or downloaded."""
    built: dict[str, Any] = {}
    strange = list(allowed.strangers(config))
    misfitting = [path for path, _ in strange]
    yield from (line for _, line in strange)
    for path, node in _nodes(config):
        if path in misfitting:
            continue
        misfits = list(_fit(path, node))
        if not misfits and not any(inner.startswith(f"{path}.") for inner in misfitting):
            try:
                built[path] = build(node)
                getattr(get_object(node["_target_"]), "ready", lambda: None)()  # see training.needing
            except BadInput as error:
                misfits = [_placed(str(error), path)]
            except InstantiationException as error:
                cause = error.__cause__
                if not isinstance(cause, ValueError):
                    raise
                misfits = [_placed(str(cause), path)]
        misfitting += [path] * bool(misfits)
        yield from misfits
    yield from plain_values(config)
    if not strange:
        yield from _together(config, built)


def _placed(said: str, path: str) -> str:
    """What a constructor says of its settings, as if it were a group itself, placed at a node inside another."""
    group = path.partition(".")[0]
    return said if path == group else re.sub(rf"(?<![\w./:=]){group}\.", lambda _: f"{path}.", said)


def plain_values(config: dict[str, Any]) -> Iterator[str]:
    """Misfits of the values that stand outside of a constructor call."""
    for key, kind in OUTSIDE.items():
        if key in config:
            yield from _misfit(key, config[key], kind)


def _misfit(place: str, value: Any, kind: Any) -> Iterator[str]:
    """What keeps a value from being of a type, strictly: no text for a number, no truth value for a count. One line for
    each key where it is a mapping of known keys: the items of a list and the alternatives of a union are one misfit."""
    from pydantic import TypeAdapter, ValidationError

    try:
        TypeAdapter(kind).validate_python(value, strict=True)
    except ValidationError as error:
        said: dict[tuple[str, ...], str] = {}
        for misfit in error.errors():
            steps = _steps(value, misfit["loc"], misfit["type"] == "missing")
            here = ".".join([place, *map(str, steps)])
            line = {
                "missing": f"{here}: no value; give {here}=...",
                "extra_forbidden": f"{here}: unknown key",
            }.get(misfit["type"], f"{here}={misfit['input']}: {misfit['msg'][0].lower()}{misfit['msg'][1:]}")
            said.setdefault(tuple(step for step in steps if isinstance(step, str)), line)
        yield from said.values()


def _steps(value: Any, location: Sequence[int | str], missing: bool) -> list[int | str]:
    """The keys and indices in a location of pydantic's, which names the alternatives of a union, too."""
    steps: list[int | str] = []
    for step in location:
        if isinstance(step, int) or (isinstance(value, dict) and (step in value or missing)):
            steps.append(step)
            value = value.get(step) if isinstance(value, dict) else value[step]
    return steps


def _nodes(node: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every constructor call in the configuration, inner ones first."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield from _nodes(value, f"{path}.{key}" if path else key)
        if "_target_" in node:
            yield path, node


def settable(node: Any) -> list[str]:
    """What can be given to the constructor that a node names; nothing where it cannot be imported, or must not be."""
    if any(allowed.strangers(node)):
        return []
    try:
        names = inspect.signature(get_object(node["_target_"])).parameters
    except Exception:  # no constructor call, or whatever an unknown module raises on import
        return []
    return [name for name in names if name not in FROM_ESOLAB]


def _fit(path: str, node: dict[str, Any]) -> Iterator[str]:
    """One node against the signature of its target: names, then types and ranges."""
    try:
        target = get_object(node["_target_"])
    except Exception as error:  # whatever an unknown module raises on import is the message
        yield f"{path}._target_: {node['_target_']!r} cannot be imported ({' '.join(str(error).split())})"
        return
    if not allowed.fits(target, node["_target_"]):
        module = node["_target_"].rpartition(".")[0]
        yield allowed.refused(f"{path}._target_", node["_target_"], module)
        return
    function = target.__init__ if inspect.isclass(target) else target
    parameters = inspect.signature(target).parameters
    hints = typing.get_type_hints(target if is_dataclass(target) else function, include_extras=True)
    arguments = {k: v for k, v in node.items() if k not in ("_target_", "_partial_")}
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return
    known = [f"{path}.{name}" for name in settable(node)]
    for key, value in arguments.items():
        if key not in parameters:
            yield f"{path}.{key}: unknown key{near_key(f'{path}.{key}', known)}"
        elif key in hints and not (isinstance(value, dict) and "_target_" in value):
            yield from _misfit(f"{path}.{key}", value, hints[key])
    needed = [p for p in parameters.values() if p.default is p.empty and p.kind is not p.VAR_POSITIONAL]
    given = [*arguments, *(FROM_ESOLAB if node.get("_partial_") else ())]
    for parameter in needed:
        if parameter.name not in given:
            yield f"{path}.{parameter.name}: no value; give {path}.{parameter.name}=..."


def _together(config: dict[str, Any], built: dict[str, Any]) -> Iterator[str]:
    """What fits by itself but not beside the rest."""
    method, positions = config.get("method", {}).get("_target_"), None
    if method is not None and "sampling" in built:
        k, needed = built["sampling"].k, getattr(get_object(method), "min_k", 1)
        if k < needed:
            yield f"sampling.k={k}: {config['choices']['method']} compares answers; give at least {needed}"
        elif k % 2 and (said := getattr(get_object(method), "even_k", "")):
            yield said.format(k=k)
    if "model" in built:
        try:
            positions = built["model"].max_positions
        except BadInput as error:
            yield str(error)
    for corpus in (node for path, node in built.items() if path == "data" or path.startswith("corpora.")):
        try:
            if getattr(corpus, "path", None) or getattr(corpus, "root", None):
                getattr(corpus, "local", lambda: None)()  # whether the place is there; nothing is read
        except BadInput as error:
            yield str(error)
    corpora = {config["choices"]["data"]: config["data"], **config["corpora"]} if "corpora" in config else {}
    for name, node in corpora.items():
        prompt, response = node.get("max_prompt"), node.get("max_response")
        if node is config["data"] and "sampling" in built and isinstance(response, int):
            response = max(response, built["sampling"].max_new_tokens)
        if positions and isinstance(prompt, int) and isinstance(response, int):
            yield from too_long(name, prompt, response, config["choices"]["model"], positions)


def too_long(data: str, prompt: int, response: int, model: str, positions: int) -> Iterator[str]:
    """Say that prompt and response, in tokens, do not fit the policy's positions together, where they do not."""
    if prompt + response > positions:
        yield (
            f"data.max_prompt={prompt} and data.max_response={response} of {data}: together {prompt + response} "
            f"tokens, {model} has {positions} positions; lower one of them"
        )
