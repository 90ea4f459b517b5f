from dataclasses import replace

import pytest
import torch

from esolab.batch import Batch, Rollout, Samples, Tokens, join, rows_of


def rows(tokens: Tokens) -> list[list[int]]:
    flat = tokens.ids.reshape(-1, tokens.ids.shape[-1]).tolist()
    return [row[:n] for row, n in zip(flat, tokens.lengths.flatten().tolist(), strict=True)]


def test_pack_keeps_every_sequence_and_nothing_else():
    sequences = [[5, 0, 0], [], [7], [0]]
    packed = Tokens.pack(sequences)
    assert packed.ids.shape == (4, 3)
    assert packed.ids.dtype == packed.lengths.dtype == torch.long
    assert rows(packed) == sequences
    assert packed.mask.tolist() == [[True] * 3, [False] * 3, [True, False, False], [True, False, False]]


def test_pack_of_nothing_is_empty():
    assert Tokens.pack([]).ids.shape == (0, 0)
    assert Tokens.pack([[], []]).mask.shape == (2, 0)


def test_mask_of_branches_follows_lengths_not_ids():
    branches = Tokens(torch.zeros(1, 2, 3, dtype=torch.long), torch.tensor([[2, 0]]))
    assert branches.mask.tolist() == [[[True, True, False], [False, False, False]]]


def test_slice_and_repeat_keep_rows_together():
    packed = Tokens.pack([[1, 2], [3], [4, 5]])
    assert rows(packed[1:]) == [[3], [4, 5]]
    assert rows(packed.repeat(2)) == [[1, 2], [1, 2], [3], [3], [4, 5], [4, 5]]
    branches = packed.unsqueeze()
    assert branches.ids.shape == (3, 1, 2)
    assert branches.lengths.tolist() == [[2], [1], [2]]


@pytest.mark.parametrize(("first", "second"), [(2, 4), (4, 2), (3, 3)])
def test_join_puts_the_first_branches_first_whatever_the_widths(first, second, ragged):
    a, b = ragged([[first, 1], [0, first]], seed=1), ragged([[second], [1]], seed=2)
    both = join(a, b)
    assert both.ids.shape == (2, 3, max(first, second))
    assert both.lengths.tolist() == [[first, 1, second], [0, first, 1]]
    a_rows, b_rows = rows(a), rows(b)
    assert rows(both) == [*a_rows[:2], b_rows[0], *a_rows[2:], b_rows[1]]


def test_a_slice_of_a_batch_slices_every_field():
    batch = Batch(
        ids=["x", "y", "z"],
        prompts=Tokens.pack([[1], [2, 2], [3]]),
        references=Tokens.pack([[4], [5], [6, 6]]),
        prompt_texts=["px", "py", "pz"],
        reference_texts=["rx", "ry", "rz"],
    )
    part = batch[1:3]
    assert len(batch) == 3
    assert len(part) == 2
    assert (part.ids, part.prompt_texts, part.reference_texts) == (["y", "z"], ["py", "pz"], ["ry", "rz"])
    assert rows(part.prompts) == [[2, 2], [3]]
    assert rows(part.references) == [[5], [6, 6]]
    moved = batch.to(torch.device("meta"))
    assert moved.prompts.ids.is_meta
    assert moved.prompts.lengths.is_meta
    assert moved.references.ids.is_meta
    assert moved.references.lengths.is_meta
    assert moved.ids == batch.ids


@pytest.fixture
def rollout(ragged):
    return Rollout(
        branches=ragged([[1, 2], [2, 1], [1, 1]]),
        finished=torch.tensor([[True, False], [False, False], [True, True]]),
        temperatures=torch.tensor([[0.5, 2.0], [0.6, 1.0], [0.0, 1.5]]),
        logprobs=-torch.arange(12.0).view(3, 2, 2),
        texts=[["a", "b"], ["c", "d"], ["e", "f"]],
        rewards=torch.arange(6.0).view(3, 2),
        good=torch.tensor([[True, True], [False, True], [True, False]]),
        advantages=10 * torch.arange(6.0).view(3, 2),
        parts={"a": torch.arange(6.0).view(3, 2) + 0.5},
    )


def test_a_slice_of_a_rollout_slices_every_field(rollout):
    part = rollout[1:]
    assert type(part) is Rollout
    assert part.finished.tolist() == [[False, False], [True, True]]
    assert part.branches.lengths.tolist() == [[2, 1], [1, 1]]
    assert torch.equal(part.branches.ids, rollout.branches.ids[1:])
    assert part.texts == [["c", "d"], ["e", "f"]]
    for name in ("temperatures", "logprobs", "rewards", "good", "advantages"):
        assert torch.equal(getattr(part, name), getattr(rollout, name)[1:])
    assert part.parts["a"].tolist() == [[2.5, 3.5], [4.5, 5.5]]
    assert rollout[[2, 0]].parts["a"].tolist() == [[4.5, 5.5], [0.5, 1.5]]
    own = {name: getattr(rollout, name) for name in ("branches", "finished", "temperatures", "logprobs")}
    assert type(Samples(**own)[:1]) is Samples


def test_pick_takes_one_answer_of_each_prompt(rollout):
    one = rollout.pick(torch.tensor([1, 0, 1]))
    assert one.texts == [["b"], ["c"], ["f"]]
    assert one.rewards.tolist() == [[1.0], [2.0], [5.0]]
    assert one.advantages.tolist() == [[10.0], [20.0], [50.0]]
    assert one.parts["a"].tolist() == [[1.5], [2.5], [5.5]]
    assert one.temperatures.tolist() == [[2.0], [pytest.approx(0.6)], [1.5]]
    assert one.finished.tolist() == [[False], [False], [True]]
    assert one.branches.lengths.tolist() == [[2], [2], [1]]
    for b, j in enumerate((1, 0, 1)):
        assert torch.equal(one.branches.ids[b, 0], rollout.branches.ids[b, j])
        assert torch.equal(one.logprobs[b, 0], rollout.logprobs[b, j])


@pytest.fixture
def pairs():
    return Batch(
        ids=["x", "y"],
        prompts=Tokens.pack([[1], [2, 2]]),
        references=Tokens.pack([[4, 0], [5, 5, 0]]),
        prompt_texts=["px", "py"],
        reference_texts=["rx", "ry"],
        rejected=Tokens.pack([[6, 6, 6, 0], [7, 0]]),
    )


def test_the_replies_of_a_pair_are_two_branches_the_chosen_one_first(pairs):
    assert rows(pairs.pairs) == [[4, 0], [6, 6, 6, 0], [5, 5, 0], [7, 0]]
    assert rows(pairs[1:].pairs) == rows(pairs[[1]].pairs) == [[5, 5, 0], [7, 0]]
    assert pairs.to(torch.device("meta")).rejected.ids.is_meta
    assert replace(pairs, rejected=None)[:1].rejected is None
    assert replace(pairs, rejected=None).to(torch.device("meta")).rejected is None


def test_branches_after_their_prompts_are_rows_of_their_own(ragged):
    prompts, branches = ragged([3, 1, 2], seed=1), ragged([[2, 4], [0, 1], [4, 3]], seed=2)
    first, last = rows(prompts), rows(branches)
    assert rows(rows_of(prompts, branches)) == [first[i // 2] + branch for i, branch in enumerate(last)]
