"""What every method shares: the parts it is built from, the optimizer step, and sampling on policy."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import reduce
from typing import Annotated, Any, ClassVar, Literal

import pytorch_lightning as pl
import torch
from jaxtyping import Float, Int
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from esolab import ranks, sharding, zero
from esolab.batch import Batch, Rollout, Tokens, join
from esolab.cache import Read
from esolab.errors import BadInput
from esolab.logprobs import branch_logprobs
from esolab.methods import step_metrics
from esolab.methods.account import Account
from esolab.policy import Policy, Tokenizer, like_lengths
from esolab.rewards.base import Reward
from esolab.sampling import Reads, Sampling

SftReduction = Literal["token_mean", "seq_sum", "seq_mean"]


@dataclass(frozen=True)
class Optimizer:
    """AdamW under a cosine schedule.

    Args:
        lr: peak learning rate.
        lr_min: where the cosine ends.
        warmup_steps: optimizer steps of linear warm-up.
        weight_decay: of matrices; norms and biases are not decayed.
        clip: largest gradient norm.
    """

    lr: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    lr_min: NonNegativeFloat = 1e-7
    warmup_steps: NonNegativeInt = 0
    weight_decay: NonNegativeFloat = 0.05
    clip: PositiveFloat = 1.0

    def build(self, module: torch.nn.Module) -> AdamW:
        """The optimizer of a module's trainable weights."""
        weights = [p for p in module.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in weights if p.ndim > 1], "weight_decay": self.weight_decay},
            {"params": [p for p in weights if p.ndim <= 1], "weight_decay": 0.0},
        ]
        return AdamW([group for group in groups if group["params"]], lr=self.lr)  # adapters are matrices only

    def factor(self, step: int, total: int) -> float:
        """Learning rate over its peak before optimizer step `step` of `total`."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        done = min(1.0, (step - self.warmup_steps) / max(1, total - self.warmup_steps))
        least = self.lr_min / self.lr
        return least + (1 - least) * 0.5 * (1 + math.cos(math.pi * done))


@dataclass(frozen=True)
class Likelihood:
    """How the likelihood of the references is averaged: `reduction` within a batch (see `sft_weights`), and `normalise`
    over the batch of all ranks (`global`) or of each rank (`local`, as the paper's release does)."""

    reduction: SftReduction = "token_mean"
    normalise: Literal["global", "local"] = "global"


@dataclass(frozen=True)
class Parts:
    """What a method is given before its own hyper-parameters.

    `total_steps` is the length of the learning-rate schedule, `micro_batch` the prompts of one forward and backward,
    `micro_k` the branches of a prompt in one forward (None: all), `recompute` whether blocks are computed again in the
    backward, `data` the name of the corpus, for messages.
    """

    policy: Policy
    tokenizer: Tokenizer
    reward: Reward
    sampling: Sampling
    optimizer: Optimizer
    total_steps: PositiveInt
    seed: int = 0
    micro_batch: PositiveInt = 16
    micro_k: PositiveInt | None = None
    recompute: bool = False
    data: str = ""
    sft: Likelihood = Likelihood()


def sft_weights(lengths: Int[Tensor, "B"], reduction: SftReduction) -> Float[Tensor, "B"]:
    """Weight of each reference's summed log-prob in the likelihood loss of this batch (equation 1 sums; the paper's
    release, and we by default, take the mean over the tokens of the batch)."""
    size = lengths.float()
    if reduction == "token_mean":
        return torch.ones_like(size) / size.sum()
    mean = torch.full_like(size, 1 / len(size))
    return mean if reduction == "seq_sum" else mean / size.clamp(min=1)


def size(model: nn.Module) -> dict[str, int]:
    """How many parameters a model has, each once, and the bytes that they take."""
    weights = list(model.parameters())
    return {"parameters": sum(w.numel() for w in weights), "bytes": sum(w.nbytes for w in weights)}


class Method(pl.LightningModule):
    """A method as Lightning runs it: the likelihood of the references, plus what a subclass adds.

    One optimizer step takes one Batch. It is cut into micro-batches of prompts, each one forward and one backward over
    the tree of its branches; every term is weighted by its share of the whole batch, so the cut is rounding alone.
    """

    needs_pairs: ClassVar[bool] = False  # learns from a chosen and a rejected reply to each prompt
    min_k: ClassVar[int] = 1  # answers per prompt that the method cannot do without
    even_k: ClassVar[str] = ""  # what to say of an odd {k}, where the method needs an even one
    sft_weight: float = 1.0  # of the likelihood term while the method's own loss is active
    readings: int = 1  # how often a prompt is read to be answered
    tamed_by: ClassVar[str] = "optimizer.lr"  # what to lower where training diverges

    def __init__(self, parts: Parts) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.parts = parts
        self.policy = parts.policy
        self.account = Account()
        self.numbers: dict[str, float] = defaultdict(float)  # of the current step, for metrics.csv
        self.rng: list[Tensor | None] | None = None  # of a checkpoint that has been loaded: CPU's, the GPU's
        self.spare = False  # whether this rank has no example of the current step
        self.saved = "no checkpoint was made yet"  # what a run that ends here has left
        self.reads: Reads | None = None  # the prompts of the current step, where they are read once

    @classmethod
    def begins_as_sft(cls, settings: Mapping[str, Any]) -> bool:
        """Whether under these settings all epochs but the last are those of SFT, to the bit."""
        return False

    @property
    def active(self) -> bool:
        """Whether this epoch adds the method's own loss to the likelihood."""
        return False

    def models(self) -> dict[str, nn.Module]:
        """The models that training holds, by what they are for."""
        return {"policy": self.policy, **getattr(self.parts.reward, "models", dict)()}

    @property
    def learners(self) -> dict[str, Policy]:
        """Of the models that training holds those that learn."""
        return {name: model for name, model in self.named_children() if isinstance(model, Policy)}

    def held(self) -> dict[str, dict[str, int]]:
        """Parameters and bytes of each model that the run has held, in this process or before it was stopped."""
        return {**self.account.models, **{name: size(model) for name, model in self.models().items()}}

    def rollout(self, batch: Batch) -> Rollout:
        """Answers of the policy to a whole batch; only called while active."""
        raise TypeError(f"{type(self).__name__} does not sample")

    @property
    def alone(self) -> bool:
        """Whether every branch is scored after a prompt of its own: under dropout no two share a mask."""
        return self.policy.dropout

    def branches(self, batch: Batch) -> Tokens:
        """What of a batch is scored beside the policy's own answers, [B, K, T]: its references, or its pairs."""
        return batch.pairs if self.needs_pairs else batch.references.unsqueeze()

    def shares(self, rollout: Rollout) -> Float[Tensor, "B"]:
        """Weight of each prompt's own loss in the batch; gradients are averaged over ranks afterwards."""
        return torch.full_like(rollout.rewards[:, 0], 1 / self.per_rank(len(rollout.rewards)))

    def scored(self, rollout: Rollout) -> Rollout | None:
        """The answers whose log-probs the own loss needs: all, unless a method says otherwise; None for none."""
        return rollout

    def own_loss(self, rollout: Rollout, logprobs: Float[Tensor, "B K T"]) -> Float[Tensor, "B"]:
        """The method's own loss of each prompt, lambda included, from the scored answers."""
        raise TypeError(f"{type(self).__name__} has no loss of its own")

    def configure_model(self) -> None:
        """Share what learns out between ranks, where that is the trainer's strategy."""
        self.strict_loading = not self.frozen()
        if self.device_mesh is not None:
            for model in self.learners.values():
                sharding.share_out(model, self.device_mesh["data_parallel"])

    def configure_optimizers(self) -> Any:
        """AdamW and its schedule, a step of which is an optimizer step."""
        optimizer = self.parts.optimizer.build(self)
        schedule = LambdaLR(optimizer, lambda step: self.parts.optimizer.factor(step, self.parts.total_steps))
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    def training_step(self, batch: Batch, index: int) -> None:
        """One optimizer step on one Batch."""
        self.account.seconds.clear()
        self.numbers.clear()
        self.spare = batch.spare
        sharding.gather_(self)
        self.reads = self.read(batch) if self.active else None
        try:
            with self.apart():
                self._step(batch)
        finally:
            self.reads = None

    def _step(self, batch: Batch) -> None:
        rollout = self.rollout(batch) if self.active else None
        with self.account.phase("update"):
            scored = None if rollout is None else self.scored(rollout)
            metrics = {} if rollout is None else step_metrics.describe(rollout) | self.watch(batch, rollout)
            reads, self.reads = self.reads, None
            losses, read_once = self.backward_all(batch, scored, reads=reads), reads is not None
            del reads  # what gradients needed of the prompts
            if rollout is not None:
                losses |= self.add_gradients(rollout)
            metrics |= self.numbers | self.optimizer_step_and_schedule(batch, losses)
        before = self.account.counts["forward_tokens"]
        if not self.spare:
            self.count(batch, rollout, scored, read_once)
        self.account.end_step()
        metrics |= {"loss": sum(losses.values()), **{f"loss/{term}": value for term, value in losses.items()}}
        metrics |= {f"seconds/{phase}": seconds for phase, seconds in self.account.seconds.items()}
        tokens = self.account.counts["forward_tokens"] - before
        metrics["tokens_per_second"] = tokens / self.account.step_seconds[-1]
        metrics = step_metrics.of_all_ranks(metrics, 0 if self.spare else len(batch))
        if rollout is not None:
            self.note_rollout(metrics)
        self.record(metrics)

    def note_rollout(self, metrics: dict[str, float]) -> None:
        """Keep what a step that sampled says of its rewards."""
        self.account.rewards.setdefault(self.current_epoch, []).append(metrics["reward/mean"])

    def reads_once(self, prompts: int) -> bool:
        """Whether a batch of so many prompts is read once to be answered and for the answers to be scored: no weight
        changes between. Not where a micro-batch is smaller than the batch, so that its prompts cannot all be held with
        what their gradients need, or dropout makes the policy scored another than the policy sampled."""
        return not self.policy.dropout and prompts <= self.parts.micro_batch

    def read(self, batch: Batch) -> Reads | None:
        """The prompts of a batch, read once to be answered and for the answers to be scored; None, see `reads_once`."""
        if not self.reads_once(len(batch)):
            return None
        with self.account.phase("sample"):
            return self.policy.read_all(batch.prompts)

    def watch(self, batch: Batch, rollout: Rollout) -> dict[str, float]:
        """Numbers that show why the method moves the policy, for metrics.csv; gradients are clear before and after."""
        return {}

    def add_gradients(self, rollout: Rollout) -> dict[str, float]:
        """Add a gradient that comes from no loss to those of the batch; the value of what it descends, by name."""
        return {}

    def optimizer_step_and_schedule(self, batch: Batch, losses: dict[str, float]) -> dict[str, float]:
        """Clip, step, and move the schedule on; the gradient's norm before clipping and the learning rate used."""
        optimizer, schedule = self.optimizers(), self.lr_schedulers()
        norm = self.average(batch, losses)
        rate = schedule.get_last_lr()[0]  # type: ignore[union-attr]
        optimizer.step()  # type: ignore[union-attr]
        optimizer.zero_grad()  # type: ignore[union-attr]
        schedule.step()  # type: ignore[union-attr]
        return {"grad_norm": norm, "lr": float(rate)}

    def average(self, batch: Batch, losses: dict[str, float]) -> float:
        """Gradients become those of all ranks, checked and clipped; the norm of the policy's before clipping."""
        weights = [weight for weight in self.parameters() if weight.requires_grad]
        if self.engine is not None:
            zero.average_(self.engine, weights)
        else:
            for model in self.learners.values():
                sharding.average_(model)
            ranks.average_(weights)
        return self.checked_norm(batch, losses)

    def checked_norm(self, batch: Batch, losses: dict[str, float]) -> float:
        """Clip the gradient of each model that is trained; the norm of the policy's before.

        Raises:
            BadInput: the loss or its gradient is not finite; no step is made with it.
        """
        norms = self.clipped()
        if ranks.anywhere(not all(math.isfinite(x) for x in (*norms.values(), *losses.values()))):
            said = ", ".join(f"{name} {value:g}" for name, value in losses.items())
            norm = ", ".join(f"{value:g}" for value in norms.values())
            raise BadInput(
                f"training diverged at step {self.account.steps + 1}: loss {said}, gradient norm {norm}. "
                f"Lower {self.tamed_by}; {self.saved}. "
                f"The batch was {', '.join(id for ids in ranks.gathered(batch.ids) for id in ids)}"
            )
        return norms["policy"]

    def clipped(self) -> dict[str, float]:
        """Clip the gradient of each model that is trained, its norm before by name. DeepSpeed clips as it steps."""
        if self.engine is not None:
            return {"policy": zero.norm(self.engine)}
        return {
            name: float(sharding.local(nn.utils.clip_grad_norm_(model.parameters(), self.parts.optimizer.clip)))
            for name, model in self.learners.items()
        }

    def count(self, batch: Batch, rollout: Rollout | None, scored: Rollout | None, read_once: bool) -> None:
        """Keep account of what the step has cost, in tokens.

        Forward tokens are all that went through the network, to answer and to score; backward tokens those that
        gradients went through (the measurements of `watch` left out). The last token of a branch goes through nothing.
        """
        prompts = int(batch.prompts.lengths.sum())
        branches = [] if scored is None else [scored.branches.lengths]
        branches += [self.branches(batch).lengths] if scored is None or self.sft_weight else []
        counts = self.account.counts
        tokens = sum(int(b.sum()) for b in branches)
        inner = sum(int((b - 1).clamp(min=0).sum()) for b in branches)
        k = sum(b.shape[1] for b in branches)
        again = self.parts.micro_k is not None and self.parts.micro_k < k  # see branch_logprobs
        read = prompts * (k if self.alone else 1)
        counts["scored_tokens"] += tokens
        counts["backward_tokens"] += read + inner
        counts["forward_tokens"] += (read + inner) * (2 if self.parts.recompute else 1)
        if again:
            counts["forward_tokens"] += inner + (read if self.alone else 0)
        if rollout is not None:
            sampled = int(rollout.branches.lengths.sum())
            counts["sampled_tokens"] += sampled
            counts["forward_tokens"] += sampled - rollout.rewards.numel()
            counts["forward_tokens"] += 0 if read_once else self.readings * prompts

    def backward_all(
        self, batch: Batch, rollout: Rollout | None, sft_weight: float | None = None, reads: Reads | None = None
    ) -> dict[str, float]:
        """Add the gradients of the whole batch, micro-batch by micro-batch; the value of each loss term. `reads` are
        its prompts where they have been read already; they serve once."""
        if sft_weight is None:
            sft_weight = 1.0 if rollout is None else self.sft_weight
        sft = self.sft_shares(batch) * sft_weight
        own = None if rollout is None else self.shares(rollout) * (not self.spare)
        losses: dict[str, float] = defaultdict(float)
        parts: Sequence[tuple[list[int], Read | None]] = reads or [(r, None) for r in self.micro_batches(batch)]
        for rows, read in parts:
            answers = [] if rollout is None else [rollout.branches[rows]]
            references = [self.branches(batch)[rows]] if sft_weight else []
            branches = reduce(join, [*answers, *references])
            logprobs = branch_logprobs(self.policy, batch.prompts[rows], branches, self.parts.micro_k, read)
            terms = {"sft": -(sft[rows] * logprobs[:, -1].sum(-1)).sum()} if references else {}
            if rollout is not None and own is not None:
                own_logprobs = logprobs[:, :-1] if references else logprobs
                terms["own"] = (own[rows] * self.own_loss(rollout[rows], own_logprobs)).sum()
            self.descend(terms, losses)
        return dict(losses)

    def micro_batches(self, batch: Batch) -> list[list[int]]:
        """The prompts of each forward and backward: those of like length together, so that few places are padding."""
        return like_lengths(batch.prompts.lengths, self.parts.micro_batch)

    def descend(self, terms: dict[str, Tensor], losses: dict[str, float]) -> None:
        """Add the gradients of the terms of a micro-batch, and their values to those of the batch."""
        self.manual_backward(torch.stack(list(terms.values())).sum())
        for name, term in terms.items():
            losses[name] += float(term.detach())

    def sft_shares(self, batch: Batch) -> Float[Tensor, "B"]:
        """Weight of each reference's summed log-prob in the batch; gradients are averaged over ranks afterwards."""
        tokens = self.parts.sft.reduction == "token_mean"
        size = int(batch.references.lengths.sum()) if tokens else len(batch)
        weights = sft_weights(batch.references.lengths, self.parts.sft.reduction)
        return weights * (size / self.per_rank(size)) * (not self.spare)

    def per_rank(self, amount: float | int) -> float | int:
        """What a rank has of something on average, a spare batch left out; its own where losses are normalised locally.
        Dividing by it in place of the batch's own amount makes the mean of the ranks' losses that of all examples."""
        if self.parts.sft.normalise == "local":
            return amount
        return ranks.mean(0.0 if self.spare else amount)

    def apart(self) -> AbstractContextManager[Any]:
        """Inside, backward leaves gradients to each rank, for the optimizer step to average them once."""
        if self.engine is not None:
            zero.keep_apart(self.engine)
        wrapped = getattr(self._trainer, "model", None)
        return wrapped.no_sync() if isinstance(wrapped, DistributedDataParallel) else nullcontext()

    @property
    def engine(self) -> Any:
        """DeepSpeed's, where it trains; else None."""
        return zero.engine(self._trainer)

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """Inside, dropout is off."""
        mode = self.training
        self.eval()
        try:
            yield
        finally:
            self.train(mode)

    def record(self, metrics: dict[str, float]) -> None:
        """Write numbers of this step to every logger."""
        for logger in self.trainer.loggers:
            logger.log_metrics({"epoch": float(self.current_epoch), **metrics}, step=self.account.steps)

    def frozen(self) -> list[str]:
        """Names of the weights that are not trained: they come from the model, which a run's identity tells apart, and
        no checkpoint has them."""
        named = self.named_parameters(remove_duplicate=False)  # a head that is the embeddings goes by two names
        return [name for name, weight in named if not weight.requires_grad]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the run's account, and what was logged up to here; of the weights those that are trained."""
        for name in self.frozen():
            checkpoint["state_dict"].pop(name, None)
        for logger in self.trainer.loggers:
            logger.save()
        self.account.save(checkpoint, self.held())
        noise = [torch.get_rng_state(), torch.cuda.get_rng_state() if self.device.type == "cuda" else None]
        checkpoint["rng"] = ranks.gathered(noise)  # dropout's; all other noise is counted
        self.saved = f"the last checkpoint is kept, of step {self.account.steps}, in {self.trainer.default_root_dir}"

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on counting. Raises BadInput where another number of ranks has written it, whose noise matters."""
        self.account.load(checkpoint)
        if len(checkpoint["rng"]) == ranks.size():
            self.rng = checkpoint["rng"][ranks.number()]
        elif self.policy.dropout:
            raise BadInput(
                f"trainer.devices: {len(checkpoint['rng'])} ranks have written the checkpoint, {ranks.size()} go on, "
                "and each has noise of its own for dropout; give as many as before"
            )
        self.saved = f"the last checkpoint is kept, of step {self.account.steps}"

    def on_train_start(self) -> None:
        """Go on with the dropout noise of the checkpoint."""
        if self.rng is not None:
            cpu, gpu = self.rng
            assert cpu is not None
            torch.set_rng_state(cpu.cpu())
            if gpu is not None:
                torch.cuda.set_rng_state(gpu.cpu())
            self.rng = None
