"""The table of faults: what tests have shown of bad input and broken machines, as outputs/faults.md.

A test with the fixture `fault` records what it did, what was said, the exit code and what was kept; the suite writes
what was recorded when it ends, with xdist from all of its workers.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

TABLE = Path(__file__).parents[1] / "outputs" / "faults.md"
HEAD = ("fault", "exit code", "message", "what was kept")
ROWS: list[list[str]] = []  # of this process


@pytest.fixture
def fault(tmp_path: Path) -> Callable[..., None]:
    """fault("an unknown key", message, 2, "nothing was begun"): a row of the table, once it has been shown."""

    def record(what: str, message: str, code: int, kept: str) -> None:
        said = re.sub(r"\s+", " ", message.replace(str(tmp_path), "DIR")).strip().removeprefix("esolab: ")
        ROWS.append([what, str(code), said if len(said) <= 400 else said[:399] + "…", kept])

    return record


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """Take over what a worker has recorded."""
    ROWS.extend(getattr(node, "workeroutput", {}).get("faults", []))


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Hand the rows to the controller, or write the table."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["faults"] = ROWS
    elif ROWS:
        TABLE.parent.mkdir(exist_ok=True)
        TABLE.write_text(table(ROWS), encoding="utf-8")


def table(rows: list[list[str]]) -> str:
    """The rows in Markdown, in alphabetical order."""
    lines = [HEAD, ["---"] * len(HEAD), *sorted(rows)]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)
