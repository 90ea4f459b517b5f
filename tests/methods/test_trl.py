"""Against TRL 1.16: its trainers' own code weighs the same answers and computes the same gradients.

Gradients are by token log-probs, at the first inner step, without KL. TRL's methods run on a stand-in that has the
attributes they read, taken from TRL's own configurations: it samples our answers, rewards them as we do, and its
log-probs are ours. Loss values are not compared: at ratio 1 they are no likelihoods (methods.md 1.6).
"""

import warnings
from collections import defaultdict
from functools import cache
from types import SimpleNamespace

import pytest
import torch

from esolab.batch import Tokens
from esolab.config import build, resolve
from esolab.methods.dpo import dpo_loss
from esolab.methods.reward_model import bradley_terry_loss
from esolab.sampling import Sampling

pytestmark = pytest.mark.slow

LENGTHS = [[3, 6, 1, 2], [5, 5, 4, 6], [1, 2, 3, 1]]
B, K, T = 3, 4, 6
LIMIT = 9  # longer than any answer: what Dr.GRPO divides by is a constant


@pytest.fixture(scope="module")
def trl():
    """TRL's trainers and configurations; it is imported where it is used only, as that takes seconds."""
    pytest.importorskip("trl")
    from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

    return {"GRPO": (GRPOTrainer, GRPOConfig), "RLOO": (RLOOTrainer, RLOOConfig)}


@pytest.fixture(params=range(3))
def case(request, ragged):
    """Ragged branches [B, K, T], rewards, and token log-probs with a gradient."""
    generator = torch.Generator().manual_seed(request.param)
    rewards = torch.rand(B, K, generator=generator, dtype=torch.float64)
    branches = ragged(LENGTHS, seed=request.param)
    scores = -3 * torch.rand(B, K, T, generator=generator, dtype=torch.float64)
    return branches, rewards, scores.masked_fill(~branches.mask, 0.0).requires_grad_()


@cache
def values_of(name):
    return resolve([f"method={name}"])["method"]


@pytest.fixture
def ours(make_parts, judged):
    """ours(case, "grpo", logp="sum"): the gradient of a method's own loss, its yaml with these values at lambda 1."""

    def gradient(case, name, **values):
        branches, rewards, scores = case
        parts = make_parts(sampling=Sampling(max_new_tokens=LIMIT, k=K))
        method = build({**values_of(name), "lam": 1.0, **values})(parts)
        rollout = judged(method, branches, rewards, scores)
        loss = (method.shares(rollout) * method.own_loss(rollout, scores)).sum()
        return torch.autograd.grad(loss, scores)[0]

    return gradient


@pytest.fixture
def theirs(trl, tmp_path):
    """theirs(case, "GRPO", loss_type="grpo"): the gradient of TRL's loss, by its trainer with these settings."""

    def gradient(case, name, **settings):
        branches, rewards, scores = case
        trainer = stand_in(*trl[name], tmp_path, branches, rewards, scores, settings)
        trainer._generate = lambda prompts: generated(name, branches)
        batch = trainer._generate_and_score_completions([{"prompt": f"{b}"} for b in range(B) for _ in range(K)])
        assert torch.equal(batch["completion_mask"].view(B, K, T).bool(), branches.mask)
        return torch.autograd.grad(trainer._compute_loss(trainer.model, batch), scores)[0]

    return gradient


