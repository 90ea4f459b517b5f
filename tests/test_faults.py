"""Every fault through the front door: one message without a traceback, exit code 2, and what was there is kept.

What is shown here goes to outputs/faults.md, see faults.py.
"""

import json
import os
import pickle
import re
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import esolab.run
from esolab import results
from esolab.answered import Answered
from esolab.checkpoints import LAST, opened
from esolab.config import resolve
from esolab.evaluate import Evaluation
from esolab.evaluate import main as evaluate
from esolab.judge.__main__ import main as judge
from esolab.methods.base import Method
from esolab.methods.onpolicy import OnPolicy
from esolab.report.__main__ import main as report
from esolab.rewards.rouge import Rouge
from esolab.training import Trainer

FULL = pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, the disk that is always full")
POLICY = [
    *("model.architecture.n_layer=1", "model.architecture.n_embd=16", "model.architecture.n_head=2"),
    *("model.vocab_size=700", "trainer.threads=1", "trainer.epochs=2", "trainer.batch_size=8", "trainer.save_every=1"),
    *("evaluation.decodings=[greedy]", "evaluation.dev_limit=0", "trainer.samples_every=1"),
]
NEWS = [*POLICY, "data.train=16", "data.dev=2", "data.test=4", "data.max_prompt=120", "data.max_response=40"]
SMALL = [*NEWS, "method.active_epochs=all"]
SFT = [*NEWS, "method=sft"]
STEPS = 4  # 16 examples, 8 a step, two epochs


def own(file: str, prompt: int = 60, response: int = 40) -> list[str]:
    """The settings that read a file."""
    limits = [f"data.max_prompt={prompt}", f"data.max_response={response}"]
    return ["data=file", f"data.path={file}", *limits, *POLICY]


OWN = own("rows.jsonl")
ROWS = [{"prompt": f"Say {i}.", "reference": f"{i} it is."} for i in range(40)]
REWARDS = """
def fails(prompts, responses, references):
    return [[len(answer) / 0 for answer in answers] for answers in responses]

def nothing(prompts, responses, references):
    return [[float("nan") for answer in answers] for answers in responses]

def short(prompts, responses, references):
    return [1.0]

number = 3
"""
NOTHING = "nothing: nothing was begun"
SECRET = "s3cret-of-a-user/4711"
Door = Callable[..., int]
Recorded = Callable[..., None]


class Malice:
    """What a pickle can do to whoever opens it."""

    def __reduce__(self) -> Any:
        return os.system, ("touch pwned",)


