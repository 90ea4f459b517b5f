"""A reward that a server gives: answers go to it in batches, numbers come back."""

from __future__ import annotations

import json
import math
import os
import re
import ssl
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from http.client import HTTPException
from typing import Annotated, Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

import torch
from jaxtyping import Float
from pydantic import Field, PositiveInt
from torch import Tensor

from esolab.errors import BadInput
from esolab.rewards.base import MAX_BAD_SHARE, Share, check_lengths, usable
from esolab.terminal import log

TRANSIENT = (429, 500, 502, 503, 504)  # statuses that may be another at the next attempt
SHOWN = 200  # characters of a reply in a message
WAYS_OUT = {
    401: "name the environment variable that holds the token in reward.token_env",
    403: "name the environment variable that holds the token in reward.token_env, or ask for access",
    404: "see whether reward.url is right",
    405: "see whether reward.url is right and takes POST",
    413: "lower reward.batch_size",
}
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class _NoRedirect(HTTPRedirectHandler):
    """A redirect would take the token to another server and make a GET of the POST: it is a status like others."""

    def redirect_request(self, *args: Any, **others: Any) -> None:
        return None


@dataclass(frozen=True)
class _Failed:
    """An attempt that may be repeated: why it failed, and the seconds that the server asked to wait."""

    reason: str
    wait: float = 0.0


class Http:
    """Rewards from `POST url` with {"items": [{"prompt", "response", "reference"}, ...]}, answered by
    {"rewards": [a number for each item]}.

    A reply of another form gives no usable number to the answers it was for. The same requests are made for the same
    answers, and their order is that of the answers whatever the order of the replies.

    Args:
        url: http or https; its query is kept out of messages, but not out of config.yaml.
        batch_size: answers in a request.
        concurrency: requests at once.
        timeout: seconds to wait for the server to connect, and for each part of its reply.
        retries: attempts after the first, where there was no connection, no reply in time, or one of `TRANSIENT`.
        backoff: seconds before the first of them, doubled with each; longer where the server says Retry-After.
        max_wait: the most seconds before an attempt, whatever Retry-After says.
        token_env: name of the environment variable with a bearer token; None sends none.
        max_bad_share: see conf/reward/http.yaml.

    Raises:
        BadInput: an address or a variable that cannot be used; when called, a server that refuses or stays away.
    """

    def __init__(
        self,
        url: str,
        batch_size: PositiveInt = 32,
        concurrency: PositiveInt = 4,
        timeout: Seconds = 30.0,
        retries: Annotated[int, Field(ge=0)] = 5,
        backoff: Seconds = 0.5,
        max_wait: Seconds = 60.0,
        token_env: str | None = None,
        max_bad_share: Share = MAX_BAD_SHARE,
    ) -> None:
        self.url, self.place = url, f"reward.url={checked(url)}"
        self.batch_size, self.concurrency, self.timeout = batch_size, concurrency, timeout
        self.retries, self.backoff, self.max_wait = retries, backoff, max_wait
        self.token_env, self.max_bad_share = token_env, max_bad_share
        token(token_env)  # said before a run begins, not kept
        self.opener = build_opener(_NoRedirect)
        self.sleep: Callable[[float], object] = time.sleep
        self.now: Callable[[], float] = time.time
        self.warned = False

    def __call__(self, prompts: list[str], responses: list[list[str]], references: list[str]) -> Float[Tensor, "B K"]:
        """The server's rewards of K answers to each of B prompts: float32, NaN where it gave no number.

        Raises:
            BadInput: it refuses, or gave no reply in all attempts.
            ValueError: unequal lists.
        """
        check_lengths(prompts, responses, references)
        items = [
            {"prompt": prompt, "response": answer, "reference": reference}
            for prompt, answers, reference in zip(prompts, responses, references, strict=True)
            for answer in answers
        ]
        batches = [items[i : i + self.batch_size] for i in range(0, len(items), self.batch_size)]
        with ThreadPoolExecutor(self.concurrency) as pool:
            replies = list(pool.map(self._ask, batches))
        numbers = [self._numbers(reply, len(batch)) for reply, batch in zip(replies, batches, strict=True)]
        return torch.cat(numbers).view(len(prompts), -1)

    def _ask(self, items: list[dict[str, str]]) -> bytes:
        """The reply to one request, whatever it says, after as many attempts as it takes."""
        body, attempts = json.dumps({"items": items}).encode(), self.retries + 1
        wait, failed = self.backoff, _Failed("")
        for attempt in range(attempts):
            if attempt:
                seconds = min(max(wait, failed.wait), self.max_wait)
                log.info(f"{self.place}: {failed.reason}; attempt {attempt + 1} of {attempts} in {seconds:g} s")
                self.sleep(seconds)
                wait *= 2
            reply = self._attempt(body)
            if isinstance(reply, bytes):
                return reply
            failed = reply
        raise BadInput(
            f"{self.place}: no reply in {attempts} attempts ({failed.reason}); see whether the server runs, or "
            "raise reward.retries or reward.timeout"
        )

    def _attempt(self, body: bytes) -> bytes | _Failed:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self.token_env:
            headers["Authorization"] = f"Bearer {token(self.token_env)}"
        try:
            with self.opener.open(Request(self.url, body, headers), timeout=self.timeout) as response:
                reply: bytes = response.read()
                return reply
        except HTTPError as error:
            with error:
                return self._failed(error)
        except (OSError, HTTPException) as error:
            reason = getattr(error, "reason", error)
            said = f"{type(reason).__name__}: {reason}"
            if isinstance(reason, ssl.SSLCertVerificationError):
                raise BadInput(f"{self.place}: its certificate is not trusted ({said}); mend it") from error
            return _Failed(said)

    def _failed(self, error: HTTPError) -> _Failed:
        """A status that may pass. Raises BadInput for one that will not."""
        if error.code in TRANSIENT:
            return _Failed(f"status {error.code}", self._retry_after(error.headers.get("Retry-After", "")))
        way_out = WAYS_OUT.get(error.code, "see what the server wants; it is sent what conf/reward/http.yaml says")
        raise BadInput(f"{self.place}: status {error.code} {self._shown(_start(error))}; {way_out}") from error

    def _retry_after(self, value: str) -> float:
        """Seconds that a Retry-After header asks for, given as such or as a date; 0 where it says neither."""
        if re.fullmatch(r"\d{1,9}", value, re.ASCII):
            return float(value)
        try:
            return max(0.0, parsedate_to_datetime(value).timestamp() - self.now())
        except (ValueError, OverflowError):
            return 0.0

    def _numbers(self, reply: bytes, n: int) -> Float[Tensor, "N"]:
        """The n numbers of a reply, NaN for what is none."""
        try:
            found = json.loads(reply)
        except (ValueError, RecursionError):
            found = None
        rewards = found.get("rewards") if isinstance(found, dict) else None
        values, good = usable([rewards], 1, n)
        if not good.all() and not self.warned:
            self.warned = True
            log.warning(
                f'{self.place}: not a reply of the form {{"rewards": [{n} numbers]}}, so answers have no reward (said '
                f"once, counted always): {self._shown(reply)}"
            )
        return values.where(good, math.nan)[0]

    def _shown(self, reply: bytes) -> str:
        """The first characters of a reply, without the token should the server send it back."""
        text = " ".join(reply.decode(errors="replace").split())
        return repr((text.replace(token(self.token_env), "***") if self.token_env else text)[:SHOWN])


