"""The paper's numbers beside ours, only where the runs are the paper's: its models, its data, its scale."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from esolab.identity import flat
from esolab.report.contrasts import HEADLINE
from esolab.report.findings import Findings
from esolab.report.folders import Judgement, Run
from esolab.report.variants import Variant, configuration, load
from esolab.stats import mean_and_deviation

HERE = Path(__file__).parents[1]
CONF = HERE / "conf" if (HERE / "conf").is_dir() else HERE.parent / "conf"  # in the wheel, in a checkout
ENOUGH = 0.99  # of a corpus: its papers round, and broken records are left out


@dataclass(frozen=True)
class Beside:
    """A number of the paper (`theirs`) beside ours: a mean over seeds with its standard deviation, in the same unit.

    `source` says where the paper has it, with the page.
    """

    variant: Variant
    data: str
    metric: str
    ours: float
    deviation: float | None
    seeds: int
    theirs: float
    source: str
    note: str

    @property
    def difference(self) -> float:
        """Ours less the paper's."""
        return self.ours - self.theirs


@cache
def expected() -> dict[str, Any]:
    """The numbers that the paper prints, each with its source, page and settings: `experiments/expected.json`."""
    return dict(json.loads((CONF / "experiments" / "expected.json").read_text(encoding="utf-8")))


def beside(found: Findings) -> list[Beside]:
    """The paper's numbers that these runs repeat; empty for any other model, data, scale or setting."""
    rows = []
    for variant in found.variants:
        config = configuration(variant.runs[0])
        for number in expected()["numbers"] if _model(config) else ():
            if _repeats(variant, config, number):
                rows += list(_rows(found, variant, number))
    return rows


def _model(config: Mapping[str, Any]) -> str | None:
    """Which of the paper's models was trained at the paper's scale, None for any other: the choice of the run, or of
    the run whose policy it started from."""
    choices, model = config.get("choices", {}), config.get("model", {})
    if choices.get("scale") != "paper":
        return None
    if choices["model"] == "hf" and model.get("path"):
        place = Path(model["path"])  # of a run, or of the policy in it
        return _model(load(place) or load(place.parent))
    theirs = {number["model"] for number in expected()["numbers"]}
    own = model.get("weights") == "pretrained" and not model.get("path") and choices["model"] in theirs
    return str(choices["model"]) if own else None


def _repeats(variant: Variant, config: Mapping[str, Any], number: Mapping[str, Any]) -> bool:
    """Whether a variant is the run that a number of the paper is about, on whole corpora."""
    said = (_model(config), config["choices"]["data"], variant.method)
    if said != (number["model"], number["data"], number["method"]) or config["trainer"]["max_steps"] is not None:
        return False
    values = dict(flat(config))
    if any(values.get(key) != value for key, value in number["settings"].items()):
        return False
    corpora = variant.runs[0].result["corpora"]
    return all(_is_whole(name, corpora.get(name, {})) for name in (number["data"], number["evaluated"]))


def _is_whole(name: str, corpus: Mapping[str, Any]) -> bool:
    sizes = expected()["sizes"]
    return bool(sum(corpus.get(part, 0) for part in ("train", "dev", "test")) >= ENOUGH * sizes[name])


def _rows(found: Findings, variant: Variant, number: Mapping[str, Any]) -> Iterator[Beside]:
    source = f"{number['source']}, page {number['page']}"
    for metric, theirs in number["values"].items():
        values = [_value(run, number, metric, found.judgements) for run in variant.runs]
        if known := [value for value in values if value is not None]:
            mean, deviation = mean_and_deviation(known)
            note = str(number.get("note", ""))
            yield Beside(variant, number["evaluated"], metric, mean, deviation, len(known), theirs, source, note)


def _value(run: Run, number: Mapping[str, Any], metric: str, judgements: Sequence[Judgement]) -> float | None:
    """What a run has for a number of the paper: on all test prompts, sampled, or as the paper judged it."""
    data, least = number["evaluated"], ENOUGH * expected()["tests"][number["evaluated"]]
    scores = run.result["scores"].get(data, {})
    if metric == "win_rate":
        rates = [j.result["win_rate"] for j in judgements if j.a == run.folder.name and _asks(j, number, least)]
        return 100 * rates[0] if rates and rates[0] is not None else None
    if metric == "accuracy":
        return 100 * scores["preference"]["accuracy"] if "preference" in scores else None
    row = scores.get(HEADLINE, {"n": 0})
    return row.get(metric) if row["n"] >= least else None


def _asks(judgement: Judgement, number: Mapping[str, Any], least: float) -> bool:
    said = judgement.result
    place = (said["data"], said["decoding"], said["b"]) == (number["evaluated"], HEADLINE, number["against"])
    return place and said["n"] >= least and str(said["judge"]).startswith(number["judge"])
