"""Requests and their replies as they are kept: a line each, written as they come, read back by what was asked."""

from __future__ import annotations

import fcntl
import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from threading import Lock
from typing import Any

from esolab.endpoint import hidden
from esolab.errors import BadInput

KEYS = ("key", "base_url", "body", "response")  # body: what was asked, as it was sent
START = b'{"key": "'  # of every line
Line = dict[str, Any]  # of KEYS


def key_of(base_url: str, body: Mapping[str, Any]) -> str:
    """What a request is known by: a hash of where it goes, and of all that it says."""
    return hashlib.sha256(json.dumps([base_url, body], sort_keys=True).encode()).hexdigest()


def content(response: Any) -> str:
    """What the model wrote, nothing where it or its endpoint refused. Raises ValueError with what makes it no reply."""
    choices = response.get("choices") if isinstance(response, dict) else None
    if not isinstance(choices, list):
        raise ValueError("no list of choices")
    if not choices:
        return ""
    message = choices[0].get("message") if isinstance(choices[0], dict) else None
    text = message.get("content") if isinstance(message, dict) else 0
    if text is not None and not isinstance(text, str):
        raise ValueError("a choice without a message of text")
    return text or ""


class Log:
    """Finished requests by key, and the file they are kept in. Threads may add at once."""

    def __init__(self, stream: FileIO, lines: dict[str, Line]) -> None:
        self.stream, self.lines, self._lock = stream, lines, Lock()

    def add(self, line: Line, secret: str | None) -> None:
        """Keep a request with its reply, at once; a secret in it is blotted out. Raises BadInput where it cannot."""
        text = hidden(json.dumps(line), secret)
        with self._lock:
            try:
                self.stream.write(text.encode() + b"\n")
            except OSError as error:
                place = f"judge.log={self.stream.name}"
                raise BadInput(f"{place}: cannot be written ({error.strerror}); make room") from error
            self.lines[line["key"]] = json.loads(text)


@contextmanager
def kept(file: Path) -> Iterator[Log]:
    """A log to go on with. Nobody else writes it meanwhile; a line that a kill has torn is cut off.

    Raises:
        BadInput: it cannot be written, another process has it, or it is no log of requests.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        stream = file.open("a+b", buffering=0)
    except OSError as error:
        raise BadInput(f"judge.log={file}: cannot be written ({error.strerror}); give another file") from error
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BadInput(f"judge.log={file}: another process writes it; wait for it, or stop it") from None
        stream.seek(0)
        text = stream.read()
        lines = _parse(file, text)
        stream.truncate(text.rfind(b"\n") + 1)
        yield Log(stream, lines)


def read(file: Path) -> dict[str, Line]:
    """The finished requests of a log by key, which is left as it is.

    Raises:
        BadInput: it cannot be read, or it is no log of requests.
    """
    try:
        return _parse(file, file.read_bytes())
    except OSError as error:
        raise BadInput(
            f"judge.log={file}: cannot be read ({error.strerror}); give the requests.jsonl of a judgement"
        ) from error


def _parse(file: Path, text: bytes) -> dict[str, Line]:
    whole, _, torn = text.rpartition(b"\n")
    lines = {}
    for number, line in enumerate(whole.split(b"\n") if whole else (), 1):
        try:
            row = json.loads(line)
            content(row["response"])
            lines[str(row["key"])] = {key: row[key] for key in KEYS}
        except (ValueError, KeyError, TypeError) as error:
            why = f"no {error}" if isinstance(error, KeyError) else str(error)
            raise BadInput(
                f"judge.log={file}: line {number} is damaged ({why}); take the line out, or give another file"
            ) from error
    if not torn.startswith(START[: len(torn)]):  # a file of another kind, which is not ours to cut
        raise BadInput(f"judge.log={file}: is no log of requests; give the requests.jsonl of a judgement")
    return lines
