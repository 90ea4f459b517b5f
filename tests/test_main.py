"""The front door: light, with exit codes that scripts can trust and messages that people can use."""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

import esolab.sweep
from esolab.__main__ import main
from esolab.checkpoints import Checkpoints
from esolab.config import CONF, resolve
from esolab.evaluate import Evaluation
from esolab.evaluate import main as evaluate
from esolab.processes import Ended, Local
from esolab.report.__main__ import main as report

ROOT = Path(__file__).parents[1]
TINY = [
    *("data=newswire", "data.train=64", "data.dev=8", "data.test=16", "data.max_prompt=120", "data.max_response=40"),
    *("model.architecture.n_layer=1", "model.architecture.n_embd=32", "model.architecture.n_head=2"),
    *("model.vocab_size=700", "trainer.epochs=2", "trainer.threads=1"),
]
LIGHT = """
import sys
from esolab.__main__ import main
try:
    code = main({arguments})
except SystemExit as exit:
    code = exit.code
heavy = sorted({{"torch", "transformers", "pytorch_lightning", "datasets", "wandb"}} & set(sys.modules))
print("exit", code or 0, "heavy", heavy)
"""


def python(*arguments: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, "COLUMNS": "200", **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )


def finished(outputs: Path) -> list[str]:
    return sorted(path.parent.name for path in outputs.rglob("result.json"))


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--cfg", "job"], ["--cfg", "job", "--resolve", "protocol=released"]]
)
def test_questions_about_the_configuration_load_nothing_heavy(tmp_path: Path, arguments: list[str]) -> None:
    done = python("-c", LIGHT.format(arguments=arguments), folder=tmp_path)
    assert done.stdout.splitlines()[-1] == "exit 0 heavy []", done.stderr
    if arguments == ["--help"]:
        for folder in (path for path in CONF.iterdir() if path.is_dir()):
            choices = ", ".join(sorted(path.stem for path in folder.glob("*.yaml")))
            assert re.search(rf"^{folder.name}: {choices}$", done.stdout, re.MULTILINE), folder.name
        assert "python -m esolab method=eso model=gpt2_medium data=dolly" in done.stdout
    else:
        released = "released" in arguments[-1]
        assert f"active_epochs: {'all_but_last' if released else 'last'}\n" in done.stdout
        assert f"weight_decay: {'0.01' if released else '${protocol.weight_decay}'}\n" in done.stdout
    assert list(tmp_path.iterdir()) == []  # Hydra writes nothing by itself


def test_a_configuration_composes_wherever_esolab_is_imported(tmp_path: Path) -> None:
    """In a notebook, too, where nobody went through the front door."""
    code = """
from hydra import compose, initialize_config_dir
from esolab.config import CONF
with initialize_config_dir(str(CONF.absolute()), version_base="1.3"):
    print(compose("config").seed)
"""
    done = python("-c", code, folder=tmp_path)
    assert (done.stdout, done.returncode) == ("0\n", 0), done.stderr


def test_it_works_from_where_a_wheel_puts_it(tmp_path: Path) -> None:
    """conf and experiments lie inside of the package then, as pyproject.toml says, and nothing else is there."""
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert wheel["packages"] == ["esolab"]
    assert wheel["force-include"]["conf"] == "esolab/conf"
    site, empty = tmp_path / "site", tmp_path / "empty"
    shutil.copytree(ROOT / "esolab", site / "esolab", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "conf", site / "esolab" / "conf")  # what a link points to is copied
    empty.mkdir()
    code = "import esolab.config; print(esolab.config.CONF)"
    assert python("-c", code, folder=empty, PYTHONPATH=str(site)).stdout == f"{site}/esolab/conf\n"
    command = ["-m", "esolab", "--cfg", "job", "--resolve", "experiments=quickstart", "method=eso"]
    done = python(*command, folder=empty, PYTHONPATH=str(site))
    assert done.returncode == 0, done.stderr
    assert "  lam: 0.5\n" in done.stdout


