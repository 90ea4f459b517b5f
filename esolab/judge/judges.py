"""Judges that are language models: one that is asked, and what one has said before."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Protocol
from urllib.parse import urlsplit

from pydantic import Field, NonNegativeInt, PositiveInt

from esolab.errors import BadInput
from esolab.judge.client import Body, Endpoint, ask_all
from esolab.judge.log import Log, content, kept, key_of, read
from esolab.judge.question import Position, Question, parse
from esolab.terminal import console, progress

Seconds = Annotated[float, Field(gt=0, le=3600)]
Money = Annotated[float, Field(ge=0, allow_inf_nan=False)]
CHARACTERS_PER_TOKEN = 4  # of English text, roughly


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
    """A chat model at an OpenAI-compatible endpoint, asked at temperature 0; see conf/judge/openai.yaml.

    Replies are kept in `log` (requests.jsonl of the judgement's folder) as they come; what is there is not asked again.
    """

    model: str
    base_url: str
    key_env: str | None = None
    max_tokens: PositiveInt = 200
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
        if self.key_env is not None and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", self.key_env):
            raise BadInput("judge.key_env: is the name of an environment variable, never the key itself")
        if self.max_cost is not None and self.price is None:
            raise BadInput(f"judge.max_cost={self.max_cost:g}: needs judge.price=[IN,OUT], per million tokens")
        _check_url(self.base_url)

    @property
    def name(self) -> str:
        """The model's name."""
        return self.model

    @property
    def place(self) -> str:
        """The endpoint without a slash at its end."""
        return self.base_url.rstrip("/")

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
                self._ask(left, log)
            return [parse(content(log.lines[self._key(question)]["response"])) for question in questions]

    def _key(self, question: Question) -> str:
        return key_of(self.model, self.place, question.messages())

    def _body(self, question: Question) -> Body:
        limits = {"temperature": 0, "max_tokens": self.max_tokens}
        return {"model": self.model, "messages": question.messages(), **limits}

    def _afford(self, bodies: dict[str, Body]) -> None:
        """Say what is about to be spent, and refuse what is more than the caps."""
        characters = sum(len(message["content"]) for body in bodies.values() for message in body["messages"])
        tokens = (characters / CHARACTERS_PER_TOKEN, float(len(bodies) * self.max_tokens))
        cost = sum(n * price / 1e6 for n, price in zip(tokens, self.price, strict=True)) if self.price else None
        said = f"{len(bodies):,} requests left, {characters:,} characters, about {tokens[0]:,.0f} tokens in "
        said += f"and at most {tokens[1]:,.0f} out, "
        said += "cost unknown: judge.price is null" if cost is None else f"cost at most about {cost:,.2f}"
        way_out = "; nothing was asked, raise it or give limit=N"
        if self.max_requests is not None and len(bodies) > self.max_requests:
            raise BadInput(f"judge.max_requests={self.max_requests}: {said}{way_out}")
        if self.max_cost is not None and cost is not None and cost > self.max_cost:
            raise BadInput(f"judge.max_cost={self.max_cost:g}: {said}{way_out}")
        console.print(f"{self.model}: {said}", markup=False, highlight=False, soft_wrap=True)

    def _ask(self, bodies: dict[str, Body], log: Log) -> None:
        secret = self._secret()
        endpoint = Endpoint(self.place, secret, self.timeout, self.retries, self.backoff)

        def keep(key: str, response: Any) -> None:
            asked = {"model": self.model, "base_url": self.place, "messages": bodies[key]["messages"]}
            log.add({"key": key, **asked, "response": response}, secret)

        with progress() as bar:
            task = bar.add_task("judge", total=len(bodies), note="requests")
            troubles = ask_all(endpoint, bodies, keep, self.concurrency, lambda: bar.advance(task))
        left = sum(key not in log.lines for key in bodies)
        if left:
            why = "; ".join(f"{reason}, {n} of {len(bodies)} requests" for reason, n in troubles.most_common(3))
            raise BadInput(
                f"judge.base_url={self.place}: {why}; {len(bodies) - left} replies came and are kept, the same command "
                f"asks the other {left}"
            )

    def _secret(self) -> str | None:
        """The key, from the environment alone."""
        if self.key_env is None:
            return None
        secret = os.environ.get(self.key_env, "").strip()
        if not secret:
            raise BadInput(
                f"judge.key_env={self.key_env}: no such environment variable; export it, or give judge.key_env=null for"
                " an endpoint without a key"
            )
        if not re.fullmatch(r"[!-~]+", secret):  # a header takes no others, and http.client would print the key
            raise BadInput(f"judge.key_env={self.key_env}: its value has characters that no key has; export it again")
        return secret


def _check_url(base_url: str) -> None:
    """Raise BadInput unless it is the address of an endpoint; addresses go to files, so there is no place for a key."""
    try:
        parts = urlsplit(base_url)
        fits = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        fits = False
    if fits and (parts.username is not None or parts.query or parts.fragment):
        raise BadInput("judge.base_url: holds more than an address; give the key in the variable of judge.key_env")
    if not fits or re.search(r"[^!-~]", base_url):
        raise BadInput(f"judge.base_url={base_url}: no address of an endpoint; give one like https://api.openai.com/v1")


@dataclass(frozen=True)
class Replay:
    """What a judge said before, from its log alone. `model` and `base_url` where the log has several judges."""

    log: str
    model: str | None = None
    base_url: str | None = None

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
        judges = sorted({(line["model"], line["base_url"]) for line in lines.values()})
        fitting = [judge for judge in judges if self._wanted(*judge)]
        if len(fitting) != 1:
            has = ", ".join(f"{model} at {place}" for model, place in judges) or "no reply"
            raise BadInput(f"judge.log={self.log}: has {has}; give judge.model=NAME judge.base_url=URL, one of them")
        keys = [key_of(*fitting[0], question.messages()) for question in questions]
        if lacking := len({key for key in keys if key not in lines}):
            raise BadInput(
                f"judge.log={self.log}: has no reply to {lacking} of {len(set(keys))} questions; ask them with "
                f"judge=openai judge.log={self.log}, or give the rows, seed and orders that it was made with"
            )
        return [parse(content(lines[key]["response"])) for key in keys]

    def _wanted(self, model: str, base_url: str) -> bool:
        at = self.base_url
        return self.model in (None, model) and (at is None or at.rstrip("/") == base_url)
