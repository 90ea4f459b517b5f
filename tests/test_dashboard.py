"""The dashboard: panels of what runs log, filters that name their group, files that are valid and were sent nowhere."""

import json
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from esolab.dashboard import main
from esolab.panels import logged, sections
from esolab.report.findings import findings

Make = Callable[..., Path]
# the library's own validators, at its import
pytestmark = pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20")
SAMPLED = ("reward/mean", "reward/0_t0.5", "reward/1_t1", "reward/flat", "length/mean", "entropy", "seconds/sample")
STEP = ("loss", "loss/sft", "loss/own", "grad_norm", "lr", "tokens_per_second", "seconds/update")
DEV = ("dev/loss", "dev/sample/rougeL", "dev/greedy/rougeL", "dev/sample/length")
HEADS = ("step", "epoch", *STEP, *SAMPLED, *DEV)


@pytest.fixture
def experiment(tmp_path: Path) -> Make:
    """A folder of runs of SFT, and of ESO at each lambda, two seeds each, as runs leave them."""

    def make(lams: tuple[float, ...] = (0.05, 0.5), heads: tuple[str, ...] = HEADS, **logger: Any) -> Path:
        folder = tmp_path / "table1"
        for place, lam in enumerate([None, *lams]):
            for seed in (0, 1):
                _run(folder / f"lam={lam},seed={seed}-0000000{place}", lam, seed, place, heads, logger)
        return folder

    return make


