from dataclasses import replace

import pytest
import torch

from esolab.bench.exactness import differences
from esolab.bench.gpu_check import ALLOWED, SMALL, heats, main, show


@pytest.mark.parametrize("dtype", ALLOWED)
def test_what_is_measured_on_a_gpu_is_small_on_the_cpu(dtype):
    small = replace(SMALL, device="cpu", model="tiny", prompts=2, max_new=5, max_prompt=20, dtype=dtype)
    found = differences(small)
    assert set(found) == {
        "gradients of the shared forward against two plain passes",
        "log-probs of the sampler against a plain softmax",
    }
    assert all(size <= ALLOWED[dtype] for size in found.values())
    assert dtype == "float32" or any(size > 1e-4 for size in found.values())  # it does see bf16


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so_and_is_content(capsys):
    assert main([]) == 0
    assert capsys.readouterr().out.count("\n") == 1


def test_the_race_on_a_gpu_has_the_papers_sizes():
    assert {(heat.job.model, heat.job.prompts, heat.job.k, heat.job.max_prompt) for heat in heats(None)} == {
        ("gpt2_medium", 16, 4, 512)
    }
    assert {heat.job.max_new for heat in heats(None)} == {128}
    assert {heat.job.device for heat in heats(None)} == {"cuda"}
    assert next(iter(heats(None))).contenders[0] == "esolab"


def test_what_differs_fails_the_check(capsys):
    assert show({"gradients": 1e-6}, "float32")
    assert not show({"gradients": 1e-6, "log-probs": 1e-3}, "float32")
    assert "DIFFERS" in capsys.readouterr().err
