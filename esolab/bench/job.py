"""What one child process of the race measures, and what it hands back. Light to import."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

CONTENDERS = ("esolab", "authors", "plain", "trl")
WORKLOADS = ("xsum", "dolly")
MODELS = ("gpt2", "tiny", "gpt2_medium")
DTYPES = ("float32", "bfloat16")
LENGTHS = ("fixed", "ragged")
PHASES = ("sample", "reward", "update")


@dataclass(frozen=True)
class Job:
    """One contender on one workload, or the machine's own rates, or how exact esolab is on a device.

    Args:
        workload: a name of WORKLOADS.
        contender: a name of CONTENDERS, "machine" or "exactness".
        model: a choice of conf/model, built with random weights.
        dtype: float32, or bfloat16 by autocast over float32 weights.
        lengths: fixed, every answer has `max_new` tokens; ragged, each ends at a length drawn from the references.
        prompts: prompts of the optimizer step.
        k: answers per prompt.
        max_new: tokens of the longest answer.
        max_prompt: tokens of the longest prompt.
        threads: CPU threads.
        data: folder with the real corpora and tokenizers; None takes the synthetic twin.
        device: cpu or cuda.
    """

    workload: str
    contender: str
    model: str = "gpt2"
    dtype: str = "float32"
    lengths: str = "fixed"
    prompts: int = 16
    k: int = 4
    max_new: int = 64
    max_prompt: int = 512
    threads: int = 1
    data: str | None = None
    device: str = "cpu"

    def save(self, path: Path) -> None:
        """Write it as JSON."""
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")

    @staticmethod
    def load(path: Path) -> Job:
        """Read it back."""
        return Job(**json.loads(path.read_text(encoding="utf-8")))


@dataclass(frozen=True)
class Tokens:
    """Tokens of one step: prompts (each once), of answers sampled, of answers scored, of references scored."""

    prompts: int
    sampled: int
    scored: int
    references: int


@dataclass(frozen=True)
class Measured:
    """What one child found: seconds of a step, the same by phase, its tokens, and the peak of its memory in bytes."""

    seconds: float
    phases: dict[str, float]
    tokens: Tokens
    peak_bytes: int = 0