def stand_in(trainer, config, folder, branches: Tokens, rewards, scores, settings):
    """A trainer that was not set up: all that its two methods read, and no model."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations within TRL and transformers
        args = config(
            output_dir=str(folder),
            use_cpu=True,
            bf16=False,
            report_to=[],
            beta=0.0,
            num_generations=K,
            per_device_train_batch_size=B * K,
            max_completion_length=LIMIT,
            **settings,
        )
    stand = trainer.__new__(trainer)
    for name, value in vars(args).items():
        if not hasattr(trainer, name):
            setattr(stand, name, value)
    stand.args, stand.model = args, SimpleNamespace(training=True, is_gradient_checkpointing=False)
    stand.epsilon_low = stand.epsilon_high = args.epsilon
    stand.aux_loss_enabled = stand._entropy_bonus_enabled = False
    stand.current_gradient_accumulation_steps = 1
    stand.environment_factories = stand.environments = stand.tools = None
    stand._tokenizer = SimpleNamespace(pad_token_id=0)
    stand.reward_weights, stand.reward_func_names = torch.ones(1), ["ours"]
    stand._metrics = {"train": defaultdict(list)}
    stand._logs = {"rewards": defaultdict(list), "extra": {}, **{k: [] for k in ("prompt", "completion", "advantages")}}
    stand._pending_extra_logs, stand._pending_metrics = {}, {}
    stand.accelerator = SimpleNamespace(
        device=torch.device("cpu"),
        process_index=0,
        num_processes=1,
        gather=lambda x: x,
        reduce=lambda x, reduction: x,
    )
    stand._calculate_rewards = lambda *_: rewards.view(B * K, 1)
    flat = scores.view(B * K, T)
    stand._get_per_token_logps_and_entropies = lambda *_, **__: (flat, torch.zeros_like(flat.detach()), None)
    return stand


def generated(name, branches):
    """What a trainer's `_generate` returns: token ids of prompts and answers, texts, and for GRPO much that is None."""
    ids, lengths = branches.ids.flatten(0, 1).tolist(), branches.lengths.flatten().tolist()
    prompts, texts = [[1, 2]] * (B * K), ["-"] * (B * K)
    answers = [row[:n] for row, n in zip(ids, lengths, strict=True)]
    return (prompts, answers, None, texts, None, {}, None, None) if name == "GRPO" else (prompts, answers, texts)


def same(found, expected):
    assert (expected[0].abs() > 1e-4).any()
    torch.testing.assert_close(found, expected)


def test_grpo(case, ours, theirs):
    """method=grpo is TRL's loss_type=grpo with its default scaling by the group's deviation: no factor."""
    same(ours(case, "grpo"), theirs(case, "GRPO", loss_type="grpo", scale_rewards="group"))


def test_grpo_without_the_deviation(case, ours, theirs):
    """No factor either; k times it is length-normalised ESO."""
    expected = theirs(case, "GRPO", loss_type="grpo", scale_rewards="none")
    same(ours(case, "grpo", advantage="eso"), expected)
    same(ours(case, "eso", logp="mean"), K * expected)


def test_dr_grpo(case, ours, theirs):
    """Averaged over the answers: no factor; summed, as method=eso does by itself, k times TRL's."""
    expected = theirs(case, "GRPO", loss_type="dr_grpo", scale_rewards="none")
    same(ours(case, "eso", advantage="dr_grpo", k_reduction="mean"), expected)
    same(ours(case, "eso", advantage="dr_grpo"), K * expected)
    same(ours(case, "eso"), K * LIMIT * expected)


def test_bnpo(case, ours, theirs):
    """Summed over the answers, as method=eso does by itself: no factor. N_tok / B times it is ESO."""
    expected = theirs(case, "GRPO", loss_type="bnpo", scale_rewards="none")
    same(ours(case, "eso", advantage="bnpo"), expected)
    same(ours(case, "eso"), sum(map(sum, LENGTHS)) / B * expected)


def test_dapo_is_bnpo_in_one_process(case, ours, theirs):
    """TRL's default loss_type divides by the tokens of the whole batch: with one process and one step, bnpo."""
    expected = theirs(case, "GRPO", loss_type="dapo", scale_rewards="none")
    same(ours(case, "eso", advantage="bnpo"), expected)


def test_rloo(case, ours, theirs):
    """method=rloo, averaged over the answers as TRL does: no factor; summed, k times TRL's, and ESO k - 1 times."""
    expected = theirs(case, "RLOO")
    same(ours(case, "rloo"), expected)
    same(ours(case, "rloo", k_reduction="sum"), K * expected)
    same(ours(case, "eso"), (K - 1) * expected)


def test_equal_rewards_have_no_gradient_in_either(case, ours, theirs):
    branches, rewards, scores = case
    equal = (branches, rewards[:, :1].expand(B, K).contiguous(), scores)
    for name, kind in (("grpo", "GRPO"), ("rloo", "RLOO")):
        assert (ours(equal, name) == 0).all()
        assert theirs(equal, kind).abs().max() < 1e-12


# pairs


@pytest.fixture(params=range(3))
def replies(request):
    """Token log-probs of five pairs under policy and reference: lengths, policy [2, 5, T], reference [2, 5, T]."""
    generator = torch.Generator().manual_seed(request.param)
    lengths = torch.randint(1, T + 1, (2, 5), generator=generator)
    ours, theirs = -3 * torch.rand(2, 2, 5, T, generator=generator, dtype=torch.float64)
    mask = torch.arange(T) < lengths[..., None]
    return mask, (ours * mask).requires_grad_(), theirs * mask


