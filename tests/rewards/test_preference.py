"""The reward of a reward model: the model's own score of the text that it was trained on, whoever made the model."""

import logging
import shutil

import pytest
import torch
from tokenizers import Tokenizer as Backend
from tokenizers import models, pre_tokenizers, processors
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    PreTrainedTokenizerFast,
)

from esolab.errors import BadInput
from esolab.methods.onpolicy import OnPolicy
from esolab.methods.reward_model import RewardModel, finish
from esolab.methods.rrhf import RRHF
from esolab.rewards.preference import Preference

PROMPTS = ["a b c ", "d e"]
ANSWERS = [["f", "g h i j", ""], ["k l", "m", "n o p"]]
REFERENCES = ["f", "g"]


@pytest.fixture
def model(make_parts):
    return RewardModel(make_parts())


@pytest.fixture
def folder(model, tokenizer, tmp_path):
    """What a run of method=reward_model leaves."""
    return save(model, tokenizer, tmp_path / "run" / "reward_model")


def save(model, tokenizer, folder, max_prompt=32):
    finish(model.policy.network, tokenizer, ["a"], max_prompt).save_pretrained(folder)
    model.policy.network.save_pretrained(folder)
    return folder


def plain(network, rows):
    with torch.no_grad():
        return torch.tensor([network.eval()(torch.tensor([row])).logits[0, 0].item() for row in rows])


def test_rewards_are_those_of_the_text_as_in_training(folder, model, tokenizer):
    reward = Preference(str(folder), batch_size=4)
    found = reward(PROMPTS, ANSWERS, REFERENCES)
    assert (found.shape, found.dtype, found.device.type) == ((2, 3), torch.float32, "cpu")
    assert not found.requires_grad
    prompts, replies = tokenizer.prompts(PROMPTS), [tokenizer.responses(answers) for answers in ANSWERS]
    rows = [prompts[b] + reply for b in range(2) for reply in replies[b]]
    torch.testing.assert_close(found.flatten(), plain(model.policy.network, rows), rtol=0, atol=1e-5)
    assert found.std() > 0.1


def test_a_runs_folder_will_do_and_batches_and_order_change_nothing(folder):
    whole = Preference(str(folder.parent))(PROMPTS, ANSWERS, REFERENCES)
    for size in (1, 4):
        found = Preference(str(folder), batch_size=size)(PROMPTS, ANSWERS, REFERENCES)
        torch.testing.assert_close(found, whole, rtol=0, atol=1e-6)
    turned = Preference(str(folder))(PROMPTS[::-1], ANSWERS[::-1], REFERENCES)
    torch.testing.assert_close(turned.flip(0), whole, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("begins", "expected"), [(" ", [" x", " x", ""]), ("", ["x", "x", ""]), (None, ["x", " x", ""])]
)
def test_an_answer_gets_back_the_blank_it_began_with_in_training(folder, begins, expected):
    """It comes stripped; where it is unknown, a blank keeps it apart from a prompt that does not end with one."""
    reward = Preference(str(folder))
    reward(PROMPTS, ANSWERS, REFERENCES)
    reward.scorer.begins = begins
    assert [reward.scorer.begin(*pair) for pair in (("p\n", "x"), ("p:", "x"), ("p:", ""))] == expected


def test_it_is_read_at_the_first_call_and_said_once(folder, caplog):
    caplog.set_level(logging.INFO, "esolab")
    reward = Preference(str(folder))
    (folder / "model.safetensors").rename(folder / "kept")
    with pytest.raises(BadInput, match="cannot be read as a reward model"):
        reward(PROMPTS, ANSWERS, REFERENCES)
    (folder / "kept").rename(folder / "model.safetensors")
    for _ in range(3):
        reward(PROMPTS, ANSWERS, REFERENCES)
    assert caplog.text.count("read again as text") == 1
    assert "'<end>'" in caplog.text