def _start(reply: HTTPError) -> bytes:
    """What can be read of an error's body."""
    try:
        return reply.read(2**16)
    except (OSError, HTTPException):
        return b""


def checked(url: str) -> str:
    """An address as messages show it: without its query.

    Raises:
        BadInput: it is none of http or https, or holds a user's name and password.
    """
    shown = re.sub(r"//[^/]*@", "//", re.split("[?#]", url)[0])
    try:
        parts = urlsplit(url)
        fits = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        fits = False
    if not fits or not re.fullmatch(r"[!-~]+", url):
        raise BadInput(f"reward.url={shown}: not an address; give http://HOST:PORT/PATH or https://...")
    if "@" in parts.netloc:
        raise BadInput(f"reward.url={shown}: holds a user's name; leave it out, and name a token in reward.token_env")
    return shown


def token(variable: str | None) -> str:
    """The bearer token in an environment variable, "" where none is named. No message holds it.

    Raises:
        BadInput: there is no such variable, or it holds what no header can.
    """
    if variable is None:
        return ""
    if not re.fullmatch(r"[A-Za-z_]\w*", variable, re.ASCII):  # it may be the token itself
        raise BadInput("reward.token_env: not a variable's name; give that of the environment variable with the token")
    found = os.environ.get(variable, "").strip()
    if not re.fullmatch(r"[!-~]+", found):
        wrong = "holds more than one word of ASCII" if found else "is not in the environment"
        raise BadInput(f"reward.token_env={variable}: {wrong}; export {variable}=TOKEN, or give reward.token_env=null")
    return found
