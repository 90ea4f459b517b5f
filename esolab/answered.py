"""Answers that have been given, on disk as they come: an evaluation that is stopped does not give them again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from esolab import ranks
from esolab.results import append, whole_lines, write_text


def files(path: Path) -> list[Path]:
    """The files of all ranks."""
    return sorted(path.parent.glob(f"{path.stem}.*{path.suffix}"))


class Answered:
    """The answers of one policy, batch by batch, a file for each rank beside each other. What is there already must be
    that policy's.

    Raises:
        BadInput: the file cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.with_name(f"{path.stem}.{ranks.number()}{path.suffix}")
        self.found: dict[tuple[str, ...], list[str]] = {}
        for file in files(path):
            lines = whole_lines(file)
            if file == self.path:
                write_text(file, "".join(lines))
            for line in lines:
                row = json.loads(line)
                self.found[row["data"], row["decoding"], *row["ids"]] = row["answers"]

    def get(self, data: str, decoding: str, ids: Sequence[str]) -> list[str] | None:
        """The answers to this very batch of prompts; None where they are not there."""
        return self.found.get((data, decoding, *ids))

    def add(self, data: str, decoding: str, ids: Sequence[str], answers: Sequence[str]) -> None:
        """Keep them."""
        append(self.path, [{"data": data, "decoding": decoding, "ids": list(ids), "answers": list(answers)}])
