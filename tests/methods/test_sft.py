import math
from types import SimpleNamespace

import pytest
import torch

from esolab import ranks
from esolab.data import collate
from esolab.methods.base import Likelihood, Optimizer, sft_weights
from esolab.methods.sft import SFT, sft_loss


def reference(f):
    """Branch 0 of fixture F as the reference."""
    return f["logprobs"][:, 0], f["lengths"][:, 0]


@pytest.mark.parametrize(
    ("reduction", "value"),
    [  # oracles.json: sft.token_mean, sft.seq_sum, sft.seq_mean
        ("token_mean", 2.752226192296045),
        ("seq_sum", 6.880565480740113),
        ("seq_mean", 2.9006459383982572),
    ],
)
def test_oracle_sft(reduction, value, fixture_f):
    logprobs, lengths = reference(fixture_f())
    assert sft_loss(logprobs, lengths, reduction).item() == pytest.approx(value, rel=1e-7)


def test_the_token_mean_is_the_default(fixture_f):
    logprobs, lengths = reference(fixture_f())
    assert sft_loss(logprobs, lengths).item() == pytest.approx(2.752226192296045, rel=1e-7)  # sft.token_mean


@pytest.mark.parametrize("reduction", ["token_mean", "seq_sum", "seq_mean"])
def test_pad_columns_change_nothing(reduction, fixture_f):
    logprobs, lengths = reference(fixture_f())
    wide = torch.nn.functional.pad(logprobs, (0, 4))
    assert sft_loss(wide, lengths, reduction) == sft_loss(logprobs, lengths, reduction)


def test_the_gradient_reaches_every_reference_token_and_no_other(fixture_f):
    """dL/dz = (p - 1[v = y]) / tokens of the batch, over the tokens of the references only."""
    f = fixture_f()
    sft_loss(*reference(f)).backward()
    onehot = torch.nn.functional.one_hot(f["tokens"], 5)
    expected = (f["logits"].softmax(-1) - onehot) * f["mask"][..., None] / 5
    expected[:, 1:] = 0  # the other branches are no references
    torch.testing.assert_close(f["logits"].grad, expected.detach(), rtol=1e-6, atol=1e-9)


def test_weights_by_hand():
    lengths = torch.tensor([3, 0, 1])
    assert sft_weights(lengths, "token_mean").tolist() == pytest.approx([1 / 4] * 3)
    assert sft_weights(lengths, "seq_sum").tolist() == pytest.approx([1 / 3] * 3)
    assert sft_weights(lengths, "seq_mean").tolist() == pytest.approx([1 / 9, 1 / 3, 1 / 3])


# the weights of a rank


class Plain:
    """A strategy that only goes backward."""

    def backward(self, loss, optimizer, *args, **kwargs):
        loss.backward()


def gradient(parts, batch, sizes):
    """Of one of two ranks that have `sizes`, and know the mean of both."""

    def mean(size):
        assert size in sizes
        return sum(sizes) / len(sizes)

    method = SFT(parts)
    method.trainer = SimpleNamespace(strategy=Plain())
    method.zero_grad()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(ranks, "mean", mean)
        losses = method.backward_all(batch, None)
    return torch.cat([w.grad.flatten() for w in method.policy.parameters()]), losses["sft"]


def sizes_of(reduction, *batches):
    return [float(b.references.lengths.sum() if reduction == "token_mean" else len(b)) for b in batches]


@pytest.mark.parametrize("reduction", ["token_mean", "seq_sum", "seq_mean"])
def test_ranks_together_average_over_the_whole_batch(reduction, make_parts, rows):
    """Two ranks with unequal shares: the mean of their gradients, as data-parallel training takes it, is the gradient
    of one rank that has all."""
    parts = make_parts(sft=Likelihood(reduction), micro_batch=3)
    whole, left, right = collate(rows), collate(rows[:11]), collate(rows[11:])
    sizes = sizes_of(reduction, left, right)
    assert sizes[0] != sizes[1]
    first, second = (gradient(parts, part, sizes) for part in (left, right))
    alone = gradient(parts, whole, sizes_of(reduction, whole, whole))
    assert ((first[0] + second[0]) / 2 - alone[0]).norm() < 1e-5 * alone[0].norm()
    assert (first[1] + second[1]) / 2 == pytest.approx(alone[1], rel=1e-5)


def test_local_normalisation_averages_each_rank_by_itself(make_parts, rows):
    parts = make_parts(sft=Likelihood(normalise="local"))
    left, right = collate(rows[:11]), collate(rows[11:])
    sizes = sizes_of("token_mean", left, right)
    local = gradient(parts, left, sizes)[0]
    alone = gradient(make_parts(), left, [sizes[0], sizes[0]])[0]
    torch.testing.assert_close(local, alone)
    assert not torch.allclose(gradient(make_parts(), left, sizes)[0], alone, rtol=1e-2)


def test_sft_never_samples(make_parts, rows):
    method = SFT(make_parts())
    assert not method.active
    with pytest.raises(TypeError, match="SFT does not sample"):
        method.rollout(collate(rows))


# the optimizer


def test_matrices_decay_and_norms_and_biases_do_not(make_parts):
    policy = make_parts().policy
    decayed, plain = Optimizer(lr=1e-3, weight_decay=0.05).build(policy).param_groups
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.05, 0.0)
    names = {id(weight): name for name, weight in policy.named_parameters()}
    assert {names[id(w)] for w in plain["params"]} == {n for n in names.values() if "ln_" in n or n.endswith("bias")}
    assert len(decayed["params"]) + len(plain["params"]) == len(names)


def test_frozen_weights_are_left_out(make_parts):
    policy = make_parts().policy
    policy.network.transformer.wte.weight.requires_grad_(False)
    groups = Optimizer(lr=1e-3).build(policy).param_groups
    assert sum(len(group["params"]) for group in groups) == len(list(policy.parameters())) - 1


def test_cosine_schedule_of_five_epochs():
    optimizer = Optimizer(lr=1.0, lr_min=1e-300)
    total = 100_000
    factors = [optimizer.factor(step, total) for step in range(total)]
    last = factors[4 * total // 5 :]
    assert last[0] == pytest.approx(0.09549150281252633, rel=1e-6)  # lr.start_of_epoch5/peak
    assert sum(last) / len(last) == pytest.approx(0.032255358086445134, rel=1e-3)  # lr.mean_epoch5/peak
    assert sum(last) / sum(factors) == pytest.approx(0.012902143234578105, rel=1e-3)  # lr.mass_epoch5


def test_schedule_warms_up_and_ends_at_its_least():
    optimizer = Optimizer(lr=1e-3, lr_min=1e-5, warmup_steps=4)
    factors = [optimizer.factor(step, 24) for step in range(25)]
    assert factors[:5] == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])
    assert factors[14] == pytest.approx(0.01 + 0.99 * 0.5)
    assert factors[24] == pytest.approx(0.01)
    assert factors[4:] == sorted(factors[4:], reverse=True)
    assert math.isclose(optimizer.factor(30, 24), 0.01)  # beyond its end
