"""Whose code a configuration may name: nothing from elsewhere is imported before a person has named it."""

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra.utils import get_object

from esolab.allowed import allowing, fits, flags, given, named, references, strangers
from esolab.config import CONF, resolve, settable
from esolab.errors import BadInput
from esolab.evaluate import main as evaluate
from esolab.judge.__main__ import main as judge
from esolab.preflight.__main__ import main as preflight
from esolab.tasks import tasks_of

SMALL = [
    *("data.train=16", "data.dev=2", "data.test=2", "data.max_prompt=120", "data.max_response=40", "trainer.epochs=1"),
    *("model.architecture.n_layer=1", "model.architecture.n_embd=16", "model.architecture.n_head=2"),
    *("model.vocab_size=400", "trainer.threads=1", "evaluation.decodings=[greedy]", "evaluation.dev_limit=0"),
]
PACKAGE = """
from pathlib import Path
Path("pwned").touch()

class Mine:
    def __init__(self, scale: float = 1.0, **others) -> None:
        self.scale = scale

    def __call__(self, prompts, responses, references):
        return [[self.scale * len(answer) for answer in answers] for answers in responses]

def mine(prompts, responses, references):
    return Mine()(prompts, responses, references)
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package `theirs.rewards` that PYTHONPATH would find; importing it leaves the file that is returned."""
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "__init__.py").touch()
    (tmp_path / "theirs" / "rewards.py").write_text(PACKAGE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    yield tmp_path / "pwned"
    for name in [name for name in sys.modules if name.partition(".")[0] == "theirs"]:
        del sys.modules[name]


def resolved(tmp_path: Path, reward: dict[str, Any], **others: Any) -> str:
    """The resolved configuration of a small run with this reward, as a file."""
    config = resolve([*SMALL, f"outputs={tmp_path / 'outputs'}"])
    (tmp_path / "job.yaml").write_text(yaml.safe_dump({**config, "reward": reward, **others}))
    return "job.yaml"


TARGET, FUNCTION = "theirs.rewards.Mine", "theirs.rewards:mine"
AS_TARGET = {"_target_": TARGET}
AS_FUNCTION = {"_target_": "esolab.rewards.callable.Function", "function": FUNCTION}
AS_PART = {"_target_": "esolab.rewards.composite.Composite", "parts": {"a": {"reward": AS_TARGET, "weight": 1.0}}}
AS_ITEM = {"_target_": "esolab.rewards.gleu.Gleu", "more": [AS_TARGET]}  # Hydra builds what is in lists, too


@pytest.mark.parametrize(
    ("reward", "place", "value"),
    [
        (AS_TARGET, "reward._target_", TARGET),
        (AS_FUNCTION, "reward.function", FUNCTION),
        (AS_PART, "reward.parts.a.reward._target_", TARGET),
        (AS_ITEM, "reward.more.0._target_", TARGET),
    ],
)
def test_a_file_from_elsewhere_is_refused_before_its_module_is_imported(
    front_door: Callable[..., int],
    package: Path,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    reward: dict[str, Any],
    place: str,
    value: str,
) -> None:
    assert front_door("--resolved", resolved(tmp_path, reward)) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"esolab: {place}={value}: code from elsewhere, which was not imported; ") or (
        place.startswith("reward.more") and f"  {place}={value}: code from elsewhere" in said
    )
    assert "give --allow theirs.rewards if you trust it" in said
    assert "Traceback" not in said
    assert not package.exists()
    assert not [name for name in sys.modules if name.startswith("theirs")]
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize("module", ["theirs", "theirs.rewards"])
@pytest.mark.parametrize("order", ["before", "after", "joined"])
def test_a_module_that_is_allowed_runs(
    front_door: Callable[..., int], package: Path, tmp_path: Path, module: str, order: str
) -> None:
    file = resolved(tmp_path, AS_TARGET if order == "before" else AS_FUNCTION)
    flag = [f"--allow={module}"] if order == "joined" else ["--allow", module]
    arguments = [*flag, "--resolved", file] if order == "before" else ["--resolved", file, *flag]
    assert front_door(*arguments) == 0
    assert package.exists()
    (result,) = (tmp_path / "outputs").rglob("result.json")
    assert json.loads(result.read_text())["train"]["bad_rewards"] == 0
    assert given() == []  # and the next command begins anew


