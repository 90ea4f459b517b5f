"""What a contender is given: the policy with random weights, the tokenizer, the workload, and esolab's own settings."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from transformers import AutoModelForCausalLM
from transformers.initialization import no_init_weights

from esolab.bench.job import CONTENDERS, Job
from esolab.bench.workloads import Workload, load, tokenizer_folder
from esolab.config import build, resolve
from esolab.models import Model
from esolab.policy import Policy, Tokenizer
from esolab.sampling import Sampling

OTHERS = [name for name in CONTENDERS if name != "esolab"]


@dataclass(frozen=True)
class Setting:
    """One race track. `config` is a resolved configuration of esolab, from which a contender takes what it shares."""

    job: Job
    config: dict[str, Any]
    policy: Policy
    tokenizer: Tokenizer
    workload: Workload

    @property
    def ladder(self) -> list[float]:
        """The k temperatures."""
        sampling: Sampling = build(self.config["sampling"])
        return sampling.ladder

    @property
    def lam(self) -> float:
        """Weight of the ESO term."""
        return float(self.config["method"]["lam"])

    def autocast(self) -> AbstractContextManager[object]:
        """bfloat16 where the job asks for it."""
        if self.job.dtype == "float32":
            return nullcontext()
        return torch.autocast(self.job.device, dtype=torch.bfloat16)


def prepare(job: Job) -> Setting:
    """Build what a job names; the same weights and the same batch at every call. Raises BadInput."""
    torch.set_num_threads(job.threads)
    torch.manual_seed(0)
    with TemporaryDirectory() as scratch:
        config = resolve(overrides(job, str(tokenizer_folder(job.data, Path(scratch)))))
        model: Model = build(config["model"])
        tokenizer = model.load_tokenizer([])
        policy = model.load_policy(tokenizer)
    if job.contender in OTHERS:
        policy = stock(policy)
    policy.to(torch.device(job.device))
    workload = load(job.workload, job.data, tokenizer, job.prompts, job.k, job.lengths, job.max_new, job.max_prompt)
    return Setting(job, config, policy, tokenizer, workload)


def stock(policy: Policy) -> Policy:
    """The same weights in a network as transformers builds it: esolab's own changes are for esolab to show."""
    config = policy.network.config
    with no_init_weights():
        network = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
    network.tie_weights()
    network.load_state_dict(policy.network.state_dict())
    network.generation_config = policy.network.generation_config
    return Policy(network)


def overrides(job: Job, tokenizer: str) -> list[str]:
    """The settings of the step as a command line of esolab."""
    own = {
        "model": job.model,
        "model.weights": "random",
        "model.tokenizer": tokenizer,
        "method": "eso",
        "method.active_epochs": "all",
        "method.watch_every": 0,
        "sampling.k": job.k,
        "sampling.max_new_tokens": job.max_new,
        "trainer.threads": job.threads,
        "trainer.accelerator": "gpu" if job.device == "cuda" else "cpu",
        "trainer.precision": "32-true" if job.dtype == "float32" else "bf16-mixed",
    }
    if job.model == "tiny":
        own["model.architecture.n_positions"] = 1024  # room for the long prompts
    return [f"{key}={value}" for key, value in own.items()]
