"""The panels of a W&B dashboard: the figures of a report, of the keys that runs log (esolab.loggers)."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from esolab.identity import flat
from esolab.mirror import STEP
from esolab.report.contrasts import headline
from esolab.report.figures import SWEPT
from esolab.report.findings import Findings
from esolab.report.folders import Run, whole
from esolab.report.variants import configuration

MEAN: dict[str, Any] = {"groupby_aggfunc": "mean", "groupby_rangefunc": "stddev"}  # over the seeds of a series
Sections = dict[str, list[Any]]  # panels of wandb_workspaces.reports.v2 by the title of their section


@dataclass(frozen=True)
class Logged:
    """What runs sent to W&B, from their folders: `keys` of their histories, `groups` they are in, dotted keys of their
    configuration that tell their series apart (`apart`) or that a figure sweeps (`swept`, and whether on a log scale),
    how many of the `runs` have logger=wandb (`sent`)."""

    keys: list[str]
    groups: list[str]
    apart: list[str]
    swept: dict[str, bool]
    runs: int
    sent: int

    def like(self, *heads: str) -> list[str]:
        """The keys that begin so."""
        return [key for key in self.keys if key.startswith(heads)]

    @property
    def decodings(self) -> list[str]:
        """How dev answers were drawn."""
        return [key.split("/")[1] for key in self.like("dev/") if key.endswith("/rougeL")]

    @property
    def score(self) -> str:
        """The key of the headline: ROUGE-L of dev answers (x100); dev loss (nats per token) where no run answered."""
        return f"dev/{headline(self.decodings)}/rougeL" if self.decodings else "dev/loss"

    @property
    def filters(self) -> str:
        """Which runs of the project are shown, as wandb_workspaces.expr reads it."""
        return f'Metric("Group") in [{", ".join(map(_quoted, self.groups))}]'


def _quoted(text: str) -> str:
    """A string literal without any sign: the library rewrites =, < and > inside of strings, too."""
    return '"' + re.sub(r"\W", lambda sign: f"\\U{ord(sign[0]):08x}", text) + '"'


def logged(found: Findings) -> Logged:
    """What the runs of these findings sent, or would have with logger=wandb.

    Raises:
        BadInput: metrics.csv of a run is missing or damaged.
    """
    runs = [run for variant in found.variants for run in variant.runs]
    configs = [configuration(run) for run in runs]
    loggers = [config.get("logger") or {} for config in configs]
    groups = [x.get("group") or run.result.get("experiment") or "single" for run, x in zip(runs, loggers, strict=True)]
    values = {key: [v for config in configs for k, v in flat(config) if k == key] for _, key, _, _ in SWEPT}
    settings = dict.fromkeys(key for variant in found.variants for key in variant.settings)
    return Logged(
        keys=list(dict.fromkeys(key for run in runs for key in _keys(run))),
        groups=list(dict.fromkeys(map(str, groups))),
        apart=["choices.method", *(key if "." in key else f"choices.{key}" for key in settings)],
        swept={key: log and min(values[key]) > 0 for _, key, _, log in SWEPT if values[key]},
        runs=len(runs),
        sent=sum("wandb" in str(x.get("_target_")) for x in loggers),
    )


def _keys(run: Run) -> list[str]:
    path = run.folder / "metrics.csv"
    with whole(path), path.open(newline="") as file:
        return [head for head in next(csv.reader(file), []) if head != "step"]


def sections(sent: Logged) -> Sections:
    """The panels by section, in the order of the report's figures; those that no run has the keys for are left out."""
    made = {
        "Scores on dev by method and decoding": _scores(sent),
        "Learning curves": _learning(sent),
        "Reward and entropy": _sampling(sent),
        "Cost": _cost(sent),
        "What k and lambda matter": _parameters(sent),
    }
    return {title: panels for title, panels in made.items() if panels}


def _scores(sent: Logged) -> list[Any]:
    import wandb_workspaces.reports.v2 as wr

    heads = {f"ROUGE-L of dev answers, {how}": f"dev/{how}/rougeL" for how in sent.decodings}
    return [wr.BarPlot(title=title, metrics=[key], title_x="ROUGE-L (x100)", **MEAN) for title, key in heads.items()]


def _learning(sent: Logged) -> list[Any]:
    return [
        *_line(sent, "Loss on dev references", ["dev/loss"], "nats per token", "epoch"),
        *(_line(sent, sent.score, [sent.score], "ROUGE-L (x100)", "epoch") if sent.decodings else []),
        *_line(sent, "Terms of the loss", ["loss", *sent.like("loss/")], "loss"),
        *_line(sent, "Norm of the gradient, before clipping", ["grad_norm"], "norm"),
        *_line(sent, "Learning rate", ["lr"], "learning rate"),
    ]


def _sampling(sent: Logged) -> list[Any]:
    """What the policy's own answers were like; a scatter has one point a series, since W&B draws them of summaries."""
    import wandb_workspaces.reports.v2 as wr

    ladder = [key for key in sent.like("reward/") if key.removeprefix("reward/").partition("_t")[0].isdecimal()]
    title, length = "Length against reward, in the last step of a run", "length/mean"
    lengths = _scatter(sent, title, wr.SummaryMetric(length), "reward/mean") if length in sent.keys else []
    return [
        *_line(sent, "Reward of sampled answers", ["reward/mean"], "mean reward"),
        *_line(sent, "Entropy of sampling", ["entropy"], "nats per token"),
        *_line(sent, "Reward by temperature of the sample", ladder, "mean reward"),
        *lengths,
    ]


def _cost(sent: Logged) -> list[Any]:
    import wandb_workspaces.reports.v2 as wr

    return [
        *_line(sent, "Seconds of a step by phase", sent.like("seconds/"), "seconds"),
        *_line(sent, "Tokens through the network", ["tokens_per_second"], "tokens per second"),
        *_scatter(sent, f"{sent.score} by seconds of training, dev included", wr.Metric("Runtime"), sent.score),
    ]


def _parameters(sent: Logged) -> list[Any]:
    """How the score goes with what is swept. W&B picks itself what it calls important, so the swept ones are beside."""
    import wandb_workspaces.reports.v2 as wr

    score = sent.score
    swept = [(key, label, sent.swept[key]) for _, key, label, _ in SWEPT if key in sent.swept]
    if not swept or score not in sent.keys:
        return []
    columns = [wr.ParallelCoordinatesPlotColumn(metric=wr.Config(key), log=log) for key, _, log in swept]
    columns.append(wr.ParallelCoordinatesPlotColumn(metric=wr.SummaryMetric(score)))
    return [
        wr.ParameterImportancePlot(with_respect_to=score),
        wr.ParallelCoordinatesPlot(title=f"{score} by {', '.join(sent.swept)}", columns=columns),
        *(p for key, label, log in swept for p in _scatter(sent, f"{score} by {label}", wr.Config(key), score, log)),
    ]


def _line(sent: Logged, title: str, keys: Sequence[str], label: str, x: str = STEP) -> list[Any]:
    import wandb_workspaces.reports.v2 as wr

    here = [key for key in keys if key in sent.keys]
    axis = "epochs" if x == "epoch" else "step"
    return [wr.LinePlot(title=title, x=x, y=here, title_x=axis, title_y=label, **MEAN)] if here else []


def _scatter(sent: Logged, title: str, x: Any, y: str, log: bool = False) -> list[Any]:
    import wandb_workspaces.reports.v2 as wr

    return [wr.ScatterPlot(title=title, x=x, y=wr.SummaryMetric(y), log_x=log)] if y in sent.keys else []
