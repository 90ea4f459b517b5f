"""Token ids of large corpora, kept on disk under a hash of all that they hang on."""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import tokenizers
import transformers

from esolab.policy import Tokenizer
from esolab.terminal import log

RULES = 1  # of Tokenizer.prompts and .responses: count up where they give other ids
LARGE = 1 << 23  # characters; a smaller corpus is tokenised within some seconds

Ids = list[list[int]]


def content_hash(*folders: Path) -> str:
    """SHA-256 over the names and bytes of the files in folders, in order; model cards are left out."""
    found = hashlib.sha256()
    for folder in folders:
        for file in sorted(file for file in folder.iterdir() if file.is_file() and file.name != "README.md"):
            with file.open("rb") as content:
                found.update(f"{file.name} {hashlib.file_digest(content, 'sha256').hexdigest()}\n".encode())
    return found.hexdigest()


def kept(folder: Path, tokenizer: Tokenizer, prompts: Sequence[str], references: Sequence[str]) -> tuple[Ids, Ids]:
    """Token ids of prompts and of references; where they are many they are kept in a folder, which may be deleted at
    any time, and read back from there."""

    def make() -> tuple[Ids, Ids]:
        return tokenizer.prompts(prompts), tokenizer.responses(references)

    backend = getattr(tokenizer.inner, "backend_tokenizer", None)
    if backend is None or sum(map(len, prompts)) + sum(map(len, references)) < LARGE:
        return make()
    rules = (RULES, tokenizers.__version__, transformers.__version__, tokenizer.eos, tokenizer.bos, len(prompts))
    digest = hashlib.sha256(f"{rules} {backend.to_str()}".encode())
    for text in (*prompts, *references):
        digest.update(f"{len(text)} {text}".encode("utf-8", "surrogatepass"))
    return _stored(folder / f"{digest.hexdigest()}.npz", make)


def _stored(file: Path, make: Callable[[], tuple[Ids, Ids]]) -> tuple[Ids, Ids]:
    try:
        with file.open("rb") as source, np.load(source, allow_pickle=False) as found:  # np.load leaves broken ones open
            return _rows(found["prompts"], found["cuts"]), _rows(found["references"], found["closes"])
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
        log.warning(f"{file}: cannot be read and is made anew")
    prompts, references = make()
    draft = file.with_name(f"{file.name}.{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with draft.open("wb") as target:
            np.savez(
                target,
                prompts=_flat(prompts),
                cuts=np.cumsum([len(row) for row in prompts]),
                references=_flat(references),
                closes=np.cumsum([len(row) for row in references]),
            )
        os.replace(draft, file)
    except OSError as error:
        log.warning(f"{file.parent}: token ids are not kept ({error.strerror})")
        with suppress(OSError):
            draft.unlink()
    return prompts, references


def _flat(rows: Ids) -> np.ndarray:
    return np.fromiter((token for row in rows for token in row), dtype=np.int32)


def _rows(flat: np.ndarray, ends: np.ndarray) -> Ids:
    return [row.tolist() for row in np.split(flat, ends[:-1])] if len(ends) else []
