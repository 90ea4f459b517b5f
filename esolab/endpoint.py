"""JSON for a server that may be slow, busy or wrong: patience with it, and a secret that is shown nowhere."""

from __future__ import annotations

import json
import os
import re
import ssl
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from http.client import HTTPException
from threading import Event
from time import time
from typing import Any, TypeVar
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from esolab.errors import BadInput
from esolab.terminal import log

T = TypeVar("T")
R = TypeVar("R")
TRANSIENT = (429, 500, 502, 503, 504)  # statuses that may be another at the next attempt
SHOWN = 200  # characters of a reply in a message


class Trouble(Exception):
    """A request that got no reply: why, and the status if there was one; whether another attempt may help, and the
    seconds that the server asks to wait for it."""

    def __init__(self, reason: str, status: int | None = None, transient: bool = False, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.status, self.transient, self.wait = status, transient, wait


class _Stay(HTTPRedirectHandler):
    """A redirect would take the secret to another server and make a GET of the POST: it is a status like others."""

    def redirect_request(self, *args: Any, **others: Any) -> None:
        return None


@dataclass(frozen=True)
class Endpoint:
    """Where to post, and how patiently.

    `place` is how messages name it. `timeout` is in seconds, to connect and for each part of a reply. There are
    `retries` attempts after the first, `backoff` seconds before the first of them and twice the time before each next,
    longer where the server says Retry-After, never longer than `max_wait`.
    """

    place: str
    url: str
    secret: str | None = field(repr=False)
    timeout: float
    retries: int
    backoff: float
    max_wait: float = 60.0

    def post(self, body: Any, stop: Event) -> bytes:
        """The reply, whatever it says. Raises Trouble where there is none in all attempts, or none before `stop`."""
        attempt = 0
        while True:
            try:
                return self._attempt(body)
            except Trouble as trouble:
                if not trouble.transient or attempt == self.retries or stop.is_set():
                    raise
                seconds = min(max(self.backoff * 2**attempt, trouble.wait), self.max_wait)
                attempt += 1
                log.info(f"{self.place}: {trouble}; attempt {attempt + 1} of {self.retries + 1} in {seconds:g} s")
                stop.wait(seconds)
                if stop.is_set():
                    raise

    def _attempt(self, body: Any) -> bytes:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        headers |= {"Authorization": f"Bearer {self.secret}"} if self.secret else {}
        try:
            request = Request(self.url, json.dumps(body).encode(), headers)
            with build_opener(_Stay).open(request, timeout=self.timeout) as reply:
                return bytes(reply.read())
        except HTTPError as error:
            with error:
                said = f"it answers with status {error.code}, {self.quoted(_start(error))}"
            wait = _seconds(error.headers.get("Retry-After", ""))
            raise Trouble(said, error.code, error.code in TRANSIENT, wait) from None
        except (OSError, HTTPException) as error:
            reason = getattr(error, "reason", error)
            why = hidden(str(reason) or type(reason).__name__, self.secret)
            if isinstance(reason, ssl.SSLCertVerificationError):
                raise Trouble(f"its certificate is not trusted ({why})") from None
            slow = isinstance(reason, TimeoutError)
            said = f"no reply within {self.timeout:g} s" if slow else f"it cannot be reached ({why})"
            raise Trouble(said, transient=True) from None

    def quoted(self, reply: bytes) -> str:
        """The beginning of what the server says, on one line and without the secret, which some servers repeat."""
        line = " ".join(hidden(reply.decode(errors="replace"), self.secret).split())
        return repr(line if len(line) <= SHOWN else line[:SHOWN] + "...")


def at_once(
    work: Callable[[T, Event], R], items: Iterable[T], concurrency: int, tick: Callable[[], object] = lambda: None
) -> list[R]:
    """work(item, stop) of each item, `concurrency` at once; the results in the items' order. `tick` after each.

    The first exception, or an interrupt, sets `stop`: no other item is begun, and it is raised once those under way
    have ended, which they do at their next attempt.
    """
    stop = Event()
    with ThreadPoolExecutor(concurrency) as pool:
        futures = [pool.submit(work, item, stop) for item in items]
        try:
            for future in as_completed(futures):
                future.result()
                tick()
        except BaseException:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [future.result() for future in futures]


def hidden(text: str, secret: str | None) -> str:
    """The text without the secret, as it is or as JSON writes it. One of a few letters is none, and part of words."""
    if secret is None or len(secret) < 8:
        return text
    return text.replace(secret, "[key]").replace(json.dumps(secret)[1:-1], "[key]")


def secret(setting: str, variable: str | None) -> str | None:
    """What is in an environment variable, None where none is named. `setting` is where it is named.

    Raises:
        BadInput: there is no such variable (its name is not shown: it may be the secret itself), or it holds what no
            header can.
    """
    if variable is None:
        return None
    found = os.environ.get(variable, "").strip()
    if not found:
        raise BadInput(
            f"{setting}: names no variable of the environment, or an empty one (not shown here, as it may be the key); "
            f"export NAME=KEY and give {setting}=NAME, or {setting}=null for a server without a key"
        )
    if not re.fullmatch(r"[!-~]+", found):  # http.client would print it
        raise BadInput(f"{setting}={variable}: holds characters that no key has; export it again")
    return found


def address(setting: str, url: str) -> str:
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
        shown = re.sub(r"//.*@", "//", shown)  # a password may have any sign
        raise BadInput(f"{setting}={shown}: not an address; give http://HOST:PORT/PATH or https://...")
    if "@" in parts.netloc:
        raise BadInput(f"{setting}={shown}: holds a user's name; leave it out, a key belongs into the environment")
    return shown


def _start(reply: HTTPError) -> bytes:
    """What can be read of an error's body."""
    try:
        return reply.read(2**16)
    except (OSError, HTTPException):
        return b""


def _seconds(value: str) -> float:
    """Seconds that a Retry-After header asks for, given as such or as a date; 0 where it says neither."""
    if re.fullmatch(r"\d{1,9}", value, re.ASCII):
        return float(value)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time())
    except (ValueError, OverflowError):
        return 0.0
