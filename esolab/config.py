"""Composing a configuration: all that does not fit is said at once, with the nearest right word."""

from __future__ import annotations

import json
import os
import re
import sys
import typing
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import ConfigCompositionException, HydraException, OverrideParseException
from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from esolab.allowed import allowing, named, references
from esolab.check import build as build
from esolab.check import check, near, near_key, plain_values, settable
from esolab.errors import BadInput
from esolab.identity import HOW

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "plugins"))  # Hydra accepts a launcher only from a package called hydra_plugins
CONF = HERE / "conf" if (HERE / "conf").is_dir() else HERE.parent / "conf"  # in the wheel, in a checkout

NO_PART = (
    "experiments",
    "scale",
    "stages",
    "outputs",
    "rerun",
    "logger",
    "hydra",
    "sweep",
    "trunks",
    "about",
    *map(re.escape, HOW),
)  # of what tells runs apart

OmegaConf.register_new_resolver("cores", lambda: len(os.sched_getaffinity(0)), replace=True)
OmegaConf.register_new_resolver("either", lambda given, yes, no: no if given is None else yes, replace=True)


def resolve(overrides: Sequence[str], name: str = "config") -> dict[str, Any]:
    """The configuration that the overrides make, as plain data with every reference resolved and checked.

    Beside what the yamls hold it has `choices` (the choice in each group, for the records), `slug` (the overrides as
    words, for the folder's name) and `corpora` (the nodes of evaluation sets other than the training corpus, by name).

    Raises:
        BadInput: everything that does not fit, a line each.
    """
    with allowing(named(overrides)):
        config, misfits = _compose([_readable(o) for o in overrides], name)
        misfits += check(config)
    if misfits:
        raise BadInput("\n".join(_once(misfits)))
    return config


def staged(overrides: Sequence[str]) -> dict[str, Any] | None:
    """The configuration of the experiment that the overrides name, as far as it is common to its stages; None where it
    has none. In `stages` `${stage.NAME}` is left as it stands.

    Raises:
        BadInput: it has stages, and its scale or the form of the stages does not fit.
    """
    common = r"[+~]*(experiments|scale|stages|data_root|outputs)([.=]|$)"
    config, misfits = _compose([_readable(o) for o in overrides if re.match(common, o)], "config")
    if not config.get("stages"):
        return None
    if misfits := [*misfits, *plain_values(config)]:
        raise BadInput("\n".join(_once(misfits)))
    return config


def load(file: Path) -> dict[str, Any]:
    """A resolved configuration, as `resolve` made it, from a run's config.yaml.

    Raises:
        BadInput: it is something else, or does not fit.
    """
    wanted = "give the config.yaml of a run's folder"
    try:
        found = OmegaConf.to_container(OmegaConf.load(file))
        config: dict[str, Any] = dict(found) if isinstance(found, dict) else {}  # type: ignore[arg-type]
    except (OSError, ValueError, YAMLError, OmegaConfBaseException) as error:
        raise BadInput(f"--resolved {file}: cannot be read ({' '.join(str(error).split())}); {wanted}") from error
    whole = resolve([])
    missing = [key for key in whole if key not in config]
    if not missing:
        missing = [f"choices.{key}" for key in whole["choices"] if key not in (config["choices"] or ())]
    if missing:
        said = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        raise BadInput(f"--resolved {file}: has no {said}; {wanted}")
    _refuse_unresolved(file, config)
    if misfits := list(check(config)):
        raise BadInput("\n".join(_once(misfits)))
    return config


def _refuse_unresolved(file: Path, config: dict[str, Any]) -> None:
    """A resolved configuration has no ${...}, and a folder's name that stays in its folder. Raises BadInput."""
    if places := list(references({k: v for k, v in config.items() if k not in ("about", "stages")})):
        raise BadInput(f"--resolved {file}: {', '.join(places[:3])}: holds ${{...}}; give its value instead")
    for place, name in (("slug", config["slug"]), ("choices.experiments", config["choices"]["experiments"])):
        if name is not None and not re.fullmatch(r"[\w.,=+-]*\w[\w.,=+-]*", str(name)):
            raise BadInput(
                f"--resolved {file}: {place}={name}: no name of a folder; give letters, digits and .,=+- alone"
            )


def judge(overrides: Sequence[str]) -> None:
    """Whether a command line with Hydra's flags composes, a sweep with the first of its choices; cheap.

    Raises:
        BadInput: overrides that fit neither by themselves nor beside the first choices of the sweep.
    """
    parser = OverridesParser.create()
    try:
        parsed = [(o, parser.parse_override(o)) for o in overrides]
    except HydraException as error:
        said, reason = _public(" ".join(overrides)), _public(str(error).splitlines()[0])
        raise BadInput(f"{said}: cannot be read as key=value ({reason})") from error
    first = [
        f"{p.get_key_element()}={next(p.sweep_string_iterator())}" if p.is_sweep_override() else o for o, p in parsed
    ]
    swept = {o for o, p in parsed if p.is_sweep_override()}
    alone = [o for o in overrides if o not in swept and not o.startswith("hydra")]
    with _hydra():
        misfits = _fitting(alone, "config")[1]
        if misfits and swept:
            again = _fitting([o for o in first if not o.startswith("hydra")], "config")[1]
            misfits = [misfit for misfit in misfits if misfit in again]
    if misfits:
        raise BadInput("\n".join(misfits))


