"""`python -m esolab.judge a=RUN b=RUN|chosen`: the win rate of a's answers over b's."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from rich.console import Console

from esolab import results
from esolab.allowed import allowing, flags
from esolab.check import near
from esolab.config import CONF, build, quoted, resolve
from esolab.errors import BadInput
from esolab.identity import identity
from esolab.judge.judges import Judge
from esolab.judge.pairs import CHOSEN, Pairs, read_pairs
from esolab.judge.question import questions
from esolab.judge.verdicts import SCHEMA, agreement, heading, items, read_verdicts, summarise, table

TEXTS = ("a", "b", "rows.data", "rows.decoding", "agreement", "judge.model", "judge.base_url", "judge.log")
REWARD = "judge.reward"
HOW = ("key_env", "timeout", "retries", "backoff", "concurrency", "price", "max_requests", "max_cost", "batch_size")


def main(arguments: list[str]) -> int:
    """Judge what the command line says and print the result; the exit code."""
    if not arguments or arguments[0] in ("-h", "--help"):
        for file in (CONF / "judgement.yaml", *sorted((CONF / "judge").glob("*.yaml"))):
            print(f"\n# {file.relative_to(CONF)}" if file.parent != CONF else "", file.read_text(), sep="\n", end="")
        return 0
    try:
        modules, arguments = flags(arguments)
        with allowing(modules):
            folder, result = judge(resolve(as_composed(arguments), "judgement"))
    except BadInput as error:
        print(error.shown(), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command goes on from the replies that came", file=sys.stderr)
        return 130
    print(heading(result))
    Console().print(table(result))
    print(folder)
    return 0


def as_composed(arguments: Sequence[str]) -> list[str]:
    """The arguments in Hydra's grammar: texts in quotes; `data` as rows.data, because conf/data is a group."""
    overrides = []
    for argument in arguments:
        key, equals, value = argument.partition("=")
        key = f"rows.{key}" if key in ("data", "decoding", "limit") else key
        key = f"++{key}" if key.startswith("judge.parameters.") else key  # what an endpoint takes is its own matter
        plain = key in TEXTS and value not in ("", "null") and value[0] not in "'\""
        overrides.append(f"{key}{equals}{quoted(value) if plain else value}")
    return _with_reward(overrides)


def _with_reward(overrides: Sequence[str]) -> list[str]:
    """`judge.reward` as a choice of conf/reward, the folder of a reward model, or a node by its keys."""
    rest = [o for o in overrides if not o.startswith((f"{REWARD}.", f"{REWARD}="))]
    if any(o.startswith(REWARD) for o in overrides) and "judge=preference" not in overrides:
        raise BadInput(f"{REWARD}: is read by judge=preference; give that, too, or leave it out")
    keys = {k: v for k, _, v in (o.partition("=") for o in overrides if o.startswith(f"{REWARD}."))}
    if f"{REWARD}._target_" in keys:
        node = ",".join(f"{key.removeprefix(REWARD + '.')}:{value}" for key, value in keys.items())
        return [*rest, f"{REWARD}={{{node}}}"]
    choices = sorted(path.stem for path in (CONF / "reward").glob("*.yaml"))
    for value in [o.partition("=")[2] for o in overrides if o.startswith(f"{REWARD}=")]:
        if value in choices:
            rest.append(f"reward@{REWARD}={value}")
        elif value.startswith("{"):
            rest.append(f"{REWARD}={value}")
        elif Path(value).is_dir() and "preference" in choices:
            rest += [f"reward@{REWARD}=preference", f"{REWARD}.path={quoted(value)}"]
        else:
            way_out = f"{near(value, choices) or ';'} choices: {', '.join(choices)}"
            raise BadInput(f"{REWARD}={value}: no such choice{way_out}")
    return [*rest, *(f"{key}={value}" for key, value in keys.items())]


def judge(config: dict[str, Any]) -> tuple[Path, dict[str, Any]]:
    """Judge what a resolved judgement.yaml names; the folder of the judgement and its result.json.

    Raises:
        BadInput: the runs cannot be paired, or the judge cannot judge all pairs. What it said so far is kept.
    """
    a, b = str(config["a"]), str(config["b"])
    pairs = read_pairs(a, b, build(config["rows"]))
    other = None if config["agreement"] is None else read_verdicts(Path(config["agreement"]), pairs)
    asked = questions(pairs.pairs, config["seed"], config["orders"] == "both")
    by: Judge = build(config["judge"])
    folder = locate(config, pairs, by)
    with results.locked(folder):
        results.write_text(folder / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(config)))
        (folder / "result.json").unlink(missing_ok=True)  # it is there if and only if the judgement is whole
        judged = items(asked, by.verdicts([question for group in asked for question in group], folder))
        of = {"data": pairs.data, "decoding": pairs.decoding, "orders": config["orders"], "seed": config["seed"]}
        result = {"schema": SCHEMA, "a": a, "b": b, "judge": by.name, **of, **summarise(judged)}
        result["agreement"] = None if other is None else {"with": config["agreement"], **agreement(judged, other)}
        result |= {"pairs": pairs.fingerprint(), "how": signature(config, by)}
        results.write_lines(folder / "judgements.jsonl", [item.line() for item in judged])
        results.write_json(folder / "result.json", result)
    return folder, result


def locate(config: dict[str, Any], pairs: Pairs, by: Judge) -> Path:
    """The judgement's folder: its name tells pairs, judges and orders apart, not how a judge is reached or paid."""
    sides = (str(config["a"]), str(config["b"]))
    names = [side if side == CHOSEN else Path(side).resolve().name for side in sides]
    same = signature(config, by, pairs.fingerprint(), *names)  # of runs alike in 60 characters and in answers
    return Path(config["outputs"]) / "judge" / f"{'-vs-'.join(name[:60] for name in names)}-{same}"


def signature(config: dict[str, Any], by: Judge, *more: str) -> str:
    """Eight characters that tell judges, and the ways that they are asked, apart: verdicts compare where they agree."""
    own = {key: config[key] for key in ("orders", "seed", "choices")}
    own["judge"] = {key: value for key, value in config["judge"].items() if key not in HOW}
    model = getattr(by, "fingerprint", str)()  # of a reward that is one
    return identity(own, [model, *more])


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a polite kill is Ctrl-C: replies under way are kept
    sys.exit(main(sys.argv[1:]))
