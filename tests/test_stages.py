"""Experiments of stages: their order, what later ones take from earlier ones, what is said of those that do not fit."""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from test_main import TINY, finished

import esolab.sweep
from esolab.config import staged
from esolab.errors import BadInput
from esolab.processes import Ended, Local
from esolab.stages import Job, plan
from esolab.tasks import Task

PAIRS = [*(o for o in TINY if o != "data=newswire"), "data=preferences"]
SFT = {"name": "sft", "run": ["method=sft"]}
FROM_SFT = ["model=hf", "model.path=${stage.sft}"]
REWARD = {"name": "reward", "run": ["method=reward_model", *FROM_SFT]}
ESO = {"name": "eso", "run": ["method=eso", *FROM_SFT, "reward=preference", "reward.path=${stage.reward}"]}
JUDGED = {"name": "judged", "judge": ["a=${stage.sft},${stage.eso}", "b=chosen", "judge=preference", "limit=8"]}
JUDGED["judge"] += ["judge.reward=${stage.reward}"]
ASKED = {"name": "asked", "judge": ["a=${stage.sft}", "b=chosen", "judge.model=x"]}


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a judge at an endpoint needs before anything starts."""
    monkeypatch.setenv("OPENAI_API_KEY", "no-such-key")


def listed(*found: dict[str, Any]) -> str:
    """Stages as an override: JSON is nearly Hydra's grammar."""
    return "stages=" + re.sub(r'"(name|run|judge|rum)": ', r"\1: ", json.dumps(found))


def said(*overrides: str) -> list[str]:
    """What is wrong with a command."""
    with pytest.raises(BadInput) as caught:
        plan(overrides)
    return str(caught.value).splitlines()


def own(job: Job) -> dict[str, str]:
    return dict(override.partition("=")[::2] for override in job.overrides)


@pytest.fixture
def chain(front_door: Callable[..., int], jobs_here: list[list[str]]) -> Callable[..., int]:
    """chain(SFT, JUDGED, "seed=1"): the exit code of these stages on 64 pairs, in this process, in an empty folder."""

    def run(*found: dict[str, Any] | str) -> int:
        return front_door("-m", listed(*(s for s in found if isinstance(s, dict))), *PAIRS, *filter(_text, found))

    return run


def _text(item: object) -> bool:
    return isinstance(item, str)


def test_each_stage_runs_after_those_it_refers_to_and_is_not_repeated(
    chain: Callable[..., int], jobs_here: list[list[str]], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert chain(SFT, REWARD, ESO, JUDGED) == 0
    out, err = capsys.readouterr()
    stages = re.findall(r"^job \d of 5: .*stage (\w+)", err, re.MULTILINE)
    assert stages == ["sft", "reward", "eso", "judged", "judged"]
    runs = tmp_path / "outputs" / "single"
    folders = {re.split("[,-]", file.parent.name)[0]: file.parent for file in runs.glob("*/result.json")}
    assert folders.keys() == {"stage=sft", "stage=reward", "stage=eso"}
    config = json.loads((folders["stage=eso"] / "result.json").read_text())
    assert config["experiment"] == "single"
    assert f"path: outputs/single/{folders['stage=sft'].name}" in (folders["stage=eso"] / "config.yaml").read_text()
    judgements = sorted((runs / "judge").glob("*/result.json"))
    assert [re.match(r"stage=(\w+),.*-vs-chosen", file.parent.name)[1] for file in judgements] == ["eso", "sft"]
    assert all(json.loads(file.read_text())["n"] == 8 for file in judgements)
    assert "ESO │ sample" in out
    before = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("result.json")}
    jobs_here.clear()
    assert chain(SFT, REWARD, ESO, JUDGED) == 0
    assert capsys.readouterr().err.count("already done") == 5
    assert jobs_here == []
    assert {file: file.stat().st_mtime_ns for file in tmp_path.rglob("result.json")} == before