def test_equal_answers_are_worth_the_same_to_the_last_digit(folder):
    """Wherever in a batch they stand, beside whatever lengths."""
    prompts = [" ".join("abcdefghijklmnopq"[: 1 + i]) for i in range(17)]
    found = Preference(str(folder), batch_size=16)(prompts, [["f g", "f g", "f g"]] * 17, ["f"] * 17)
    assert torch.equal(found, found[:, :1].expand(17, 3))


def test_rewards_beyond_clip_are_clipped_and_counted(folder):
    whole = Preference(str(folder))(PROMPTS, ANSWERS, REFERENCES)
    most = whole.abs().median().item()
    reward = Preference(str(folder), clip=most)
    for _ in range(2):  # of each call by itself
        assert torch.equal(reward(PROMPTS, ANSWERS, REFERENCES), whole.clamp(-most, most))
        assert reward.clipped == int((whole.abs() > most).sum()) > 0


def test_texts_beyond_its_positions_lose_the_left_of_their_prompts(folder, caplog):
    """The model has 32."""
    tail = " ".join("abcdefghij" * 3)
    reward = Preference(str(folder))
    found = reward([f"k l m n {tail}", f"o p q r {tail}"], [["s"], ["s"]], REFERENCES)
    assert reward.shortened == 2
    assert found[0, 0] == found[1, 0]
    reward(PROMPTS, ANSWERS, REFERENCES)
    assert reward.shortened == 0
    assert caplog.text.count("2 of 2 answers have texts over its limit, which lose the left of their prompts") == 1


def test_a_prompt_is_cut_as_in_training(model, tokenizer, tmp_path):
    """To the last max_prompt tokens; the answer is whole."""
    reward = Preference(str(save(model, tokenizer, tmp_path, max_prompt=4)))
    found = reward(["a b c d e f", "c d e f"], [["g h i j k"]] * 2, REFERENCES)
    assert found[0, 0] == found[1, 0]
    assert reward.shortened == 1


def test_it_is_no_part_of_what_is_trained_and_kept(folder, make_parts, make_policy):
    reward = Preference(str(folder))
    method = RRHF(make_parts(policy=make_policy("gpt2", seed=1), reward=reward), lam=1.0)
    assert isinstance(method, OnPolicy)
    before = {name for name, _ in method.named_parameters()}
    reward(PROMPTS, ANSWERS, REFERENCES)
    assert {name for name, _ in method.named_parameters()} == before
    its = reward.scorer.network.state_dict().values()
    assert not any(torch.equal(one, other) for one in method.state_dict().values() for other in its)
    assert not reward.scorer.network.training


def test_another_model_at_the_same_place_is_another_reward(folder, make_parts, make_policy, tokenizer):
    first = Preference(str(folder)).fingerprint()
    (folder / "README.md").write_text("a model card")
    assert Preference(str(folder)).fingerprint() == first
    save(RewardModel(make_parts(policy=make_policy("gpt2", seed=1))), tokenizer, folder)
    assert Preference(str(folder)).fingerprint() != first


SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "vocab_size": 26}