@pytest.fixture
def here(front_door: Door, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder where the commands are given, with what they name."""
    for name, content in {
        "rows.jsonl": "".join(json.dumps(row) + "\n" for row in ROWS),
        "empty.jsonl": "",
        "broken.jsonl": json.dumps(ROWS[0]) + "\n{\n",
        "other.jsonl": '{"question": "x", "answer": "y"}\n',
        "own_rewards.py": REWARDS,
        "own_broken.py": "import json\njson.loads('[')\n",
        "tag.yaml": "a: !!python/object/apply:os.system ['touch pwned']\n",
        "part.yaml": "seed: 1\n",
    }.items():
        (tmp_path / name).write_text(content)
    for folder, config in {
        "empty": None,
        "coded": {"model_type": "theirs", "auto_map": {"AutoConfig": "theirs.Config"}},
        "chat": {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]},
    }.items():
        (tmp_path / folder).mkdir()
        if config is not None:
            (tmp_path / folder / "config.json").write_text(json.dumps(config))
    (tmp_path / "coded" / "theirs.py").write_text("open('pwned', 'w')")
    monkeypatch.syspath_prepend(tmp_path)
    if (wandb := sys.modules.get("wandb")) is not None:
        wandb.teardown()  # with what it has left in the environment, which would be put back after its service ended
    for name in [name for name in os.environ if name.startswith(("WANDB_", "HF_"))]:
        monkeypatch.delenv(name)
    yield tmp_path
    for name in ("own_rewards", "own_broken"):
        sys.modules.pop(name, None)
    if (wandb := sys.modules.get("wandb")) is not None:
        wandb.teardown()  # it would remember that there was no account


def everything(folder: Path) -> set[str]:
    """The files below a folder, but for what Python compiles."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if "__pycache__" not in path.parts}


def said(capsys: pytest.CaptureFixture[str]) -> str:
    """The one message that a command has ended with."""
    err = capsys.readouterr().err
    assert "Traceback" not in err
    assert "Logging error" not in err
    found = re.search(r"(?:^|\n)(esolab:.*)\Z", err, re.DOTALL)
    assert found is not None, err
    assert found[1].count("esolab:") == 1
    return found[1]


REFUSED: list[tuple[str, list[str], str]] = [  # what, the command, a part of the message
    ("an unknown choice", ["method=esoo"], "method=esoo: no such choice, did you mean eso?"),
    ("an unknown key", ["data.max_prompts=96"], "data.max_prompts=96: unknown key, did you mean data.max_prompt?"),
    ("a value out of range", ["method.lam=-1"], "method.lam=-1: input should be greater than or equal to 0"),
    ("a value of a wrong type", ["sampling.k=four"], "sampling.k=four: input should be a valid integer"),
    ("several misfits at once", ["seed=-1", "method.lam=-1"], "seed=-1: input should be greater than or equal to 0"),
    ("an override that cannot be read", ["method.lam=[1"], "method.lam=[1: cannot be read as key=value"),
    ("a word that is no override", ["seed"], "seed: cannot be read as key=value"),
    ("what every run needs, taken away", ["~model"], "~model: a run needs model; leave ~model out"),
    ("a ladder of another length than k", ["sampling.temperatures=[1.0]"], "sampling.temperatures"),
    ("one answer a prompt for ESO", ["sampling.k=1"], "sampling.k=1: eso compares answers; give at least 2"),
    ("more tokens than positions", ["data.max_prompt=9000"], "positions; lower one of them"),
    ("an evaluation set that is none", ["evaluation.data=[newswir]"], "evaluation.data: no corpus 'newswir'"),
    ("a set named twice", ["evaluation.decodings=[greedy,greedy]"], "'greedy' more than once; name each once"),
    ("a data file that is not there", ["data=file", "data.path=none.jsonl"], "none.jsonl"),
    ("a data root that is not there", ["data=dolly", "data_root=none"], "none"),
    ("a model that is no folder", ["model.path=none"], "model.path: 'none' is not a folder"),
    ("a model folder without a model", ["model.path=empty"], "model: cannot read the config of 'empty'"),
    ("a model with code of its own", ["model=hf", "model.path=coded"], "model.path=coded: its config.json names code"),
    (
        "a tokenizer with code of its own",
        ["model.tokenizer=coded"],
        "model.tokenizer=coded: its config.json names code",
    ),
    ("an unknown architecture", ["model.architecture.model_type=gpt5"], "'gpt5' is not a model type of transformers"),
    ("no GPU", ["trainer.accelerator=gpu"], "trainer.accelerator=gpu: torch finds no GPU here; give auto or cpu"),
    ("no device", ["trainer.devices=0"], "trainer.devices=0: give at least one device"),
    ("machines without processes", ["trainer.nodes=2"], "trainer.nodes=2: 2 processes are needed, one a device, and 1"),
    ("an unknown strategy", ["trainer.strategy=fsdp9"], "trainer.strategy=fsdp9: no strategy of Lightning's"),
    ("a reward function that is not there", ["reward=callable", "reward.function=none:f"], "none cannot be imported"),
    (
        "a reward module that fails when imported",
        ["reward=callable", "reward.function=own_broken:f"],
        "own_broken cannot be imported (JSONDecodeError: ",
    ),
    (
        "a reward that cannot be called",
        ["reward=callable", "reward.function=own_rewards:number"],
        "of type int, which cannot be called",
    ),
    (
        "settings that a reward function does not take",
        ["reward=callable", "reward.function=own_rewards:fails", "+reward.settings.scale=2"],
        "reward.settings={'scale': 2}",
    ),
    (
        "a target that is not there",
        ["reward._target_=none.Reward"],
        "reward._target_: 'none.Reward' cannot be imported",
    ),
    ("a reward model that is not there", ["reward=preference", "reward.path=none"], "there is no such folder"),
    ("a language model as a reward", ["reward=preference", "reward.path=chat"], "has no head that scores a text"),
    (
        "a reward model with code of its own",
        ["reward=preference", "reward.path=coded"],
        "reward.path=coded: its config.json names code of its own (auto_map: ",
    ),
    ("an address that is none", ["reward=http", "reward.url=localhost"], "reward.url=localhost: not an address"),
    (
        "a key in an address",
        ["reward=http", f"reward.url='http://host/?api_key={SECRET}'"],
        "reward.url=http://host/: its api_key=... looks like a key",
    ),
    (
        "a key in an address that needs quotes",
        ["reward=http", f"reward.url=http://me:{SECRET}@host/?api_key={SECRET}"],
        "reward.url=http://host/?...: cannot be read as key=value",
    ),
    (
        "a key in the place of its variable",
        ["reward=http", "reward.url=http://host/", f"reward.token_env={SECRET}"],
        "reward.token_env: names no variable of the environment, or an empty one (not shown here",
    ),
    ("W&B without an account", ["logger=wandb"], "logger=wandb: no account is set up"),
    ("stages without -m", ["experiments=figure2"], "experiments=figure2: has stages, which one run is not; give -m"),
    (
        "a sweep of which nothing fits",
        ["-m", "method.lam=-2,-1"],
        "method.lam=-2: input should be greater than or equal",
    ),
    ("another place for settings", ["--config-dir", "elsewhere"], "--config-dir elsewhere: settings come from "),
    ("flags of Hydra's that do nothing here", ["--resolve"], "--resolve: goes with --cfg job alone"),
    ("--allow without a module", ["--allow"], "--allow : no name of a module; give --allow MODULE"),
    ("--resolved without a file", ["--resolved", "none.yaml"], "--resolved: give one file, the config.yaml"),
    ("a resolved file that is a part of one", ["--resolved", "part.yaml"], "has no protocol, trainer, model and"),
    (
        "a resolved file with a Python tag",
        ["--resolved", "tag.yaml"],
        "cannot be read (could not determine a constructor",
    ),
    ("a trunk of a run that shares nothing", ["--trunk", "none.yaml"], "--trunk: give one file, the config.yaml"),
]


@pytest.mark.parametrize(("what", "arguments", "message"), REFUSED, ids=[what for what, *_ in REFUSED])
def test_bad_input_is_refused_before_anything_is_begun(
    front_door: Door,
    here: Path,
    capsys: pytest.CaptureFixture[str],
    fault: Recorded,
    what: str,
    arguments: list[str],
    message: str,
) -> None:
    before = everything(here)
    assert front_door(*arguments) == 2
    line = said(capsys)
    assert message in line
    assert SECRET not in line
    assert everything(here) == before
    fault(what, line, 2, NOTHING)


STRANGE: list[tuple[str, dict[str, Any], str]] = [
    (
        "a resolved file that names a class from elsewhere",
        {"_target_": "own_rewards.Mine"},
        "reward._target_=own_rewards.Mine: code from elsewhere, which was not imported; ",
    ),
    (
        "a resolved file that names a function from elsewhere",
        {"_target_": "esolab.rewards.callable.Function", "function": "own_rewards:short"},
        "reward.function=own_rewards:short: code from elsewhere, which was not imported; ",
    ),
    (
        "a resolved file that names the system behind torch",
        {"_target_": "torch.os.system", "command": "touch pwned"},
        "reward._target_=torch.os.system: code from elsewhere",
    ),
    (
        "a resolved file that refers to the environment",
        {"_target_": "esolab.rewards.gleu.Gleu", "max_bad_share": "${oc.env:HOME}"},
        "reward.max_bad_share: holds ${...}; give its value instead",
    ),
]


@pytest.mark.parametrize(("what", "reward", "message"), STRANGE, ids=[what for what, *_ in STRANGE])
def test_a_file_from_elsewhere_runs_nothing(
    front_door: Door,
    here: Path,
    capsys: pytest.CaptureFixture[str],
    fault: Recorded,
    what: str,
    reward: dict[str, Any],
    message: str,
) -> None:
    (here / "job.yaml").write_text(yaml.safe_dump({**resolve(SMALL), "reward": reward}))
    before = everything(here)
    assert front_door("--resolved", "job.yaml") == 2
    line = said(capsys)
    assert message in line
    assert everything(here) == before
    fault(what, line, 2, NOTHING)


JUDGED = ["judge=preference", "judge.reward=rouge"]
OTHER_DOORS: list[tuple[str, Callable[[list[str]], int], list[str], str]] = [
    ("an evaluation of nothing", evaluate, ["data=newswire"], "policy: no value; give policy=DIR"),
    ("an evaluation of what is no policy", evaluate, ["policy=none"], "'none' is not a folder"),
    ("an evaluation of a model with code", evaluate, ["policy=coded"], "its config.json names code of its own"),
    ("a report of nothing", report, ["empty"], "report: no finished run or judgement (result.json) in empty"),
    ("a judgement of runs that are not there", judge, [*JUDGED, "a=none", "b=chosen"], "a=none"),
]


@pytest.mark.parametrize(("what", "door", "arguments", "message"), OTHER_DOORS, ids=[what for what, *_ in OTHER_DOORS])
def test_the_other_doors_are_the_same(
    here: Path,
    capsys: pytest.CaptureFixture[str],
    fault: Recorded,
    what: str,
    door: Callable[[list[str]], int],
    arguments: list[str],
    message: str,
) -> None:
    before = everything(here)
    assert door(arguments) == 2
    line = said(capsys)
    assert message in line
    assert everything(here) == before
    fault(what, line, 2, NOTHING)


UNREADABLE: list[tuple[str, list[str], str]] = [
    ("a data file without rows", own("empty.jsonl"), "empty.jsonl"),
    ("a data file with half a row", own("broken.jsonl"), "broken.jsonl"),
    ("a data file without the column", own("other.jsonl"), "other.jsonl"),
    ("data without pairs for DPO", [*OWN, "method=dpo"], "have no rejected reply"),
    ("no example within the limits", own("rows.jsonl", 1, 2), "none of "),
    (
        "a set that is for evaluation alone",
        ["data=newswire_shift", *POLICY],
        "an evaluation set, with nothing to train on",
    ),
]


@pytest.mark.parametrize(("what", "arguments", "message"), UNREADABLE, ids=[what for what, *_ in UNREADABLE])
def test_data_that_cannot_be_used_ends_the_run_before_a_step(
    front_door: Door,
    here: Path,
    capsys: pytest.CaptureFixture[str],
    fault: Recorded,
    what: str,
    arguments: list[str],
    message: str,
) -> None:
    assert front_door(*arguments) == 2
    line = said(capsys)
    assert message in line
    assert not [name for name in everything(here) if name.endswith(("result.json", ".ckpt", "metrics.csv"))]
    fault(what, line, 2, "the run's log and configuration, no result")


def pickled(folder: Path, form: str) -> None:
    """A model whose weights run code when they are unpickled."""
    if form == "torch":
        torch.save({"transformer.wte.weight": Malice()}, folder / "pytorch_model.bin")
    else:
        (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Malice(), protocol=2))


