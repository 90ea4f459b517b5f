"""What a run leaves on disk: its folder, its identity, and files that are whole or not there."""

from __future__ import annotations

import errno
import fcntl
import hashlib
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
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from esolab.errors import BadInput
from esolab.policy import Policy, Tokenizer
from esolab.sharding import weights

SCHEMA = 1
ELSEWHERE = (
    "logger",
    "outputs",
    "rerun",
    "scale",
    "about",
    "slug",
    "stages",
    "sweep",
    "trunks",
)  # not what a run is, but where it is kept, and why
HOW = ("save_every", "gradient_checkpointing")  # settings of the trainer that change no weight and no answer


def identity(config: Mapping[str, Any], fingerprints: Iterable[str]) -> str:
    """Eight characters that tell runs apart: a hash of the resolved configuration and of the local data it reads."""
    text = json.dumps([_own(config), list(fingerprints)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def differing(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """The dotted keys of what tells two resolved configurations apart as runs."""
    mine, other = dict(flat(_own(a))), dict(flat(_own(b)))
    return [key for key in {**mine, **other} if mine.get(key) != other.get(key)]


def flat(node: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """The values of a nested mapping with their dotted keys; a list is one value."""
    for key, value in node.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def _own(config: Mapping[str, Any]) -> Any:
    """The part of a resolved configuration that is what a run is."""
    own = {k: v for k, v in config.items() if k not in ELSEWHERE}
    own["choices"] = {k: v for k, v in own["choices"].items() if k not in ("experiments", "logger", "scale")}
    model = own.get("model")
    if isinstance(model, dict) and not model.get("lora", {}).get("r"):  # without adapters it says nothing
        own["model"] = {k: v for k, v in model.items() if k != "lora"}
    if "trainer" in own:  # a judgement has none
        own["trainer"] = {k: v for k, v in own["trainer"].items() if k not in HOW and (k, v) != ("nodes", 1)}
    return _alike(own)


def _alike(value: Any) -> Any:
    """The same numbers written alike: lam=0 is lam=0.0."""
    if isinstance(value, dict):
        return {key: _alike(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_alike(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


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
                file.flush()
                os.fsync(file.fileno())
            os.replace(draft, path)
        except OSError:
            draft.unlink(missing_ok=True)
            raise


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


@contextmanager
def locked(folder: Path, wait: bool = False) -> Iterator[None]:
    """Keep other processes out of a run's folder, or `wait` until they are; the lock dies with its owner.

    Raises:
        BadInput: another process is in it, or it cannot be written.
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
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise BadInput(f"outputs: another process is running {str(folder)!r}; wait for it, or stop it") from None
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
