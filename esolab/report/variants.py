"""What a table has as its rows: runs that differ in nothing but their seed, named by what tells them apart."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from esolab.identity import ELSEWHERE, aside, flat
from esolab.report.folders import Run, answered, whole

ORDER = ("sft", "unlike", "drl", "rrhf", "eso")  # the rows of the paper's tables; other methods come after
CHOICES = ("model", "data", "reward", "protocol")  # what a variant is named by where it differs, before single values
PLACES = (*ELSEWHERE, "seed", "choices", "corpora", "data_root")  # no part of what a variant is
NEAREST = ("method", "sampling", "sft", "optimizer", "trainer", "reward", "model", "data", "evaluation", "protocol")
Leaves = dict[str, Any]  # the values of a configuration by their dotted keys
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast where libyaml is there


@dataclass(frozen=True, eq=False)  # one variant is only itself: its runs hold dictionaries
class Variant:
    """Runs that differ in nothing but their seed, in the order of their seeds.

    `name` is the method and the values that no other variant of the method has, as "ESO lam=0.5"; `settings` are these
    values as words, by their keys: {"method.lam": "lam=0.5"}. `short` is the name among those that answered a corpus:
    without the data that it learned from, where no other of them is called so.
    """

    name: str
    short: str
    method: str
    runs: tuple[Run, ...]
    settings: Mapping[str, str] = field(default_factory=dict)

    @property
    def seeds(self) -> list[int]:
        """The seeds of its runs, one each."""
        return [run.result["seed"] for run in self.runs]

    def decodings(self, data: str) -> list[str]:
        """The decodings under which any of its runs answered a corpus."""
        return list(dict.fromkeys(how for run in self.runs for how in answered(run.result["scores"], data)))


def variants(runs: Sequence[Run]) -> list[Variant]:
    """The runs by variant, methods in the paper's order and values from low to high.

    A run that is there twice, as one that two experiments share, counts once.
    """
    groups: dict[str, dict[int, Run]] = {}
    for run in runs:
        same = run.result.get("but_for_seed", str(run.folder))
        groups.setdefault(same, {}).setdefault(run.result["seed"], run)
    found = [[group[seed] for seed in sorted(group)] for group in groups.values()]
    leaves = [_leaves(group[0]) for group in found]
    parts = [_parts(i, found, leaves) for i in range(len(found))]
    names = [
        " ".join([title(group[0].result["method"]), *own.values()]) for group, own in zip(found, parts, strict=True)
    ]
    alike = Counter(names)
    shorts = _shorts(found, parts)
    made = []
    for group, name, short, own in zip(found, names, shorts, parts, strict=True):
        method, code = group[0].result["method"], group[0].folder.name.rpartition("-")[2]
        unique = name if alike[name] == 1 else f"{name} {code}"
        variant = Variant(unique, short or unique, method, tuple(group), own)
        made.append((_rank(method), [_size(value) for value in own.values()], variant))
    return [variant for *_, variant in sorted(made, key=lambda item: item[:2])]


def title(method: str) -> str:
    """A method as a table names it: "ESO", "Unlike"."""
    return method.upper() if len(method) < 6 else method.replace("_", " ").capitalize()


def _shorts(groups: Sequence[Sequence[Run]], parts: Sequence[Mapping[str, str]]) -> list[str | None]:
    """The names without the data, None for one that another variant that answered the same corpus would have, too."""
    shorts, corpora = [], []
    for group, own in zip(groups, parts, strict=True):
        words = [word for key, word in own.items() if key != "data"]
        shorts.append(" ".join([title(group[0].result["method"]), *words]))
        corpora.append({data for run in group for data in run.result["scores"]})
    alike = Counter((short, data) for short, of in zip(shorts, corpora, strict=True) for data in of)
    return [
        short if all(alike[short, data] == 1 for data in of) else None
        for short, of in zip(shorts, corpora, strict=True)
    ]


def configuration(run: Run) -> dict[str, Any]:
    """What its config.yaml holds; empty where its folder has none."""
    return load(run.folder)


def load(folder: Path) -> dict[str, Any]:
    """The configuration in the folder of a run; empty where there is none."""
    file = folder / "config.yaml"
    with whole(file):
        return dict(yaml.load(file.read_text(encoding="utf-8"), LOADER)) if file.is_file() else {}


def _leaves(run: Run) -> Leaves:
    """The values that a run can differ in; of a folder without config.yaml the overrides in its name."""
    config = configuration(run)
    if not config:
        return {key: value for key, _, value in (w.partition("=") for w in run.words) if key not in ("seed", "method")}
    kept = {key: value for key, value in config.items() if key not in PLACES and value is not None}
    none, ends = aside(config), ("_target_", "_partial_", ".root")
    return {key: value for key, value in flat(kept) if key not in none and not key.endswith(ends)}


def _parts(i: int, groups: Sequence[Sequence[Run]], leaves: Sequence[Leaves]) -> dict[str, str]:
    """What follows the method in the name of a variant, by key: the choices that differ among the variants of the
    method, then the values that differ among those with the same choices."""
    own = groups[i][0].result
    alike = [j for j, group in enumerate(groups) if group[0].result["method"] == own["method"]]
    choices = [c for c in CHOICES if len({str(groups[j][0].result.get(c)) for j in alike}) > 1]
    named = {choice: str(own.get(choice)) for choice in choices}
    alike = [j for j in alike if all(groups[j][0].result.get(c) == own.get(c) for c in choices)]
    keys = _telling([leaves[j] for j in alike])
    short = Counter(key.rpartition(".")[2] for key in keys)
    for key in keys:
        if key in leaves[i] and not _off(leaves[i][key], [leaves[j].get(key) for j in alike]):
            end = key.rpartition(".")[2]
            named[key] = f"{end if short[end] == 1 else key}={_said(leaves[i][key])}"
    return named


def _telling(leaves: Sequence[Leaves]) -> list[str]:
    """The keys whose values differ, the nearest to the method first; one whose values are another's is left out, as
    protocol.lam beside method.lam."""
    keys = list(dict.fromkeys(key for own in leaves for key in own))
    keys.sort(key=lambda key: NEAREST.index(top) if (top := key.partition(".")[0]) in NEAREST else len(NEAREST))
    kept: dict[str, str] = {}
    for key in keys:
        values = [json.dumps(own.get(key), sort_keys=True) for own in leaves]
        if len(set(values)) > 1 and (said := " ".join(values)) not in kept:
            kept[said] = key
    return list(kept.values())


def _off(value: Any, among: Sequence[Any]) -> bool:
    """Whether a value is the absence of what few of the others have: no word is needed for it."""
    return (value is None or value is False) and 2 * among.count(value) > len(among)


def _said(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list):
        return f"[{','.join(map(_said, value))}]"
    return Path(value).name if isinstance(value, str) and "/" in value else str(value)


def _rank(method: str) -> tuple[int, str]:
    return (ORDER.index(method), "") if method in ORDER else (len(ORDER), method)


def _size(part: str) -> tuple[float, str]:
    """Sorts "k=10" after "k=8"."""
    try:
        return float(part.rpartition("=")[2]), part
    except ValueError:
        return float("inf"), part