@pytest.mark.parametrize("form", ["torch", "pickle"])
def test_code_in_the_weights_of_a_model_is_not_run(
    front_door: Door, here: Path, capsys: pytest.CaptureFixture[str], fault: Recorded, form: str
) -> None:
    assert front_door(*SFT) == 0
    (policy,) = here.glob("outputs/single/*/policy")
    (policy / "model.safetensors").unlink()
    pickled(policy, form)
    capsys.readouterr()
    given = [setting for setting in SFT if not setting.startswith("model.")]
    assert front_door("model=hf", f"model.path={policy}", "seed=1", *given) == 2
    line = said(capsys)
    assert "model: cannot read the weights of" in line
    assert "holds more than weights, such as code, and nothing of it was run" in line
    assert not (here / "pwned").exists()
    fault(f"weights of a policy with code in them ({form})", line, 2, "the run's log and configuration, no result")


@pytest.mark.parametrize("form", ["torch", "pickle"])
def test_code_in_the_weights_of_a_reward_model_is_not_run(
    front_door: Door, here: Path, capsys: pytest.CaptureFixture[str], fault: Recorded, form: str
) -> None:
    assert front_door("method=reward_model", "data=preferences", *NEWS) == 0
    (folder,) = here.glob("outputs/single/*/reward_model")
    (folder / "model.safetensors").unlink()
    pickled(folder, form)
    capsys.readouterr()
    assert front_door("reward=preference", f"reward.path={folder}", *SMALL) == 2
    line = said(capsys)
    assert f"reward.path={folder}: cannot be read as a reward model (it holds more than weights" in line
    assert not (here / "pwned").exists()
    fault(
        f"weights of a reward model with code in them ({form})", line, 2, "the run's log and configuration, no result"
    )


