"""Asking an OpenAI-compatible chat endpoint: several requests at once, patience with it, and an end to patience."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from http.client import HTTPException
from threading import Event, Lock
from typing import Any
from urllib.error import HTTPError
from urllib.request import HTTPRedirectHandler, Request, build_opener

from esolab.judge.log import content, hidden

TRANSIENT = (429, 500, 502, 503, 504)
LONGEST = 60.0  # seconds between two tries
GIVE_UP_AFTER = 3  # requests in a row without a reply: the endpoint is at fault, not the request
Body = dict[str, Any]


class Trouble(Exception):
    """A request that got no reply: why, whether another try may help, and the seconds the endpoint asks to wait."""

    def __init__(self, reason: str, transient: bool = False, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.transient, self.wait = transient, wait


class _Stay(HTTPRedirectHandler):
    """No redirects: urllib would take the key along to wherever they lead."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


@dataclass(frozen=True)
class Endpoint:
    """Where to ask, and how patiently: `timeout` and `backoff` in seconds, the latter doubled from try to try.

    `sleep` takes seconds; None waits in a way that an interrupt ends.
    """

    base_url: str
    key: str | None
    timeout: float
    retries: int
    backoff: float
    sleep: Callable[[float], object] | None = None

    def ask(self, body: Body, stop: Event) -> Any:
        """The endpoint's reply, JSON with at least one choice. Raises Trouble once it is given up."""
        tries = 0
        while True:
            try:
                return self._post(body)
            except Trouble as trouble:
                if not trouble.transient or tries == self.retries or stop.is_set():
                    raise
                seconds = min(max(self.backoff * 2**tries, trouble.wait), LONGEST)
            (self.sleep or stop.wait)(seconds)
            tries += 1

    def _post(self, body: Body) -> Any:
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {self.key}"} if self.key else {})
        request = Request(f"{self.base_url}/chat/completions", json.dumps(body).encode(), headers)
        try:
            with build_opener(_Stay).open(request, timeout=self.timeout) as reply:
                text = reply.read().decode("utf-8", "replace")
        except HTTPError as error:
            with error:
                raise self._refusal(error) from None
        except (OSError, HTTPException) as error:
            reason = getattr(error, "reason", error)
            slow = isinstance(reason, TimeoutError)
            why = str(reason) or type(reason).__name__
            said = f"no reply within {self.timeout:g} s" if slow else f"it cannot be reached ({why})"
            raise Trouble(hidden(said, self.key), transient=True) from None
        return self._understood(text)

    def _refusal(self, error: HTTPError) -> Trouble:
        try:
            said = self._quoted(error.read(100_000).decode("utf-8", "replace"))
        except (OSError, HTTPException):
            said = "''"
        wait = error.headers.get("Retry-After", "")
        seconds = float(wait) if wait.isdecimal() else 0.0
        return Trouble(f"it answers with status {error.code}, {said}", error.code in TRANSIENT, seconds)

    def _understood(self, text: str) -> Any:
        try:
            response = json.loads(text)
            content(response)
        except json.JSONDecodeError:
            raise Trouble(f"its reply is no JSON, {self._quoted(text)}") from None
        except ValueError as error:
            raise Trouble(f"its reply has {error}, {self._quoted(text)}") from None
        return response

    def _quoted(self, text: str) -> str:
        """The beginning of what the endpoint says, on one line and without the key, which some endpoints repeat."""
        line = " ".join(hidden(text, self.key).split())
        return repr(line if len(line) <= 200 else line[:200] + "...")


def ask_all(
    endpoint: Endpoint,
    bodies: Mapping[str, Body],
    keep: Callable[[str, Any], None],
    concurrency: int,
    tick: Callable[[], object],
) -> Counter[str]:
    """Ask all, `concurrency` at once, and keep each reply under its request's key as it comes.

    Returns why requests got no reply, with counts; after GIVE_UP_AFTER of them in a row no other is asked. An interrupt
    starts no further request and keeps the replies to those under way. `tick` is called after each request.
    """
    stop, lock, troubles, in_a_row = Event(), Lock(), Counter[str](), 0

    def one(key: str) -> None:
        nonlocal in_a_row
        if stop.is_set():
            return
        try:
            keep(key, endpoint.ask(bodies[key], stop))
        except Trouble as trouble:
            with lock:
                troubles[str(trouble)] += 1
                in_a_row += 1
                if in_a_row == GIVE_UP_AFTER:
                    stop.set()
        else:
            in_a_row = 0

    with ThreadPoolExecutor(concurrency) as pool:
        try:
            for future in as_completed([pool.submit(one, key) for key in bodies]):
                future.result()
                tick()
        except BaseException:
            stop.set()
            raise
    return troubles
