"""Answer a split under each decoding and score the answers; also `python -m esolab.evaluate`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
import transformers
from omegaconf import OmegaConf
from pydantic import Field, NonNegativeInt, PositiveInt

from esolab import metrics, ranks, results
from esolab.allowed import allowing, flags, references, strangers
from esolab.answered import Answered
from esolab.batch import Example
from esolab.config import CONF, build, quoted, resolve
from esolab.corpora.base import Corpus
from esolab.data import Encoded, collate, encode, shorten
from esolab.errors import BadInput, gather, memory_needed
from esolab.identity import identity
from esolab.logprobs import branch_logprobs
from esolab.methods.onpolicy import read
from esolab.methods.reward_model import RewardModel
from esolab.policy import Policy, Tokenizer
from esolab.sampling import decoding, noise_keys, sample
from esolab.terminal import progress

Scores = dict[str, dict[str, dict[str, Any]]]
LESS = "lower evaluation.batch_size, which changes no answer, or give model.dtype=bfloat16"
Tick = Callable[[int], None]  # told how many prompts have been answered


def answer(
    policy: Policy,
    tokenizer: Tokenizer,
    test: TestSet,
    how: str,
    seed: int,
    batch_size: int = 32,
    tick: Tick = lambda n: None,
    answered: Answered | None = None,
) -> list[str]:
    """One answer to each example under the decoding named `how`, in the order of the examples; those that are
    `answered` are taken from there, and the others added. Each rank answers its
    batches, and gets the answers of all.

    The noise of an answer depends on seed, decoding and example id, not on the batch.
    """
    sampling, rows = decoding(how, test.max_new_tokens), test.rows
    order = sorted(range(len(rows)), key=lambda i: (len(rows[i].prompt), i))  # like lengths together: less padding
    batches = [order[start : start + batch_size] for start in range(0, len(rows), batch_size)]
    answers: dict[int, str] = {}
    for chosen in batches[ranks.number() :: ranks.size()]:
        batch = collate([rows[i] for i in chosen])
        texts = answered.get(test.name, how, batch.ids) if answered else None
        if texts is None:
            keys = noise_keys(seed, f"evaluate {how}", 0, batch.ids, 1)
            drawn = sample(policy, batch.prompts, sampling, keys, tokenizer.eos)
            texts = [own for (own,) in read(drawn.branches.ids, drawn.branches.lengths, tokenizer)]
            if answered:
                answered.add(test.name, how, batch.ids, texts)
        answers.update(zip(chosen, texts, strict=True))
        tick(len(chosen))
    for others in ranks.gathered(answers):
        answers.update(others)
    return [answers[i] for i in range(len(rows))]


@dataclass(frozen=True)
class TestSet:
    """The test prompts of a corpus, ready for a policy; `shortened` of them lost a part (see `data.shorten`)."""

    name: str
    rows: Sequence[Encoded]
    max_new_tokens: int
    shortened: int

    @staticmethod
    def make(
        name: str, examples: Sequence[Example], tokenizer: Tokenizer, corpus: Corpus, limit: int | None
    ) -> TestSet:
        """Tokenise the first `limit` examples within the corpus's limits."""
        rows, shortened = shorten(encode(examples[:limit], tokenizer), tokenizer, corpus.max_prompt)
        return TestSet(name, rows, corpus.max_response, shortened)

    def pairs(self) -> list[Encoded]:
        """The pairs that can be scored: not broken, and both replies within `max_new_tokens`. Raises BadInput where
        there is none."""
        whole = [row for row in self.rows if not row.example.broken]
        found = [row for row in whole if row.response <= self.max_new_tokens]
        if not found:
            raise BadInput(
                f"data={self.name}: none of {len(self.rows):,} test pairs can be scored: broken (empty reply, two "
                f"prompts) {len(self.rows) - len(whole):,}, a reply over data.max_response={self.max_new_tokens} "
                f"tokens {len(whole):,}; raise data.max_response or evaluation.limit, or take other data"
            )
        return found