def _readable(override: str) -> str:
    """The override; a value with an equals sign, as the path of every run's folder has, quoted for Hydra's grammar."""
    key, _, value = override.partition("=")
    if "=" not in value:
        return override
    try:
        OverridesParser.create().parse_override(override)
    except HydraException:
        quote = f"{key}={quoted(value)}"
        return quote if Path(value).exists() else override
    return override


def quoted(value: Any) -> str:
    """A value as Hydra's grammar reads it back: in a quoted string only backslashes before a quote are escapes."""
    if not isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    escaped = re.sub(r'(\\*)("|$)', lambda m: m[1] * 2 + ('\\"' if m[2] else ""), value)
    return f'"{escaped}"'


def _once(misfits: Sequence[str]) -> list[str]:
    """Each misfit once: a value that others refer to by its own name is said where it stands first, and a key without a
    value is not of a wrong type, too."""
    said: dict[tuple[str, str], str] = {}
    for misfit in misfits:
        setting, _, wrong = misfit.partition(": ")
        place, _, value = setting.partition("=")
        if value != "None" or not any(other.startswith(f"{place}: no value; ") for other in misfits):
            said.setdefault((place.rpartition(".")[2] if value else place, f"{value}: {wrong}"), misfit)
    return list(said.values())


def _compose(overrides: Sequence[str], name: str) -> tuple[dict[str, Any], list[str]]:
    with _hydra():
        good, misfits = _fitting(overrides, name)
        config, more = _plain(good, name)
        return config, misfits + more


@contextmanager
def _hydra() -> Iterator[None]:
    """Hydra ready to compose from our folder; one that was there before is there after."""
    saved = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(CONF.absolute()), version_base="1.3"):
            yield
    finally:
        GlobalHydra.instance().hydra = saved


def _fitting(overrides: Sequence[str], name: str) -> tuple[list[str], list[str]]:
    """Overrides that compose, and a line for each that does not. Group choices come first, as values hang on them."""
    deleted = [o for o in overrides if re.match(r"~(?!hydra\b|experiments\b)[^.=]+(\.[^.=]+)?(=|$)", o)]
    if deleted:
        rest = _fitting([o for o in overrides if o not in deleted], name)
        return rest[0], [*map(_needed, deleted), *rest[1]]
    try:
        compose(name, list(overrides))
        return list(overrides), []
    except (HydraException, OmegaConfBaseException, ValueError):
        pass
    good: list[str] = []
    misfits: list[str] = []
    lost: list[str] = []  # groups whose choice is unknown: what is set below them cannot be judged
    for override in sorted(overrides, key=lambda o: not _is_choice(o)):
        key = override.lstrip("+~").partition("=")[0]
        if any(key.startswith(f"{group}.") for group in lost):
            continue
        try:
            compose(name, [*good, override])
            good.append(override)
        except (HydraException, OmegaConfBaseException, ValueError) as error:
            misfits.append(_explain(override, error, lambda: compose(name, good)))
            if _is_choice(override):
                lost.append(key)
    return good, misfits


def _needed(deletion: str) -> str:
    """What to say to one who takes away what every run has."""
    key = deletion[1:].partition("=")[0]
    return f"{deletion}: a run needs {key}; leave {deletion} out, or give another value with {key}=..."


def _is_choice(override: str) -> bool:
    key = override.lstrip("+~").partition("=")[0].partition("@")[0]
    return bool(key) and (CONF / key).is_dir()


def _explain(override: str, error: Exception, base: Any) -> str:
    """Hydra's error about one override as one line with the way out."""
    key, _, value = override.lstrip("+~").partition("=")
    text = str(error)
    if isinstance(error, OverrideParseException) or not key:
        return f"{_public(override)}: cannot be read as key=value ({_public(text.splitlines()[0])})"
    if _is_choice(override):
        choices = sorted(p.stem for p in (CONF / key).glob("*.yaml"))
        if value not in choices:
            return f"{key}={value}: no such choice{near(value, choices) or ';'} choices: {', '.join(choices)}"
    if "not in struct" in text or "not in the defaults list" in text.lower() or "Could not override" in text:
        config = base()
        keys, (parent, _, last) = dict(_items(OmegaConf.to_container(config))), key.rpartition(".")
        if last in settable(keys.get(parent)):
            return f"{override}: no key of {parent}'s yaml, but its constructor has it; give +{key}={value}"
        return f"{override}: unknown key{near_key(key, list(keys))}"
    if isinstance(error, ConfigCompositionException) and error.__cause__ is not None:
        text = str(error.__cause__)
    return f"{override}: {' '.join(text.split())}"