def test_a_stage_that_fails_takes_with_it_those_that_refer_to_it_alone(
    chain: Callable[..., int], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    none = {"name": "none", "run": ["method=dpo", *FROM_SFT]}  # newswire has no pairs
    after = {"name": "after", "judge": ["a=${stage.none}", "b=${stage.sft}", "judge=preference", "judge.reward=rouge"]}
    other = {"name": "other", "run": ["method=drl", *FROM_SFT]}
    assert chain(SFT, none, after, other, "data=newswire") == 1
    err = capsys.readouterr().err
    assert re.search(r"stage sft: done\n", err)
    assert re.search(r"stage none: failed with exit code 2\n", err)
    assert re.search(r"stage after: not run\n +it needs stage none\n", err)
    assert re.search(r"stage other: done\n", err)
    assert len(finished(tmp_path)) == 2


def test_what_does_not_fit_in_any_stage_is_said_before_the_first_runs(
    chain: Callable[..., int], jobs_here: list[list[str]], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    wrong = {**ESO, "run": [*ESO["run"], "optimizer.lrr=1", "reward.clip=-1.0"]}
    judge = {**JUDGED, "judge": [*JUDGED["judge"], "judge.batch=2"]}
    assert chain(SFT, REWARD, wrong, judge) == 2
    err = capsys.readouterr().err
    assert "stage eso: optimizer.lrr=1: unknown key, did you mean optimizer.lr?" in err
    assert "stage eso: reward.clip=-1.0: input should be greater than 0" in err
    assert "stage judged: judge.batch=2: unknown key, did you mean judge.batch_size?" in err
    assert jobs_here == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("found", "line"),
    [
        ([SFT, {**REWARD, "run": ["method=dpo", "model.path=${stage.stf}"]}],
         "stage reward: ${stage.stf}: no earlier stage, did you mean sft? earlier stages: sft"),
        ([REWARD, SFT], "stage reward: ${stage.sft}: no earlier stage; earlier stages: none"),
        ([{**REWARD, "name": "sft"}], "stage sft: ${stage.sft}: no earlier stage; earlier stages: none"),
        ([{**SFT, "run": ["method=sft,eso"]}, REWARD],
         "stage reward: ${stage.sft}: stage sft is a sweep of 2 runs; name a stage of one run"),
        ([SFT, ASKED, {**ASKED, "name": "again", "judge": ["a=${stage.asked}", "b=chosen", "judge.model=x"]}],
         "stage again: ${stage.asked}: stage asked judges; name a stage of one run"),
        ([SFT, SFT], "stage sft: there is another of this name; give each its own"),
        ([{"name": "sft"}], "stage sft: give it either run or judge, a list of overrides"),
        ([{**SFT, "judge": ["b=chosen"]}], "stage sft: give it either run or judge, a list of overrides"),
        ([{"name": "sft", "rum": ["method=sft"]}], "stages.0.rum: unknown key"),
        ([{**SFT, "name": "s-t"}], "stages.0.name=s-t: string should match pattern '^\\w+$'"),
        ([{**SFT, "run": ["method=sft", 1]}], "stages.0.run.1=1: input should be a valid string"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_stages_is_a_line_with_its_way_out(found: Sequence[dict[str, Any]], line: str) -> None:
    assert said(listed(*found), *PAIRS) == [line]


def test_an_experiment_of_stages_is_no_single_run(
    front_door: Callable[..., int], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert front_door("experiments=figure2") == 2
    expected = "esolab: experiments=figure2: has stages, which one run is not; give -m, too: -m experiments=figure2\n"
    assert capsys.readouterr().err == expected
    assert front_door("--cfg", "job", "--resolve", "experiments=figure2") == 2
    assert "leave --resolve out" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_command_line_wins_but_for_groups_that_an_earlier_stage_gives() -> None:
    sft = {**SFT, "run": ["method=sft", "model=tiny", "trainer.epochs=3", "seed=4"]}
    command = ["model=gpt2", "model.weights=random", "model.dropout=0.1", "trainer.epochs=2", "seed=1"]
    first, second = plan([listed(sft, REWARD), *command, "data=preferences"])
    assert (
        own(first).items() >= {"model": "gpt2", "model.weights": "random", "trainer.epochs": "2", "seed": "1"}.items()
    )
    assert own(second).items() >= {"model": "hf", "model.path": "${stage.sft}", "trainer.epochs": "2"}.items()
    assert not {"model.weights", "model.dropout"} & own(second).keys()
    assert "method=eso: each stage has a method of its own; leave method=eso out, or give stages" in said(
        listed(SFT), *PAIRS, "method=eso"
    )


def test_every_choice_of_a_sweep_is_a_job_of_its_stage_and_every_command_a_whole_chain(
    front_door: Callable[..., int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    both = {"name": "both", "run": ["method=dpo,drl", *FROM_SFT, "trainer.epochs=1"]}
    left: dict[str, dict[str, Path]] = {}

    def locate(task: Task) -> None:
        task.config = {"sweep": {"jobs": 1}, "outputs": str(tmp_path)}
        task.hash = str(len(left))
        task.folder, left[task.name] = tmp_path / task.hash, task.left

    class Nothing(Local):
        def __call__(self, command: Sequence[str], aloud: bool) -> Ended:
            return Ended(0)

    monkeypatch.setattr(Task, "locate", locate)
    monkeypatch.setattr(esolab.sweep, "Local", Nothing)
    monkeypatch.setattr(esolab.sweep, "show", lambda folders: None)
    assert front_door("-m", listed(SFT, both), *PAIRS, "seed=0,1") == 0
    for seed in (0, 1):
        own = {name.partition(" stage ")[2]: left[name] for name in left if f"seed={seed}" in name}
        (sft,) = (name for name in left if f"seed={seed}" in name and name.endswith("stage sft"))
        place = {"sft": tmp_path / str(list(left).index(sft))}
        assert own == {"sft": {}, "both method=dpo": place, "both method=drl": place}


def test_lists_of_a_scale_are_overrides_of_a_stage_and_neither_is_part_of_a_run() -> None:
    given = [listed({"name": "sft", "run": ["method=sft", "${scale.alignment.sft}"]}), "scale=mini", "data=preferences"]
    (job,) = plan([*given, 'scale.alignment.sft=["trainer.epochs=7","seed=3"]'])
    config = job.config({})
    assert (config["trainer"]["epochs"], config["seed"], config["stages"]) == (7, 3, None)
    assert "scale" not in config
    assert config["choices"]["scale"] == "mini"


@pytest.mark.parametrize("scale", ["mini", "paper"])
def test_figure_2_is_the_policies_of_the_paper_and_their_win_rates(scale: str) -> None:
    jobs = plan(["experiments=figure2", f"scale={scale}"])
    methods = {job.stage: own(job)["method"] for job in jobs if not job.judges}
    assert methods == {"sft": "sft", "reward": "reward_model", **{m: m for m in ("dpo", "ppo", "eso")}}
    policies = [own(job)["a"] for job in jobs if job.judges]
    assert policies == [f"${{stage.{name}}}" for name in ("sft", "dpo", "ppo", "eso")]
    assert {own(job)["b"] for job in jobs if job.judges} == {"chosen"}
    assert {job.stage for job in jobs if "reward" in job.needs} >= {"ppo", "eso"}
    assert all(int(own(job)["limit"]) >= 200 for job in jobs if job.judges)


def test_figure_2_takes_real_records_where_there_are_some(tmp_path: Path) -> None:
    (tmp_path / "hh").mkdir()
    for more, data in (([f"data_root={tmp_path}"], "data=hh"), ([], "data=preferences")):
        config = staged(["experiments=figure2", *more])
        assert config is not None
        assert all(data in stage["run"] for stage in config["stages"] if "run" in stage)
