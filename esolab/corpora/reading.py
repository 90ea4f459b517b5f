"""Records of local files: JSON lines, JSON, CSV and Parquet, and .gz of the text ones."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
import logging
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from esolab.errors import BadInput


def shorten(value: object) -> str:
    """A value as it is shown in a message: its repr, at most 60 characters."""
    shown = repr(value)
    return shown if len(shown) <= 60 else shown[:59] + "…"


@dataclass(frozen=True)
class Row:
    """One record: where it stands, such as "train.jsonl, line 3", and its columns."""

    place: str
    columns: dict[str, object]

    def has(self, *names: str) -> bool:
        """Whether one of these columns is there."""
        return any(name in self.columns for name in names)

    def _get(self, *names: str) -> object:
        for name in names:
            if name in self.columns:
                return self.columns[name]
        wanted, found = (" or ".join(map(repr, names)), ", ".join(map(str, self.columns)) or "none")
        raise BadInput(
            f"{self.place}: no column {wanted}; columns found: {found}. "
            "data=file data.prompt=COLUMN data.reference=COLUMN reads columns of any name"
        )

    def text(self, *names: str, blank: bool = False) -> str:
        """The first of these columns that is there: a string, not empty unless `blank`. Raises BadInput."""
        value = self._get(*names)
        if not isinstance(value, str):
            raise BadInput(f"{self.place}: {names[0]!r} should be text and is {shorten(value)}")
        if not (blank or value.strip()):
            raise BadInput(f"{self.place}: {names[0]!r} is empty: {shorten(value)}")
        if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
            raise BadInput(f"{self.place}: {names[0]!r} holds half of a surrogate pair: {shorten(value)}")
        return value

    def optional(self, *names: str) -> str:
        """The first of these columns that is there and not null, else "". Raises BadInput if it is no string."""
        present = [name for name in names if self.columns.get(name) is not None]
        return self.text(*present, blank=True) if present else ""

    def key(self, name: str) -> str:
        """An identifier: a string or a whole number, as a string. Raises BadInput."""
        value = self._get(name)
        return str(value) if isinstance(value, int) and not isinstance(value, bool) else self.text(name)

    def first(self, name: str) -> Row:
        """The first object of the list in a column, as a row of its own. Raises BadInput."""
        value = self._get(name)
        if not (isinstance(value, list) and value and isinstance(value[0], dict)):
            raise BadInput(f"{self.place}: {name!r} should be a list of objects and is {shorten(value)}")
        return Row(f"{self.place}, {name}[0]", value[0])


def read(path: Path) -> Iterator[Row | BadInput]:
    """The records of a file in order; in place of a record that cannot be used, what is wrong with it.

    Raises BadInput for a file that cannot be read at all.
    """
    reader = _READERS.get(_suffix(path.name))
    if reader is None:
        raise BadInput(
            f"{path}: not a kind of file that is read; those are {', '.join(_READERS)} (the text ones also .gz)"
        )
    try:
        yield from reader(path)
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:  # missing, forbidden, not gzip, cut off
        raise BadInput(f"{path}: cannot be read ({error})") from error


def data_files(folder: Path) -> list[Path]:
    """The data files directly in a folder, by name. Raises BadInput when one is there plain and as .gz."""
    files = sorted(file for file in folder.iterdir() if file.is_file() and _suffix(file.name) in _READERS)
    names = [file.name.removesuffix(".gz") for file in files]
    if twice := [name for name in names if names.count(name) > 1]:
        raise BadInput(f"{folder}: {twice[0]} and {twice[0]}.gz would be read as two files: remove one of them")
    return files


def _suffix(name: str) -> str:
    return Path(name.lower().removesuffix(".gz")).suffix


def _open(path: Path) -> io.BufferedIOBase:
    return gzip.GzipFile(path) if path.name.lower().endswith(".gz") else path.open("rb")


def _object(place: str, value: object) -> Row | BadInput:
    return (
        Row(place, value) if isinstance(value, dict) else BadInput(f"{place}: not a JSON object but {shorten(value)}")
    )


def _lines(path: Path, lines: Iterable[bytes]) -> Iterator[Row | BadInput]:
    for number, line in enumerate(lines, 1):
        place = f"{path}, line {number}"
        try:
            text = line.decode("utf-8-sig").strip()
            if text:
                yield _object(place, json.loads(text))
        except UnicodeDecodeError as error:
            yield BadInput(f"{place}: not UTF-8 ({error.reason} at byte {error.start}): {shorten(line)}")
        except (ValueError, RecursionError) as error:
            yield BadInput(f"{place}: bad JSON ({_why(error)}): {shorten(text)}")


def _why(error: ValueError | RecursionError) -> str:
    """What Python's reader has against a JSON text: its grammar, a number too long for it, lists in lists in lists."""
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at column {error.colno}"
    return "too deeply nested" if isinstance(error, RecursionError) else str(error).partition(";")[0]


def _jsonl(path: Path) -> Iterator[Row | BadInput]:
    with _open(path) as file:
        yield from _lines(path, file)


def _json(path: Path) -> Iterator[Row | BadInput]:
    """A list of objects, or one object a line as in .jsonl: both are called .json in the wild."""
    with _open(path) as file:
        data = file.read().removeprefix(codecs.BOM_UTF8)
    if not data.lstrip().startswith(b"["):
        yield from _lines(path, data.split(b"\n"))
        return
    try:
        values = json.loads(data)
    except UnicodeDecodeError:  # said by `read`
        raise
    except (ValueError, RecursionError) as error:
        line = f", line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        raise BadInput(f"{path}{line}: bad JSON ({_why(error)})") from error
    for number, value in enumerate(values, 1):
        yield _object(f"{path}, record {number}", value)


def _csv(path: Path) -> Iterator[Row | BadInput]:
    with _open(path) as file:
        rows = csv.DictReader((line.decode("utf-8-sig") for line in file), strict=True)
        try:
            for columns in rows:
                place = f"{path}, line {rows.line_num}"
                fits = None not in columns and None not in columns.values()
                yield Row(place, columns) if fits else BadInput(f"{place}: not as many cells as the header has")
        except (csv.Error, UnicodeDecodeError) as error:
            raise BadInput(f"{path}, after line {rows.line_num}: bad CSV ({error})") from error


def _parquet(path: Path) -> Iterator[Row | BadInput]:
    import datasets
    import pyarrow

    logging.getLogger("datasets.packaged_modules.parquet.parquet").disabled = True  # it logs what it raises
    try:  # streaming leaves no second copy in a cache
        records = datasets.load_dataset("parquet", data_files=str(path), split="train", streaming=True)
        for number, columns in enumerate(records, 1):
            yield Row(f"{path}, record {number}", columns)
    except (pyarrow.ArrowException, datasets.exceptions.DatasetsError) as error:
        raise BadInput(f"{path}: cannot be read as Parquet ({error})") from error


_READERS = {".jsonl": _jsonl, ".json": _json, ".csv": _csv, ".parquet": _parquet}