@pytest.mark.parametrize("module", ["other", "theirs.reward", "their"])
def test_another_module_that_is_allowed_does_not_help(
    front_door: Callable[..., int], package: Path, tmp_path: Path, module: str
) -> None:
    assert front_door("--resolved", resolved(tmp_path, AS_TARGET), "--allow", module) == 2
    assert not package.exists()


@pytest.mark.parametrize(
    ("target", "settings"),
    [
        ("torch.os.system", {"command": "touch pwned"}),
        ("esolab.results.subprocess.Popen", {"args": ["touch", "pwned"]}),
        ("esolab.results.write_text", {"path": "pwned", "text": ""}),
        ("esolab.__main__.main", {"arguments": ["reward._target_=theirs.rewards.Mine"]}),
        ("esolab.rewards.callable.importlib.import_module", {"name": "theirs.rewards"}),
        ("esolab.check.get_object", {"path": "theirs.rewards.Mine"}),
        ("torch.hub.load", {"repo_or_dir": ".", "model": "x", "source": "local"}),
        (
            "torch.distributed.elastic.multiprocessing.subprocess_handler.SubprocessHandler",
            {"entrypoint": "touch", "args": ["pwned"], "env": {}, "stdout": None, "stderr": None, "local_rank_id": 0},
        ),
    ],
)
def test_what_lies_behind_our_own_names_is_refused(
    front_door: Callable[..., int],
    package: Path,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    target: str,
    settings: dict[str, Any],
) -> None:
    assert front_door("--resolved", resolved(tmp_path, {"_target_": target, **settings})) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"esolab: reward._target_={target}: ")
    assert not package.exists()
    assert list(tmp_path.glob("outputs")) == []


