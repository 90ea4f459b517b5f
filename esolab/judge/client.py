"""Asking an OpenAI-compatible chat endpoint: several requests at once, and an end to patience."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from threading import Event, Lock
from typing import Any

from esolab.endpoint import Endpoint, Trouble, at_once
from esolab.judge.log import content

REFUSALS = (400, 413, 422)  # of one request, which is too long or against a policy; any other status is about all
GIVE_UP_AFTER = 3  # requests in a row without a reply: the endpoint is at fault, not the request
REFUSED_AT_MOST = 20  # before the first answer: it is the form of the requests that is refused
Body = dict[str, Any]


def ask(endpoint: Endpoint, body: Body, stop: Event) -> Any:
    """The endpoint's reply, one without choices where it refuses this request. Raises Trouble."""
    try:
        reply = endpoint.post(body, stop)
    except Trouble as trouble:
        if trouble.status not in REFUSALS:
            raise
        return {"choices": [], "refused": str(trouble)}
    try:
        response = json.loads(reply)
        content(response)
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError):
        raise Trouble(f"its reply is no JSON, {endpoint.quoted(reply)}") from None
    except ValueError as error:
        raise Trouble(f"its reply has {error}, {endpoint.quoted(reply)}") from None
    if not response["choices"]:
        return {"choices": [], "refused": f"its reply has an empty list of choices, {endpoint.quoted(reply)}"}
    return response


def ask_all(
    endpoint: Endpoint,
    bodies: Mapping[str, Body],
    keep: Callable[[str, Any], None],
    concurrency: int,
    tick: Callable[[], object],
    answers: bool,
) -> Counter[str]:
    """Ask all, `concurrency` at once, and keep each reply under its request's key as it comes.

    Returns why requests got no reply, with counts; after GIVE_UP_AFTER of them in a row no other is asked. Refusals are
    kept like other replies once the endpoint is known to answer such requests at all, as `answers` says that it is from
    the start: who refuses all has not judged. An interrupt starts no further request and keeps the replies to those
    under way. `tick` is called after each request.
    """
    lock, troubles, in_a_row = Lock(), Counter[str](), 0
    held: dict[str, Any] = {}

    def one(key: str, stop: Event) -> None:
        nonlocal in_a_row, answers
        if stop.is_set():
            return
        try:
            response = ask(endpoint, bodies[key], stop)
        except Trouble as trouble:
            with lock:
                troubles[str(trouble)] += 1
                in_a_row += 1
                if in_a_row == GIVE_UP_AFTER:
                    stop.set()
            return
        with lock:
            in_a_row = 0
            held[key] = response
            answers = answers or bool(response["choices"])
            while answers and held:
                keep(*held.popitem())
            if len(held) == REFUSED_AT_MOST:
                stop.set()

    at_once(one, bodies, concurrency, tick)
    return troubles + Counter(response["refused"] for response in held.values())
