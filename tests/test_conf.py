"""Every yaml of conf/ and experiments/: it composes, and what it names is there and takes what it is given."""

import inspect
from collections.abc import Callable, Iterator
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hydra.utils import get_object
from transformers import GPT2Config

from esolab.config import CONF, build, resolve
from esolab.errors import BadInput

ROOT = Path(__file__).parents[1]
YAMLS = [(p.parent.name, p.stem) for p in sorted(CONF.glob("*/*.yaml")) if p.parent.name != "judge"]  # of test_judge.py
LATER = {"method": 1, "logger": 2}  # arguments that a partial node is called with: (parts), (folder, config)
GIVEN = {"callable": ["reward.function=esolab.rewards.base:check_lengths"], "http": ["reward.url=http://localhost"]}
MIRRORS = {  # group: folder of its modules, and those that are not a choice
    "method": ("methods", {"base", "account", "advantages", "onpolicy", "pairs", "step_metrics"}),
    "data": (
        "corpora",
        {"base", "alpaca", "grammar", "grammar_shift", "hub", "reading", "sources", "tasks", "tasks_shift", "written"},
    ),
    "reward": ("rewards", {"base"}),
}


@pytest.fixture(scope="module")
def policy_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("policy")
    GPT2Config(n_positions=1024).save_pretrained(folder)
    scorer = GPT2Config(num_labels=1, architectures=["GPT2ForSequenceClassification"])
    scorer.save_pretrained(folder / "reward_model")
    return folder


def needed(group: str, choice: str, policy_folder: Path) -> list[str]:
    """The overrides without which a choice cannot stand."""
    if (group, choice) == ("model", "hf"):
        return [f"model.path={policy_folder}"]
    if (group, choice) == ("reward", "preference"):
        return [f"reward.path={policy_folder}"]
    if group == "reward":
        return GIVEN.get(choice, [])
    if group != "data":
        return []
    return ["model=gpt2", *([f"data.path={policy_folder}"] if choice == "file" else [])]  # tiny has 256 positions


@pytest.fixture(scope="module")
def composed(policy_folder: Path) -> Callable[[str, str], dict[str, Any]]:
    """composed("data", "dolly"): the configuration with one choice and what it needs, made once."""
    return cache(lambda group, choice: resolve([f"{group}={choice}", *needed(group, choice, policy_folder)]))