def test_a_resolved_file_refers_to_nothing(
    front_door: Callable[..., int], package: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """What a reference stands for would be built unseen, or be a secret of the environment."""
    made = "${oc.create:{_target_:theirs.rewards.Mine}}"
    assert front_door("--resolved", resolved(tmp_path, {"_target_": "esolab.rewards.gleu.Gleu", "max_n": made})) == 2
    said = "esolab: --resolved job.yaml: reward.max_n: holds ${...}; give its value instead\n"
    assert capsys.readouterr().err == said
    assert not package.exists()


@pytest.mark.parametrize(("key", "name"), [("slug", "../../elsewhere"), ("slug", ".."), ("experiments", "/root")])
def test_a_resolved_file_stays_in_its_outputs(
    front_door: Callable[..., int], capsys: pytest.CaptureFixture[str], tmp_path: Path, key: str, name: str
) -> None:
    config = resolve(SMALL)
    file = resolved(tmp_path, config["reward"])
    content = yaml.safe_load(Path(file).read_text())
    (content if key == "slug" else content["choices"])[key] = name
    Path(file).write_text(yaml.safe_dump(content))
    assert front_door("--resolved", file) == 2
    assert f"{key}={name}: no name of a folder; " in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["job.yaml"]


@pytest.mark.parametrize("override", [f"reward._target_={TARGET}", f"reward=callable reward.function={FUNCTION}"])
def test_what_the_command_line_names_is_allowed(package: Path, override: str) -> None:
    config = resolve([*SMALL, *override.split()])
    assert package.exists()
    assert "theirs" in str(config["reward"])


def test_a_yaml_that_names_code_from_elsewhere_needs_the_flag(package: Path) -> None:
    node = {"_target_": TARGET}
    assert [line.partition(":")[0] for _, line in strangers({"reward": node})] == [f"reward._target_={TARGET}"]
    assert settable(node) == []
    assert not package.exists()
    with allowing(["theirs"]):
        assert list(strangers({"reward": node})) == []
        assert settable(node) == ["scale", "others"]
    assert package.exists()


@pytest.mark.parametrize(
    ("override", "modules"),
    [
        ("reward._target_=a.b.C", ["a.b"]),
        ("reward._target_='a.C'", ["a"]),
        ("reward.function=a.b:c.d", ["a.b"]),
        ('reward.function="a:c"', ["a"]),
        ("+reward.parts.x={reward:{_target_:a.C,function:'b:d'},weight:1}", ["a", "b"]),
        ('{"_target_": "a.C"}', ["a"]),
        ("reward._target_=esolab.rewards.gleu.Gleu", []),
        ("reward._target_=torch.nn.Identity", ["torch.nn"]),
        ("reward._target_=Single", ["Single"]),
        ("my_function=a:b", []),
        ("seed=1", []),
    ],
)
def test_modules_that_an_override_names(override: str, modules: list[str]) -> None:
    assert named([override]) == modules


def test_flags_are_taken_from_anywhere() -> None:
    assert flags(["-m", "--allow", "a", "seed=1,2", "--allow=b.c"]) == (["a", "b.c"], ["-m", "seed=1,2"])
    for wrong in (["--allow"], ["--allow", "a/b"], ["--allow="], ["--allow", "a..b"]):
        with pytest.raises(BadInput, match=r"--allow .*: no name of a module; give --allow MODULE"):
            flags(wrong)


def test_names_are_allowed_whole() -> None:
    with allowing(["torch.hub"]):
        assert fits(get_object("torch.hub.load"), "torch.hub.load")
    for name in ("torch.hub.load", "torch.os.system", "torch.load", "esolab.run.run", "pytorch_lightning.Trainer"):
        assert not fits(get_object(name), name)
    for name in ("torch.nn.Identity", "torch.optim.SGD", "esolab.models.Model", "esolab.loggers.wandb_logger"):
        assert fits(get_object(name), name)


def test_references_are_found_in_lists_too() -> None:
    assert list(references({"a": [1, {"b": "x${y}"}], "c": "$y", "d": "\\${z}"})) == ["a.1.b", "d"]


def test_a_sweep_hands_on_what_its_command_line_names(
    front_door: Callable[..., int],
    package: Path,
    jobs_here: list[list[str]],
    tmp_path: Path,
) -> None:
    assert front_door("-m", "reward=callable", f"reward.function={FUNCTION}", "seed=0,1", *SMALL) == 0
    assert [command[5:] for command in jobs_here] == [["--allow", "theirs.rewards"]] * 2
    jobs_here.clear()
    assert front_door("--allow", "theirs", "-m", "method=sft", "seed=2,3", *SMALL) == 0
    assert [command[5:] for command in jobs_here] == [["--allow", "theirs"]] * 2
    ledger = json.loads((tmp_path / "outputs" / "single" / "sweep.json").read_text())
    assert ledger["command"].startswith("python -m esolab --allow=theirs -m ")


@pytest.mark.slow
@pytest.mark.parametrize("command", ["file", "overrides"])
def test_ranks_are_told_the_same(
    front_door: Callable[..., int],
    package: Path,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
    command: str,
) -> None:
    two = ["trainer.devices=2", "trainer.strategy=ddp", "trainer.accelerator=cpu"]
    config = resolve([*SMALL, *two])
    file = resolved(tmp_path, AS_FUNCTION, trainer=config["trainer"])
    asked, flag = ["--resolved", file], ["--allow", "theirs"]
    if command == "overrides":
        asked, flag = [*SMALL, *two, "reward=callable", f"reward.function={FUNCTION}"], []
    else:
        assert front_door(*asked) == 2
        said = capfd.readouterr().err
        assert said.startswith(f"esolab: reward.function={FUNCTION}: code from elsewhere, which was not imported; ")
        assert not (tmp_path / "outputs").exists()
        assert not package.exists()
    assert front_door(*asked, *flag) == 0
    assert package.exists()
    (result,) = (tmp_path / "outputs").rglob("result.json")
    found = json.loads(result.read_text())["train"]
    assert (found["bad_rewards"], found["steps"]) == (0, 1)
    assert found["final_reward"] > 0
    (log,) = (tmp_path / "outputs").rglob("run.log")
    assert "finished" in log.read_text()


def test_a_trunk_is_told_the_same(package: Path, tmp_path: Path) -> None:
    (task,) = tasks_of([["reward=callable", f"reward.function={FUNCTION}", *SMALL]])
    assert task.command(tmp_path / "x", "--trunk")[3:] == ["--trunk", f"{tmp_path}/x", "--allow", "theirs.rewards"]


CORPUS = """
from pathlib import Path
from esolab.corpora.newswire import Newswire
Path("pwned").touch()

class Mine(Newswire):
    pass
"""


@pytest.fixture
def own_yamls(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """conf/ with a reward and a corpus `mine`, whose code is in `theirs`; the file that importing it leaves."""
    conf = tmp_path / "conf"
    shutil.copytree(CONF, conf)
    (tmp_path / "theirs" / "corpora.py").write_text(CORPUS)
    (conf / "reward" / "mine.yaml").write_text(f"_target_: {TARGET}\nscale: 2.0\n")
    sizes = "max_prompt: 40\nmax_response: 5\ntrain: 2\ndev: 0\ntest: 3\n"
    (conf / "data" / "mine.yaml").write_text(f"_target_: theirs.corpora.Mine\n{sizes}")
    monkeypatch.setattr("esolab.config.CONF", conf)
    monkeypatch.setattr("esolab.judge.__main__.CONF", conf)
    return package


def test_evaluate_takes_the_flag(
    own_yamls: Path, make_policy: Callable[..., Any], tokenizer: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    make_policy("gpt2", n_positions=64).network.save_pretrained(tmp_path / "policy")
    tokenizer.inner.save_pretrained(tmp_path / "policy")
    asked = [f"policy={tmp_path / 'policy'}", "data=mine", "evaluation.decodings=[greedy]"]
    assert evaluate(asked) == 2
    said = capsys.readouterr().err
    assert "_target_=theirs.corpora.Mine: code from elsewhere" in said
    assert "give --allow theirs.corpora if you trust it" in said
    assert not own_yamls.exists()
    assert evaluate(["--allow", "theirs", *asked]) == 0
    assert own_yamls.exists()
    (scores,) = (tmp_path / "outputs").rglob("scores.json")
    assert json.loads(scores.read_text())["scores"]["mine"]["greedy"]["n"] == 3
    assert given() == []


def test_judge_takes_the_flag(own_yamls: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for name, answer in (("a", "long answer"), ("b", "answer")):
        (tmp_path / name).mkdir()
        line = {"id": "p", "data": "x", "decoding": "sample", "prompt": "?", "reference": "r", "prediction": answer}
        (tmp_path / name / "predictions.jsonl").write_text(json.dumps(line) + "\n")
    asked = ["a=a", "b=b", "judge=preference", "judge.reward=mine"]
    assert judge(asked) == 2
    assert f"_target_={TARGET}: code from elsewhere" in capsys.readouterr().err
    assert not own_yamls.exists()
    assert judge([*asked, "--allow=theirs.rewards"]) == 0
    (result,) = (tmp_path / "outputs" / "judge").rglob("result.json")
    assert json.loads(result.read_text())["wins"] == 1
    assert given() == []


def test_preflight_takes_the_flag(own_yamls: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert preflight(["--no-measure", "reward=mine", *SMALL]) == 2
    assert f"reward._target_={TARGET}: code from elsewhere" in capsys.readouterr().err
    assert not own_yamls.exists()
    assert preflight(["--no-measure", "--allow", "theirs", "reward=mine", *SMALL]) == 0
    assert own_yamls.exists()
    assert "method=eso, model=tiny, data=newswire, reward=mine" in capsys.readouterr().err


@pytest.mark.parametrize("command", [evaluate, judge, preflight])
def test_a_command_that_takes_the_flag_says_so(
    command: Callable[[list[str]], int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(["--help"]) == 0
    assert "--allow MODULE" in capsys.readouterr().out
    assert command(["--allow", "no module"]) == 2
    assert "--allow no module: no name of a module; give --allow MODULE" in capsys.readouterr().err