def _public(text: str) -> str:
    """A text without what may be a secret in its addresses: a user's name and password, and what is asked."""
    return re.sub(r"(\w://)(?:\S*@)?([^?\s]*)(\?\S*)?", lambda m: m[1] + m[2] + ("?..." if m[3] else ""), text)


def _items(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every key in full with its value, groups included."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield f"{prefix}{key}", value
            yield from _items(value, f"{prefix}{key}.")


def _plain(overrides: list[str], name: str) -> tuple[dict[str, Any], list[str]]:
    composed = compose(name, overrides, return_hydra_config=True)
    choices = {k: v for k, v in composed.hydra.runtime.choices.items() if not str(k).startswith("hydra/")}
    OmegaConf.set_struct(composed, False)
    del composed["hydra"]
    missing = sorted(key for key, value in _items(OmegaConf.to_container(composed)) if value == MISSING)
    misfits = [f"{key}: no value; give {key}=..." for key in missing]
    for key in missing:
        OmegaConf.update(composed, key, None)
    named = set(re.findall(r"\$\{stage\.(\w+)\}", OmegaConf.to_yaml(composed))) if "stages" in composed else ()
    if named:
        composed.stage = {stage: f"\\${{stage.{stage}}}" for stage in named}  # stands for itself until it is run
    try:
        config = typing.cast(dict[str, Any], OmegaConf.to_container(composed, resolve=True))
    except OmegaConfBaseException as error:
        return {}, [*misfits, f"{error.full_key}: {str(error).splitlines()[0]}"]
    config.pop("scale", None)  # of no use beyond what has referred to it
    if named:
        del config["stage"]
    if config.get("stages"):
        config["stages"] = _flat(config["stages"])
    if new := sorted(set(config) - set(_known(name))):
        misfits += [f"{key}: unknown key{near_key(key, list(_known(name)))}" for key in new]
    config["choices"] = choices
    config["slug"] = slug(overrides)
    if "data" in config.get("evaluation", ()):
        misfits += _add_evaluation_sets(config, overrides, name)
    return config, misfits


@cache
def _known(name: str) -> dict[str, Any]:
    """Every key in full that a configuration has before anything is overridden."""
    return dict(_items(OmegaConf.to_container(compose(name))))


def _flat(stages: Any) -> Any:
    """Stages with the lists of overrides that stand among their overrides, as those of a scale do, taken apart."""
    if isinstance(stages, dict):
        return {key: _flat(value) for key, value in stages.items()}
    if isinstance(stages, list):
        return [item for value in stages for item in (_flat(value) if isinstance(value, list) else [_flat(value)])]
    return stages


def _add_evaluation_sets(config: dict[str, Any], overrides: list[str], name: str) -> list[str]:
    """Make `evaluation.data` a list of names, and add the nodes of those that are not the training corpus."""
    own, wanted = config["choices"]["data"], config["evaluation"]["data"]
    names = [own] if wanted is None else [wanted] if isinstance(wanted, str) else wanted
    rest = [o for o in overrides if not re.match(r"[+~]*(data|evaluation)[.=]", o)]
    for_all = [o for o in overrides if re.match(r"data\.(max_prompt|max_response|skip_bad)=", o)]
    there = sorted(p.stem for p in (CONF / "data").glob("*.yaml"))
    config["evaluation"]["data"] = names
    config["corpora"], misfits = {}, []
    for corpus in names:
        if corpus not in there:
            misfits.append(
                f"evaluation.data: no corpus {corpus!r}{near(str(corpus), there) or ';'} corpora: {', '.join(there)}"
            )
        elif corpus == "file" != own:
            misfits.append("evaluation.data: file needs a data.path; name it with data=file, and the others here")
        elif corpus != own:
            has = compose(name, [*rest, f"data={corpus}"]).data if for_all else ()
            fitting = [o for o in for_all if o.partition("=")[0].removeprefix("data.") in has]
            node = compose(name, [*rest, f"data={corpus}", *fitting])
            config["corpora"][corpus] = OmegaConf.to_container(node, resolve=True)["data"]  # type: ignore[index,call-overload]
    return misfits


def slug(overrides: Iterable[str]) -> str:
    """Overrides as a folder's name: at most 60 characters, without those that do not tell runs apart."""
    words = [o for o in overrides if not re.match(rf"[+~]*({'|'.join(NO_PART)})([.=/]|$)", o)]
    return re.sub(r"[^\w.,=+-]", "-", ",".join(words))[:60].rstrip("-,.") or "default"
