import copy
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from esolab.batch import rows_of
from esolab.data import collate
from esolab.methods.reward_model import RewardModel, bradley_terry_loss, finish
from esolab.policy import Tokenizer

CHOSEN, REJECTED = [1.2, -0.3, 0.5], [0.4, 0.1, 0.5]  # O-BT of methods.md


def tensors(*rows):
    return [torch.tensor(row, dtype=torch.float64, requires_grad=True) for row in rows]


@pytest.mark.parametrize(
    ("shift", "centre", "value"),
    [  # oracles.json: bt.loss, bt.shift, bt.center .01
        (0.0, 0.0, 0.6590876996358919),
        (7.5, 0.0, 0.6590876996358919),
        (0.0, 0.01, 0.6710876996358919),
    ],
)
def test_oracle_bt(shift, centre, value):
    chosen, rejected = tensors(CHOSEN, REJECTED)
    assert bradley_terry_loss(chosen + shift, rejected + shift, centre).item() == pytest.approx(value, rel=1e-12)


def test_the_gradient_is_the_chance_of_the_other_order():
    chosen, rejected = tensors(CHOSEN, REJECTED)
    bradley_terry_loss(chosen, rejected).backward()
    expected = -(rejected - chosen).sigmoid() / 3
    torch.testing.assert_close(chosen.grad, expected)
    torch.testing.assert_close(rejected.grad, -expected)


@pytest.fixture
def model(make_parts, make_policy, family):
    """A reward model of each family."""
    return RewardModel(make_parts(policy=make_policy(family)))


def texts(pairs):
    """Rows of token ids: prompt and reply as they are trained on, the chosen one first."""
    return [row.prompt + reply for row in pairs for reply in (row.reference, row.rejected)]


def test_rewards_are_read_at_the_end_token_of_each_reply(model, pairs):
    """What the whole model of transformers says of single rows, which have no padding and end where they end."""
    found = model.compare(pairs)
    assert found.shape == (16, 2)
    assert found.std() > 0.1
    with torch.no_grad():
        network = model.policy.network.eval()
        plain = [network(torch.tensor([row])).logits[0, 0].item() for row in texts(pairs)]
    torch.testing.assert_close(found.flatten(), torch.tensor(plain), rtol=0, atol=1e-5)


def test_what_lies_beyond_the_ends_is_not_read(model, pairs):
    batch = collate(pairs)
    rows = rows_of(batch.prompts, batch.pairs)
    assert [ids[:n].tolist() for ids, n in zip(rows.ids, rows.lengths, strict=True)] == texts(pairs)
    expected = model.compare(pairs)
    rejected = replace(batch.rejected, ids=torch.where(batch.rejected.mask, batch.rejected.ids, 9))
    with torch.no_grad(), model.quiet():
        found = model.scores(replace(batch, rejected=rejected))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_the_body_is_the_policys_and_the_head_that_of_the_seed(make_parts, make_policy):
    policy = make_policy("gpt2")
    model = RewardModel(make_parts(policy=policy, seed=3))
    assert model.policy.network.base_model is policy.network.base_model
    again, other = (RewardModel(make_parts(policy=policy, seed=seed)) for seed in (3, 4))
    assert torch.equal(model.head, again.head)
    assert not torch.equal(model.head, other.head)


def test_dropout_is_off(make_parts, make_policy, pairs):
    model = RewardModel(make_parts(policy=make_policy("gpt2", dropout=0.5)))
    model.train()
    first, second = model.compare(pairs), model.compare(pairs)
    assert torch.equal(first, second)
    assert model.policy.training


def padded_with(tokenizer, token):
    """The tokenizer with this token as its padding."""
    inner = copy.deepcopy(tokenizer.inner)
    inner.pad_token = token
    return replace(tokenizer, inner=inner)


def saved(model, tokenizer, folder, replies=("b",)):
    """The reward model as a run leaves it, opened by transformers alone."""
    expected = model.policy.network
    inner = finish(expected, tokenizer, replies, 20)
    expected.save_pretrained(folder)
    inner.save_pretrained(folder)
    return AutoModelForSequenceClassification.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)


def test_it_opens_with_transformers_and_scores_padded_rows_the_same(model, pairs, tokenizer, tmp_path):
    """The end token is the padding of many tokenizers, here even of all unknown words: it has to be read all the
    same."""
    expected = model.compare(pairs).flatten()
    network, inner = saved(model, padded_with(tokenizer, tokenizer.inner.eos_token), tmp_path)
    assert network.config.num_labels == 1
    pad = network.config.pad_token_id
    assert pad == inner.pad_token_id
    assert pad not in (*tokenizer.eos, inner.eos_token_id)
    assert pad not in {id for row in texts(pairs) for id in row}
    rows = [torch.tensor(row) for row in texts(pairs)]
    padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=pad)
    with torch.no_grad():
        alone = torch.stack([network(row[None]).logits[0, 0] for row in rows])
        together = network(padded, attention_mask=(padded != pad).long()).logits[:, 0]
    torch.testing.assert_close(alone, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(together, expected, rtol=0, atol=1e-5)


def test_what_others_need_to_write_texts_as_in_training_is_kept(make_parts, tokenizer, tmp_path):
    model = RewardModel(make_parts())
    network, _ = saved(model, Tokenizer(tokenizer.inner, eos=(0,), bos=False), tmp_path, [" a", " b", "c"])
    assert (network.config.eos_token_id, network.config.leading_tokens, network.config.reply_begins) == (0, False, " ")


def test_a_padding_token_of_its_own_is_kept(make_parts, tokenizer):
    """OPT's: nothing grows."""
    model = RewardModel(make_parts())
    inner = finish(model.policy.network, padded_with(tokenizer, "v"), [], 20)
    assert inner.pad_token == "v"
    assert model.policy.vocabulary == len(tokenizer.inner) == len(inner)