# a machine or a reward that fails amid a run


def folder_of(command: list[str] = SMALL) -> Path:
    """Where the run of a command belongs."""
    return esolab.run.locate(resolve(command)).folder


def no_memory(*args: Any, **others: Any) -> Any:
    """More than there is anywhere: what torch itself says on a CPU."""
    return torch.empty(1 << 50)


def no_gpu_memory(*args: Any, **others: Any) -> Any:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has 79.10 GiB in all")


def from_step(step: int, do: Callable[..., Any], patched: pytest.MonkeyPatch, owner: Any, name: str) -> None:
    """Let a method of a Method do something else once so many steps are made."""
    usual = getattr(owner, name)

    def either(self: Any, *args: Any, **others: Any) -> Any:
        return (do if self.account.steps >= step else usual)(self, *args, **others)

    patched.setattr(owner, name, either)


@pytest.mark.parametrize(
    ("what", "owner", "name", "do"),
    [
        ("out of memory while it learns", Method, "backward_all", no_memory),
        ("out of memory while it samples", OnPolicy, "draw", no_memory),
        ("out of memory on a GPU", Method, "backward_all", no_gpu_memory),
    ],
)
def test_out_of_memory_names_what_takes_less_and_keeps_the_checkpoint(
    front_door: Door,
    here: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    fault: Recorded,
    what: str,
    owner: Any,
    name: str,
    do: Callable[..., Any],
) -> None:
    with monkeypatch.context() as patched:
        from_step(3, do, patched, owner, name)
        assert front_door(*SMALL) == 2
    line = said(capsys)
    knobs = [
        "out of memory (",
        "trainer.micro_batch=16",
        "trainer.micro_k=null",
        "trainer.gradient_checkpointing=true",
        "trainer.precision",
        "data.max_prompt=120",
    ]
    places = [line.index(knob) for knob in knobs]
    assert places == sorted(places)
    assert "; the last checkpoint is kept: the run goes on from it with any of them; what begins one anew: give" in line
    folder = folder_of()
    assert opened(folder / LAST)[0] == 3
    assert "Traceback" in (folder / "run.log").read_text()
    assert front_door(*SMALL, "trainer.micro_batch=3", "trainer.micro_k=1", "evaluation.batch_size=5") == 0
    told = (folder / "run.log").read_text()
    for lowered in ("trainer.micro_batch=3 in place of 16", "trainer.micro_k=1 in place of None"):
        assert lowered in told.partition("after step 3 with ")[2].splitlines()[0]
    assert (folder / "result.json").exists()
    fault(what, line, 2, "the checkpoint of step 3; the command with lower knobs went on from it, and ended the run")


