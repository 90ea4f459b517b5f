"""What a run leaves on disk: its folder, and files that are whole or not there."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import platform
import re
import resource
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from esolab.errors import BadInput
from esolab.policy import Policy, Tokenizer
from esolab.sharding import weights

SCHEMA = 1


def experiment(config: Mapping[str, Any]) -> str:
    """The experiment a run belongs to, `single` where it stands alone."""
    return str(config["choices"].get("experiments") or "single")


def run_folder(config: Mapping[str, Any], name: str) -> Path:
    """Where the run with this identity lives."""
    return Path(config["outputs"]) / experiment(config) / f"{config['slug']}-{name}"


FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ENOTDIR, errno.EISDIR)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Inside, a disk that is full or cannot be written is said of this file.

    Raises:
        BadInput: it is; whatever library tried to write.
    """
    try:
        yield
    except Exception as error:
        if (reason := unwritten(error)) is None:
            raise
        raise BadInput(
            f"outputs: cannot write {str(path)!r} ({reason}); what was saved before is whole: make room, and the same "
            "command goes on from there"
        ) from error


def unwritten(error: Exception) -> str | None:
    """Why a file could not be written, where that is what an error says; safetensors and tokenizers have their own."""
    if isinstance(error, OSError):
        return error.strerror if error.errno in FULL else None
    found = re.search(r"([\w ]+) \(os error (\d+)\)", str(error))
    return found[1].strip() if found and int(found[2]) in FULL else None


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all. Raises BadInput where the disk is full."""
    draft = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with writing(path):
        try:
            with draft.open("w", encoding="utf-8") as file:
                file.write(text)
                settle(file)
            os.replace(draft, path)
        except OSError:
            draft.unlink(missing_ok=True)
            raise


def settle(file: IO[str]) -> None:
    """Wait until what has been written to a file is on its disk: a machine that stops loses nothing of it."""
    file.flush()
    os.fsync(file.fileno())


def append(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Add lines to a JSONL file. Raises BadInput where the disk is full."""
    with writing(path), path.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        settle(file)


def write_json(path: Path, value: Any) -> None:
    """Write JSON whole or not at all."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write JSONL whole or not at all."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def whole_lines(path: Path) -> list[str]:
    """The lines of a file that a process has added to, ends included, without the half of one that a kill leaves."""
    return [line.decode() for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSONL file."""
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def save_policy(policy: Policy, tokenizer: Tokenizer, folder: Path, result: Mapping[str, Any]) -> None:
    """Leave a folder that AutoModelForCausalLM opens, with a model card. Raises BadInput where the disk is full."""
    with writing(folder):
        policy.network.save_pretrained(folder, state_dict=weights(policy.network))
        tokenizer.save(folder)
    scores = "\n".join(
        f"| {data} | {how} | "
        + " | ".join(f"{row[key]:.2f}" for key in ("rouge1", "rouge2", "rougeL", "gleu"))
        + f" | {row['n']} |"
        for data, decodings in result["scores"].items()
        for how, row in decodings.items()
    )
    write_text(
        folder / "README.md",
        f"""---
library_name: transformers
pipeline_tag: text-generation
---
# {result["model"]} after {result["method"]} on {result["data"]}

Trained by esolab {result["versions"]["esolab"]} (seed {result["seed"]}, protocol {result["protocol"]}, configuration
{result["config_hash"]}, in `config.yaml` beside this folder). Prompts have the form that `predictions.jsonl` shows.

| data | decoding | ROUGE-1 | ROUGE-2 | ROUGE-L | GLEU | prompts |
| --- | --- | --- | --- | --- | --- | --- |
{scores}
""",
    )


def save_reward_model(
    network: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path, result: Mapping[str, Any]
) -> None:
    """Leave a folder that AutoModelForSequenceClassification opens, with a model card. Raises BadInput where the disk
    is full."""
    with writing(folder):
        network.save_pretrained(folder, state_dict=weights(network))
        tokenizer.save_pretrained(folder)
    scores = "\n".join(
        f"| {data} | {row['accuracy']:.3f} | {row['calibration']:.3f} | {row['margin']:.3f} | {row['n']} |"
        for data, kinds in result["scores"].items()
        for row in kinds.values()
    )
    write_text(
        folder / "README.md",
        f"""---
library_name: transformers
pipeline_tag: text-classification
---
# {result["model"]} as a reward model of {result["data"]}

Trained by esolab {result["versions"]["esolab"]} (seed {result["seed"]}, protocol {result["protocol"]}, configuration
{result["config_hash"]}, in `config.yaml` beside this folder). Its one label is the reward of a text: prompt, reply, end
token, with nothing between them. `reward=preference reward.path=DIR` takes it as a reward.

| data | accuracy | calibration error | margin | pairs |
| --- | --- | --- | --- | --- |
{scores}
""",
    )


class Busy(BadInput):
    """Another process is where this one wants to write."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes out of a run's folder; the lock dies with its owner.

    Raises:
        Busy: another process is in it.
        BadInput: it cannot be written, or has no locks.
    """
    try:
        if folder.is_symlink() and not folder.exists():  # a link to a run that has been deleted
            folder.unlink()
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / ".lock").open("w")
    except OSError as error:
        raise BadInput(f"outputs: cannot write {str(folder)!r} ({error.strerror}); give outputs=DIR") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Busy(f"outputs: another process is running {str(folder)!r}; wait for it, or stop it") from None
        except OSError as error:  # a file system without locks
            raise BadInput(
                f"outputs: {str(folder)!r} cannot be locked ({error.strerror}), and two processes could write to it; "
                "give outputs=DIR on a file system with locks (flock)"
            ) from error
        yield


def peak_rss_bytes() -> int:
    """The most memory this process has held, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def versions() -> dict[str, str]:
    """Of esolab and of the libraries that results depend on."""
    libraries = ("esolab", "torch", "transformers", "tokenizers", "pytorch-lightning", "datasets", "numpy")
    return {"python": platform.python_version(), **{name: version(name) for name in libraries}}


def git_commit() -> str | None:
    """The commit of the checkout that runs, "-dirty" where files differ from it; None outside one."""
    here = Path(__file__).parent
    if not (here.parent / "pyproject.toml").is_file():
        return None
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            cwd=here, capture_output=True, text=True, check=True,
        )  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return None
    return described.stdout.strip()
