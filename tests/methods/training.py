"""Training a method of any yaml on sixteen rows, watched."""

import warnings
from functools import cache

import pytest
import pytorch_lightning as pl
import torch

from esolab.config import build, resolve
from esolab.data import TrainingData

SMALL = ("data.max_prompt=8", "data.max_response=6")


@cache
def config(name, protocol="paper"):
    return resolve([*SMALL, f"method={name}", f"protocol={protocol}"])


class Watch(pl.Callback):
    """Gradients before each optimizer step; what is left of them, and the modes, after it."""

    def __init__(self):
        self.gradients, self.modes, self.left = [], [], []

    def on_before_optimizer_step(self, trainer, method, optimizer):
        self.gradients.append(torch.cat([w.grad.flatten().clone() for w in method.policy.parameters()]))

    def on_train_batch_end(self, trainer, method, outputs, batch, batch_idx):
        self.modes.append([module.training for module in method.policy.modules()])
        self.left.append([weight.grad is not None and bool(weight.grad.any()) for weight in method.policy.parameters()])


class Numbers(pl.loggers.logger.DummyLogger):
    """What a method reports for each step."""

    def __init__(self):
        super().__init__()
        self.steps = []

    def log_metrics(self, metrics, step):
        self.steps.append(dict(metrics))


@pytest.fixture
def train(make_parts, rows, pairs):
    """train("eso", lam=0.5, ...): the trained method, what was watched, what was logged; `more` goes to Parts.

    `data` stands in place of the sixteen rows or pairs.
    """

    def train(name, protocol="paper", epochs=1, batch=8, more=None, data=None, **values):
        settings = config(name, protocol)
        steps = epochs * -(-len(rows) // batch)
        parts = make_parts(**{"sampling": build(settings["sampling"]), "total_steps": steps, **(more or {})})
        method = build({**settings["method"], **values})(parts)
        method.train()  # as load_policy hands it over
        watch, numbers = Watch(), Numbers()
        trainer = pl.Trainer(
            max_epochs=epochs,
            accelerator="cpu",
            logger=numbers,
            callbacks=[watch],
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            log_every_n_steps=1,
            use_distributed_sampler=False,
        )
        with warnings.catch_warnings():  # as in run.py
            warnings.filterwarnings("ignore", message=".*does not have many workers.*")
            warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)
            trainer.fit(method, TrainingData(data or (pairs if method.needs_pairs else rows), batch, seed=0))
        return method, watch, numbers.steps

    return train