def test_out_of_memory_under_dropout_tells_apart_what_goes_on(
    front_door: Door, here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, fault: Recorded
) -> None:
    with monkeypatch.context() as patched:
        from_step(3, no_memory, patched, Method, "backward_all")
        assert front_door(*SMALL, "protocol.dropout=0.1") == 2
    line = said(capsys)
    same, _, other = line.partition("what begins one anew")
    assert "trainer.gradient_checkpointing=true" in same
    assert "trainer.micro_batch=16" in other
    assert "trainer.micro_k=null" in other
    assert front_door(*SMALL, "protocol.dropout=0.1", "trainer.gradient_checkpointing=true") == 0
    (folder,) = here.glob("outputs/single/*")
    assert "after step 3 with trainer.gradient_checkpointing=True in place" in (folder / "run.log").read_text()
    fault("out of memory under dropout", line, 2, "the checkpoint of step 3; the run went on from it, checkpointing")


def test_out_of_memory_before_a_step_and_in_an_evaluation(
    front_door: Door, here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, fault: Recorded
) -> None:
    with monkeypatch.context() as patched:
        from_step(0, no_memory, patched, Method, "backward_all")
        assert front_door(*SFT) == 2
    line = said(capsys)
    assert "; no checkpoint was made yet; " in line
    fault("out of memory in the first step", line, 2, "the run's log and configuration")
    assert front_door(*SFT) == 0
    capsys.readouterr()
    before = everything(here)
    with monkeypatch.context() as patched:
        patched.setattr(Evaluation, "score", no_memory)
        assert evaluate([f"policy={folder_of(SFT)}"]) == 2
    line = said(capsys)
    assert "lower evaluation.batch_size, which changes no answer" in line
    assert everything(here) == before
    fault("out of memory while a saved policy is scored", line, 2, "the policy")


