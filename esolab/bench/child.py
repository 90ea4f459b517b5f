"""The child process of the race: one contender, one step, one JSON file."""

from __future__ import annotations

import json
import os
import resource
import warnings
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from esolab.bench.contender import Contender
from esolab.bench.job import Job, Measured

CHEAP = 5.0  # seconds; a faster step is repeated


def work(job: Job, out: Path) -> None:
    """Do the job and write what was measured. Raises BadInput."""
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    warnings.filterwarnings("ignore", category=FutureWarning)
    if job.contender == "machine":
        found = speed(job)
    elif job.contender == "exactness":
        from esolab.bench.exactness import differences

        found = differences(job)
    else:
        found = asdict(measure(job))
    out.write_text(json.dumps(found), encoding="utf-8")


def measure(job: Job) -> Measured:
    """The median of three steps where a step is cheap, else one step."""
    import transformers

    from esolab.bench.setting import prepare

    transformers.utils.logging.set_verbosity_error()
    setting = prepare(job)
    contender: Contender = find(job.contender)(setting)
    contender.warm_up()
    steps = [contender.step()]
    if steps[0].seconds < CHEAP:
        steps += [contender.step() for _ in range(2)]
    middle = sorted(steps, key=lambda step: step.seconds)[len(steps) // 2]
    return replace(middle, peak_bytes=peak_bytes(job.device))


def speed(job: Job) -> dict[str, Any]:
    """The machine's rates at the shapes of a job, and the least seconds of each phase of its step."""
    import torch

    from esolab.bench.rates import measure as measure_rates
    from esolab.bench.roofline import Lengths, Shape, least_seconds
    from esolab.bench.setting import prepare

    setting = prepare(job)
    config, dtype = setting.policy.network.config, getattr(torch, job.dtype)
    shape = Shape(config.n_layer, config.n_embd, config.vocab_size, dtype.itemsize)
    batch = setting.workload.batch
    lengths = Lengths(
        batch.prompts.lengths.tolist(), setting.workload.lengths(job.k).tolist(), batch.references.lengths.tolist()
    )
    rates = measure_rates(shape, job.prompts * job.k, dtype, torch.device(job.device))
    return {"rates": asdict(rates), "least": least_seconds(shape, lengths, rates)}


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