@dataclass(frozen=True)
class Evaluation:
    """What is answered and scored; see conf/config.yaml. `data` are names of corpora."""

    data: Annotated[list[str], Field(min_length=1)] = field(default_factory=list)
    decodings: Annotated[list[str], Field(min_length=1)] = field(default_factory=lambda: ["sample", "greedy"])
    limit: PositiveInt | None = None
    dev_limit: NonNegativeInt = 200
    before: bool = False
    batch_size: PositiveInt = 32

    def __post_init__(self) -> None:
        for how in self.decodings:
            decoding(how, 1)
        for place, names in (("data", self.data), ("decodings", self.decodings)):
            if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
                raise BadInput(f"evaluation.{place}: {', '.join(map(repr, twice))} more than once; name each once")

    def answers(self, tests: Mapping[str, TestSet]) -> int:
        """How many answers `score` will ask for."""
        return len(self.decodings) * sum(len(test.rows) for test in tests.values())

    def score(
        self,
        policy: Policy,
        tokenizer: Tokenizer,
        tests: Mapping[str, TestSet],
        seed: int,
        label: str | None = None,
        keep: Path | None = None,
    ) -> tuple[Scores, list[dict[str, Any]]]:
        """Answer every test set under every decoding, behind a bar if there is a label for it. Answers go to the file
        `keep` as they come, and those that this policy has given before are taken from there.

        Returns scores by data and decoding (x100 where the paper's are), and the lines of predictions.jsonl.
        """
        with progress(disable=label is None or not ranks.lead()) as bar:
            total = self.answers(tests)
            task = bar.add_task(label or "", total=total, note="answers")

            def tick(n: int) -> None:
                """The other ranks are as far as this one, about."""
                bar.update(task, completed=min(total, bar.tasks[task].completed + ranks.size() * n))

            return self._score(policy, tokenizer, tests, seed, tick, Answered(keep) if keep else None)

    def _score(
        self,
        policy: Policy,
        tokenizer: Tokenizer,
        tests: Mapping[str, TestSet],
        seed: int,
        tick: Tick,
        answered: Answered | None,
    ) -> tuple[Scores, list[dict[str, Any]]]:
        scores: Scores = {}
        lines = []
        for data, test in tests.items():
            scores[data] = {}
            for how in self.decodings:
                answers = answer(policy, tokenizer, test, how, seed, self.batch_size, tick, answered)
                own = [_line(data, how, row.example, text) for row, text in zip(test.rows, answers, strict=True)]
                scores[data][how] = metrics.summarise(own, answers)
                lines += own
        return scores, lines

    def preferences(
        self, model: RewardModel, tests: Mapping[str, TestSet], label: str | None = None, keep: Path | None = None
    ) -> tuple[Scores, list[dict[str, Any]]]:
        """Let a reward model tell the replies of the test pairs apart, behind a bar if there is a label for it.

        Broken pairs, and those with a reply over `data.max_response`, are left out and counted. This takes seconds, and
        nothing goes to `keep`. Returns scores by data
        (see metrics.summarise_pairs) and the lines of predictions.jsonl. Raises BadInput where a set has no other pair.
        """
        scores: Scores = {}
        lines = []
        with progress(disable=label is None or not ranks.lead()) as bar:
            task = bar.add_task(label or "", total=sum(len(test.pairs()) for test in tests.values()), note="pairs")
            for data, test in tests.items():
                rows = test.pairs()
                rewards: list[list[float]] = []
                for start in range(0, len(rows), self.batch_size):
                    rewards += model.compare(rows[start : start + self.batch_size]).tolist()
                    bar.advance(task, min(self.batch_size, len(rows) - start))
                longer = [len(row.reference) - len(row.rejected or ()) for row in rows]
                found = metrics.summarise_pairs([chosen - rejected for chosen, rejected in rewards], longer)
                scores[data] = {"preference": {**found, "left_out": len(test.rows) - len(rows)}}
                lines += [_pair(data, row.example, *values) for row, values in zip(rows, rewards, strict=True)]
        return scores, lines


def _pair(data: str, example: Example, chosen: float, rejected: float) -> dict[str, Any]:
    """A pair with its rewards, as predictions.jsonl keeps it."""
    named = {"prompt": example.prompt, "chosen": example.reference, "rejected": example.rejected}
    rewards = {"reward_chosen": chosen, "reward_rejected": rejected}
    return {"id": example.id, "data": data, "decoding": "preference", **named, **rewards}


def _line(data: str, how: str, example: Example, text: str) -> dict[str, Any]:
    """One answer with its scores, as predictions.jsonl keeps it."""
    named = {"prompt": example.prompt, "reference": example.reference, "prediction": text}
    flag = {"broken": example.broken} if example.broken else {}
    scores = metrics.score(text, example.reference.strip())
    return {"id": example.id, "data": data, "decoding": how, **named, **scores, **flag}


def reference_loss(policy: Policy, rows: Sequence[Encoded], batch_size: int = 32) -> float:
    """Mean negative log-likelihood of the references, in nats per token."""
    total, tokens = 0.0, 0
    mode = policy.training
    policy.eval()
    with torch.no_grad():
        for start in range(ranks.number() * batch_size, len(rows), ranks.size() * batch_size):
            batch = collate(rows[start : start + batch_size]).to(policy.device)
            total -= float(branch_logprobs(policy, batch.prompts, batch.references.unsqueeze()).double().sum())
            tokens += int(batch.references.lengths.sum())
    policy.train(mode)
    found = ranks.gathered((total, tokens))
    return sum(loss for loss, _ in found) / max(1, sum(n for _, n in found))