def nodes(node: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(node, dict):
        if "_target_" in node:
            yield path, node
        for key, value in node.items():
            yield from nodes(value, f"{path}.{key}".lstrip("."))


def flat(node: Any, path: str = "") -> dict[str, Any]:
    if not isinstance(node, dict):
        return {path: node}
    return {key: value for k, v in node.items() for key, value in flat(v, f"{path}.{k}".lstrip(".")).items()}


def test_the_groups_are_those_of_the_design() -> None:
    groups = {group for group, _ in YAMLS}
    assert groups >= {"data", "experiments", "logger", "method", "model", "protocol", "reward", "trainer"}
    assert sorted(p.name for p in (ROOT / "experiments").glob("*.yaml")) == sorted(
        f"{choice}.yaml" for group, choice in YAMLS if group == "experiments"
    )
    choices = {group: {c for g, c in YAMLS if g == group} for group in groups}
    assert choices["model"] >= {"tiny", "gpt2", "gpt2_medium", "opt_350m", "pythia_2_8b", "hf"}
    assert choices["data"] >= {"newswire", "preferences", "dolly", "xsum", "self_instruct", "vicuna", "hh", "file"}
    assert choices["logger"] >= {"csv", "tensorboard", "wandb"}
    assert choices["protocol"] == {"paper", "released"}


@pytest.mark.parametrize(("group", "choice"), YAMLS)
def test_it_composes_and_every_target_takes_its_arguments(
    group: str, choice: str, composed: Callable[[str, str], dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")  # no account
    if choice == "deepspeed" and not torch.cuda.is_available():
        with pytest.raises(BadInput, match="its run needs CUDA GPUs"):
            resolve(["trainer=deepspeed"])
        return
    config = composed(group, choice)
    assert config["choices"][group] == choice
    found = dict(nodes(config))
    assert {"model", "data", "method", "reward", "trainer", "sampling", "optimizer", "evaluation"} <= found.keys()
    for path, node in found.items():
        arguments = {k: v for k, v in node.items() if not k.startswith("_")}
        later = [None] * (LATER[path] if node.get("_partial_") else 0)
        inspect.signature(get_object(node["_target_"])).bind(*later, **arguments)  # TypeError where they do not fit


@pytest.mark.parametrize(("group", "choice"), [y for y in YAMLS if y[0] in {"model", "trainer", "data"}])
def test_a_yaml_says_every_argument_and_nothing_is_taken_from_elsewhere(group: str, choice: str) -> None:
    text = yaml.safe_load((CONF / group / f"{choice}.yaml").read_text())
    node = text[group] if group == "model" else text
    while "defaults" in node:  # only what is other than there
        node = yaml.safe_load((CONF / group / f"{node.pop('defaults')[0]}.yaml").read_text()) | node
    parameters = set(inspect.signature(get_object(node["_target_"])).parameters)
    arguments = {key for key in node if not key.startswith("_")}
    assert arguments <= parameters
    if group != "model":  # a model yaml leaves out what its kind has no use for
        assert arguments == parameters


@pytest.mark.parametrize("experiment", [choice for group, choice in YAMLS if group == "experiments"])
def test_every_job_of_an_experiment_composes(experiment: str) -> None:
    text = yaml.safe_load((CONF / "experiments" / f"{experiment}.yaml").read_text())
    params = text.get("hydra", {}).get("sweeper", {}).get("params", {})
    axes = [[f"{key}={value.strip()}" for value in str(values).split(",")] for key, values in params.items()]
    jobs = list(product(*axes))
    assert jobs
    for job in jobs:
        config = resolve([f"experiments={experiment}", *job])
        assert config["choices"]["experiments"] == experiment


def test_the_quickstart_is_sft_and_eso_at_the_best_lambda_of_table_5() -> None:
    text = yaml.safe_load((ROOT / "experiments" / "quickstart.yaml").read_text())
    assert text["hydra"]["sweeper"]["params"] == {"method": "sft,eso"}
    config = resolve(["experiments=quickstart", "method=eso"])
    assert (config["method"]["lam"], config["seed"], config["evaluation"]["before"]) == (0.5, 0, True)
    assert config["evaluation"]["decodings"] == ["sample", "greedy"]
    assert config["evaluation"]["limit"] is None
    assert config["data"]["test"] >= 1000


@pytest.mark.parametrize("group", MIRRORS)
def test_a_folder_of_modules_and_its_group_mirror_each_other(
    group: str, composed: Callable[[str, str], dict[str, Any]]
) -> None:
    """Each module has a choice of its name; a choice may also be a setting of another's module, as rloo is of eso."""
    folder, others = MIRRORS[group]
    modules = {p.stem for p in (ROOT / "esolab" / folder).glob("*.py")} - {"__init__"} - others
    choices = [choice for g, choice in YAMLS if g == group]
    targets = {choice: composed(group, choice)[group]["_target_"].rpartition(".")[0] for choice in choices}
    assert {choice: targets.get(choice) for choice in modules} == {m: f"esolab.{folder}.{m}" for m in modules}
    assert {target.rpartition(".")[2] for target in targets.values()} == modules


@pytest.mark.parametrize("choice", [choice for group, choice in YAMLS if group == "model"])
def test_a_model_is_a_yaml_with_its_own_learning_rate(choice: str) -> None:
    text = yaml.safe_load((CONF / "model" / f"{choice}.yaml").read_text())
    assert text["model"]["_target_"] == "esolab.models.Model"
    assert text["optimizer"]["lr"] > 0


def test_learning_rates_of_the_papers_policies(composed: Callable[[str, str], dict[str, Any]]) -> None:
    """P and C of methods.md 1.13."""
    rates = {m: composed("model", m)["optimizer"]["lr"] for m in ("gpt2_medium", "opt_350m", "pythia_2_8b")}
    assert rates == {"gpt2_medium": 1e-4, "opt_350m": 5e-5, "pythia_2_8b": 1e-6}


def test_released_differs_from_paper_in_preset_code_and_batch_reduction(
    composed: Callable[[str, str], dict[str, Any]],
) -> None:
    """`preset_code` of methods.md 1.13, plus batch_reduction."""
    paper, released = (composed("protocol", name)["protocol"] for name in ("paper", "released"))
    assert paper.keys() == released.keys()
    assert {key: (paper[key], released[key]) for key in paper if paper[key] != released[key]} == {
        "active_epochs": ("last", "all_but_last"),
        "temperatures": (None, [0.5, 1.0, 1.25, 1.5]),
        "reward_threshold": (None, 0.10),
        "batch_reduction": ("mean", "sum"),
        "max_response": (128, 64),
        "max_total": (None, 512),
        "weight_decay": (0.05, 0.01),
        "keep_eos": (True, False),
        "dropout": (0.0, 0.1),
        "normalise": ("global", "local"),
        "bos": (True, False),
        "dialogue": ("raw", "alpaca"),
    }


def test_the_protocol_reaches_the_nodes_that_use_it_and_no_other() -> None:
    """Of its keys max_total is read by run.py; the others are arguments of constructors."""
    overrides = ["model=opt_350m", "data=dolly", "method=eso"]
    paper, released = (flat(resolve([f"protocol={name}", *overrides])) for name in ("paper", "released"))
    assert paper.keys() == released.keys()
    different = {k: released[k] for k in paper if paper[k] != released[k] and not k.startswith("protocol.")}
    assert different == {
        "choices.protocol": "released",
        "slug": "protocol=released,model=opt_350m,data=dolly,method=eso",
        "method.active_epochs": "all_but_last",
        "method.reward_threshold": 0.10,
        "method.batch_reduction": "sum",
        "method.keep_eos": False,
        "sampling.temperatures": [0.5, 1.0, 1.25, 1.5],
        "sampling.max_new_tokens": 64,
        "data.max_response": 64,
        "optimizer.weight_decay": 0.01,
        "sft.normalise": "local",
        "model.dropout": 0.1,
        "model.bos": False,
    }


def test_lambda_and_the_optimizer_are_the_papers(composed: Callable[[str, str], dict[str, Any]]) -> None:
    config = composed("protocol", "paper")
    assert config["choices"]["method"] == "eso"
    assert config["method"]["lam"] == 0.05
    assert composed("protocol", "released")["method"]["lam"] == 0.05  # the script's 0.00 switches the method off
    assert {k: config["optimizer"][k] for k in ("lr_min", "warmup_steps", "clip")} == {
        "lr_min": 1e-7,
        "warmup_steps": 0,
        "clip": 1.0,
    }
    assert (config["trainer"]["epochs"], config["trainer"]["batch_size"]) == (5, 16)
    assert (config["sampling"]["top_k"], config["sampling"]["top_p"]) == (0, 1.0)
    assert config["sft"]["reduction"] == "token_mean"
    assert config["reward"]["_target_"] == "esolab.rewards.rouge.Rouge"
    assert (config["reward"]["metric"], config["reward"]["stem"]) == ("rougeL", True)


@pytest.mark.parametrize(
    ("k", "ladder"),
    [(2, [0.5, 2.0]), (4, [0.5, 1.0, 1.5, 2.0]), (6, [0.5, 0.8, 1.1, 1.4, 1.7, 2.0])],
)
def test_the_ladder_is_spread_evenly_from_half_to_two(k: int, ladder: list[float]) -> None:
    assert build(resolve([f"sampling.k={k}"])["sampling"]).ladder == pytest.approx(ladder)


def test_a_ladder_that_is_given_is_taken() -> None:
    given = resolve(["sampling.k=3", "sampling.temperatures=[1.0,0.7,1.0]"])["sampling"]
    assert build(given).ladder == [1.0, 0.7, 1.0]
