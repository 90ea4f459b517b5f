"""A reward that a server gives: answers go to it in batches, numbers come back."""

from __future__ import annotations

import json
import math
import re
from functools import partial
from threading import Event
from typing import Annotated
from urllib.parse import parse_qsl, urlsplit

import torch
from jaxtyping import Float
from pydantic import Field, PositiveInt
from torch import Tensor

from esolab.endpoint import Endpoint, Trouble, address, at_once, secret
from esolab.errors import BadInput
from esolab.rewards.base import MAX_BAD_SHARE, Share, check_lengths, usable
from esolab.terminal import log

WAYS_OUT = {
    None: "mend that, or give another address",
    401: "name the environment variable that holds the token in reward.token_env",
    403: "name the environment variable that holds the token in reward.token_env, or ask for access",
    404: "see whether reward.url is right",
    405: "see whether reward.url is right and takes POST",
    413: "lower reward.batch_size",
}
SECRETS = r"key|token|secret|passw|auth|sig|credential"  # in the names of an address's parameters
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


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
        retries: attempts after the first, where there was no connection, no reply in time, or a status of TRANSIENT.
        backoff: seconds before the first of them, doubled with each; longer where the server says Retry-After.
        max_wait: the most seconds before an attempt, whatever Retry-After says.
        token_env: name of the environment variable with a bearer token; None sends none.
        max_bad_share: see conf/reward/http.yaml.

    Raises:
        BadInput: an address or a variable that cannot be used, or an address with a key in it; when called, a server
            that refuses or stays away.
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
        self.url, self.place = url, f"reward.url={address('reward.url', url)}"
        if names := [name for name, _ in parse_qsl(urlsplit(url).query) if re.search(SECRETS, name, re.IGNORECASE)]:
            raise BadInput(
                f"{self.place}: its {names[0]}=... looks like a key, and would be kept in config.yaml; leave it out, "
                "and name the environment variable that holds it in reward.token_env"
            )
        self.batch_size, self.concurrency, self.timeout = batch_size, concurrency, timeout
        self.retries, self.backoff, self.max_wait = retries, backoff, max_wait
        self.token_env, self.max_bad_share = token_env, max_bad_share
        secret("reward.token_env", token_env)  # said before a run begins, not kept
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
        key = secret("reward.token_env", self.token_env)
        patience = (self.timeout, self.retries, self.backoff, self.max_wait)
        endpoint = Endpoint(self.place, self.url, key, *patience)
        replies = at_once(partial(self._ask, endpoint), batches, self.concurrency)
        numbers = [self._numbers(endpoint, *both) for both in zip(replies, map(len, batches), strict=True)]
        return torch.cat(numbers).view(len(prompts), -1)

    def _ask(self, endpoint: Endpoint, items: list[dict[str, str]], stop: Event) -> bytes:
        """The reply to one request, whatever it says."""
        try:
            return endpoint.post({"items": items}, stop)
        except Trouble as trouble:
            if trouble.transient:
                raise BadInput(
                    f"{self.place}: no reply in {self.retries + 1} attempts ({trouble}); see whether the server runs, "
                    "or raise reward.retries or reward.timeout"
                ) from trouble
            other = "see what the server wants; it is sent what conf/reward/http.yaml says"
            raise BadInput(f"{self.place}: {trouble}; {WAYS_OUT.get(trouble.status, other)}") from trouble

    def _numbers(self, endpoint: Endpoint, reply: bytes, n: int) -> Float[Tensor, "N"]:
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
                f"once, counted always): {endpoint.quoted(reply)}"
            )
        return values.where(good, math.nan)[0]
