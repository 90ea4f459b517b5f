"""The pieces of a run, put together from its configuration: where it belongs, rows, policy, method, what scores it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import transformers

from esolab import results, sharding
from esolab.batch import Example
from esolab.check import build, too_long
from esolab.corpora.base import Corpus, Splits
from esolab.data import Encoded, TrainingData, encode, shorten, within
from esolab.errors import BadInput, gather
from esolab.evaluate import Evaluation, TestSet, reference_loss
from esolab.identity import identity
from esolab.methods.base import Method, Parts
from esolab.methods.reward_model import RewardModel
from esolab.models import Model
from esolab.policy import Policy, Tokenizer
from esolab.recompute import recompute_blocks
from esolab.terminal import log
from esolab.training import Trainer


@dataclass(frozen=True)
class Place:
    """Where a run belongs: its identity and folder, with the corpora that were hashed for it."""

    hash: str
    folder: Path
    model: Model
    corpus: Corpus  # to train on
    tests: dict[str, Corpus]  # to answer
    fingerprints: list[str]  # of the local files of the model, of the corpus, of each test corpus, of the reward

    def inputs(self, data: str) -> dict[str, str]:
        """The fingerprints by what they are of; `data` is the name of the corpus."""
        names = ("model", f"data={data}", *(f"evaluation.data={name}" for name in self.tests), "reward")
        return dict(zip(names, self.fingerprints, strict=False))  # not every reward has one


def locate(config: Mapping[str, Any]) -> Place:
    """The place of the run that a resolved configuration describes. Local data and weights are read, to hash them."""
    own, corpus = config["choices"]["data"], build(config["data"])
    tests = {n: corpus if n == own else build(config["corpora"][n]) for n in config["evaluation"]["data"]}
    model: Model = build(config["model"])
    read = [model.fingerprint(), corpus.fingerprint(), *(c.fingerprint() for c in tests.values())]
    judge = getattr(build(config["reward"]), "fingerprint", lambda: "")()  # of a reward that is a model
    read += [judge] if judge else []
    name = identity(config, read)
    return Place(name, results.run_folder(config, name), model, corpus, tests, read)


@dataclass(frozen=True)
class Assembly:
    """A run put together, before its first step.

    `train` and `dev` are the rows within the limits; `dropped`, `dropped_dev` say how many were over-long, `cut` how
    many training prompts lost their left. `trained` is how many weights training moves, of all models that learn.
    """

    config: Mapping[str, Any]
    trainer: Trainer
    evaluation: Evaluation
    method: Method
    tokenizer: Tokenizer
    corpus: Corpus
    splits: Mapping[str, Splits]
    train: list[Encoded]
    dev: list[Encoded]
    tests: Mapping[str, TestSet]
    dropped: int
    dropped_dev: int
    cut: int
    trained: int

    @property
    def label(self) -> str:
        """The name of the method, for bars and lines."""
        return str(self.config["choices"]["method"])

    @property
    def data(self) -> TrainingData:
        """The training batches."""
        return TrainingData(self.train, self.trainer.batch_size, self.config["seed"])

    def score(self, label: str | None = None, keep: Path | None = None) -> Any:
        """Score the policy as it stands on the test sets: scores, and the lines of predictions.jsonl. `keep` is where
        the answers are as they come. A policy that is shared out has to be `whole`."""
        return self._scoring(self.tests)(label, keep)

    def dev_scores(self) -> dict[str, float]:
        """Loss on the dev references and scores of the dev prompts, for metrics.csv."""
        if not self.dev:
            return {}
        with sharding.whole(self.method.policy):
            return self._dev_scores()

    def _dev_scores(self) -> dict[str, float]:
        scores, _ = self._scoring({"dev": TestSet("dev", self.dev, self.corpus.max_response, 0)})()
        named = {
            f"dev/{how}/{k}": v
            for how, row in scores["dev"].items()
            for k, v in row.items()
            if k not in ("n", "left_out") and v is not None
        }
        if isinstance(self.method, RewardModel):
            return {"dev/loss": named.pop("dev/preference/loss"), **named}
        return {"dev/loss": reference_loss(self.method.policy, self.dev, self.evaluation.batch_size), **named}

    def _scoring(self, tests: Mapping[str, TestSet]) -> Callable[..., Any]:
        """What scores the method's policy on test sets, called with a label for its bar: by its answers, or, of a
        reward model, by the pairs that it tells apart."""
        if isinstance(self.method, RewardModel):
            return partial(self.evaluation.preferences, self.method, tests)
        return partial(self.evaluation.score, self.method.policy, self.tokenizer, tests, self.config["seed"])


def assemble(config: Mapping[str, Any], place: Place) -> Assembly:
    """Put a run together from its resolved configuration, down to the method; the same for the same seed.

    Raises:
        BadInput: the data or the model cannot be reached, or do not fit the method.
    """
    trainer: Trainer = build(config["trainer"])
    evaluation: Evaluation = build(config["evaluation"])
    torch.set_num_threads(trainer.threads)
    transformers.utils.logging.disable_progress_bar()
    pl.seed_everything(config["seed"], verbose=False)

    own, make = config["choices"]["data"], build(config["method"])
    model = replace(place.model, dtype="bfloat16") if trainer.narrow else place.model
    corpora = {own: place.corpus, **place.tests}
    splits = gather({**corpora, "model": model.fetch})  # all that is out of reach is said together
    _check_positions(model, corpora, config)
    pairs: bool = getattr(make.func, "needs_pairs", False)
    if pairs:
        _check_pairs(make.func, splits, place, config)
    tokenizer = model.load_tokenizer([f"{e.prompt}{e.reference}" for e in splits[own].train])
    (train, dropped, cut), (dev, dropped_dev, _) = _training_rows(splits[own], tokenizer, place.corpus, config, pairs)
    tests = {
        name: TestSet.make(name, splits[name].test, tokenizer, corpus, evaluation.limit)
        for name, corpus in place.tests.items()
    }
    if pairs and issubclass(make.func, RewardModel):
        for test in tests.values():
            test.pairs()  # where there is none to score, that is said before anything is trained
    policy = model.load_policy(tokenizer).to(trainer.device)
    if trainer.gradient_checkpointing:
        recompute_blocks(policy.network)
    method: Method = make(_parts(config, policy, tokenizer, trainer, len(train)))
    run = Assembly(
        config,
        trainer,
        evaluation,
        method,
        tokenizer,
        place.corpus,
        splits,
        train,
        dev,
        tests,
        dropped,
        dropped_dev,
        cut,
        sum(weight.numel() for weight in method.parameters() if weight.requires_grad),
    )
    _introduce(run)
    return run


def _introduce(run: Assembly) -> None:
    """Say what there is to train, on what, and what was left out of it."""
    policy, tests = run.method.policy, run.tests.values()
    whole, learning = parameters(policy), sum(p.numel() for p in policy.parameters() if p.requires_grad)
    log.info(
        f"{run.config['choices']['model']}: {whole:,} parameters"
        f"{f', {learning:,} of them trained' * (learning < whole)}; "
        f"{len(run.train):,} training examples, {run.dropped:,} over-long ones dropped, {run.cut:,} shortened; "
        f"{len(run.dev):,} dev prompts, {run.dropped_dev:,} over-long ones dropped; "
        f"{sum(len(t.rows) for t in tests):,} test prompts, {sum(t.shortened for t in tests):,} shortened"
    )
    if run.trainer.strategy == "fsdp" and run.trainer.size == 1:
        log.info("trainer.strategy=fsdp: there is one device, and nothing to share out")


def parameters(policy: Policy) -> int:
    """How many weights a policy has."""
    return sum(p.numel() for p in policy.parameters())


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
        recompute=trainer.gradient_checkpointing,
        data=config["choices"]["data"],
        sft=build(config["sft"]),
    )
