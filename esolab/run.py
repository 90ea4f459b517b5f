"""One run, top to bottom: configuration in, a folder that explains itself out."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import pytorch_lightning as pl
import torch
import transformers
from omegaconf import OmegaConf

from esolab import results
from esolab.batch import Example
from esolab.check import build, too_long
from esolab.corpora.base import Corpus, Splits
from esolab.data import Encoded, TrainingData, encode, shorten, within
from esolab.errors import BadInput, gather
from esolab.evaluate import Evaluation, TestSet, reference_loss
from esolab.loggers import MetricsFile, closing
from esolab.methods.base import Method, Parts
from esolab.methods.reward_model import RewardModel, finish
from esolab.models import Model
from esolab.policy import Policy, Tokenizer
from esolab.terminal import console, log, logged
from esolab.training import AfterEpoch, KeepSamples, ShowProgress, Trainer, checkpoint

LEFT_BY_A_RUN = ("result.json", "metrics.csv", "samples.jsonl", "predictions.jsonl", "checkpoints/last.ckpt")


def run(config: dict[str, Any]) -> Path:
    """Do the run that a resolved configuration describes, unless it is done; returns its folder.

    Raises:
        BadInput: the data, the model or the folder cannot be used.
    """
    place = locate(config)
    with results.locked(place.folder):
        if (place.folder / "result.json").exists() and not config["rerun"]:
            console.print(f"already done (rerun=true repeats it): {place.folder}", highlight=False, soft_wrap=True)
            return place.folder
        with logged(place.folder / "run.log"):
            _run(config, place)
    return place.folder


@dataclass(frozen=True)
class Place:
    """Where a run belongs: its identity and folder, with the corpora that were hashed for it."""

    hash: str
    folder: Path
    model: Model
    corpus: Corpus  # to train on
    tests: dict[str, Corpus]  # to answer
    fingerprints: list[str]  # of the local files of the model, of the corpus, of each test corpus, of the reward


def locate(config: Mapping[str, Any]) -> Place:
    """The place of the run that a resolved configuration describes. Local data and weights are read, to hash them."""
    own, corpus = config["choices"]["data"], build(config["data"])
    tests = {n: corpus if n == own else build(config["corpora"][n]) for n in config["evaluation"]["data"]}
    model: Model = build(config["model"])
    read = [model.fingerprint(), corpus.fingerprint(), *(c.fingerprint() for c in tests.values())]
    judge = getattr(build(config["reward"]), "fingerprint", lambda: "")()  # of a reward that is a model
    read += [judge] if judge else []
    name = results.identity(config, read)
    return Place(name, results.run_folder(config, name), model, corpus, tests, read)


def _run(config: dict[str, Any], place: Place) -> None:
    start = time.perf_counter()
    folder, label = place.folder, config["choices"]["method"]
    if config["rerun"]:
        for name in LEFT_BY_A_RUN:
            (folder / name).unlink(missing_ok=True)
    results.write_text(folder / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(config)))
    trainer: Trainer = build(config["trainer"])
    evaluation: Evaluation = build(config["evaluation"])
    torch.set_num_threads(trainer.threads)
    transformers.utils.logging.disable_progress_bar()
    pl.seed_everything(config["seed"], verbose=False)

    model = place.model
    corpora = {config["choices"]["data"]: place.corpus, **place.tests}
    splits = gather({**corpora, "model": model.fetch})  # all that is out of reach is said together
    _check_positions(model, corpora, config)
    make = build(config["method"])
    pairs: bool = getattr(make.func, "needs_pairs", False)
    if pairs:
        _check_pairs(make.func, splits, place, config)
    training: Splits = splits[config["choices"]["data"]]
    tokenizer = model.load_tokenizer([f"{e.prompt}{e.reference}" for e in training.train])
    (train, dropped, cut), (dev, dropped_dev, _) = _training_rows(training, tokenizer, place.corpus, config, pairs)
    tests = {
        name: TestSet.make(name, splits[name].test, tokenizer, corpus, evaluation.limit)
        for name, corpus in place.tests.items()
    }
    if pairs and issubclass(make.func, RewardModel):
        for test in tests.values():
            test.pairs()  # where there is none to score, that is said before anything is trained
    policy = model.load_policy(tokenizer).to(trainer.device)
    size = sum(p.numel() for p in policy.parameters())
    log.info(
        f"{config['choices']['model']}: {size:,} parameters; {len(train):,} training examples, "
        f"{dropped:,} over-long ones dropped, {cut:,} shortened; "
        f"{len(dev):,} dev prompts, {dropped_dev:,} over-long ones dropped; "
        f"{sum(len(t.rows) for t in tests.values()):,} test prompts, "
        f"{sum(t.shortened for t in tests.values()):,} shortened"
    )

    method: Method = make(_parts(config, policy, tokenizer, trainer, len(train)))
    score = _scoring(method, evaluation, tests, config["seed"])
    before = score(f"{label}: before training")[0] if evaluation.before else None
    fit(method, trainer, train, config, folder, _dev_scores(method, evaluation, dev, place.corpus, config["seed"]))
    method.policy.to(trainer.device)  # Lightning hands it back on the CPU
    if getattr(method, "lam", 0) > 0 and not method.rewards:
        log.warning(
            f"{label}: no epoch was active (see method.active_epochs, trainer.epochs, trainer.max_steps): this is SFT"
        )
    scores, lines = score(f"{label}: test")
    results.write_lines(folder / "predictions.jsonl", lines)
    result = {
        "schema": results.SCHEMA,
        **{key: config["choices"][key] for key in ("method", "model", "data", "reward", "protocol")},
        "experiment": results.experiment(config),
        "seed": config["seed"],
        "config_hash": place.hash,
        "setting": _setting(config, place),
        "but_for_seed": results.identity({**config, "seed": None}, place.fingerprints),
        "scores": scores,
        "before": before,
        "train": {**_train_record(method, len(train), dropped, trainer), "shortened": cut},
        "corpora": {config["choices"]["data"]: _origin(training), **{n: _origin(splits[n]) for n in tests}},
        "dropped_overlong_dev": dropped_dev,
        "shortened_prompts": {name: test.shortened for name, test in tests.items()},
        "parameters": size,
        "models": method.held(),
        "timing": _timing(method, time.perf_counter() - start),
        "peak_rss_bytes": results.peak_rss_bytes(),
        "versions": results.versions(),
        "git_commit": results.git_commit(),
        "device": str(method.policy.device),
        "threads": trainer.threads,
    }
    if isinstance(method, RewardModel):
        replies = (row.example.reference for row in train)
        inner = finish(method.policy.network, tokenizer, replies, place.corpus.max_prompt)
        results.save_reward_model(method.policy.network, inner, folder / "reward_model", result)
    else:
        results.save_policy(policy, tokenizer, folder / "policy", result)
    results.write_json(folder / "result.json", result)
    log.info(f"{label}: finished in {result['timing']['wall_seconds']:.0f} s")


def _setting(config: Mapping[str, Any], place: Place) -> str:
    """The identity of a run but for its method: runs that share it can be compared as methods."""
    rest = {k: v for k, v in config.items() if k not in ("method", "sampling", "reward", "protocol")}
    rest["choices"] = {**config["choices"], "method": "", "reward": ""}
    return results.identity(rest, place.fingerprints[:2])


def _scoring(method: Method, evaluation: Evaluation, tests: Mapping[str, TestSet], seed: int) -> Callable[..., Any]:
    """What scores the method's policy on test sets, called with a label for its bar: by its answers, or, of a reward
    model, by the pairs that it tells apart."""
    if isinstance(method, RewardModel):
        return partial(evaluation.preferences, method, tests)
    return partial(evaluation.score, method.policy, method.parts.tokenizer, tests, seed)


def _check_pairs(method: type[Method], splits: Mapping[str, Any], place: Place, config: Mapping[str, Any]) -> None:
    """Refuse a corpus without pairs where the method learns from pairs, or is scored by them."""
    own, label = config["choices"]["data"], config["choices"]["method"]
    used = {own: [*splits[own].train, *splits[own].dev]}
    if issubclass(method, RewardModel):
        used = {name: [*used.get(name, ()), *splits[name].test] for name in dict.fromkeys((own, *place.tests))}
    for name, examples in used.items():
        if lone := sum(example.rejected is None for example in examples):
            raise BadInput(
                f"data={name}: {lone:,} of {len(examples):,} examples have no rejected reply, and method={label} "
                "compares pairs; take data=preferences, data=hh, or data=file with data.rejected=COLUMN"
            )


def _check_positions(model: Model, corpora: Mapping[str, Corpus], config: Mapping[str, Any]) -> None:
    """Refuse limits beyond the positions of a policy whose config had to be fetched first."""
    positions, new = model.positions(), config["sampling"]["max_new_tokens"]
    for name, corpus in corpora.items() if positions else ():
        response = max(corpus.max_response, new) if name == config["choices"]["data"] else corpus.max_response
        for misfit in too_long(name, corpus.max_prompt, response, config["choices"]["model"], positions or 0):
            raise BadInput(misfit)


def _training_rows(
    splits: Splits, tokenizer: Tokenizer, corpus: Corpus, config: Mapping[str, Any], pairs: bool
) -> tuple[tuple[list[Encoded], int, int], tuple[list[Encoded], int, int]]:
    """Of training and of dev: the examples within the limits, how many were dropped as over-long, how many lost the
    left of their prompt. Without `pairs` nothing of the rejected replies is kept, or has to be within a limit."""
    data, total, limit = config["choices"]["data"], config["protocol"]["max_total"], config["evaluation"]["limit"]
    if not splits.train:
        raise BadInput(f"data={data}: an evaluation set, with nothing to train on; name it in evaluation.data instead")
    cache = Path(config["outputs"]) / "cache"

    def ready(examples: list[Example]) -> tuple[list[Encoded], int, int]:
        rows, cut = encode(examples if pairs else [replace(e, rejected=None) for e in examples], tokenizer, cache), 0
        if splits.cut_long:
            rows, cut = shorten(rows, tokenizer, corpus.max_prompt)
        kept = within(rows, corpus.max_prompt, corpus.max_response, total)
        return kept, len(examples) - len(kept), cut

    (train, dropped, cut), (dev, dropped_dev, cut_dev) = ready(splits.train), ready(splits.dev)
    if not train:
        raise BadInput(
            f"data={data}: none of {len(splits.train):,} training examples keeps data.max_prompt={corpus.max_prompt} "
            f"and data.max_response={corpus.max_response} tokens; raise them"
        )
    few = config["evaluation"]["dev_limit"] if limit is None else min(limit, config["evaluation"]["dev_limit"])
    return (train, dropped, cut), (dev[:few], dropped_dev, cut_dev)


def _parts(config: Mapping[str, Any], policy: Policy, tokenizer: Tokenizer, trainer: Trainer, examples: int) -> Parts:
    return Parts(
        policy=policy,
        tokenizer=tokenizer,
        reward=build(config["reward"]),
        sampling=build(config["sampling"]),
        optimizer=build(config["optimizer"]),
        total_steps=trainer.steps(examples),
        seed=config["seed"],
        micro_batch=trainer.micro_batch,
        micro_k=trainer.micro_k,
        data=config["choices"]["data"],
        sft=build(config["sft"]),
    )


def _dev_scores(
    method: Method, evaluation: Evaluation, dev: list[Encoded], corpus: Corpus, seed: int
) -> Callable[[], dict[str, float]]:
    """Loss on the dev references and scores of the dev prompts, for metrics.csv."""
    tests = {"dev": TestSet("dev", dev, corpus.max_response, 0)}

    def score() -> dict[str, float]:
        if not dev:
            return {}
        scores, _ = _scoring(method, evaluation, tests, seed)()
        named = {
            f"dev/{how}/{k}": v
            for how, row in scores["dev"].items()
            for k, v in row.items()
            if k not in ("n", "left_out") and v is not None
        }
        if isinstance(method, RewardModel):
            return {"dev/loss": named.pop("dev/preference/loss"), **named}
        return {"dev/loss": reference_loss(method.policy, dev, evaluation.batch_size), **named}

    return score


def fit(
    method: Method,
    trainer: Trainer,
    train: list[Encoded],
    config: dict[str, Any],
    folder: Path,
    dev_scores: Callable[[], dict[str, float]],
) -> None:
    """Train, or go on from the last checkpoint of this very run."""
    metrics = MetricsFile(folder / "metrics.csv")
    loggers = [metrics, *([build(config["logger"])(folder, config)] if config["logger"] else [])]
    saved = folder / "checkpoints" / "last.ckpt"
    done = 0
    if saved.exists():
        done = torch.load(saved, mmap=True, weights_only=True)["account"]["counts"]["steps"]
        log.info(f"going on from {saved} after step {done}")
    metrics.start_at(done)
    callbacks = [
        ShowProgress(trainer.steps(len(train)), config["choices"]["method"]),
        KeepSamples(folder / "samples.jsonl", trainer.samples_every),
        AfterEpoch(dev_scores),
        checkpoint(folder),
    ]
    data = TrainingData(train, trainer.batch_size, config["seed"])
    with closing(loggers), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        warnings.filterwarnings("ignore", message=".*exists and is not empty.*")  # a run that goes on
        warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)
        lightning = trainer.build(folder, loggers, callbacks)
        try:
            lightning.fit(method, data, ckpt_path=saved if done else None)
        except SystemExit as error:  # what Lightning makes of Ctrl-C
            raise KeyboardInterrupt from error


def _train_record(method: Method, examples: int, dropped: int, trainer: Trainer) -> dict[str, Any]:
    """The part `train` of result.json. `final_reward` is the mean reward over the last epoch that sampled."""
    last = method.rewards[max(method.rewards)] if method.rewards else []
    return {
        "epochs": -(-method.counts["steps"] // -(-examples // trainer.batch_size)),  # begun
        "steps": method.counts["steps"],
        "examples": examples,
        "dropped_overlong": dropped,
        "sampled_tokens": method.counts["sampled_tokens"],
        "scored_tokens": method.counts["scored_tokens"],
        "forward_tokens": method.counts["forward_tokens"],
        "backward_tokens": method.counts["backward_tokens"],
        "bad_rewards": method.counts["bad_rewards"],
        "clipped_rewards": method.counts["clipped_rewards"],
        "shortened_rewards": method.counts["shortened_rewards"],
        "final_reward": sum(last) / len(last) if last else None,
    }


def _timing(method: Method, wall: float) -> dict[str, Any]:
    """The part `timing` of result.json, in seconds: the wall time of the process that finished, and sums by phase over
    all steps of the run, those before a resume included."""
    return {
        "wall_seconds": wall,
        "step_seconds_median": median(method.step_seconds) if method.step_seconds else None,
        "phases": {phase: method.spent.get(phase, 0.0) for phase in ("reference", "sample", "reward", "update")},
    }


def _origin(splits: Splits) -> dict[str, Any]:
    """Where a corpus came from and how it was cut, for result.json."""
    sizes = {"train": len(splits.train), "dev": len(splits.dev), "test": len(splits.test)}
    broken = sum(bool(example.broken) for example in splits.test)
    return {"origin": splits.origin, "cut": splits.cut, "skipped": splits.skipped, **sizes, "broken": broken}
