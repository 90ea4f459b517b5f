"""The stages of an experiment: runs and judgements in order, later ones from what earlier ones left."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from esolab import results
from esolab.check import near
from esolab.config import quoted, resolve, slug, staged
from esolab.errors import BadInput
from esolab.judge.__main__ import as_composed

REFERENCE = re.compile(r"\$\{stage\.(\w+)\}")
GOES_WITH = {"data": "evaluation.data", "model": "optimizer.lr"}  # another choice makes what a stage says of it void
ANY_MODEL = {  # the config of a model that serves as a policy and as a reward model, of any length
    "model_type": "gpt2",
    "n_positions": 2**30,
    "num_labels": 1,
    "architectures": ["GPT2ForSequenceClassification"],
}


@dataclass(frozen=True)
class Job:
    """A run or a judgement, alone (`stage` is empty) or of a stage.

    Args:
        stage: the name of its stage.
        overrides: what is composed; `${stage.NAME}` stands for the folder of an earlier stage's run.
        judges: it is a judgement.
        slug: its name, for its folder.
        words: what tells it from others of its stage.
        composed: its configurations, by what was composed.
    """

    stage: str
    overrides: Sequence[str]
    judges: bool = False
    slug: str = ""
    words: Sequence[str] = ()
    composed: dict[tuple[str, ...], dict[str, Any]] = field(default_factory=dict, compare=False, repr=False)

    @property
    def needs(self) -> list[str]:
        """The stages that it refers to."""
        return list(dict.fromkeys(REFERENCE.findall(" ".join(self.overrides))))

    def arguments(self, folders: Mapping[str, Path]) -> list[str]:
        """Its overrides with the folders in their places, as a command line takes them."""

        def folder(found: re.Match[str]) -> str:
            place = str(folders[found[1]])
            return place if self.judges else quoted(place)

        return [REFERENCE.sub(folder, override) for override in self.overrides]

    def config(self, folders: Mapping[str, Path]) -> dict[str, Any]:
        """Its configuration, resolved and checked. Raises BadInput."""
        arguments = tuple(self.arguments(folders))
        if arguments not in self.composed:
            self.composed[arguments] = self._compose(arguments)
        return self.composed[arguments]

    def _compose(self, arguments: Sequence[str]) -> dict[str, Any]:
        if self.judges:
            return resolve(as_composed(arguments), "judgement")
        config = resolve(arguments)
        return config | {"stages": None, "slug": self.slug} if self.stage else config


def plan(overrides: Sequence[str]) -> list[Job]:
    """The jobs of one command, in order: the one run that it describes, or those of its experiment's stages.

    All of them are composed and checked here, later ones with a stand-in for what earlier ones will leave.

    Raises:
        BadInput: whatever does not fit, a line each.
    """
    common = staged(overrides)
    if common is None:
        job = Job("", overrides)
        job.config({})
        return [job]
    outputs = Path(common["outputs"]) / results.experiment(common)  # of judgements, too
    overrides = [override for override in overrides if _group(override) != "stages"]
    misfits = [
        f"{o}: each stage has a method of its own; leave {o} out, or give stages"
        for o in overrides
        if _key(o) == "method"
    ]
    jobs: dict[str, list[Job]] = {}
    with TemporaryDirectory(prefix="esolab-") as folder:
        (Path(folder) / "config.json").write_text(json.dumps(ANY_MODEL))
        for stage in common["stages"]:
            name = stage["name"]
            if ("run" in stage) == ("judge" in stage):
                misfits.append(f"stage {name}: give it either run or judge, a list of overrides")
                continue
            own = _jobs(stage, overrides, outputs)
            said = dict.fromkeys(line for job in own for line in _misfits(job, jobs, Path(folder)))
            misfits += [f"stage {name}: {line}" for line in said]
            if name in jobs:
                misfits.append(f"stage {name}: there is another of this name; give each its own")
            jobs[name] = own
    if misfits:
        raise BadInput("\n".join(misfits))
    return [job for own in jobs.values() for job in own]


def _jobs(stage: Mapping[str, Any], command: Sequence[str], outputs: Path) -> list[Job]:
    """The jobs of a stage, one for each combination of its sweeps; judgements are kept below `outputs`."""
    name, judges = stage["name"], "judge" in stage
    listed = stage["judge"] if judges else _merged(stage["run"], command)
    choices = [_swept(override) for override in listed]
    jobs = []
    for chosen in product(*choices):
        words = [o for o, several in zip(chosen, choices, strict=True) if len(several) > 1]
        if judges:
            jobs.append(Job(name, [f"outputs={quoted(str(outputs))}", *chosen], judges, words=words))
        else:
            jobs.append(Job(name, chosen, slug=slug([f"stage={name}", *words, *command]), words=words))
    return jobs


def _swept(override: str) -> list[str]:
    """The values of an override in Hydra's grammar, as overrides; what cannot be read is left to be said."""
    try:
        parsed = OverridesParser.create().parse_override(override)
    except HydraException:
        return [override]
    if not parsed.is_sweep_override():
        return [override]
    values = (
        re.sub(r"\$\\{(stage\.\w+)\\}", r"${\1}", value) for value in parsed.sweep_string_iterator()
    )  # as escaped there
    return [f"{parsed.get_key_element()}={value}" for value in values]


def _merged(stage: Sequence[str], command: Sequence[str]) -> list[str]:
    """A stage's overrides under those of the command line, which win: a choice there, as data=file, takes the stage's
    settings of the group with it, and what hangs on it. But where an earlier stage gives a group one of its
    values, as model.path=${stage.sft}, the command line's settings of that group are for other stages."""
    given = {_group(override) for override in stage if REFERENCE.search(override)}
    rest = [override for override in command if _group(override) not in given]
    said = {_key(override) for override in rest}
    gone = {group for group in GOES_WITH if group in said}
    said |= {GOES_WITH[group] for group in gone}
    own = [override for override in stage if _key(override) not in said and _group(override) not in gone]
    return [*own, *rest]


def _key(override: str) -> str:
    return override.lstrip("+~").partition("=")[0]


def _group(override: str) -> str:
    return _key(override).partition(".")[0]


def _misfits(job: Job, earlier: Mapping[str, Sequence[Job]], stand_in: Path) -> Iterator[str]:
    """What is wrong with a job, as far as that can be known before the earlier ones have run."""
    for name in job.needs:
        if name not in earlier:
            there = ", ".join(earlier) or "none"
            yield f"${{stage.{name}}}: no earlier stage{near(name, list(earlier)) or ';'} earlier stages: {there}"
        elif len(earlier[name]) > 1 or earlier[name][0].judges:
            what = "judges" if earlier[name][0].judges else f"is a sweep of {len(earlier[name])} runs"
            yield f"${{stage.{name}}}: stage {name} {what}; name a stage of one run"
    try:
        job.config(dict.fromkeys(job.needs, stand_in))
    except BadInput as error:
        yield from str(error).splitlines()