def test_a_reward_that_fails_is_named_with_its_error_and_the_examples(
    front_door: Door, here: Path, capsys: pytest.CaptureFixture[str], fault: Recorded
) -> None:
    assert front_door("reward=callable", "reward.function=own_rewards:fails", *NEWS) == 2
    line = said(capsys)
    assert line.startswith("esolab: reward: own_rewards.fails failed with ZeroDivisionError: division by zero (")
    assert f"({here}/own_rewards.py, line 3)" in line
    (ids,) = re.findall(r"on the answers to (.*); mend it", line)
    assert len(ids.split(", ")) == 8
    assert all(re.fullmatch(r"newswire/train/\d+", one) for one in ids.split(", ")), ids
    (folder,) = here.glob("outputs/single/*")
    assert opened(folder / LAST)[0] == 2
    assert "Traceback" in (folder / "run.log").read_text()
    fault("a reward function that raises", line, 2, "the checkpoint of step 2, and the traceback in run.log")


@pytest.mark.parametrize("name", ["nothing", "short"])
def test_a_reward_without_numbers_ends_the_run(
    front_door: Door, here: Path, capsys: pytest.CaptureFixture[str], fault: Recorded, name: str
) -> None:
    assert front_door("reward=callable", f"reward.function=own_rewards:{name}", *SMALL) == 2
    line = said(capsys)
    assert "gave no usable number for 100% of the answers so far, more than reward.max_bad_share=0.1" in line
    what = {"nothing": "a reward of NaN", "short": "a reward of another shape"}[name]
    fault(what, line, 2, "the run's log and configuration")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a server that refuses everybody, and repeats their key."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            text = f"wrong key {self.headers['Authorization']}".encode()
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(401)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *args: Any) -> None:
            """Not to the terminal."""

    monkeypatch.setenv("no_proxy", "*")
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}/score"
        http.shutdown()
        thread.join()


def test_a_server_that_refuses_a_key_does_not_show_it(
    front_door: Door,
    here: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    fault: Recorded,
    server: str,
) -> None:
    monkeypatch.setenv("JUDGE", SECRET)
    assert front_door("reward=http", f"reward.url={server}", "reward.token_env=JUDGE", *SMALL) == 2
    line = said(capsys)
    assert "it answers with status 401, 'wrong key Bearer [key]'" in line
    written = [path.read_bytes() for path in here.rglob("*") if path.is_file()]
    assert len(written) > 10
    assert not any(SECRET.encode() in content for content in written)
    assert any(b"JUDGE" in content for content in written)  # its name is in config.yaml
    fault("a reward server that refuses the key, and repeats it", line, 2, "the run's log and configuration, no key")


def test_a_reward_server_that_is_not_there(
    front_door: Door, here: Path, capsys: pytest.CaptureFixture[str], fault: Recorded
) -> None:
    url = "http://127.0.0.1:9/score"
    assert front_door("reward=http", f"reward.url={url}", "reward.retries=1", "reward.backoff=0.01", *SMALL) == 2
    line = said(capsys)
    assert f"reward.url={url}: no reply in 2 attempts (it cannot be reached (" in line
    fault("a reward server that is not there", line, 2, "the run's log and configuration")


def test_training_that_diverges_says_where_and_what_was_kept(
    front_door: Door, here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, fault: Recorded
) -> None:
    def nan(self: Method, terms: dict[str, Any], losses: dict[str, float]) -> None:
        usual(self, {name: term * float("nan") for name, term in terms.items()}, losses)

    usual = Method.descend
    from_step(3, nan, monkeypatch, Method, "descend")
    assert front_door(*SMALL) == 2
    line = said(capsys)
    folder = folder_of()
    assert line.startswith("esolab: training diverged at step 4: loss ")
    assert f"the last checkpoint is kept, of step 3, in {folder}" in line
    ids = line.rpartition("The batch was ")[2].strip().split(", ")
    assert len(ids) == 8
    assert all(re.fullmatch(r"newswire/train/\d+", one) for one in ids)
    assert opened(folder / LAST)[0] == 3
    fault("a loss that is not finite", line, 2, "the checkpoint of step 3")


# a disk that is full


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nothing disturbs."""
    return esolab.run.run(resolve([*SMALL, f"outputs={tmp_path_factory.mktemp('whole')}"]))


def to_nowhere(file: Path) -> None:
    """From now on what is written to a file finds a full disk."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.exists() and not file.is_symlink():
        file.rename(f"{file}.before")
    file.unlink(missing_ok=True)
    file.symlink_to("/dev/full")


