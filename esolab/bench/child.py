"""The child process of the race: one contender, one step, one JSON file."""

from __future__ import annotations

import json
import os
import resource
import warnings
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from esolab.bench.job import Job, Measured

CHEAP = 5.0  # seconds; a faster step is repeated


def work(job: Job, out: Path) -> None:
    """Do the job and write what was measured. Raises BadInput."""
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    warnings.filterwarnings("ignore", category=FutureWarning)
    out.write_text(json.dumps(asdict(measure(job))), encoding="utf-8")


def measure(job: Job) -> Measured:
    """The median of three steps where a step is cheap, else one step."""
    import transformers

    from esolab.bench.setting import prepare

    transformers.utils.logging.set_verbosity_error()
    setting = prepare(job)
    contender = find(job.contender)(setting)
    contender.warm_up()
    steps = [contender.step()]
    if steps[0].seconds < CHEAP:
        steps += [contender.step() for _ in range(2)]
    middle = sorted(steps, key=lambda step: step.seconds)[len(steps) // 2]
    return replace(middle, peak_bytes=peak_bytes(job.device))


def find(name: str) -> Any:
    """The class of a contender; the others stay unread."""
    if name == "esolab":
        from esolab.bench.ours import Esolab

        return Esolab
    if name == "authors":
        from esolab.bench.authors import Authors

        return Authors
    if name == "plain":
        from esolab.bench.plain import Plain

        return Plain
    from esolab.bench.grpo import Grpo

    return Grpo


def peak_bytes(device: str) -> int:
    """The most memory that this process has held: on the GPU where the work was there, else resident."""
    if device == "cuda":
        import torch

        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