def main(arguments: list[str]) -> int:
    """`python -m esolab.evaluate policy=DIR [data=...]`: print the scores, and keep them with the answers."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print((CONF / "evaluate.yaml").read_text(), end="")
        return 0
    try:
        modules, arguments = flags(arguments)
        if not any(argument.startswith("policy=") for argument in arguments):
            raise BadInput("policy: no value; give policy=DIR, a run's folder or one that save_pretrained has left")
        with allowing(modules), memory_needed(LESS):
            folder, scores = score_policy(resolve(as_in_run(arguments), "evaluate"))
    except BadInput as error:
        print(error.shown(), file=sys.stderr)
        return 2
    for data, decodings in scores.items():
        for how, row in decodings.items():
            print(f"{data:14} {how:8} " + "  ".join(f"{k} {v:.2f}" if k != "n" else f"n {v}" for k, v in row.items()))
    print(folder)
    return 0


def as_in_run(arguments: Sequence[str]) -> list[str]:
    """The arguments, preceded by the settings of the run that left the policy, where its config.yaml is beside it."""
    said = dict(argument.partition("=")[::2] for argument in arguments)
    place = Path(said.get("policy", ""))
    policy = place / "policy" if (place / "policy").is_dir() else place
    rest = [argument for argument in arguments if not argument.startswith("policy=")]
    named = [f"policy={quoted(str(policy))}"] if "policy" in said else []
    if not (policy.parent / "config.yaml").is_file():
        return [*named, *rest]
    config: Any = OmegaConf.to_container(OmegaConf.load(policy.parent / "config.yaml"))
    settings = {key: config[key] for key in ("seed", "data_root")}
    settings |= {"protocol": config["choices"]["protocol"], "trainer.threads": config["trainer"]["threads"]}
    settings |= {f"model.{key}": config["model"][key] for key in ("bos", "dtype") if key in config["model"]}
    if config["trainer"].get("precision") == "bf16-true":
        settings["model.dtype"] = "bfloat16"
    settings |= {f"evaluation.{key}": config["evaluation"][key] for key in ("decodings", "limit", "batch_size")}
    settings["protocol.max_response"] = config["protocol"]["max_response"]
    if "data" not in said:
        settings |= {"data": config["choices"]["data"], "evaluation.data": config["evaluation"]["data"]}
    if said.get("data", config["choices"]["data"]) == config["choices"]["data"]:
        settings |= {f"data.{key}": value for key, value in config["data"].items() if key != "_target_"}
    foreign = [line for _, line in strangers(settings)]  # it may come from anywhere
    foreign += [f"{key}: holds ${{...}}" for key in references(settings)]
    if foreign:
        raise BadInput("\n".join(f"{policy.parent / 'config.yaml'}: {line}" for line in foreign))
    repeated = [f"{key}={quoted(value)}" for key, value in settings.items() if key not in said]
    return [*repeated, *named, *rest]


def score_policy(config: dict[str, Any]) -> tuple[Path, Scores]:
    """Answer and score what a resolved evaluate.yaml names; the folder with scores.json and predictions.jsonl."""
    own, nodes = config["choices"]["data"], config["corpora"]
    corpora: dict[str, Corpus] = {
        n: build(config["data"] if n == own else nodes[n]) for n in config["evaluation"]["data"]
    }
    name = identity(config, [corpus.fingerprint() for corpus in corpora.values()])
    torch.set_num_threads(config["trainer"]["threads"])
    transformers.utils.logging.disable_progress_bar()
    model, evaluation = build(config["model"]), build(config["evaluation"])
    splits = gather({**corpora, "model": model.fetch})
    tokenizer = model.load_tokenizer([])
    limit = evaluation.limit
    tests = {n: TestSet.make(n, splits[n].test, tokenizer, corpus, limit) for n, corpus in corpora.items()}
    policy = model.load_policy(tokenizer).to(build(config["trainer"]).device)
    scores, lines = evaluation.score(policy, tokenizer, tests, config["seed"], "evaluate")
    source = Path(config["policy"]).resolve()
    source = source.parent if source.name == "policy" else source
    folder = Path(config["outputs"]) / "evaluate" / f"{source.name[:60]}-on-{'-'.join(tests)}-{name}"
    with results.locked(folder):
        results.write_lines(folder / "predictions.jsonl", lines)
        results.write_json(
            folder / "scores.json", {"policy": config["policy"], "seed": config["seed"], "scores": scores}
        )
    return folder, scores


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
