"""What makes a run another, and what does not."""

import copy
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest

from esolab.config import resolve
from esolab.identity import identity
from esolab.run import locate


@pytest.fixture(scope="module")
def config() -> dict[str, Any]:
    return resolve([])


def changed(config: dict[str, Any], key: str, value: object) -> dict[str, Any]:
    other = copy.deepcopy(config)
    *path, last = key.split(".")
    node = other
    for part in path:
        node = node[part]
    assert node.get(last) != value
    node[last] = value
    return other


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("method.lam", 0.06),
        ("seed", 1),
        ("trainer.epochs", 4),
        ("trainer.threads", 63),  # results depend on it in the last digits
        ("sampling.temperatures", [1.0, 1.0, 1.0, 1.0]),
        ("model.architecture.n_layer", 1),
        ("data.train", 100),
        ("reward.stem", False),
        ("evaluation.limit", 7),
        ("evaluation.data", ["newswire", "vicuna"]),
        ("protocol.max_total", 300),
        ("choices.method", "other"),
    ],
)
def test_identity_changes_with_what_a_run_is(config: dict[str, Any], key: str, value: object) -> None:
    assert identity(changed(config, key, value), [""]) != identity(config, [""])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("logger", {"_target_": "esolab.loggers.wandb_logger", "project": "p"}),
        ("choices.logger", "wandb"),
        ("outputs", "elsewhere"),
        ("rerun", True),
        ("slug", "written=differently"),
        ("choices.experiments", "quickstart"),
        ("choices.scale", "paper"),
        ("stages", [{"name": "sft", "run": ["method=sft"]}]),
        ("trainer.save_every", 7),
        ("trainer.gradient_checkpointing", True),
        ("trainer.micro_batch", 1),
        ("trainer.micro_k", 2),
        ("evaluation.batch_size", 7),
    ],
)
def test_identity_does_not_change_with_where_and_how_it_is_kept(
    config: dict[str, Any], key: str, value: object
) -> None:
    assert identity(changed(config, key, value), [""]) == identity(config, [""])


def test_identity_is_that_of_the_composed_configuration_however_it_was_written() -> None:
    one = resolve(["seed=3", "method.lam=0.5", "outputs=/a", "logger=tensorboard"])
    other = resolve(["method.lam=0.5", "rerun=true", "seed=3", "trainer.epochs=5"])
    assert one["slug"] != other["slug"]
    assert identity(one, [""]) == identity(other, [""])
    assert len(identity(one, [""])) == 8


def test_what_says_how_a_run_is_made_leaves_its_folder_as_it_is(tmp_path: Path) -> None:
    how = ["trainer.save_every=7", "trainer.micro_batch=1", "trainer.micro_k=2", "evaluation.batch_size=7"]
    one, other = resolve(["seed=3"]), resolve(["seed=3", *how, "trainer.gradient_checkpointing=true"])
    assert locate(one).folder == locate(other).folder
    assert locate(resolve(["seed=3", "trainer.batch_size=8"])).folder != locate(one).folder


def test_identity_changes_with_the_content_of_local_data_and_not_with_its_age(tmp_path: Path) -> None:
    rows = [{"prompt": f"Say {i}.", "reference": str(i)} for i in range(20)]
    file = tmp_path / "rows.jsonl"

    def place(records: list[dict[str, str]]) -> str:
        file.write_text("".join(json.dumps(row) + "\n" for row in records))
        return locate(resolve(["data=file", f"data.path={file}", "data.max_prompt=96", "data.max_response=24"])).hash

    first = place(rows)
    os.utime(file, (0, 0))
    assert place(rows) == first
    assert place([*rows[:-1], {"prompt": "Say 19.", "reference": "20"}]) != first


def test_identity_changes_with_the_content_of_an_evaluation_set(tmp_path: Path) -> None:
    file = tmp_path / "vicuna" / "valid.jsonl"
    file.parent.mkdir()
    sets = ["model=gpt2", "evaluation.data=[newswire,vicuna]", f"data_root={tmp_path}"]

    def place(output: str) -> str:
        file.write_text(json.dumps({"instruction": "Say it.", "output": output}) + "\n")
        return locate(resolve(sets)).hash

    assert place("It.") != place("That.")


def test_fingerprints_are_of_content(config: dict[str, Any]) -> None:
    """Two corpora with the same fingerprint are one; order counts."""
    digests = [hashlib.sha256(text).hexdigest() for text in (b"a", b"b")]
    assert identity(config, digests) != identity(config, digests[::-1])


@pytest.mark.parametrize("key", ["trainer.micro_batch", "trainer.micro_k"])
def test_under_dropout_what_goes_through_a_forward_together_is_part_of_it(key: str) -> None:
    """Each forward draws masks of its own."""
    config = resolve(["protocol.dropout=0.1"])
    assert identity(changed(config, key, 3), [""]) != identity(config, [""])
    assert identity(changed(config, "evaluation.batch_size", 3), [""]) == identity(config, [""])
