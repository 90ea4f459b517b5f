"""What the corpora that are read have in common: where they lie, how they are split, what a bad record does."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from pydantic import PositiveInt

from esolab.batch import Example
from esolab.corpora.base import Splits
from esolab.corpora.hub import WAYS_OUT, fetch
from esolab.corpora.reading import Row, data_files, read
from esolab.errors import BadInput

LEAVE_OUT = "data.skip_bad=true leaves such records out and counts them"
TEST, DEV = 1000, 500  # the documented cut by position; each at most a tenth of the records

Files = dict[str, list[Path]]  # by split: train, dev, test; or "all", a file that has not been split


@dataclass(frozen=True)
class FromFiles:
    """A corpus in local files. A subclass says which files it reads, and how a record becomes an example.

    `path` is a file or a folder; `max_prompt` and `max_response` are tokens, the end-of-text token included.
    """

    name: ClassVar[str]

    path: str | None = None
    skip_bad: bool = False
    max_prompt: PositiveInt = 512
    max_response: PositiveInt = 128

    def files(self, place: Path) -> Files:
        """The files to read, by split: train*, valid* and test* of a folder, or one file that is cut by position."""
        return {"all": [place]} if place.is_file() else by_name(place)

    def rows(self, files: list[Path]) -> Iterator[Row | BadInput]:
        """The records of these files, in order."""
        for file in files:
            yield from read(file)

    def example(self, row: Row) -> Example | None:
        """A record as an example, its id "" where the corpus has none; None for one the corpus leaves out. BadInput."""
        raise NotImplementedError

    def local(self) -> Path | None:
        """The local file or folder to read; None where the corpus comes from the hub. Raises BadInput."""
        if self.path is None:
            raise BadInput(f"data={self.name} reads local files only: set data.path=FILE_OR_DIR")
        if not Path(self.path).exists():
            raise BadInput(f"data.path={self.path}: there is no such file or folder (looked from {Path.cwd()})")
        return Path(self.path)

    def place(self) -> tuple[Path, str]:
        """Where to read, downloaded if it has to be, and the same in words."""
        found = self.local()
        assert found is not None, "only a corpus with a hub id can be without local files"
        return found, str(found)

    def fingerprint(self) -> str:
        """SHA-256 over the names and bytes of the local files that would be read, in order; "" for the hub."""
        place = self.local()
        if place is None:
            return ""
        digest = hashlib.sha256()
        for files in self.files(place).values():
            for file in files:
                name = file.name if file == place else file.relative_to(place).as_posix()
                try:
                    content = hashlib.sha256(file.read_bytes()).hexdigest()
                except OSError as error:
                    raise BadInput(f"{file}: cannot be read ({error})") from error
                digest.update(f"{name} {content}\n".encode())
        return digest.hexdigest()

    def __call__(self) -> Splits:
        """Read the corpus. Raises BadInput naming file, line, value and way out."""
        place, origin = self.place()
        parts: dict[str, list[Example]] = {}
        seen: dict[str, str] = {}
        skipped = 0
        for split, files in self.files(place).items():
            parts[split], bad = self._examples(files, seen)
            skipped += bad
        parts, cut = divide(parts, origin)
        for split, examples in parts.items():
            parts[split] = [
                example if example.id else replace(example, id=f"{self.name}/{split}/{index}")
                for index, example in enumerate(examples)
            ]
        return Splits(parts["test"], parts["train"], parts["dev"], origin=origin, cut=cut, skipped=skipped)

    def _examples(self, files: list[Path], seen: dict[str, str]) -> tuple[list[Example], int]:
        """The examples of these files and how many records were left out; `seen` maps an id to its place."""
        examples: list[Example] = []
        skipped, first = 0, ""
        for row in self.rows(files):
            try:
                if isinstance(row, BadInput):
                    raise row
                example = self.example(row)
                if example is not None and example.id:
                    if example.id in seen:
                        raise BadInput(f"{row.place}: the id {example.id!r} was used before, in {seen[example.id]}")
                    seen[example.id] = row.place
            except BadInput as bad:
                if not self.skip_bad:
                    raise BadInput(f"{bad}. {LEAVE_OUT}") from bad
                example, first = None, first or f"; the first of them: {bad}"
            if example is None:
                skipped += 1
            else:
                examples.append(example)
        if not examples:
            names = ", ".join(map(str, files))
            raise BadInput(f"{names}: no usable record ({skipped} left out{first})")
        return examples, skipped


@dataclass(frozen=True)
class FromHub(FromFiles):
    """A corpus that is looked for in `path`, then in the folder `root`/name, then on the hub as `hub` at `revision`."""

    root: str | None = None
    hub: str = ""
    revision: str = "main"

    def fetch(self) -> Path:
        """The file or folder to read, downloaded from the hub."""
        raise NotImplementedError

    def local(self) -> Path | None:
        """The local file or folder to read; None where the corpus comes from the hub. Raises BadInput."""
        if self.path is not None:
            return super().local()
        if self.root is not None:
            if not Path(self.root).is_dir():
                raise BadInput(f"data_root={self.root}: there is no such folder (looked from {Path.cwd()})")
            folder = Path(self.root) / self.name
            return folder if folder.exists() else None
        return None

    def place(self) -> tuple[Path, str]:
        """Where to read, downloaded if it has to be, and the same in words."""
        if self.local() is not None:
            return super().place()
        if not self.hub:
            raise BadInput(
                f"data={self.name}: neither data.path nor data_root nor data.hub says where it is. {WAYS_OUT}"
            )
        return self.fetch(), f"hub {self.hub} at revision {self.revision}"

    def _download(self, *patterns: str) -> Path:
        return fetch(self.hub, self.revision, *patterns)


def by_name(folder: Path) -> Files:
    """The data files of a folder by split. One file of another name is a corpus that has not been split."""
    files = data_files(folder)
    starts = {"train": "train", "valid": "dev", "test": "test"}
    strangers = [file for file in files if not file.name.startswith(tuple(starts))]
    if len(files) == len(strangers) == 1:
        return {"all": files}
    parts = {split: [file for file in files if file.name.startswith(start)] for start, split in starts.items()}
    if strangers or not (parts["train"] or parts["test"]):
        raise unexpected(folder, files, "train*, valid* (or validation*) and test*")
    return {split: found for split, found in parts.items() if found}


def exactly(folder: Path, *choices: tuple[str, ...]) -> list[Path]:
    """The data files of a folder that holds all files of one of the choices (each may be .gz) and no others."""
    files = {file.name.removesuffix(".gz"): file for file in data_files(folder)}
    for choice in choices:
        if files.keys() == set(choice):
            return [files[name] for name in choice]
    raise unexpected(folder, list(files.values()), ", or ".join(" with ".join(choice) for choice in choices))


def unexpected(folder: Path, found: list[Path], expected: str) -> BadInput:
    """What to raise for a folder with other data files than the expected ones: nothing is left unread in silence."""
    names = ", ".join(file.name for file in found) or "no data file"
    return BadInput(
        f"{folder}: the files read here are {expected}; found {names}. "
        "Remove or rename what does not belong, or give one file with data.path"
    )


def divide(parts: dict[str, list[Example]], origin: str) -> tuple[dict[str, list[Example]], str]:
    """Train, dev and test, and in words how they were made: the files as they are, what is missing cut by position."""
    train, dev, test = parts.get("train", parts.get("all", [])), parts.get("dev", []), parts.get("test", [])
    total = len(train)
    words = [f"{split}: all {len(found):,} records of its files" for split, found in parts.items() if split != "all"]
    if "test" not in parts:
        size = min(TEST, total // 10)
        if size == 0:
            raise BadInput(
                f"{origin}: {total} usable records are too few to take a tenth of them as test; "
                "add records, or give a folder with train* and test* files"
            )
        test, train = train[:size], train[size:]
        words.append(f"test: the first {size:,} of {total:,} by position")
    if "dev" not in parts and train:
        size = min(DEV, total // 10)
        train, dev = train[: len(train) - size], train[len(train) - size :]
        words.append(f"dev: the last {size:,} of {total:,} by position")
    if len(train) < total:
        words = [word for word in words if not word.startswith("train")] + [f"train: the other {len(train):,}"]
    return {"train": train, "dev": dev, "test": test}, "; ".join(words)