def make_room(folder: Path) -> None:
    """Take the full disk away."""
    for file in list(folder.rglob("*")):
        if file.is_symlink():
            file.unlink()
    for file in list(folder.rglob("*.before")):
        if not file.with_suffix("").exists():
            file.rename(file.with_suffix(""))


def fills(name: str, folder: Path, patched: pytest.MonkeyPatch) -> None:
    """Fill the disk for one file of a run, as soon as the run has come to write it."""
    if name in ("metrics.csv", "samples.jsonl"):
        from_step(3, lambda self, numbers: (to_nowhere(folder / name), usual(self, numbers)), patched, Method, "record")
    elif name == "predictions.part.jsonl":
        patched.setattr(Answered, "add", lambda self, *args: (to_nowhere(self.path), add(self, *args)))
    elif name == "policy":
        to_nowhere(folder / "policy" / "config.json")
    elif name == LAST:
        to_nowhere(folder / f"{LAST}.tmp")
    else:
        to_nowhere(folder / f"{name}.{os.getpid()}.tmp")


usual, add = Method.record, Answered.add
ON_DISK = {
    "config.yaml": 0,
    "metrics.csv": 2,
    "samples.jsonl": 2,
    LAST: 0,
    "predictions.part.jsonl": STEPS,
    "predictions.jsonl": STEPS,
    "policy": STEPS,
    "result.json": STEPS,
}


@FULL
@pytest.mark.parametrize(("name", "step"), ON_DISK.items())
def test_a_full_disk_names_the_file_and_nothing_is_lost(
    front_door: Door,
    here: Path,
    whole: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    fault: Recorded,
    name: str,
    step: int,
) -> None:
    folder = folder_of()
    with monkeypatch.context() as patched:
        fills(name, folder, patched)
        assert front_door(*SMALL) == 2
    line = said(capsys)
    named = name.replace(".part.", ".part.0.")  # of the first rank
    assert f"outputs: cannot write '{folder / named}' (" in line
    assert not (folder / "result.json").exists()
    assert (opened(folder / LAST)[0] if (folder / LAST).exists() else 0) == step
    make_room(folder)
    assert front_door(*SMALL) == 0
    for left in ("predictions.jsonl", "policy/model.safetensors", "policy/config.json", "samples.jsonl"):
        assert (folder / left).read_bytes() == (whole / left).read_bytes(), left
    steps = [row.split(",")[0] for row in (folder / "metrics.csv").read_text().splitlines()[1:]]
    assert sorted(set(steps), key=int) == [str(i + 1) for i in range(STEPS)]
    kept = (
        f"the checkpoint of step {step}; with room the same command ended the run, to the byte"
        if step
        else "all before"
    )
    fault(f"a disk that is full at {name}", line, 2, kept)


@FULL
def test_a_log_that_cannot_be_kept_stops_nothing(
    front_door: Door, here: Path, capsys: pytest.CaptureFixture[str], fault: Recorded
) -> None:
    folder = folder_of(SFT)
    to_nowhere(folder / "run.log")
    assert front_door(*SFT) == 0
    err = capsys.readouterr().err
    assert "Traceback" not in err
    assert (folder / "result.json").exists()
    fault(
        "a disk that is full at run.log",
        "(none; the run's other files say what is lost)",
        0,
        "the whole run but its log",
    )


def test_a_folder_that_cannot_be_written(
    front_door: Door, here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, fault: Recorded
) -> None:
    before = everything(here)
    assert front_door(*SMALL, "outputs=rows.jsonl") == 2
    line = said(capsys)
    assert re.search(r"outputs: cannot write 'rows\.jsonl/single/.*' \(Not a directory\); give outputs=DIR", line)
    fault("outputs that is a file", line, 2, "the file")

    def read_only(self: Path, *args: Any, **others: Any) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    with monkeypatch.context() as patched:
        patched.setattr(Path, "mkdir", read_only)
        assert front_door(*SMALL) == 2
    line = said(capsys)
    assert re.search(r"outputs: cannot write 'outputs/single/.*' \(Permission denied\); give outputs=DIR", line)
    assert everything(here) == before
    fault("outputs that is read-only", line, 2, NOTHING)

    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device", "somewhere")

    monkeypatch.setattr(Trainer, "build", full)  # whatever writes where
    assert front_door(*SMALL) == 2
    line = said(capsys)
    assert "outputs: cannot write 'somewhere' (No space left on device); no checkpoint was made yet" in line
    fault("a disk that is full elsewhere", line, 2, "the run's log and configuration")