def _run(
    folder: Path, lam: float | None, seed: int, place: int, heads: tuple[str, ...], logger: Mapping[str, Any]
) -> None:
    folder.mkdir(parents=True)
    method = "sft" if lam is None else "eso"
    row = {"n": 2, "rouge1": 1.0, "rouge2": 1.0, "rougeL": 10.0 * place + seed, "gleu": 1.0, "length": 3.0}
    result = {
        "schema": 1,
        "method": method,
        "model": "tiny",
        "data": "d",
        "protocol": "paper",
        "experiment": "table1",
        "seed": seed,
        "setting": f"s{seed}",
        "but_for_seed": f"{method}{lam}",
        "train": {"steps": 4},
        "scores": {"d": {"sample": row}},
    }
    (folder / "result.json").write_text(json.dumps(result))
    answers = [
        {"id": i, "data": "d", "decoding": "sample", "prompt": i, "reference": "r", "prediction": "p", "rougeL": points}
        for i, points in (("a", 0.1 * place), ("b", 0.2 * place + 0.05 * seed))
    ]
    (folder / "predictions.jsonl").write_text("".join(json.dumps(answer) + "\n" for answer in answers))
    (folder / "metrics.csv").write_text(",".join(heads) + "\n")
    config: dict[str, Any] = {
        "choices": {"method": method, "experiments": "table1"},
        "method": {"_target_": f"esolab.{method}", **({} if lam is None else {"lam": lam})},
        "sampling": {"k": 4},
        "logger": dict(logger) or None,
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """No network at all; what was tried to be reached."""
    tried: list[Any] = []

    def refuse(*address: Any, **others: Any) -> None:
        tried.append(address)
        raise AssertionError(f"reached for {address}")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    for name in ("create_connection", "getaddrinfo"):
        monkeypatch.setattr(socket, name, refuse)
    yield tried
    assert tried == []


def _keys(panel: dict[str, Any]) -> set[str]:
    """The keys of histories and summaries that a panel of the specification names."""
    config = panel["config"]
    named = [*config.get("metrics", []), *(config.get(axis) for axis in ("xAxis", "yAxis", "targetKey"))]
    named += [column["accessor"] for column in config.get("columns", [])]
    return {name.removeprefix("summary:") for name in named if name and not name.startswith(("config:", "run:"))}


def _panels(spec: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    return {s["name"]: s["panels"] for s in spec["spec"]["section"]["panelBankConfig"]["sections"]}


def _written(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    from wandb_workspaces.reports.v2.internal import ReportViewspec  # here, where its warnings are expected
    from wandb_workspaces.workspaces.internal import View

    texts = [(folder / "dashboard" / name).read_text() for name in ("workspace.json", "report.json")]
    View.model_validate_json(texts[0])
    ReportViewspec.model_validate_json(texts[1])
    return json.loads(texts[0]), json.loads(texts[1])


def test_panels_are_those_of_the_report_with_keys_that_runs_log(experiment: Make, alone: list[Any]) -> None:
    folder = experiment()
    assert main([str(folder)]) == 0
    found = _panels(_written(folder)[0])
    titles = {name: [p["config"].get("chartTitle") for p in panels] for name, panels in found.items()}
    assert titles["Scores on dev by method and decoding"] == [
        "ROUGE-L of dev answers, sample",
        "ROUGE-L of dev answers, greedy",
    ]
    assert [_keys(panel) for panel in found["Learning curves"]] == [
        {"epoch", "dev/loss"},
        {"epoch", "dev/sample/rougeL"},
        {"trainer/global_step", "loss", "loss/sft", "loss/own"},
        {"trainer/global_step", "grad_norm"},
        {"trainer/global_step", "lr"},
    ]
    assert [_keys(panel) for panel in found["Reward and entropy"]] == [
        {"trainer/global_step", "reward/mean"},
        {"trainer/global_step", "entropy"},
        {"trainer/global_step", "reward/0_t0.5", "reward/1_t1"},
        {"length/mean", "reward/mean"},
    ]
    assert [_keys(panel) for panel in found["Cost"]] == [
        {"trainer/global_step", "seconds/update", "seconds/sample"},
        {"trainer/global_step", "tokens_per_second"},
        {"dev/sample/rougeL"},
    ]
    importance, together, *scatters = found["What k and lambda matter"]
    assert (importance["viewType"], importance["config"]["targetKey"]) == ("Parameter Importance", "dev/sample/rougeL")
    accessors = [column["accessor"] for column in together["config"]["columns"]]
    assert accessors == ["config:sampling.value.k", "config:method.value.lam", "summary:dev/sample/rougeL"]
    assert [(p["config"]["xAxis"], p["config"]["xAxisLogScale"]) for p in scatters] == [
        (accessors[0], False),
        (accessors[1], True),
    ]
    drawn = {key for panels in found.values() for panel in panels for key in _keys(panel)}
    assert drawn <= {*HEADS, "trainer/global_step"}


def test_what_no_run_logs_has_no_panel(experiment: Make) -> None:
    folder = experiment(heads=("step", "epoch", "loss", "dev/loss", "seconds/update"))
    found = logged(findings([folder]))
    made = sections(found)
    assert list(made) == ["Learning curves", "Cost", "What k and lambda matter"]
    assert [panel.y for panel in made["Learning curves"]] == [["dev/loss"], ["loss"]]
    assert found.score == "dev/loss"
    assert made["What k and lambda matter"][0].with_respect_to == "dev/loss"


def test_a_lambda_of_zero_has_no_place_on_a_log_scale(experiment: Make) -> None:
    assert logged(findings([experiment((0.0, 0.5))])).swept == {"sampling.k": False, "method.lam": False}


@pytest.mark.parametrize("group", [None, 'the "mine" o\'clock = 1 and < 2'])
def test_runs_are_those_of_the_group_and_series_alike_but_for_their_seed(
    experiment: Make, alone: list[Any], group: str | None
) -> None:
    folder = experiment(_target_="esolab.loggers.wandb_logger", group=group)
    assert main([str(folder)]) == 0
    workspace, report = _written(folder)
    (runs,) = workspace["spec"]["section"]["runSets"]
    grids = [block["metadata"] for block in report["spec"]["blocks"] if block["type"] == "panel-grid"]
    assert len(grids) == 5
    for shown in (runs, *(grid["runSets"][0] for grid in grids)):
        (only,) = shown["filters"]["filters"]
        assert (only["key"], only["op"]) == ({"section": "run", "name": "group"}, "IN")
        assert only["value"] == [group or "table1"]
        keys = [(key["section"], key["name"]) for key in shown["grouping"]]
        assert keys == [("config", "choices.value.method"), ("config", "method.value.lam")]


def test_the_report_has_its_words_first_and_the_scores_of_the_test(experiment: Make, alone: list[Any]) -> None:
    folder = experiment()
    assert main([str(folder), "--entity", "us", "--project", "lab"]) == 0
    workspace, report = _written(folder)
    verdicts = findings([folder]).verdicts
    assert "ESO lam=0.5 scores" in verdicts[0]
    heading, words = [block for block in report["spec"]["blocks"] if block["type"] != "paragraph"][:2]
    assert heading["children"][0]["text"] == "Verdict"
    assert [item["children"][0]["children"][0]["text"] for item in words["children"]] == verdicts
    (scores,) = [block["content"] for block in report["spec"]["blocks"] if block["type"] == "markdown-block"]
    assert "| ESO lam=0.5 |" in scores
    assert "20.50 ± 0.71" in scores
    assert _panels(workspace)["Verdict"][0]["config"]["value"].count("\n- ") == len(verdicts) - 1
    assert (workspace["entity"], workspace["project"]) == ("us", "lab")
    assert report["project"] == {"name": "lab", "entityName": "us"}
    assert (report["displayName"], workspace["displayName"]) == ("esolab table1", "esolab table1")


def test_without_apply_it_says_what_to_do(
    experiment: Make, alone: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = experiment()
    assert main([str(folder)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"written in {folder / 'dashboard'}: workspace.json, report.json",
        "shows the runs of esolab in group table1: 0 of these 6 have logger=wandb",
        "nothing was sent; after `wandb login`, the same command with --apply saves them in W&B",
    ]
    assert main([str(folder)]) == 0  # its own files are no runs


def _refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_without_an_account_apply_still_writes_and_names_the_way_out(
    experiment: Make, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = experiment()
    monkeypatch.setattr("wandb.login", lambda prompt, verify: False)
    said = _refused(capsys, str(folder), "--apply")
    assert said.startswith("esolab: dashboard: --apply: no W&B account is set up; `wandb login`")
    assert "WANDB_API_KEY" in said
    assert len(_written(folder)) == 2


def test_with_an_account_both_are_saved_and_their_addresses_printed(
    experiment: Make, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = experiment()
    saved: list[tuple[str, str]] = []

    def save(one: Any) -> Any:
        saved.append((one.entity, one.project))
        return SimpleNamespace(url=f"https://wandb.ai/{len(saved)}")

    monkeypatch.setattr("wandb.login", lambda prompt, verify: True)
    monkeypatch.setattr("wandb.Api", lambda: SimpleNamespace(default_entity="me"))
    monkeypatch.setattr("wandb_workspaces.workspaces.Workspace.save", save)
    monkeypatch.setattr("wandb_workspaces.reports.v2.Report.save", save)
    assert main([str(folder), "--apply"]) == 0
    assert saved == [("me", "esolab"), ("me", "esolab")]
    assert capsys.readouterr().out.splitlines()[-2:] == ["https://wandb.ai/1", "https://wandb.ai/2"]

    def refuse(one: Any) -> Any:
        raise ValueError("project 'us/lab'\nnot found")

    monkeypatch.setattr("wandb_workspaces.reports.v2.Report.save", refuse)
    said = _refused(capsys, str(folder), "--apply", "--entity", "us", "--project", "lab")
    assert said.startswith("esolab: dashboard: --apply: W&B refused us/lab (project 'us/lab' not found)")
    assert saved[-1] == ("us", "lab")
    monkeypatch.setattr("wandb.Api", lambda: SimpleNamespace(default_entity=None))
    assert _refused(capsys, str(folder), "--apply").endswith("no default entity; give --entity NAME")


def test_what_does_not_fit_is_said_in_a_line(
    experiment: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "no finished run" in _refused(capsys, str(tmp_path))
    assert _refused(capsys, str(tmp_path), "--aply").startswith("esolab: dashboard: unrecognized arguments: --aply")
    folder = experiment()
    (folder / "dashboard").write_text("in the way")
    assert f"cannot write {folder / 'dashboard'} (File exists)" in _refused(capsys, str(folder))
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    assert _refused(capsys, str(folder)).endswith("pip install 'esolab[dashboard]'")
