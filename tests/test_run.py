"""A run, whole: from a configuration to a folder that explains itself, again and again the same."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

import esolab.run
from esolab.answered import Answered
from esolab.assembly import Assembly
from esolab.callbacks import AfterEpoch
from esolab.config import build, resolve
from esolab.data import encode
from esolab.errors import BadInput
from esolab.evaluate import main as evaluate
from esolab.methods.base import Method, Parts
from esolab.methods.onpolicy import OnPolicy
from esolab.run import run

SMALL = [  # a policy and a schedule that take a second
    "model.architecture.n_layer=1",
    "model.architecture.n_embd=32",
    "model.architecture.n_head=2",
    "model.vocab_size=700",
    "trainer.epochs=2",
    "trainer.threads=1",
    "trainer.samples_every=2",
]
TINY = [
    *("data=newswire", "data.train=64", "data.dev=8", "data.test=16", "data.max_prompt=120", "data.max_response=40"),
    *SMALL,
]
STEPS = 8  # 64 examples, 16 a step, two epochs
RESULT = {  # design.md 5
    "schema": int,
    "method": str,
    "model": str,
    "data": str,
    "reward": str,
    "protocol": str,
    "experiment": str,
    "seed": int,
    "config_hash": str,
    "scores": dict,
    "train": dict,
    "timing": dict,
    "peak_rss_bytes": int,
    "versions": dict,
    "git_commit": str | None,
    "device": str,
}
MORE = {  # what esolab adds to the contract: readers may count on it, too
    "before": dict | None,  # scores before training, as `scores`
    "corpora": dict,  # where each corpus came from, how it was cut, how many records of each split
    "shortened_prompts": dict,  # test prompts that lost the left of their input field, by data
    "setting": str,  # the identity but for the method: runs that share it are compared
    "parameters": int,
    "trained": int,  # of them, or of all models that learn
    "models": dict,  # parameters and bytes of each model held
    "threads": int,
}
SCORES = {"n": int} | dict.fromkeys(("rouge1", "rouge2", "rougeL", "gleu", "gleu_char", "length", "distinct2"), float)
TRAIN = {
    "epochs": int,
    "steps": int,
    "examples": int,
    "dropped_overlong": int,
    "shortened": int,
    "sampled_tokens": int,
    "scored_tokens": int,
    "forward_tokens": int,
    "backward_tokens": int,
    "bad_rewards": int,
    "clipped_rewards": int,
    "shortened_rewards": int,
    "final_reward": float | None,
}
LINE = [
    "id",
    "data",
    "decoding",
    "prompt",
    "reference",
    "prediction",
    "rouge1",
    "rouge2",
    "rougeL",
    "gleu",
    "gleu_char",
]


def tiny(outputs: Path, *overrides: str) -> dict[str, Any]:
    return resolve([*TINY, f"outputs={outputs}", *overrides])


def result(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "result.json").read_text())


def lines(folder: Path, name: str = "predictions.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / name).read_text("utf-8").splitlines()]


def metrics(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def weights(folder: Path) -> bytes:
    (file,) = folder.glob("*/model.safetensors")  # of policy/, or of reward_model/
    return file.read_bytes()


def without_times(folder: Path) -> list[dict[str, str]]:
    """metrics.csv without the columns that measure time, in the order of the names."""
    timed = ("seconds/", "tokens_per_second")
    return [{k: row[k] for k in sorted(row) if not k.startswith(timed)} for row in metrics(folder)]


def assert_same_run(one: Path, other: Path) -> None:
    assert weights(one) == weights(other)
    assert (one / "predictions.jsonl").read_bytes() == (other / "predictions.jsonl").read_bytes()
    assert without_times(one) == without_times(other)
    assert result(one)["train"] == result(other)["train"]
    assert result(one)["scores"] == result(other)["scores"]


def assert_types(value: dict[str, Any], types: dict[str, Any]) -> None:
    assert {k for k, t in types.items() if k not in value or not isinstance(value[k], t)} == set()


@pytest.fixture(scope="module")
def eso(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tiny(tmp_path_factory.mktemp("eso")))


@pytest.fixture(scope="module")
def sft(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tiny(tmp_path_factory.mktemp("sft"), "method=sft"))


def test_the_folder_is_named_by_overrides_and_hash_and_holds_what_the_contract_says(eso: Path) -> None:
    assert eso.parent.name == "single"
    assert eso.name.startswith("data=newswire,data.train=64,data.dev=8,")
    assert eso.name.endswith(f"-{result(eso)['config_hash']}")
    assert {path.name for path in eso.iterdir()} == {
        *("config.yaml", "inputs.json", "result.json", "predictions.jsonl", "metrics.csv", "samples.jsonl", "run.log"),
        *("policy", "checkpoints"),
        ".lock",
    }
    assert [path.name for path in (eso / "checkpoints").iterdir()] == ["last.ckpt"]


def test_result_has_the_keys_and_types_of_the_contract(eso: Path) -> None:
    found = result(eso)
    assert found.keys() >= RESULT.keys() | MORE.keys()
    assert_types(found, RESULT | MORE)
    assert found["schema"] == 1
    assert {k: found[k] for k in ("method", "model", "data", "reward", "protocol", "experiment", "seed")} == {
        "method": "eso",
        "model": "tiny",
        "data": "newswire",
        "reward": "rouge",
        "protocol": "paper",
        "experiment": "single",
        "seed": 0,
    }
    assert_scores(found["scores"])
    assert found["before"] is None
    assert found["train"].keys() >= TRAIN.keys()
    assert_types(found["train"], TRAIN)
    assert found["timing"].keys() == {"wall_seconds", "step_seconds_median", "phases"}
    assert found["timing"]["phases"].keys() == {"reference", "sample", "reward", "update"}
    assert 0 < sum(found["timing"]["phases"].values()) < found["timing"]["wall_seconds"]
    assert found["corpora"]["newswire"].keys() == {"origin", "cut", "skipped", "train", "dev", "test", "broken"}
    assert (found["device"], found["threads"]) == ("cpu", 1)


def assert_scores(scores: dict[str, Any]) -> None:
    assert {data: list(rows) for data, rows in scores.items()} == {"newswire": ["sample", "greedy"]}
    for row in scores["newswire"].values():
        assert row.keys() >= SCORES.keys()
        assert_types(row, SCORES)
        assert row["n"] == 16


def test_the_account_of_the_training_adds_up(eso: Path, sft: Path) -> None:
    found, plain = result(eso)["train"], result(sft)["train"]
    assert (found["epochs"], found["steps"], found["examples"], found["dropped_overlong"]) == (2, STEPS, 64, 0)
    steps = [row for row in metrics(eso) if row["loss"]]
    sampled = sum(float(row["length/mean"]) * 4 * 16 for row in steps if row["length/mean"])
    assert found["sampled_tokens"] == pytest.approx(sampled)
    flat = sum(float(row["reward/flat"]) for row in steps if row["reward/flat"])
    assert flat > 0  # answers to such prompts are not scored
    assert 0 < plain["scored_tokens"] < found["scored_tokens"] < found["sampled_tokens"] + plain["scored_tokens"]
    assert (plain["sampled_tokens"], plain["final_reward"]) == (0, None)
    rewards = [float(row["reward/mean"]) for row in steps if row["reward/mean"]]
    assert found["final_reward"] == pytest.approx(sum(rewards) / len(rewards))


def test_predictions_are_a_line_per_answer_with_the_keys_of_the_contract(eso: Path) -> None:
    found = lines(eso)
    assert len(found) == 32
    assert all(list(line) == LINE for line in found)
    assert len({(line["id"], line["decoding"]) for line in found}) == 32
    for how, row in result(eso)["scores"]["newswire"].items():
        own = [line for line in found if line["decoding"] == how]
        for name in ("rouge1", "rougeL", "gleu_char"):
            assert row[name] == pytest.approx(100 * sum(line[name] for line in own) / 16)


def test_metrics_have_a_row_per_step_and_one_per_epoch(eso: Path) -> None:
    steps = [row for row in metrics(eso) if row["loss"]]
    assert [(int(row["step"]), float(row["epoch"])) for row in steps] == [
        (s, (s - 1) // 4) for s in range(1, STEPS + 1)
    ]
    for row in steps:
        assert float(row["loss/sft"]) > 0
        assert float(row["loss"]) == pytest.approx(float(row["loss/sft"]) + float(row["loss/own"] or 0), abs=1e-6)
        assert float(row["seconds/update"]) > 0
        assert float(row["grad_norm"]) > 0
    on_policy = [f"reward/{name}" for name in ("mean", "spread", "flat")]
    on_policy += ["loss/own", "entropy", "length/mean", "seconds/sample", "seconds/reward"]
    for j, t in enumerate(("0.5", "1", "1.5", "2")):
        on_policy += [f"{what}/{j}_t{t}" for what in ("reward", "length")]
    for row in steps:
        given = {name for name in on_policy if row[name]}
        assert given == (set(on_policy) if float(row["epoch"]) == 1 else set())  # the paper: ESO in the last epoch only
    rates = [float(row["lr"]) for row in steps]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] == tiny(Path("out"))["optimizer"]["lr"]
    for row in steps[4:]:
        parts = [float(row[f"reward/{j}_t{t}"]) for j, t in enumerate(("0.5", "1", "1.5", "2"))]
        assert float(row["reward/mean"]) == pytest.approx(sum(parts) / 4, abs=1e-6)
        assert 0 <= float(row["reward/flat"]) <= 1
        assert float(row["entropy"]) > 0


def test_metrics_have_the_dev_scores_of_every_epoch(eso: Path) -> None:
    dev = [row for row in metrics(eso) if row["dev/loss"]]
    assert [(int(row["step"]), float(row["epoch"])) for row in dev] == [(4, 0), (8, 1)]
    for row in dev:
        assert all(row[f"dev/{how}/{name}"] for how in ("sample", "greedy") for name in SCORES if name != "n")
        assert not row["loss"]
    assert float(dev[1]["dev/loss"]) < float(dev[0]["dev/loss"])  # it learns
    assert len(metrics(eso)) == STEPS + 2


def test_steps_without_samples_have_their_speed_too(sft: Path) -> None:
    """The issue: tokens per second, per step."""
    assert all(float(row["tokens_per_second"]) > 0 for row in metrics(sft) if row["loss"])


def test_samples_hold_two_prompts_with_their_answers_over_time(eso: Path) -> None:
    found = lines(eso, "samples.jsonl")
    assert [line["step"] for line in found] == [5] * 8 + [7] * 8
    assert [line["temperature"] for line in found] == [0.5, 1.0, 1.5, 2.0] * 4
    assert all(line["id"].startswith("newswire/train/") for line in found)
    assert len({line["id"] for line in found[:8]}) == 2


def test_sft_samples_nothing(sft: Path) -> None:
    assert not (sft / "samples.jsonl").exists()
    assert not any(name.startswith(("reward", "entropy", "length")) for name in metrics(sft)[0])


def test_the_policy_opens_with_transformers_alone_and_answers_the_same(eso: Path) -> None:
    network = AutoModelForCausalLM.from_pretrained(eso / "policy")
    tokenizer = AutoTokenizer.from_pretrained(eso / "policy")
    assert network.dtype == torch.float32
    greedy = [line for line in lines(eso) if line["decoding"] == "greedy"]
    assert len({line["prediction"] for line in greedy}) > 1
    checked = 0
    for line in greedy:
        ids = tokenizer(line["prompt"], return_tensors="pt")
        if ids["input_ids"].shape[1] > 120:
            continue  # shortened before it was answered
        row = network.generate(**ids, max_new_tokens=40)[0, ids["input_ids"].shape[1] :]
        assert tokenizer.decode(row, skip_special_tokens=True).strip() == line["prediction"]
        checked += 1
    assert checked >= 10


def test_the_policy_scored_again_has_the_runs_own_scores(
    eso: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(eso / "policy", tmp_path / "run" / "policy")
    shutil.copy(eso / "config.yaml", tmp_path / "run")
    assert evaluate([f"policy={tmp_path / 'run' / 'policy'}", f"outputs={tmp_path / 'out'}"]) == 0
    (folder,) = (tmp_path / "out" / "evaluate").iterdir()
    assert json.loads((folder / "scores.json").read_text())["scores"] == result(eso)["scores"]
    assert (folder / "predictions.jsonl").read_bytes() == (eso / "predictions.jsonl").read_bytes()
    assert str(folder) in capsys.readouterr().out


def test_the_corpus_named_again_is_the_runs_own(eso: Path, tmp_path: Path) -> None:
    """`data=` of the run's own corpus keeps the run's limits and files; what is said beside it wins."""
    from esolab.config import resolve
    from esolab.evaluate import as_in_run

    again = resolve(as_in_run([f"policy={eso}", "data=newswire"]), "evaluate")
    assert again["data"] == resolve(as_in_run([f"policy={eso}"]), "evaluate")["data"]
    assert again["data"]["test"] == 16
    other = resolve(as_in_run([f"policy={eso}", "data=newswire", "data.max_prompt=50"]), "evaluate")
    assert other["data"] == {**again["data"], "max_prompt": 50}


@pytest.mark.parametrize("value", [{"_target_": "own.Thing"}, "${oc.env:HOME}"])
def test_code_in_the_config_of_a_run_from_elsewhere_is_refused(eso: Path, tmp_path: Path, value: Any) -> None:
    from esolab.evaluate import as_in_run

    folder = tmp_path / "theirs"
    shutil.copytree(eso, folder)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["data"]["path"] = value
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(BadInput, match=r"config\.yaml: data\.path.*(code from elsewhere|holds \$\{\.\.\.\})"):
        as_in_run([f"policy={folder}"])


def test_the_model_card_says_what_the_policy_is(eso: Path) -> None:
    card, found = (eso / "policy" / "README.md").read_text(), result(eso)
    assert "tiny after eso on newswire" in card
    assert found["config_hash"] in card
    assert f"{found['scores']['newswire']['sample']['rougeL']:.2f}" in card
    assert card.startswith("---\nlibrary_name: transformers\n")


def test_the_configuration_is_kept_resolved_and_makes_the_same_run(eso: Path) -> None:
    from omegaconf import OmegaConf

    text = (eso / "config.yaml").read_text()
    assert "${" not in text
    config = OmegaConf.to_container(OmegaConf.create(text))
    assert esolab.run.locate(config).folder == eso


def test_the_log_says_what_was_dropped_and_shortened(eso: Path) -> None:
    text = (eso / "run.log").read_text()
    assert (
        "64 training examples, 0 over-long ones dropped, 0 shortened; 8 dev prompts, 0 over-long ones dropped;" in text
    )
    assert "16 test prompts, 0 shortened" in text
    assert "finished" in text


def fail(*args: object, **kwargs: object) -> None:
    raise AssertionError("a finished run was repeated")


def test_a_finished_run_is_skipped(eso: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {path: path.stat().st_mtime_ns for path in eso.rglob("*") if path.name != ".lock"}
    monkeypatch.setattr(esolab.run, "fit", fail)
    assert run(tiny(eso.parents[1], "logger=tensorboard")) == eso
    assert {path: path.stat().st_mtime_ns for path in eso.rglob("*") if path.name != ".lock"} == before


def test_rerun_repeats_it_from_the_start(tmp_path: Path, sft: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(shutil.copytree(sft, tmp_path / "single" / sft.name))
    for name in ("predictions.jsonl", "metrics.csv", "result.json", "checkpoints/last.ckpt"):
        (folder / name).write_text("old")
    config = tiny(tmp_path, "method=sft", "rerun=true")
    with monkeypatch.context() as patched:
        patched.setattr(esolab.run, "fit", fail)
        with pytest.raises(AssertionError, match="repeated"):
            run(config)
    assert not (folder / "result.json").exists()  # a rerun that fails is not taken for finished
    assert "AssertionError: a finished run was repeated" in (folder / "run.log").read_text()
    assert run(config) == folder
    assert_same_run(folder, sft)


SLURM = {"SLURM_JOB_ID": "17", "TORCHELASTIC_RUN_ID": "a"}  # torchrun's own id is another each time it starts


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (SLURM, {**SLURM, "SLURM_RESTART_COUNT": "1", "TORCHELASTIC_RUN_ID": "b"}),
        ({"TORCHELASTIC_RUN_ID": "none"}, {"TORCHELASTIC_RUN_ID": "none", "TORCHELASTIC_RESTART_COUNT": "1"}),
    ],
    ids=["slurm", "torchrun"],
)
def test_a_rerun_counts_once_for_each_run_of_a_job_that_is_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: dict[str, str], second: dict[str, str]
) -> None:
    config, other = (tiny(tmp_path, "method=sft", "rerun=true", f"seed={seed}") for seed in (0, 1))
    before = run({**other, "rerun": False})
    with monkeypatch.context() as patched:
        for name, value in first.items():
            patched.setenv(name, value)
        patched.setattr(Assembly, "score", fail)
        with pytest.raises(AssertionError, match="repeated"):
            run(config)
    for name, value in second.items():
        monkeypatch.setenv(name, value)
    folder = run(config)
    assert "going on from" in (folder / "run.log").read_text()
    run(other)  # which this job had not come to yet
    assert (before / "run.log").read_text().count("finished in") == 2
    run(config)  # asked for by a person, or by another line of the job
    assert (folder / "run.log").read_text().count("finished in") == 2


def test_a_rerun_that_had_finished_before_its_job_was_started_again_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    folder = run(config := tiny(tmp_path, "method=sft", "rerun=true"))
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    monkeypatch.setattr(esolab.run, "fit", fail)
    assert run(config) == folder
    assert "already done (begun anew by this job before)" in capsys.readouterr().err


def test_the_same_configuration_gives_the_same_bytes(eso: Path, tmp_path: Path) -> None:
    torch.manual_seed(99)  # whatever happened before
    torch.rand(7)
    assert_same_run(run(tiny(tmp_path)), eso)


def test_another_seed_gives_another_run_and_another_logger_the_same(sft: Path, tmp_path: Path) -> None:
    folder = run(tiny(tmp_path, "method=sft", "seed=1", "logger=tensorboard"))
    assert weights(folder) != weights(sft)
    (events,) = (folder / "tensorboard").glob("*tfevents*")
    assert b"dev/loss" in events.read_bytes()
    assert folder == esolab.run.locate(tiny(tmp_path, "method=sft", "seed=1")).folder


def test_wandb_mirrors_a_run_offline(eso: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    codes, seen, finish = [], {}, wandb.finish

    def spy(exit_code: int | None = None) -> None:
        codes.append(exit_code)
        seen.update(dict(wandb.run.summary), config=dict(wandb.run.config))
        finish(exit_code=exit_code)

    monkeypatch.setattr(wandb, "finish", spy)
    folder = run(tiny(tmp_path, "logger=wandb"))
    assert_same_run(folder, eso)
    assert codes == [0]
    last = [row for row in metrics(folder) if row["loss"]][-1]
    for name in ("loss", "reward/mean", "dev/loss"):
        value = last[name] or metrics(folder)[-1][name]
        assert seen[name] == pytest.approx(float(value))
    assert seen["config"]["method"]["lam"] == 0.05
    assert "rollouts" in seen
    assert (folder / "wandb").is_dir()


def test_eso_with_lambda_0_is_sft_to_the_byte_and_never_samples(
    eso: Path, sft: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OnPolicy, "rollout", fail)
    folder = run(tiny(tmp_path, "method=eso", "method.lam=0.0", "method.active_epochs=all"))
    assert weights(folder) == weights(sft)
    assert (folder / "predictions.jsonl").read_bytes() == (sft / "predictions.jsonl").read_bytes()
    assert result(folder)["train"]["sampled_tokens"] == 0
    assert weights(eso) != weights(sft)


def test_scores_before_training_and_micro_batches_change_nothing_that_matters(eso: Path, tmp_path: Path) -> None:
    folder = run(tiny(tmp_path, "trainer.micro_batch=5", "evaluation.before=true"))
    assert_scores(result(folder)["before"])
    assert result(folder)["before"] != result(folder)["scores"]
    for ours, theirs in zip(metrics(folder), metrics(eso), strict=True):
        for name in ("loss", "loss/own", "grad_norm", "dev/loss"):
            if theirs[name]:
                assert float(ours[name]) == pytest.approx(float(theirs[name]), rel=2e-3, abs=1e-4)


class Stopped(BaseException):
    """The process dies: nothing of esolab expects it."""


def at_step(number: int) -> Callable[[pytest.MonkeyPatch], None]:
    """Die when the metrics of a step are recorded, weights updated, nothing saved."""

    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        record = Method.record

        def stop(self: Any, numbers: dict[str, float]) -> None:
            record(self, numbers)
            if self.account.steps == number:
                raise Stopped

        monkeypatch.setattr(Method, "record", stop)

    return patch


def at_epoch_end(number: int) -> Callable[[pytest.MonkeyPatch], None]:
    """Die when an epoch has ended and is scored."""

    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        after = AfterEpoch.on_train_epoch_end

        def stop(self: AfterEpoch, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            after(self, trainer, pl_module)
            if trainer.current_epoch == number:
                raise Stopped

        monkeypatch.setattr(AfterEpoch, "on_train_epoch_end", stop)

    return patch


def at_the_dev_scores(number: int) -> Callable[[pytest.MonkeyPatch], None]:
    """Die when the dev prompts are to be answered for the n-th time."""

    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        calls, scores = iter(range(1, 9)), Assembly.dev_scores

        def stop(self: Assembly) -> dict[str, float]:
            if next(calls) == number:
                raise Stopped
            return scores(self)

        monkeypatch.setattr(Assembly, "dev_scores", stop)

    return patch


def at_the_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """Die after training, when the test set has been answered under the first decoding."""

    def stop(self: Answered, data: str, decoding: str, *args: Any) -> None:
        if decoding == "greedy":
            raise Stopped
        add(self, data, decoding, *args)

    add = Answered.add
    monkeypatch.setattr(Answered, "add", stop)


ALL_BUT_LAST = ("method.active_epochs=all_but_last",)
BEFORE_THE_FIRST_CHECKPOINT = at_step(2)
DROPOUT = ("protocol=released", "method.lam=0.5")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, eso: Path) -> Callable[..., Path]:
    """Uninterrupted runs, each made once."""
    made: dict[tuple[str, ...], Path] = {(): eso}

    def make(overrides: tuple[str, ...]) -> Path:
        if overrides not in made:
            made[overrides] = run(tiny(tmp_path_factory.mktemp("whole"), *overrides))
        return made[overrides]

    return make


@pytest.mark.parametrize(
    ("overrides", "stop"),
    [
        pytest.param((), BEFORE_THE_FIRST_CHECKPOINT, id="before-the-first-checkpoint"),
        pytest.param((), at_step(6), id="amid-the-second-epoch"),
        pytest.param((), at_epoch_end(1), id="at-the-end-of-the-second-epoch"),
        pytest.param((), at_the_dev_scores(1), id="before-the-dev-scores-of-the-first-epoch"),
        pytest.param((), at_the_dev_scores(2), id="before-the-last-dev-scores"),
        pytest.param(DROPOUT, at_the_dev_scores(1), id="before-dev-scores-with-dropout"),
        pytest.param(("trainer.max_steps=6",), at_the_dev_scores(2), id="before-the-dev-scores-of-the-last-step"),
        pytest.param((), at_the_test, id="while-the-test-set-is-answered"),
        pytest.param(("model.lora.r=2",), at_step(6), id="with-adapters"),
        pytest.param(("model.lora.r=2",), at_the_test, id="with-adapters-that-are-merged"),
        pytest.param(ALL_BUT_LAST, at_step(6), id="in-the-epoch-after-sampling"),
        pytest.param(DROPOUT, at_step(6), id="with-dropout"),
        pytest.param((*DROPOUT, "trainer.save_every=3"), at_step(4), id="amid-the-first-epoch-with-dropout"),
        pytest.param(("trainer.save_every=3",), at_step(4), id="before-the-checkpoint-of-the-epoch"),
        pytest.param(("trainer.save_every=2",), at_step(8), id="at-the-last-step"),
        pytest.param(("trainer.save_every=1", "trainer.micro_batch=5"), at_step(7), id="at-every-step"),
    ],
)
def test_a_run_that_was_stopped_goes_on_to_the_same_end(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    whole: Callable[..., Path],
    overrides: tuple[str, ...],
    stop: Callable[[pytest.MonkeyPatch], None],
) -> None:
    config = tiny(tmp_path, *overrides)
    with monkeypatch.context() as patched:
        stop(patched)
        with pytest.raises(Stopped):
            run(config)
    folder = esolab.run.locate(config).folder
    assert not (folder / "result.json").exists()
    torch.manual_seed(5)  # another process
    assert run(config) == folder
    uninterrupted = whole(overrides)
    assert_same_run(folder, uninterrupted)
    steps = [int(row["step"]) for row in metrics(folder) if row["loss"]]
    assert steps == list(range(1, len(steps) + 1))
    assert lines(folder, "samples.jsonl") == lines(uninterrupted, "samples.jsonl")
    log = (folder / "run.log").read_text()
    assert "Stopped" in log
    assert ("going on from" in log) == (stop is not BEFORE_THE_FIRST_CHECKPOINT)


def test_ctrl_c_comes_out_as_ctrl_c(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightning makes an exit with code 1 of it, and leaves the process deaf to the next."""
    import signal

    def interrupt(*args: object) -> None:
        raise KeyboardInterrupt

    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(AfterEpoch, "on_train_epoch_end", interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            run(tiny(tmp_path, "method=sft"))
        assert signal.getsignal(signal.SIGINT) is before
    finally:
        signal.signal(signal.SIGINT, before)


def test_over_long_examples_are_dropped_and_prompts_shortened_and_both_counted(sft: Path, tmp_path: Path) -> None:
    config = tiny(tmp_path, "method=sft", "protocol.max_total=110", "data.max_prompt=90", "data.max_response=27")
    folder, corpus = run(config), build(config["data"])
    model = build(config["model"])
    splits = corpus()
    tokenizer = model.load_tokenizer([f"{e.prompt}{e.reference}" for e in splits.train])
    sizes = [(len(e.prompt), len(e.reference)) for e in encode(splits.train, tokenizer)]
    kept = [p <= 90 and r <= 27 and p + r <= 110 for p, r in sizes]
    assert 0 < sum(kept) < sum(p <= 90 and r <= 27 for p, r in sizes) < 64  # each of the limits is felt
    train = result(folder)["train"]
    assert (train["examples"], train["dropped_overlong"]) == (sum(kept), 64 - sum(kept))
    assert train["steps"] == 2 * -(-sum(kept) // 16)
    long = sum(len(e.prompt) > 90 for e in encode(splits.test, tokenizer))
    assert result(folder)["shortened_prompts"] == {"newswire": long}
    assert long > 0
    log = (folder / "run.log").read_text()
    assert f"{sum(kept)} training examples, {64 - sum(kept)} over-long ones dropped, 0 shortened" in log
    assert f"{long} shortened" in log


def test_no_example_within_the_limits_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(
        BadInput, match=r"none of 64 training examples keeps data.max_prompt=120 and data.max_response=1"
    ):
        run(tiny(tmp_path, "data.max_response=1"))


def test_what_the_protocol_says_reaches_the_method(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Parts] = []

    class Enough(Exception):
        pass

    def stop(assembled: Any, *args: object) -> None:
        method = assembled.method
        seen.append(method.parts)
        assert (method.keep_eos, method.reward_threshold, method.batch_reduction) == (False, 0.10, "sum")
        assert method.active_epochs == "all_but_last"
        raise Enough

    monkeypatch.setattr(esolab.run, "fit", stop)
    with pytest.raises(Enough):
        run(tiny(tmp_path, "protocol=released", "sft.reduction=seq_mean", "trainer.micro_batch=3", "seed=7"))
    (parts,) = seen
    assert (parts.sft.normalise, parts.sft.reduction, parts.micro_batch, parts.seed) == ("local", "seq_mean", 3, 7)
    assert (parts.total_steps, parts.optimizer.weight_decay) == (STEPS, 0.01)
    assert parts.sampling.ladder == [0.5, 1.0, 1.25, 1.5]
    assert parts.policy.dropout
    assert not parts.tokenizer.bos


def test_max_steps_end_a_run_early_and_its_schedule_with_it(tmp_path: Path) -> None:
    folder = run(tiny(tmp_path, "method=sft", "trainer.max_steps=6", "evaluation.dev_limit=0", "evaluation.limit=3"))
    assert result(folder)["train"]["steps"] == 6
    rates = [float(row["lr"]) for row in metrics(folder) if row["loss"]]
    assert len(rates) == 6
    assert rates[-1] < 0.1 * rates[0]  # the cosine of six steps, not of eight
    assert "dev/loss" not in metrics(folder)[0]
    assert len(lines(folder)) == 2 * 3


def write_rows(path: Path, rows: list[dict[str, str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


def test_a_file_of_ones_own_is_learned_and_several_sets_are_answered(tmp_path: Path) -> None:
    days = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday"]
    own = [{"q": f"What comes after {days[i % 5]} in week {i}?", "a": f"{days[(i + 1) % 5]}."} for i in range(60)]
    write_rows(tmp_path / "own.jsonl", own)
    bare = [{"instruction": f"Name day {i}.", "input": "", "output": days[i]} for i in range(5)]
    write_rows(tmp_path / "sets" / "self_instruct" / "valid.jsonl", bare)
    write_rows(tmp_path / "sets" / "vicuna" / "valid.jsonl", bare[:3])
    folder = run(
        resolve(
            [
                *SMALL,
                *("data=file", f"data.path={tmp_path / 'own.jsonl'}", "data.prompt=q", "data.reference=a"),
                *("evaluation.data=[file,self_instruct,vicuna]", f"data_root={tmp_path / 'sets'}"),
                *("evaluation.decodings=[greedy]", "model.architecture.n_positions=1024"),
                f"outputs={tmp_path / 'out'}",
            ]
        )
    )
    found = result(folder)
    assert {data: row["greedy"]["n"] for data, row in found["scores"].items()} == {
        "file": 6,
        "self_instruct": 5,
        "vicuna": 3,
    }
    assert found["train"]["examples"] == 48
    assert {(name, c["train"], c["dev"], c["test"]) for name, c in found["corpora"].items()} == {
        ("file", 48, 6, 6),
        ("self_instruct", 0, 0, 5),
        ("vicuna", 0, 0, 3),
    }
    predictions = lines(folder)
    assert [line["data"] for line in predictions] == ["file"] * 6 + ["self_instruct"] * 5 + ["vicuna"] * 3
    assert predictions[0]["prompt"] == own[0]["q"]
    assert "### Response:" in predictions[-1]["prompt"]


def test_all_that_is_out_of_reach_is_said_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    write_rows(tmp_path / "own.jsonl", [{"prompt": "p"}] * 20)
    config = resolve(["model=gpt2", "data=file", f"data.path={tmp_path / 'own.jsonl'}", f"outputs={tmp_path / 'out'}"])
    monkeypatch.setattr("esolab.models.snapshot_download", unreachable)
    with pytest.raises(BadInput) as caught:
        run(config)
    first, second = sorted(str(caught.value).splitlines())
    assert "own.jsonl" in first
    assert "reference" in first
    assert "model.path=DIR" in second


def unreachable(*args: object, **kwargs: object) -> None:
    raise OSError("no network")


def test_an_evaluation_set_is_not_to_be_trained_on(tmp_path: Path) -> None:
    write_rows(tmp_path / "vicuna" / "valid.jsonl", [{"instruction": "Name it.", "output": "It."}])
    config = resolve(
        [
            *SMALL,
            "data=vicuna",
            "model.architecture.n_positions=1024",
            f"data_root={tmp_path}",
            f"outputs={tmp_path}/out",
        ]
    )
    with pytest.raises(BadInput, match=r"data=vicuna: an evaluation set.*evaluation\.data"):
        run(config)


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    config = tiny(tmp_path)
    with (
        esolab.run.results.locked(esolab.run.locate(config).folder),
        pytest.raises(BadInput, match="another process is running"),
    ):
        run(config)