def test_an_error_of_our_own_is_no_message(front_door: Door, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mistake in esolab keeps its traceback: it is nobody's input."""

    def mistake(*args: Any) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(Trainer, "build", mistake)
    with pytest.raises(RuntimeError, match="a bug"):
        front_door(*SMALL)


# runs that are in each other's way


def test_a_folder_in_use(front_door: Door, here: Path, capsys: pytest.CaptureFixture[str], fault: Recorded) -> None:
    with results.locked(folder_of()):
        assert front_door(*SMALL) == 2
    line = said(capsys)
    assert "outputs: another process is running " in line
    fault("a run that is under way elsewhere", line, 2, "the other process's run")


def test_a_checkpoint_with_code_in_it(
    front_door: Door, here: Path, capsys: pytest.CaptureFixture[str], fault: Recorded
) -> None:
    last = folder_of() / LAST
    last.parent.mkdir(parents=True)
    torch.save({"account": Malice()}, last)
    assert front_door(*SMALL) == 2
    line = said(capsys)
    assert "last.ckpt: no checkpoint of esolab's, and nothing of it was run" in line
    assert not (here / "pwned").exists()
    fault("a checkpoint with code in it", line, 2, "the checkpoint, untouched")


def test_a_checkpoint_of_another_run(
    front_door: Door, here: Path, whole: Path, capsys: pytest.CaptureFixture[str], fault: Recorded
) -> None:
    last = folder_of([*SMALL, "method.lam=0.25"]) / LAST
    last.parent.mkdir(parents=True)
    last.write_bytes((whole / LAST).read_bytes())
    assert front_door(*SMALL, "method.lam=0.25") == 2
    line = said(capsys)
    assert "of a run with other settings (method.lam); put it back" in line
    fault("a checkpoint of another run", line, 2, "the checkpoint, untouched")


def test_data_that_changed_under_a_run(
    front_door: Door, here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, fault: Recorded
) -> None:
    with monkeypatch.context() as patched:
        from_step(2, no_memory, patched, Method, "backward_all")
        assert front_door(*OWN, "method=sft") == 2
    capsys.readouterr()
    changed = [*ROWS[:-1], {"prompt": "Say 39.", "reference": "No."}]
    (here / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in changed))
    assert front_door(*OWN, "method=sft") == 2
    line = said(capsys)
    assert re.search(r"data=file: has changed since this run began \(sha256 \w{12} then, \w{12} now\)", line)
    (here / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    assert front_door(*OWN, "method=sft") == 0
    fault("data that has changed under a run", line, 2, "the run, which went on once the data were back")


def test_names_in_data_are_no_names_of_files(
    front_door: Door, here: Path, capsys: pytest.CaptureFixture[str], fault: Recorded
) -> None:
    """Ids may be anything: none becomes a path."""
    names = ["../../../evil", "/tmp/evil", "..", "a/b", "con\x00", "~", "x" * 300]
    rows = [{"id": f"{names[i % 7]}{i}", **row} for i, row in enumerate(ROWS)]
    (here / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    before = everything(here)
    assert front_door(*OWN, "data.id=id") == 0
    (folder,) = here.glob("outputs/single/*")
    new = everything(here) - before
    assert all(name in ("outputs", "outputs/single") or (here / name).is_relative_to(folder) for name in new)
    assert not any("evil" in name or "a/b" in name for name in new)
    assert "evil" in (folder / "predictions.jsonl").read_text() + (folder / "samples.jsonl").read_text()
    assert not any(Path("/tmp").glob("evil*"))
    capsys.readouterr()
    assert report([str(folder)]) == 0
    fault("ids that are paths", "(none; an id is never a file's name)", 0, "all files in the run's folder")


def test_a_reward_counts_as_failed_once_it_is_called(
    front_door: Door, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of ours is named by its class."""

    def fails(self: Rouge, *args: Any) -> None:
        raise KeyError("x")

    monkeypatch.setattr(Rouge, "__call__", fails)
    with pytest.raises(Exception, match=r"reward: esolab\.rewards\.rouge\.Rouge failed with KeyError: 'x' \("):
        esolab.run.run(resolve([*SMALL, "outputs=elsewhere"]))
