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
from esolab.bench.race import Found, Heat, child, last_words, run
from esolab.errors import BadInput
from esolab.terminal import console

PAPER = Job("xsum", "", model="gpt2_medium", prompts=16, k=4, max_new=128, device="cuda")
SMALL = Job("dolly", "", model="gpt2", prompts=4, k=4, max_new=32, device="cuda")
MINUTES = 7.5  # whoever is not done by then is left out
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
    """All checks on the GPU; 1 where something differs, or esolab's own step fails."""
    import torch

    from esolab.bench.table import tables

    until = time.monotonic() + 60 * MINUTES
    head: Found = {"gpu": torch.cuda.get_device_name(), "exactness": {}}
    good = True
    for dtype in ALLOWED:
        try:
            found = child(replace(SMALL, contender="exactness", data=data, dtype=dtype), until - time.monotonic())
        except subprocess.SubprocessError as error:
            good = False
            console.print(f"{dtype}: exactness failed: {last_words(error)}", markup=False, highlight=False)
        else:
            head["exactness"][dtype] = found
            good &= show(found, dtype)
    result = run(heats(data), out / "gpu.json", head, until)
    for table in tables(result["rows"]):
        console.print(table)
    return 0 if good and not any(label.endswith(": esolab") for label in result["failed"]) else 1


def show(differences: dict[str, float], dtype: str) -> bool:
    """Print how far esolab's step is from the plain one; whether that is near enough."""
    for what, size in differences.items():
        verdict = "ok" if size <= ALLOWED[dtype] else "DIFFERS"
        console.print(f"{dtype}: {what}: {size:.1e} of at most {ALLOWED[dtype]:.0e}: {verdict}", highlight=False)
    return all(size <= ALLOWED[dtype] for size in differences.values())


def heats(data: str | None) -> list[Heat]:
    """Contenders at the paper's sizes, the quick ones first."""
    names = ["esolab", "plain", *(["trl"] if find_spec("trl") else []), "authors"]
    return [Heat(replace(PAPER, data=data, dtype=dtype), names, 1) for dtype in ALLOWED]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
