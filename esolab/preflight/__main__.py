"""`python -m esolab.preflight <overrides>`: what a run will see, hold, take and write, before it runs."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from rich.text import Text

from esolab import inputs
from esolab.allowed import allowing, flags
from esolab.assembly import Assembly, assemble, locate
from esolab.config import resolve
from esolab.errors import BadInput, memory_needed
from esolab.methods.nes import NES
from esolab.methods.ppo import PPO
from esolab.preflight import example, files, loading, plan, show
from esolab.preflight.dry import shared_out
from esolab.preflight.estimate import expected, learned
from esolab.preflight.gauge import room
from esolab.preflight.memory import gigabytes
from esolab.preflight.rehearsal import Measured, rehearse
from esolab.terminal import console

NO_MEASURE = "--no-measure"
USAGE = f"""usage: python -m esolab.preflight [{NO_MEASURE}] <overrides, as of python -m esolab>

Says where the run goes, shows an example as training sees it with its rewards, makes a few steps on the worst batches
(no weight changes, nothing is written) and says what they hold in memory, how long the run takes, and what it writes.
{NO_MEASURE} loads no weights and makes no step: memory is estimated, on a machine that cannot hold the model, too. With
trainer=fsdp the policy is also built, shared out between ranks that are not there, and taken through its steps without
numbers. Of several devices all is said of one of them.
--allow MODULE: a configuration may name code of this module of yours, as it may for python -m esolab.
"""


def main(arguments: list[str]) -> int:
    """Print the preflight of a run; the exit code."""
    if not {"-h", "--help"}.isdisjoint(arguments):
        print(USAGE, end="")
        return 0
    logging.getLogger("esolab").addHandler(logging.NullHandler())
    try:
        modules, rest = flags(arguments)
        overrides = [a for a in rest if a != NO_MEASURE]
        if unknown := [a for a in overrides if a.startswith("-")]:
            raise BadInput(
                f"{unknown[0]}: no flag of preflight; give overrides of one run, and {NO_MEASURE} or nothing"
            )
        with allowing(modules), memory_needed(f"{NO_MEASURE} says what it would take"):
            preflight(resolve(overrides), measure=NO_MEASURE not in arguments)
    except BadInput as error:
        print(error.shown(), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; nothing has been written", file=sys.stderr)
        return 130
    return 0


def preflight(config: dict[str, Any], measure: bool) -> None:
    """Say all there is to say of the run that a resolved configuration describes.

    Raises:
        BadInput: the run could not begin.
    """
    if config["stages"]:
        name = config["choices"]["experiments"]
        raise BadInput(f"experiments={name}: has stages, and preflight is of one run; give the overrides of a stage")
    place = locate(config)
    inputs.refuse_changed(config, place)
    say(*files.heading(config, place))
    model = loading.of(loading.Weighed if measure else loading.Shapes, place.model)
    run = assemble(config, replace(place, model=model))
    done = files.done(config, place, run)
    kinds, answering = plan.kinds(run, done), plan.answering(run, done)
    say(*example.lines(run, drawn=measure))
    measured = _rehearsed(run, kinds, answering, model.before[0]) if measure else Measured()
    _say_memory(run, kinds, answering, model.before[0], measured)
    console.print(show.forecast(work(run, kinds, answering, measured)))
    say(*files.written(run, place, sum(kind.steps for kind in kinds)))


def _rehearsed(run: Assembly, kinds: Sequence[plan.Kind], answering: plan.Answering, base: int) -> Measured:
    """See `rehearse`; nothing where one device could not hold it. Of several ranks one alone makes the steps."""
    alone = replace(run, trainer=replace(run.trainer, devices=1, nodes=1, strategy="auto"))
    estimated, able = _estimate(alone, kinds, answering, base), room(alone.trainer)
    if not estimated or able is None or max(estimated.values()) <= able:
        return rehearse(alone, kinds, answering)
    if run.trainer.size > 1:
        say(f"no step is made: a rank alone would hold {gigabytes(max(estimated.values()))} here")
    return Measured()


def _say_memory(
    run: Assembly, kinds: Sequence[plan.Kind], answering: plan.Answering, base: int, measured: Measured
) -> None:
    """Print what each phase holds, and whether it fits. What ranks hold together is not measured: it is dry-run where
    they share the policy out and nothing was measured, and estimated."""
    trainer, shared = run.trainer, run.trainer.size > 1
    columns = {
        "measured": {} if shared else measured.peaks,
        "dry run": _dry_run(run, kinds) if trainer.strategy == "fsdp" and shared and not measured.peaks else {},
        "estimated": _estimate(run, kinds, answering, base),
    }
    known = [column for column in columns.values() if column]
    if not known:
        say("memory: not counted for this model; leave --no-measure out and give trainer.devices=1, which is measured")
        return
    if plan.watches(run) and not shared:
        for column in known:
            column["watch"] = column["backward"] + learned(run.method.policy)
    where = f"one of {trainer.size} ranks, {trainer.device.type}" if shared else str(trainer.device)
    console.print(show.memory(columns, where))
    beside = {phase: size + base for phase, size in columns["dry run"].items()}
    say(verdict(columns["measured"] or columns["estimated"] or beside, room(trainer)))


def _estimate(run: Assembly, kinds: Sequence[plan.Kind], answering: plan.Answering, base: int) -> dict[str, int]:
    """See `expected`; nothing where that is not counted."""
    try:
        return expected(run, kinds, answering, base)
    except BadInput:
        return {}


def _dry_run(run: Assembly, kinds: Sequence[plan.Kind]) -> dict[str, int]:
    """See `shared_out`; nothing where the policy cannot do without numbers, or is not all there is, which is said."""
    if isinstance(run.method, PPO | NES):
        say(f"dry run: none of {run.label}, which holds more than its policy")
        return {}
    try:
        return shared_out(run, kinds)
    except (RuntimeError, ImportError) as error:
        say(f"dry run: not to be had of this model ({' '.join(str(error).split())[:160] or type(error).__name__})")
        return {}


def verdict(peaks: Mapping[str, int], able: int | None) -> str:
    """Whether the peak fits, and the way out where it does not."""
    largest = max(peaks, key=lambda phase: peaks[phase])
    peak = peaks[largest]
    if able is None:
        return f"peak {gigabytes(peak)}"
    if peak <= able:
        return f"peak {gigabytes(peak)} of {gigabytes(able)} that there is room for: fits"
    again = "trainer.gradient_checkpointing=true"
    knobs = f"trainer.micro_batch, trainer.micro_k (or give {again}), then trainer.precision or data.max_prompt"
    if largest == "evaluate":
        training = any(size > able for phase, size in peaks.items() if phase != "evaluate")
        knobs = f"evaluation.batch_size, which changes no answer{f', and {knobs}' if training else ''}"
    return f"peak {gigabytes(peak)}, and there is room for {gigabytes(able)}: does not fit; lower {knobs}"


def work(
    run: Assembly, kinds: Sequence[plan.Kind], answering: plan.Answering, measured: Measured
) -> list[tuple[str, str, float | None, float | None]]:
    """The rows of the forecast: each kind of step, and scoring."""
    rows: list[tuple[str, str, float | None, float | None]] = []
    for kind in kinds:
        each = None
        if seconds := measured.steps.get(kind.name):
            each = plan.step_seconds(seconds, measured.parts.get(kind.name, 1.0), kind.tokens / kind.most)
        count = f"{kind.left:,} steps" + (f" of {kind.steps:,}" if kind.left < kind.steps else "")
        rows.append((f"{kind.name} epochs", count, each, None if each is None else each * kind.left))
    together = plan.scoring_seconds(answering, measured.answer, measured.told) if measured.steps else None
    each = None if together is None else together / max(1, answering.answers)
    return [*rows, ("evaluation", f"{answering.answers:,} answers", each, together)]


def say(*lines: str | Text) -> None:
    """Print lines as they are."""
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
