"""`python -m esolab.bench.gpu_check`: what only a GPU can show, in one command and under 8 minutes.

Exactness in fp32 and bf16 (gradients of the shared forward against plain forwards, log-probs of the sampler
against a plain softmax), then one step of every contender at gpt2_medium and the paper's sizes: 16 prompts of up to 512
tokens, 4 answers of 128, bf16 by autocast as well as fp32. Written where there was no GPU to run it on.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from esolab.bench.job import Job
from esolab.bench.race import Found, child, save
from esolab.errors import BadInput
from esolab.terminal import console

PAPER = Job("xsum", "", model="gpt2_medium", prompts=16, k=4, max_new=128, device="cuda")
SMALL = Job("dolly", "", model="gpt2", prompts=4, k=4, max_new=32, device="cuda")
MINUTES = 7.0  # no contender is started after
ALLOWED = {"float32": 1e-4, "bfloat16": 5e-2}  # relative; GPU products sum in another order, bf16 has 8 bits


def main(arguments: list[str]) -> int:
    """Check, print, keep outputs/bench/gpu.json; the exit code, 0 where there is no GPU."""
    import torch

    options = argparse.ArgumentParser(prog="python -m esolab.bench.gpu_check", description=__doc__)
    options.add_argument("--data", help="folder with the real corpora and tokenizers; default: a synthetic twin")
    options.add_argument("--out", type=Path, default=Path("outputs/bench"))
    chosen = options.parse_args(arguments)
    if not torch.cuda.is_available():
        print("gpu-check: torch finds no CUDA GPU here, so nothing was checked")
        return 0
    try:
        return check(chosen.data, chosen.out)
    except BadInput as error:
        print(error.shown(), file=sys.stderr)
        return 2


def check(data: str | None, out: Path) -> int:
    """All checks on the GPU."""
    import torch

    from esolab.bench.exactness import differences
    from esolab.bench.table import tables

    start = time.perf_counter()
    found: Found = {"gpu": torch.cuda.get_device_name(), "exactness": {}, "rows": [], "failed": {}}
    out.mkdir(parents=True, exist_ok=True)
    good = True
    for dtype, allowed in ALLOWED.items():
        differs = found["exactness"][dtype] = differences(replace(SMALL, data=data, dtype=dtype))
        for what, size in differs.items():
            good &= size <= allowed
            verdict = "ok" if size <= allowed else "DIFFERS"
            console.print(f"{dtype}: {what}: {size:.1e} of at most {allowed:.0e}: {verdict}", highlight=False)
    torch.cuda.empty_cache()
    for job in jobs(data):
        if time.perf_counter() - start > 60 * MINUTES:
            found["failed"][f"{job.dtype} {job.contender}"] = "no time was left"
            continue
        _race(job, found)
        save(out / "gpu.json", found)
    for table in tables(found["rows"]):
        console.print(table)
    for name, why in found["failed"].items():
        console.print(f"{name}: {why}", markup=False, highlight=False)
    return 0 if good else 1


def jobs(data: str | None) -> list[Job]:
    """Contenders at the paper's sizes, the quick ones first, esolab in front."""
    names = ["esolab", "plain", *(["trl"] if find_spec("trl") else []), "authors"]
    return [replace(PAPER, data=data, dtype=dtype, contender=name) for dtype in ALLOWED for name in names]


def _race(job: Job, found: Found) -> None:
    label = f"{job.dtype} {job.contender}"
    try:
        measured = child(job)
    except subprocess.CalledProcessError as error:
        found["failed"][label] = (error.stderr.strip().splitlines() or ["failed"])[-1]
        return
    own = [row for row in found["rows"] if (row["contender"], row["dtype"]) == ("esolab", job.dtype)]
    base = own[0]["seconds"] if own else measured["seconds"] if job.contender == "esolab" else None
    found["rows"].append(
        {
            **{key: getattr(job, key) for key in ("workload", "contender", "model", "dtype", "lengths")},
            **{key: measured[key] for key in ("seconds", "phases", "tokens")},
            "peak_rss_bytes": measured["peak_bytes"],
            "ratio": measured["seconds"] / base if base else None,
            "roofline": None,
        }
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
