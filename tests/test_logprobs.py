from dataclasses import replace

import pytest
import torch

from esolab.batch import Tokens
from esolab.logprobs import branch_logprobs, plant

PROMPTS = [3, 1, 6]
BRANCHES = [[4, 1, 3], [2, 0, 5], [1, 1, 6]]  # ragged, an empty branch, branches that end at once


@pytest.fixture
def prompts(ragged):
    return ragged(PROMPTS, seed=1, width=8)


@pytest.fixture
def branches(ragged):
    return ragged(BRANCHES, seed=2, width=9)


def one_at_a_time(policy, prompts, branches, plain):
    """[B, K, T], each branch by a forward of its own."""
    scores = torch.zeros(branches.ids.shape, dtype=next(policy.parameters()).dtype)
    for b in range(len(prompts.lengths)):
        for k in range(branches.ids.shape[1]):
            p, t = int(prompts.lengths[b]), int(branches.lengths[b, k])
            scores[b, k, :t] = plain(policy, prompts.ids[b, :p].tolist(), branches.ids[b, k, :t].tolist())
    return scores


def gradients(policy, logprobs, weights):
    policy.zero_grad()
    (logprobs * weights).sum().backward()
    return {name: weight.grad.clone() for name, weight in policy.named_parameters()}


@pytest.fixture
def weights():
    return torch.randn(3, 3, 9, generator=torch.Generator().manual_seed(3))


