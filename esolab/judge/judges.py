"""Judges that are language models: one that is asked, and what one has said before."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Protocol, runtime_checkable

from pydantic import Field, NonNegativeInt

from esolab.endpoint import Endpoint, address, secret
from esolab.errors import BadInput
from esolab.judge.client import Body, ask_all
from esolab.judge.log import Line, Log, content, kept, key_of, read
from esolab.judge.question import Position, Question, parse
from esolab.terminal import console, progress

Seconds = Annotated[float, Field(gt=0, le=3600)]
Money = Annotated[float, Field(ge=0, allow_inf_nan=False)]
CHARACTERS_PER_TOKEN = 4  # of English text, roughly


@runtime_checkable
class Judge(Protocol):
    """Whoever says which of two answers is better."""

    @property
    def name(self) -> str:
        """What the judge is called in a table."""
        ...

    def verdicts(self, questions: Sequence[Question], folder: Path) -> list[Position]:
        """One verdict a question, in their order. What it needs to keep goes to the folder of the judgement.

        Raises:
            BadInput: it cannot judge all of them.
        """
        ...


@dataclass(frozen=True)
class OpenAI:
    """A chat model at an OpenAI-compatible endpoint, see conf/judge/openai.yaml.

    `parameters` are sent as they are, beside model and messages. Replies are kept in `log` (requests.jsonl of the
    judgement's folder) as they come; what is there is not asked again.
    """

    model: str
    base_url: str
    key_env: str | None = None
    parameters: dict[str, Any] = field(default_factory=dict)
    timeout: Seconds = 60.0
    retries: NonNegativeInt = 5
    backoff: Annotated[float, Field(ge=0, le=60)] = 1.0
    concurrency: Annotated[int, Field(ge=1, le=64)] = 4
    price: Annotated[list[Money], Field(min_length=2, max_length=2)] | None = None
    max_requests: NonNegativeInt | None = None
    max_cost: Money | None = None
    log: str | None = None

    def __post_init__(self) -> None:
        if not self.model:
            raise BadInput("judge.model: no value; give judge.model=NAME, one that the endpoint serves")
        if own := self.parameters.keys() & {"model", "messages"}:
            raise BadInput(f"judge.parameters.{min(own)}: is sent anyway; leave it out")
        if self.max_cost is not None and self.price is None:
            raise BadInput(f"judge.max_cost={self.max_cost:g}: needs judge.price=[IN,OUT], per million tokens")
        if self.max_cost is not None and self.longest is None:
            raise BadInput(
                f"judge.max_cost={self.max_cost:g}: needs a limit of replies; give judge.parameters.max_tokens=N, or "
                "max_completion_tokens where the model wants that"
            )
        if address("judge.base_url", self.base_url) != self.base_url:  # it goes to files
            raise BadInput("judge.base_url: holds more than an address; give the key in the variable of judge.key_env")
        secret("judge.key_env", self.key_env)  # said before anything is written, not kept

    @property
    def name(self) -> str:
        """The model's name."""
        return self.model

    @property
    def place(self) -> str:
        """The endpoint without a slash at its end."""
        return self.base_url.rstrip("/")

    @property
    def longest(self) -> int | None:
        """The most tokens of a reply, None where the parameters do not say."""
        found = [self.parameters.get(name) for name in ("max_tokens", "max_completion_tokens")]
        return max((n for n in found if isinstance(n, int)), default=None)

    def verdicts(self, questions: Sequence[Question], folder: Path) -> list[Position]:
        """What the model says of each question; only those that the log does not have are asked.

        Raises:
            BadInput: more is left to ask than the caps allow (nothing is asked then), or some got no reply.
        """
        bodies = {key: self._body(question) for question in questions for key in [self._key(question)]}
        with kept(Path(self.log) if self.log else folder / "requests.jsonl") as log:
            left = {key: body for key, body in bodies.items() if key not in log.lines}
            if left:
                self._afford(left)
                self._ask(left, log, answers=len(left) < len(bodies))
            return [parse(content(log.lines[self._key(question)]["response"])) for question in questions]

    def _key(self, question: Question) -> str:
        return key_of(self.place, self._body(question))

    def _body(self, question: Question) -> Body:
        return {"model": self.model, "messages": question.messages(), **self.parameters}

    def _afford(self, bodies: dict[str, Body]) -> None:
        """Say what is about to be spent, and refuse what is more than the caps."""
        characters = sum(len(message["content"]) for body in bodies.values() for message in body["messages"])
        tokens, cost = (characters / CHARACTERS_PER_TOKEN, len(bodies) * (self.longest or 0)), None
        if self.price is not None and self.longest is not None:
            cost = sum(n * price / 1e6 for n, price in zip(tokens, self.price, strict=True))
        said = f"{len(bodies):,} requests left, {characters:,} characters, about {tokens[0]:,.0f} tokens in and "
        said += f"at most {tokens[1]:,} out, " if self.longest else "no limit of those out, "
        unknown = "cost unknown: judge.price is null" if self.price is None else "cost unknown"
        said += unknown if cost is None else f"cost at most about {cost:,.2f}"
        way_out = "; nothing was asked, raise it or give limit=N"
        if self.max_requests is not None and len(bodies) > self.max_requests:
            raise BadInput(f"judge.max_requests={self.max_requests}: {said}{way_out}")
        if self.max_cost is not None and cost is not None and cost > self.max_cost:
            raise BadInput(f"judge.max_cost={self.max_cost:g}: {said}{way_out}")
        console.print(f"{self.model}: {said}", markup=False, highlight=False, soft_wrap=True)

    def _ask(self, bodies: dict[str, Body], log: Log, answers: bool) -> None:
        place, url = f"judge.base_url={self.place}", f"{self.place}/chat/completions"
        key = secret("judge.key_env", self.key_env)
        endpoint = Endpoint(place, url, key, self.timeout, self.retries, self.backoff)

        def keep(key: str, response: Any) -> None:
            log.add({"key": key, "base_url": self.place, "body": bodies[key], "response": response}, endpoint.secret)

        with progress() as bar:
            task = bar.add_task("judge", total=len(bodies), note="requests")
            troubles = ask_all(endpoint, bodies, keep, self.concurrency, lambda: bar.advance(task), answers)
        left = sum(key not in log.lines for key in bodies)
        if left:
            why = "; ".join(f"{reason}, {n} of {len(bodies)} requests" for reason, n in troubles.most_common(3))
            raise BadInput(
                f"{place}: {why}; {len(bodies) - left} replies came and are kept, the same command asks the other "
                f"{left}"
            )


@dataclass(frozen=True)
class Replay:
    """What a judge said before, from its log alone; the other three tell which, where the log has several judges."""

    log: str
    model: str | None = None
    base_url: str | None = None
    parameters: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        if not self.log:
            raise BadInput("judge.log: no value; give judge.log=FILE, the requests.jsonl of a judgement")

    @property
    def name(self) -> str:
        """The model's name, where it was given, or the log's."""
        return f"replay of {self.model or self.log}"

    def verdicts(self, questions: Sequence[Question], folder: Path) -> list[Position]:
        """What the log says of each question. Raises BadInput where it lacks one."""
        lines = read(Path(self.log))
        judges = {json.dumps(judge, sort_keys=True): judge for judge in map(_asked, lines.values())}
        fitting = [judge for judge in judges.values() if self._wanted(*judge)]
        if len(fitting) != 1:
            has = ", ".join(f"{model} at {url} with {json.dumps(more)}" for model, url, more in judges.values())
            raise BadInput(
                f"judge.log={self.log}: has {has or 'no reply'}; give judge.model=NAME judge.base_url=URL "
                "judge.parameters={KEY:VALUE}, one of them"
            )
        [(model, base_url, parameters)] = fitting
        bodies = [{"model": model, "messages": question.messages(), **parameters} for question in questions]
        keys = [key_of(base_url, body) for body in bodies]
        if lacking := len({key for key in keys if key not in lines}):
            raise BadInput(
                f"judge.log={self.log}: has no reply to {lacking} of {len(set(keys))} questions; ask them with "
                f"judge=openai judge.log={self.log}, or give the rows, seed and orders that it was made with"
            )
        return [parse(content(lines[key]["response"])) for key in keys]

    def _wanted(self, model: str, base_url: str, parameters: dict[str, Any]) -> bool:
        at = self.base_url
        same = self.model in (None, model) and (at is None or at.rstrip("/") == base_url)
        return same and self.parameters in (None, parameters)


def _asked(line: Line) -> tuple[str, str, dict[str, Any]]:
    """Who a line of a log is from: model, address, parameters."""
    rest = {key: value for key, value in line["body"].items() if key not in ("model", "messages")}
    return line["body"]["model"], line["base_url"], rest