@pytest.fixture
def encoder(tmp_path):
    """A foreign one: an encoder, with tokens around a text and none that ends it."""
    words = ["[PAD]", "[CLS]", "[SEP]", *"abcdefghijklmnopqrstuvw"]
    backend = Backend(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[PAD]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.TemplateProcessing(
        "[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    inner = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]", model_max_length=40
    )
    config = AutoConfig.for_model("bert", **SMALL, num_labels=1, max_position_embeddings=40, initializer_range=1.0)
    torch.manual_seed(0)
    network = AutoModelForSequenceClassification.from_config(config)
    network.save_pretrained(tmp_path / "bert")
    inner.save_pretrained(tmp_path / "bert")
    return tmp_path / "bert", network


def test_an_encoder_reads_prompt_and_answer_as_one_text(encoder):
    place, network = encoder
    found = Preference(str(place))(["a b"], [["c", "d e f"]], ["c"])
    rows = [[1, 3, 4, 5, 2], [1, 3, 4, 6, 7, 8, 2]]
    torch.testing.assert_close(found[0], plain(network, rows), rtol=0, atol=1e-5)


def test_leading_tokens_stay_before_what_is_cut(encoder):
    """Its tokenizer says 40, as many as it has positions."""
    place, network = encoder
    found = Preference(str(place))([" ".join("abc" * 20)], [["d e"]], ["d"])
    torch.testing.assert_close(found[0], plain(network, [[1, *([3, 4, 5] * 20)[-36:], 6, 7, 2]]), rtol=0, atol=1e-5)


def test_the_tokenizers_limit_is_kept_where_there_are_more_positions(encoder):
    place, network = encoder
    inner = PreTrainedTokenizerFast.from_pretrained(place, model_max_length=7)
    inner.save_pretrained(place)
    found = Preference(str(place))(["a b c a b c"], [["d e"]], ["d"])
    torch.testing.assert_close(found[0], plain(network, [[1, 3, 4, 5, 6, 7, 2]]), rtol=0, atol=1e-5)


def test_positions_that_begin_after_the_paddings_id(encoder):
    """RoBERTa's 40 are 38 where padding is 1."""
    place, _ = encoder
    config = AutoConfig.for_model(
        "roberta", **SMALL, num_labels=1, max_position_embeddings=40, pad_token_id=1, initializer_range=1.0
    )
    AutoModelForSequenceClassification.from_config(config).save_pretrained(place)
    reward = Preference(str(place))
    assert reward([" ".join("cde" * 20)], [["d e"]], ["d"]).isfinite().all()
    assert reward.scorer.max_length == 38
    assert len(reward.scorer.encode([" ".join("cde" * 20)], ["d e"])[0][0]) == 38


def test_a_gpu_may_be_named(folder, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for device in ("cpu", "cuda", "cuda:0", "cuda:1"):
        assert Preference(str(folder), device=device).device == device
    assert Preference(str(folder)).device == "cuda"
    for device in ("cuda:2", "gpu", "cuda:"):
        with pytest.raises(
            BadInput, match=f"reward.device={device}: torch finds 2 GPUs here; give auto, cpu, cuda or cuda:N"
        ):
            Preference(str(folder), device=device)


def refusal(folder):
    with pytest.raises(BadInput) as caught:
        Preference(str(folder))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_is_no_reward_model_is_refused_before_it_is_read(tmp_path, make_policy):
    config = AutoConfig.for_model("bert", **SMALL, num_labels=2)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path / "two")
    AutoModel.from_config(config).save_pretrained(tmp_path / "body")
    make_policy("gpt2").network.save_pretrained(tmp_path / "policy")
    (tmp_path / "empty").mkdir()
    assert "scores 2 labels, a reward is one; give the reward_model folder" in refusal(tmp_path / "two")
    assert "BertModel has no head that scores a text" in refusal(tmp_path / "body")
    assert "GPT2LMHeadModel has no head that scores a text" in refusal(tmp_path / "policy")
    assert "holds no model" in refusal(tmp_path / "empty")
    assert f"reward.path={tmp_path}/gone: there is no such folder" in refusal(tmp_path / "gone")


def test_a_head_without_weights_is_refused(folder, make_policy):
    """A config that promises a head, weights that have none: its scores would be random."""
    shutil.copy(folder / "config.json", folder / "kept")
    make_policy("gpt2", vocab_size=24).network.save_pretrained(folder)
    shutil.move(folder / "kept", folder / "config.json")
    with pytest.raises(BadInput, match=r"has no weights for score\.weight"):
        Preference(str(folder))(PROMPTS, ANSWERS, REFERENCES)


def test_unequal_lists_are_refused(folder):
    with pytest.raises(ValueError, match="one list of responses"):
        Preference(str(folder))(PROMPTS, ANSWERS[:1], REFERENCES)
