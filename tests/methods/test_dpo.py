import math
from types import SimpleNamespace

import pytest
import torch

from esolab.data import TrainingData, collate
from esolab.logprobs import branch_logprobs
from esolab.methods.dpo import DPO, dpo_loss
from esolab.methods.sft import sft_loss

ORACLE = (-12.3, -15.9, -13.1, -14.8)  # O-DPO of methods.md: policy w, r; reference w, r


def leaves(*values):
    return [torch.tensor([value], dtype=torch.float64, requires_grad=True) for value in values]


def test_oracle_dpo():
    w, r, ref_w, ref_l = leaves(*ORACLE)
    loss = dpo_loss(w, r, ref_w, ref_l, beta=0.1)
    loss.backward()
    assert loss.item() == pytest.approx(0.6026529092986134, rel=1e-12)  # oracles.json: dpo.loss
    assert w.grad.item() == pytest.approx(-0.04526423818569108, rel=1e-12)  # dpo.dL/dpc
    assert r.grad.item() == pytest.approx(0.04526423818569108, rel=1e-12)  # dpo.dL/dpr


def test_oracle_conservative_dpo():
    assert dpo_loss(*leaves(*ORACLE), 0.1, 0.1).item() == pytest.approx(0.6216529092986134, rel=1e-12)  # dpo.cdpo


@pytest.fixture(params=range(5))
def draws(request):
    """Log-probs of eight pairs under policy and reference, float64."""
    generator = torch.Generator().manual_seed(request.param)
    return (-20 * torch.rand(4, 8, generator=generator, dtype=torch.float64)).unbind()


@pytest.mark.parametrize("beta", [0.05, 0.1, 1.0])
def test_at_the_reference_the_loss_is_ln_2_and_the_gradient_beta_over_2(draws, beta):
    """Identity 11."""
    ref_w, ref_l, *_ = draws
    w, r = (x.clone().requires_grad_() for x in (ref_w, ref_l))
    loss = dpo_loss(w, r, ref_w, ref_l, beta)
    loss.backward()
    assert loss.item() == pytest.approx(math.log(2), rel=1e-12)
    torch.testing.assert_close(w.grad, torch.full_like(w, -beta / 2 / 8))
    torch.testing.assert_close(r.grad, -w.grad)


def test_swapping_the_replies_flips_the_margin(draws):
    """Identity 11: log sigmoid(m) - log sigmoid(-m) = m."""
    w, r, ref_w, ref_l = draws
    there, back = dpo_loss(w, r, ref_w, ref_l, 0.3), dpo_loss(r, w, ref_l, ref_w, 0.3)
    margin = 0.3 * ((w - ref_w) - (r - ref_l)).mean()
    assert (back - there).item() == pytest.approx(margin.item())
    assert dpo_loss(w, r, ref_w, ref_l, 0.3, 0.2).item() == pytest.approx((0.8 * there + 0.2 * back).item())


def test_a_shift_of_both_replies_of_a_pair_changes_nothing(draws):
    w, r, ref_w, ref_l = draws
    shift = torch.linspace(-3, 3, 8, dtype=torch.float64)
    expected = dpo_loss(w, r, ref_w, ref_l, 0.1)
    torch.testing.assert_close(dpo_loss(w + shift, r + shift, ref_w, ref_l, 0.1), expected)
    torch.testing.assert_close(dpo_loss(w, r, ref_w + shift, ref_l + shift, 0.1), expected)


# the method


def started(parts, rows, **settings):
    """A method that has asked its reference."""
    method = DPO(parts, **settings)
    method.trainer = SimpleNamespace(strategy=SimpleNamespace(reduce=lambda size, reduce_op: size, backward=backward))
    method.ask(rows)
    return method


def backward(loss, optimizer, *args, **kwargs):
    loss.backward()


def test_the_reference_is_what_plain_forwards_say(make_parts, pairs, plain):
    method = started(make_parts(micro_batch=3), pairs)
    assert method.reference.keys() == {row.example.id for row in pairs}
    for row in pairs:
        expected = [plain(method.policy, row.prompt, reply).sum().item() for reply in (row.reference, row.rejected)]
        assert method.reference[row.example.id] == pytest.approx(expected, abs=1e-4)


def test_what_the_reference_costs_is_counted(make_parts, pairs):
    """Each prompt is read once, of each reply all but its end token."""
    method = started(make_parts(micro_batch=3), pairs)
    replies = [reply for row in pairs for reply in (row.reference, row.rejected)]
    tokens = sum(len(row.prompt) for row in pairs) + sum(len(reply) - 1 for reply in replies)
    assert method.account.counts == {"forward_tokens": tokens}
    assert method.account.spent["reference"] > 0
    assert not method.account.seconds


def test_the_first_step_is_ln_2_without_a_margin(make_parts, pairs):
    method = started(make_parts(), pairs)
    assert method.backward_all(collate(pairs), None) == {"own": pytest.approx(math.log(2), abs=1e-6)}
    assert method.numbers["preference/margin"] == pytest.approx(0, abs=1e-5)


def test_implicit_rewards_are_beta_times_the_log_ratio(make_parts, pairs):
    """O-DPO: .08, -.11 of a pair."""
    method = started(make_parts(), pairs[:1], beta=0.1)
    method.reference = {id: [w - 0.8, r + 1.1] for id, (w, r) in method.reference.items()}
    method.backward_all(collate(pairs[:1]), None)
    found = {name: method.numbers[f"preference/{name}"] for name in ("chosen", "rejected", "margin", "accuracy")}
    assert found == pytest.approx({"chosen": 0.08, "rejected": -0.11, "margin": 0.19, "accuracy": 1.0}, abs=1e-5)


def test_the_likelihood_of_the_chosen_is_that_of_sft(make_parts, pairs):
    method, batch = started(make_parts(micro_batch=5), pairs, sft_weight=0.5), collate(pairs)
    with torch.no_grad():
        logprobs = branch_logprobs(method.policy, batch.prompts, batch.references.unsqueeze())[:, 0]
    expected = 0.5 * sft_loss(logprobs, batch.references.lengths).item()
    assert method.backward_all(batch, None)["sft"] == pytest.approx(expected, rel=1e-5)


def test_dropout_is_off(make_parts, make_policy, pairs):
    method = started(make_parts(policy=make_policy("gpt2", dropout=0.5)), pairs)
    method.train()
    assert method.backward_all(collate(pairs), None)["own"] == pytest.approx(math.log(2), abs=1e-6)
    assert method.policy.training


def test_a_run_that_goes_on_keeps_its_reference(make_parts, make_policy, pairs):
    """The policy of a checkpoint is not the starting policy: it is not asked."""
    first = started(make_parts(), pairs)
    first.trainer = SimpleNamespace(loggers=[], default_root_dir="here")
    checkpoint = {}
    first.on_save_checkpoint(checkpoint)
    second = DPO(make_parts(policy=make_policy("gpt2", seed=1)))
    second.on_load_checkpoint(checkpoint)
    second.trainer = SimpleNamespace(datamodule=TrainingData(pairs, 4, 0))
    second.on_fit_start()
    assert second.reference == first.reference