def trls_dpo(mask, ours, theirs, folder, **settings):
    """The value of TRL's DPO loss on these log-probs, chosen replies first, by its trainer with these settings."""
    from trl import DPOConfig, DPOTrainer

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        args = DPOConfig(output_dir=str(folder), use_cpu=True, bf16=False, report_to=[], **settings)
    stand = DPOTrainer.__new__(DPOTrainer)
    stand.args, stand.model = args, SimpleNamespace(training=True)
    same = {"device": torch.device("cpu"), "gather_for_metrics": lambda x: x, "gather": lambda x: x}
    stand.accelerator = SimpleNamespace(**same)
    stand.aux_loss_enabled = stand.use_weighting = False
    stand.precompute_ref_logps, stand.ld_alpha = True, args.ld_alpha
    stand.beta, stand.label_smoothing, stand.f_divergence_type = args.beta, args.label_smoothing, args.f_divergence_type
    stand.loss_types, stand.loss_weights = args.loss_type, args.loss_weights or [1.0]
    stand._metrics, stand._total_train_tokens, stand._tp_size = {"train": defaultdict(list)}, 0, 1
    flat = ours.flatten(0, 1)
    outputs = SimpleNamespace(
        log_probs=flat,
        entropy=torch.zeros_like(flat),
        mean_logits=torch.zeros_like(flat),
        is_top1=torch.zeros_like(flat, dtype=torch.bool),
    )
    completions = torch.nn.functional.pad(mask.flatten(0, 1).long(), (1, 0))
    reference = theirs.sum(-1)
    inputs = {
        "input_ids": completions,
        "attention_mask": completions,
        "completion_mask": completions,
        "ref_chosen_logps": reference[0],
        "ref_rejected_logps": reference[1],
    }
    return stand._compute_loss(lambda **_: outputs, inputs, return_outputs=False)


@pytest.mark.parametrize("beta", [0.1, 0.5])
def test_dpo(replies, beta, trl, tmp_path):
    mask, ours, theirs = replies
    expected = trls_dpo(mask, ours, theirs, tmp_path, beta=beta)
    found = dpo_loss(*ours.sum(-1), *theirs.sum(-1), beta)
    torch.testing.assert_close(found, expected)
    gradients = [torch.autograd.grad(loss, ours)[0] for loss in (found, expected)]
    assert (gradients[0].abs() > 1e-4).any()
    torch.testing.assert_close(*gradients)


def test_conservative_dpo(replies, trl, tmp_path):
    """TRL's `robust` loss divides by 1 - 2 smoothing and turns the second sign: robust DPO of ours by hand."""
    mask, ours, theirs = replies
    robust = trls_dpo(mask, ours, theirs, tmp_path, beta=0.1, loss_type=["robust"], label_smoothing=0.2)
    there, back = (dpo_loss(*x.sum(-1), *y.sum(-1), 0.1) for x, y in ((ours, theirs), (ours.flip(0), theirs.flip(0))))
    torch.testing.assert_close((0.8 * there - 0.2 * back) / 0.6, robust)
    torch.testing.assert_close(dpo_loss(*ours.sum(-1), *theirs.sum(-1), 0.1, 0.2), 0.8 * there + 0.2 * back)


@pytest.mark.parametrize("centre", [None, 0.01])
def test_bradley_terry(replies, centre, trl):
    from trl import RewardTrainer

    _, ours, _ = replies
    rewards = ours.sum(-1)
    stand = RewardTrainer.__new__(RewardTrainer)
    stand.model = SimpleNamespace(training=True)
    stand.args = SimpleNamespace(center_rewards_coefficient=centre)
    stand.accelerator = SimpleNamespace(gather_for_metrics=lambda x: x, gather=lambda x: x)
    stand._metrics, stand._total_train_tokens, stand._tp_size = {"train": defaultdict(list)}, 0, 1
    model = SimpleNamespace(logits=rewards.flatten()[:, None])
    expected = stand.compute_loss(lambda **_: model, {"attention_mask": torch.ones(10, 1)})
    torch.testing.assert_close(bradley_terry_loss(*rewards, centre or 0.0), expected)