def test_every_misfit_is_a_line_with_its_way_out(
    front_door: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    """The example of the README."""
    assert front_door("method=esoo", "data.max_prompts=96") == 2
    out, err = capsys.readouterr()
    choices = ", ".join(sorted(path.stem for path in (CONF / "method").glob("*.yaml")))
    assert out == ""
    assert err.splitlines() == [
        "esolab:",
        f"  method=esoo: no such choice, did you mean eso? choices: {choices}",
        "  data.max_prompts=96: unknown key, did you mean data.max_prompt?",
    ]


def test_bad_input_is_a_message_on_stderr_and_exit_code_2(
    front_door: Callable[..., int], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert front_door("method.lam=-1") == 2
    out, err = capsys.readouterr()
    assert (out, err) == ("", "esolab: method.lam=-1: input should be greater than or equal to 0\n")
    assert front_door("method.lam=-1", "sampling.temperatures=[1.0]", "method.lamm=2") == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("esolab:\n  ")
    assert len(err.splitlines()) == 4
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["--cfg", "job", "method.lamm=1"],
        ["-m", "method.lamm=1", "seed=0,1"],
        ["-m", "method.lamm=1,2"],
        ["-m", "method.lam=[1", "seed=0,1"],
        ["-m", "seed"],
        ["-m", "method.lam=-2,-1"],
        ["--multirun", "method=zzz,yyy"],
    ],
)
def test_bad_input_beside_a_flag_is_the_same(
    front_door: Callable[..., int], capsys: pytest.CaptureFixture[str], arguments: list[str], tmp_path: Path
) -> None:
    assert front_door(*arguments) == 2
    err = capsys.readouterr().err
    assert err.startswith("esolab:")
    assert "Traceback" not in err
    assert "HYDRA_FULL_ERROR" not in err
    if "lamm" in " ".join(arguments):
        assert "unknown key, did you mean method.lam?" in err
    assert list(tmp_path.iterdir()) == []


def test_without_a_hub_the_ways_out_are_named(tmp_path: Path) -> None:
    """The user's own command, on a machine without a network: what it tried, and what to give instead."""
    command = ["-m", "esolab", "method=eso", "model=gpt2_medium", "data=dolly"]
    done = python(*command, folder=tmp_path, HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path / "empty"))
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "databricks/databricks-dolly-15k" in done.stderr
    assert "openai-community/gpt2-medium" in done.stderr
    for way_out in ("model.path=DIR", "data.path=FILE_OR_DIR", "data_root=DIR"):
        assert way_out in done.stderr
    assert done.stderr.count("\n  ") == 2  # one line each
    assert finished(tmp_path) == []