def test_values_equal_one_at_a_time_forwards(policy, prompts, branches, plain):
    with torch.no_grad():
        tree = branch_logprobs(policy, prompts, branches)
        alone = one_at_a_time(policy, prompts, branches, plain)
    assert tree.dtype == torch.float32
    assert alone[branches.mask].std() > 0.5  # the weights are felt
    torch.testing.assert_close(tree, alone, rtol=1e-5, atol=1e-5)
    assert (tree[~branches.mask] == 0).all()
    assert (tree[branches.mask] < 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_parameters_gradient_equals_that_of_one_at_a_time_forwards(
    dtype, policy, prompts, branches, weights, plain
):
    policy = policy.to(dtype)
    tree = gradients(policy, branch_logprobs(policy, prompts, branches), weights)
    alone = gradients(policy, one_at_a_time(policy, prompts, branches, plain), weights)
    assert set(tree) == {name for name, _ in policy.named_parameters()}
    total = torch.stack([g.norm() for g in alone.values()]).norm()
    for name, expected in alone.items():
        if "k_proj.bias" in name:  # attention does not feel a shift of all keys: 0 but for rounding
            assert tree[name].norm() < 1e-6 * total
            continue
        assert expected.norm() > 1e-4 * total, f"{name} is not tested: its gradient is 0"
        assert (tree[name] - expected).norm() < 1e-5 * expected.norm(), name


def test_what_lies_beyond_the_lengths_changes_nothing(policy, prompts, branches, weights):
    def pollute(tokens, seed):
        noise = torch.randint(23, tokens.ids.shape, generator=torch.Generator().manual_seed(seed))
        wide = torch.nn.functional.pad(torch.where(tokens.mask, tokens.ids, noise), (0, 3), value=7)
        return replace(tokens, ids=wide)

    other_prompts, other_branches = pollute(prompts, 4), pollute(branches, 5)
    assert not torch.equal(other_branches.ids[..., :9], branches.ids)
    assert not torch.equal(other_prompts.ids[..., :8], prompts.ids)
    once, again = branch_logprobs(policy, prompts, branches), branch_logprobs(policy, other_prompts, other_branches)
    assert torch.equal(once, again[..., :9])
    assert (again[..., 9:] == 0).all()
    first, second = gradients(policy, once, weights), gradients(policy, again[..., :9], weights)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_permuting_branches_or_rows_permutes_results(policy, prompts, branches):
    def pick(tokens, *index):
        return Tokens(tokens.ids[index], tokens.lengths[index])

    with torch.no_grad():
        scores = branch_logprobs(policy, prompts, branches)
        order = torch.tensor([2, 0, 1])
        shuffled = branch_logprobs(policy, prompts, pick(branches, slice(None), order))
        turned = branch_logprobs(policy, pick(prompts, order), pick(branches, order))
        single = branch_logprobs(policy, prompts[1:2], branches[1:2])
    torch.testing.assert_close(shuffled, scores[:, order], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(turned, scores[order], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(single, scores[1:2], rtol=1e-5, atol=1e-5)


def test_branches_do_not_see_each_other(policy, prompts, branches):
    other = branches.ids.clone()
    other[:, 0] = (other[:, 0] + 1) % 23
    with torch.no_grad():
        before = branch_logprobs(policy, prompts, branches)
        after = branch_logprobs(policy, prompts, Tokens(other, branches.lengths))
    assert torch.equal(before[:, 1:], after[:, 1:])
    assert not torch.allclose(before[:, 0], after[:, 0])


def test_only_position_ids_must_fit_the_position_table(policy, ragged, plain):
    prompts, branches = ragged([20], seed=6), ragged([[12, 12, 12, 12, 12]], seed=7)  # 20 + 55 places, 32 positions
    tree = plant(prompts.lengths, branches)
    assert tree.ids.shape[1] == 55
    assert int(tree.positions.max()) == 30
    with torch.no_grad():
        scores = branch_logprobs(policy, prompts, branches)
        alone = one_at_a_time(policy, prompts, branches, plain)
    torch.testing.assert_close(scores, alone, rtol=1e-5, atol=1e-5)


def test_only_tokens_before_the_end_are_read(family, make_policy):
    """Rows of the input embedding get a gradient exactly where a token is read: in the prompt, or before the last of a
    branch. The last token is predicted and read by none; what lies beyond is neither."""
    policy = make_policy(family, tie_word_embeddings=False)
    prompts = Tokens(torch.tensor([[1, 2, 9, 9]]), torch.tensor([2]))
    branches = Tokens(torch.tensor([[[3, 4, 5, 10], [6, 10, 10, 10], [10, 10, 10, 10]]]), torch.tensor([[3, 1, 0]]))
    branch_logprobs(policy, prompts, branches).sum().backward()
    felt = policy.network.get_input_embeddings().weight.grad.abs().sum(1).nonzero()[:, 0].tolist()
    assert felt == [1, 2, 3, 4]


def test_log_probs_beyond_the_end_carry_no_gradient(policy, prompts, branches):
    scores = branch_logprobs(policy, prompts, branches)
    grads = torch.autograd.grad(
        scores[~branches.mask].sum(), list(policy.parameters()), allow_unused=True, materialize_grads=True
    )
    assert all((g == 0).all() for g in grads)


def test_the_vocabulary_is_met_at_scored_places_only(policy, prompts, branches):
    rows = []
    head = policy.network.get_output_embeddings()
    hook = head.register_forward_pre_hook(lambda _, args: rows.append(args[0].shape[:-1]))
    branch_logprobs(policy, prompts, branches)
    hook.remove()
    assert rows == [(sum(map(sum, BRANCHES)),)]


def forwards(policy, *args):
    """Result of branch_logprobs and the row counts of the forwards it took."""
    rows = []
    hook = policy.register_forward_pre_hook(lambda _, inputs: rows.append(len(inputs[1])))
    scores = branch_logprobs(policy, *args)
    hook.remove()
    return scores, rows


def test_prompts_that_have_been_read_are_not_read_again(policy, prompts, branches, weights, monkeypatch):
    """Neither the values nor the gradients change, whole or in parts."""
    expected = branch_logprobs(policy, prompts, branches)
    whole = gradients(policy, expected, weights)
    for micro_k in (None, 2):
        read = policy.read(prompts)
        with monkeypatch.context() as patch:
            patch.setattr(type(policy), "read", None)
            scores = branch_logprobs(policy, prompts, branches, micro_k, read)
            assert torch.equal(scores, expected) or micro_k
            torch.testing.assert_close(scores, expected, rtol=1e-5, atol=1e-5)
            for name, gradient in gradients(policy, scores, weights).items():
                assert "k_proj.bias" in name or (gradient - whole[name]).norm() <= 1e-5 * whole[name].norm(), name


def test_logits_in_pieces_change_nothing(policy, prompts, branches, weights, monkeypatch):
    expected = branch_logprobs(policy, prompts, branches)
    whole, heads = gradients(policy, expected, weights), []
    monkeypatch.setattr("esolab.policy.WHOLE", 0)
    hook = policy.network.get_output_embeddings().register_forward_hook(lambda _, args, out: heads.append(len(out)))
    scores = branch_logprobs(policy, prompts, branches)
    hook.remove()
    assert set(heads) == {1}  # never the whole logits
    torch.testing.assert_close(scores, expected, rtol=1e-5, atol=1e-5)
    for name, gradient in gradients(policy, scores, weights).items():
        assert "k_proj.bias" in name or (gradient - whole[name]).norm() <= 1e-5 * whole[name].norm(), name


def test_branches_that_are_all_empty_score_0(policy, prompts):
    none = Tokens(torch.zeros(3, 2, 4, dtype=torch.long), torch.zeros(3, 2, dtype=torch.long))
    assert torch.equal(branch_logprobs(policy, prompts, none), torch.zeros(3, 2, 4))


def test_active_dropout_scores_one_sequence_per_row(family, make_policy, prompts, branches):
    policy = make_policy(family, dropout=0.1)
    assert forwards(policy, prompts, branches)[1] == [3]  # evaluation mode: shared
    assert forwards(policy.train(), prompts, branches)[1] == [9]
    assert forwards(make_policy(family).train(), prompts, branches)[1] == [3]  # no dropout: shared


def test_active_dropout_keeps_every_score_in_its_place(make_policy, prompts, branches):
    policy = make_policy("gpt2", dropout=1e-9)  # drops nothing
    expected = branch_logprobs(policy, prompts, branches)
    scores, rows = forwards(policy.train(), prompts, branches)
    assert rows == [9]
    torch.testing.assert_close(scores, expected, rtol=1e-5, atol=1e-5)


def test_active_dropout_treats_equal_branches_differently(family, make_policy, ragged):
    policy = make_policy(family, dropout=0.2).train()
    one = ragged([[1]], seed=8)
    twins = Tokens(one.ids.repeat(1, 2, 1), one.lengths.repeat(1, 2))
    torch.manual_seed(0)
    scores = branch_logprobs(policy, ragged([6], seed=9), twins)
    assert scores[0, 0, 0] != scores[0, 1, 0]  # a first token hangs on the prompt alone, which each branch reads anew


@pytest.mark.parametrize("family", ["gpt2", "opt", "gpt_neox"])
def test_left_padded_forward_agrees(family, make_policy, prompts, branches):
    """Identity 15 of methods.md: an ordinary left-padded forward with explicit position ids."""
    policy = make_policy(family)
    sequences = [
        (prompts.ids[b, : prompts.lengths[b]].tolist(), branches.ids[b, k, : branches.lengths[b, k]].tolist())
        for b in range(3)
        for k in range(3)
    ]
    width = max(len(p) + len(t) for p, t in sequences)
    ids, mask = torch.full((9, width), 5), torch.zeros(9, width, dtype=torch.long)
    for i, (prompt, response) in enumerate(sequences):
        n = len(prompt) + len(response)
        ids[i, width - n :], mask[i, width - n :] = torch.tensor([*prompt, *response]), 1
    with torch.no_grad():
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        logits = policy.network(input_ids=ids, attention_mask=mask, position_ids=positions).logits
        packed = branch_logprobs(policy, prompts, branches).view(9, -1)
    padded = logits[:, :-1].log_softmax(-1).gather(2, ids[:, 1:, None])[..., 0]
    for i, (_, response) in enumerate(sequences):
        if response:
            torch.testing.assert_close(packed[i, : len(response)], padded[i, -len(response) :], rtol=1e-5, atol=1e-5)


def test_log_probs_of_half_precision_weights_are_taken_in_fp32(policy, prompts, branches):
    """Logits are widened before the log-softmax: its rounding in bf16 would cost a nat over 64 tokens."""
    with torch.no_grad():
        exact, half = (branch_logprobs(policy.to(d), prompts, branches) for d in (torch.float32, torch.bfloat16))
    assert half.dtype == torch.float32
    assert (half.bfloat16().float() != half)[branches.mask].any()
    assert (half - exact).abs().max() < 1.0
