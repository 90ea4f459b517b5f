"""How fast the machine is at the shapes that a step has: matrix products and copies."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

from esolab.bench.contender import now
from esolab.bench.roofline import Rates, Shape

SCORE_ROWS = 1024  # of a scoring pass; more are no faster
LAYERS = 4  # at most: their weights are more than a cache holds
REPEATS = 20  # of one measurement, at most
PATIENCE = 0.7  # seconds for them


def measure(shape: Shape, rows: int, dtype: torch.dtype, device: torch.device) -> Rates:
    """The rates of the machine now. `rows` are the answers that grow at once."""
    with torch.inference_mode():
        return Rates(
            decode_body=body(shape, rows, dtype, device),
            decode_vocabulary=vocabulary(shape, rows, dtype, device),
            score_body=body(shape, SCORE_ROWS, dtype, device),
            score_vocabulary=vocabulary(shape, SCORE_ROWS // 2, dtype, device),
            copy=copy(device),
        )


def body(shape: Shape, rows: int, dtype: torch.dtype, device: torch.device) -> float:
    """Operations a second in the four matrix products of some layers, each with weights of its own, so that no
    cache holds them all; rows or weights first, whichever is quicker."""
    d, layers = shape.width, min(shape.layers, LAYERS)
    sizes = [(d, 3 * d), (d, d), (d, 4 * d), (4 * d, d)]
    weights = [torch.randn(size, dtype=dtype, device=device) for _ in range(layers) for size in sizes]
    turned = [weight.t().contiguous() for weight in weights]
    inputs = {n: torch.randn(rows, n, dtype=dtype, device=device) for n in (d, 4 * d)}

    def rows_first() -> None:
        for weight in weights:
            inputs[weight.shape[0]] @ weight

    def weights_first() -> None:
        for weight in turned:
            weight @ inputs[weight.shape[1]].t()

    return 24 * layers * d**2 * rows / min(quickest(rows_first), quickest(weights_first))


def vocabulary(shape: Shape, rows: int, dtype: torch.dtype, device: torch.device) -> float:
    """Operations a second in the projection to the vocabulary."""
    hidden = torch.randn(rows, shape.width, dtype=dtype, device=device)
    weight = torch.randn(shape.vocabulary, shape.width, dtype=dtype, device=device)
    seconds = min(quickest(lambda: F.linear(hidden, weight)), quickest(lambda: weight @ hidden.t()))
    return 2 * shape.width * shape.vocabulary * rows / seconds


def copy(device: torch.device, size: int = 1 << 28) -> float:
    """Bytes a second that a copy of `size` bytes moves: as many read as written."""
    source = torch.zeros(size // 4, device=device)
    target = torch.empty_like(source)
    return 2 * size / quickest(lambda: target.copy_(source))


def quickest(run: Callable[[], object]) -> float:
    """Seconds of the quickest repeat within the time there is: a limit is what the machine can do."""
    run()
    times: list[float] = []
    end = time.perf_counter() + PATIENCE
    while len(times) < 2 or (len(times) < REPEATS and time.perf_counter() < end):
        start = now()
        run()
        times.append(now() - start)
    return min(times)