def test_ctrl_c_says_how_to_go_on(
    front_door: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    import signal

    def interrupt(*args: object) -> None:
        raise KeyboardInterrupt

    handler = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patched:
        patched.setattr(Checkpoints, "on_train_epoch_end", interrupt)
        try:
            assert front_door(*TINY, "method=sft") == 130
        finally:
            signal.signal(signal.SIGINT, handler)
    assert capsys.readouterr().err.endswith("stopped; the same command starts again: nothing was saved yet\n")
    assert finished(tmp_path) == []
    assert front_door(*TINY, "method=sft") == 0
    assert len(finished(tmp_path)) == 1


def test_ctrl_c_in_a_later_epoch_or_a_repeated_run_says_what_is_true(
    front_door: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import signal

    def interrupt(*args: object) -> None:
        raise KeyboardInterrupt

    handler = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(Evaluation, "score", interrupt)  # with dev_limit=0 only the test after training asks for it
    for again, without in ((), ""), (("rerun=true",), " without rerun=true"):
        try:
            assert front_door(*TINY, "method=sft", "evaluation.dev_limit=0", *again) == 130
        finally:
            signal.signal(signal.SIGINT, handler)
        end = f"stopped; the same command{without} goes on from the last checkpoint\n"
        assert capsys.readouterr().err.endswith(end)


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """SFT and ESO from one command, as anybody would type it, in an empty folder."""
    folder = tmp_path_factory.mktemp("swept")
    command = ["-m", "esolab", "-m", "method=sft,eso", "evaluation.before=true", *TINY]
    return folder, python(*command, folder=folder)


def test_a_sweep_runs_each_job_in_its_own_process_and_shows_them_side_by_side(
    swept: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    folder, done = swept
    assert done.returncode == 0, done.stderr
    assert len(finished(folder / "outputs" / "single")) == 2
    assert "newswire, 16 test prompts" in done.stdout
    for run in ("before training", "SFT", "ESO"):
        for how in ("sample", "greedy"):
            assert re.search(rf"│ {run} +│ {how} +│ +\d+\.\d\d │", done.stdout)
    for how in ("sample", "greedy"):
        assert re.search(
            rf"newswire, {how}: ESO scores \d+\.\d\d ROUGE-L points (above|below) SFT, 95% interval -?\d+\.\d\d to "
            rf"-?\d+\.\d\d.*\(16 prompts\): (not )?distinguishable\.",
            done.stdout,
        )
    assert "SFT: dev loss by epoch" in done.stdout
    assert done.stdout.count(f"outputs{os.sep}single{os.sep}") == 2
    assert "Traceback" not in done.stderr


def test_a_sweep_leaves_nothing_but_its_outputs(swept: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    """Hydra would leave a multirun.yaml wherever one stands."""
    assert [path.name for path in swept[0].iterdir()] == ["outputs"]


def test_a_job_that_does_not_fit_is_named_and_the_others_go_on(
    front_door: Callable[..., int],
    jobs_here: list[list[str]],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    assert front_door("-m", "method=eso", "method.lam=0.1,-1.0", *TINY) == 1
    out, err = capsys.readouterr()
    assert len(jobs_here) == 1
    (name,) = finished(tmp_path)
    assert "method.lam=0.1" in name
    assert re.search(r"method\.lam=-1\.0.*: does not fit\n +method\.lam=-1\.0: input should be greater", err)
    assert re.search(r"method\.lam=0\.1.*: done", err)
    assert "ESO │ sample" in out


def test_a_choice_that_does_not_exist_stops_its_job_alone(
    front_door: Callable[..., int], jobs_here: list[list[str]], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert front_door("-m", "method=sft,esoo", *TINY) == 1
    err = capsys.readouterr().err
    assert len(finished(tmp_path)) == len(jobs_here) == 1
    assert "method=esoo: no such choice, did you mean eso?" in err


def test_a_job_that_fails_is_named_and_the_others_are_shown(
    front_door: Callable[..., int], jobs_here: list[list[str]], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    rows = "".join(f'{{"prompt": "Count to {i}.", "reference": "{i}"}}\n' for i in range(40))
    (tmp_path / "there.jsonl").write_text(rows)
    (tmp_path / "empty.jsonl").touch()
    tiny = ["data=file", *(o for o in TINY if not re.match(r"data(=|\.(train|dev|test)=)", o))]
    assert front_door("-m", "method=sft", f"data.path={tmp_path}/there.jsonl,{tmp_path}/empty.jsonl", *tiny) == 1
    out, err = capsys.readouterr()
    assert len(jobs_here) == 2
    assert re.search(r"empty\.jsonl.*: failed with exit code 2", err)
    assert re.search(r"there\.jsonl.*: done", err)
    assert "SFT │ greedy" in out


def test_a_sweep_whose_jobs_all_fail_ends_with_1_and_their_names(
    front_door: Callable[..., int], jobs_here: list[list[str]], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for name in "ab":
        (tmp_path / f"{name}.jsonl").touch()
    tiny = ["data=file", *(o for o in TINY if not re.match(r"data(=|\.(train|dev|test)=)", o))]
    assert front_door("-m", "method=sft", f"data.path={tmp_path}/a.jsonl,{tmp_path}/b.jsonl", *tiny) == 1
    err = capsys.readouterr().err
    assert len(jobs_here) == 2
    for name in "ab":
        assert re.search(rf"{name}\.jsonl.*: failed with exit code 2", err)


def test_an_experiment_brings_its_jobs_and_the_command_line_wins(
    front_door: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    swept: list[set[frozenset[str]]] = []

    def sweep(jobs: list[list[str]], launcher: Any) -> int:
        swept.append({frozenset(job) for job in jobs})
        return 0

    monkeypatch.setattr(esolab.sweep, "sweep", sweep)
    assert front_door("-m", "experiments=quickstart", "seed=0,1") == 0
    assert front_door("-m", "experiments=quickstart", "method=sft", "seed=range(3)") == 0
    assert swept == [
        {frozenset({"experiments=quickstart", f"method={m}", f"seed={s}"}) for m in ("sft", "eso") for s in (0, 1)},
        {frozenset({"experiments=quickstart", "method=sft", f"seed={s}"}) for s in (0, 1, 2)},
    ]


def test_a_sweep_stopped_by_ctrl_c_starts_no_other_job(
    front_door: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    started = []

    class Stopped(Local):
        def __call__(self, command: Sequence[str], aloud: bool) -> Ended:
            started.append(command)
            return Ended(130)

    monkeypatch.setattr(esolab.sweep, "Local", Stopped)
    assert front_door("-m", "seed=0,1,2") == 130
    assert len(started) == 1
    end = "stopped; the same command skips finished jobs and takes up this one\n"
    assert capsys.readouterr().err.endswith(end)
    assert front_door("-m", "rerun=true", "seed=0,1,2") == 130
    assert capsys.readouterr().err.endswith(end.replace(" skips", " without rerun=true skips"))


def test_a_resolved_file_is_run_as_it_is(
    front_door: Callable[..., int], swept: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    (folder,) = (swept[0] / "outputs" / "single").glob("method=sft*")
    config = (folder / "config.yaml").read_text()
    (tmp_path / "job.yaml").write_text(config.replace("outputs: outputs", f"outputs: {tmp_path / 'again'}"))
    assert front_door("--resolved", "job.yaml") == 0
    (again,) = {path.parent for path in (tmp_path / "again").rglob("result.json")}
    assert again.name == folder.name  # where it is kept is no part of what it is
    assert (again / "predictions.jsonl").read_bytes() == (folder / "predictions.jsonl").read_bytes()


@pytest.mark.parametrize("arguments", [["--resolved"], ["--resolved", "missing.yaml"], ["--resolved", ".", "."]])
def test_resolved_wants_one_file(
    front_door: Callable[..., int], capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    assert front_door(*arguments) == 2
    assert capsys.readouterr().err == "esolab: --resolved: give one file, the config.yaml of a run's folder\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: [1\nb: {", "cannot be read (while parsing a flow sequence"),
        (b"\xff", "cannot be read ('utf-8' codec can't decode"),
        (b"- 1", "has no protocol, trainer, model and 19 more"),
        ((CONF / "method" / "eso.yaml").read_bytes(), "has no protocol, trainer, model and 19 more"),
    ],
)
def test_resolved_wants_a_whole_configuration(
    front_door: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    content: bytes,
    message: str,
) -> None:
    (tmp_path / "job.yaml").write_bytes(content)
    assert front_door("--resolved", "job.yaml") == 2
    err = capsys.readouterr().err
    assert err.startswith(f"esolab: --resolved job.yaml: {message}")
    assert err.endswith("; give the config.yaml of a run's folder\n")
    assert err.count("\n") == 1


def test_a_resolved_file_that_does_not_fit_says_so(
    front_door: Callable[..., int], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    config = resolve(["method=sft"])
    (tmp_path / "job.json").write_text(json.dumps({**config, "seed": -1}))
    assert front_door("--resolved", "job.json") == 2
    assert capsys.readouterr().err == "esolab: seed=-1: input should be greater than or equal to 0\n"
    (tmp_path / "job.json").write_text(json.dumps({**config, "choices": {}}))
    assert front_door("--resolved", "job.json") == 2
    assert "has no choices.experiments, choices.scale, choices.logger and 6 more" in capsys.readouterr().err


def test_to_run_is_what_happens_anyway(
    front_door: Callable[..., int], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert front_door("--run", "method.lam=-1") == 2
    assert capsys.readouterr().err == "esolab: method.lam=-1: input should be greater than or equal to 0\n"
    assert front_door("--run", "method=sft", *TINY, "trainer.max_steps=1", "evaluation.limit=1") == 0
    assert len(finished(tmp_path)) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config-name", "foo", "--cfg", "job"], "--config-name foo: settings come from "),
        (["--config-dir", "/nonexistent"], "--config-dir /nonexistent: settings come from "),
        (["--config-path=/x", "-m"], "--config-path /x: settings come from "),
        (["--experimental-rerun", "x"], "--experimental-rerun x: settings come from "),
        (["--resolve", "method=sft"], "--resolve: goes with --cfg job alone; leave it out to run"),
        (["--cfg", "job", "-m"], "--cfg and --multirun: give one of them"),
    ],
)
def test_flags_that_do_nothing_here_are_refused(
    front_door: Callable[..., int], capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert front_door(*arguments) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"esolab: {message}")
    assert err.count("\n") == 1


@pytest.mark.parametrize("arguments", [["data=newswire"], ["foo"]])
def test_to_score_a_policy_it_has_to_be_named(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    assert evaluate(arguments) == 2
    message = "policy: no value; give policy=DIR, a run's folder or one that save_pretrained has left"
    assert capsys.readouterr() == ("", f"esolab: {message}\n")


def test_the_report_of_folders_shows_their_runs(
    swept: tuple[Path, subprocess.CompletedProcess[str]],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    outputs = swept[0] / "outputs" / "single"
    assert report([str(outputs)]) == 0
    out = capsys.readouterr().out
    for run in ("before training", "SFT", "ESO"):
        assert re.search(rf"{run} +│ sample +│ +\d+\.\d\d", out)
    assert "newswire, sample: ESO scores" in out
    one = next(outputs.glob("method=*"))
    assert report([str(one)]) == 0
    assert str(one) in capsys.readouterr().out


def test_the_report_of_nothing_is_bad_input(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert report([str(tmp_path)]) == 2
    assert capsys.readouterr() == ("", f"esolab: report: no finished run or judgement (result.json) in {tmp_path}\n")
    (tmp_path / "result.json").write_text('{"schema": 99}')
    assert report([str(tmp_path)]) == 2
    assert "schema 99, this esolab reads 1" in capsys.readouterr().err
    assert report([]) == 2
    assert report(["--help"]) == 0


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("result.json", None, "Unterminated string"),
        ("result.json", "[1]", ""),
        ("result.json", '{"schema": 1}', "no 'model'"),
        ("predictions.jsonl", None, ""),
        ("predictions.jsonl", '{"id": "x"}', "no 'data'"),
        ("metrics.csv", "step,epoch,dev/loss\n1,0,1.0\n2,1,x", "could not convert string to float"),
    ],
)
def test_the_report_of_a_damaged_run_names_the_file(
    swept: tuple[Path, subprocess.CompletedProcess[str]],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    name: str,
    content: str | None,
    why: str,
) -> None:
    shutil.copytree(swept[0] / "outputs" / "single", tmp_path / "runs")
    (damaged,) = (tmp_path / "runs").glob(f"method=sft*/{name}")
    damaged.write_text(damaged.read_text()[:40] if content is None else content)
    assert report([str(tmp_path / "runs")]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"esolab: report: {damaged} is damaged ({why}")
    assert err.endswith("; repeat its run with rerun=true, or name the other folders\n")
    damaged.unlink()
    if name != "result.json":
        assert report([str(tmp_path / "runs")]) == 2
        assert f"{name} is damaged ([Errno 2] No such file" in capsys.readouterr().err


def test_importing_the_front_door_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """`main` reads the arguments it is given, and those of the process only where it is given none."""
    monkeypatch.setattr(sys, "argv", ["esolab", "method.lam=-1"])
    monkeypatch.setattr(sys, "path", list(sys.path))
    with contextlib.redirect_stderr(None):
        assert main() == 2
        assert main(["method.lam=-1", "seed"]) == 2
