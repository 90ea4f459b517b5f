import copy
from collections import Counter

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer as Backend
from tokenizers import models as backends
from tokenizers import processors
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from esolab.batch import Tokens
from esolab.errors import BadInput
from esolab.logprobs import branch_logprobs
from esolab.models import EXACT, Model
from esolab.policy import Tokenizer
from esolab.results import save_policy
from esolab.sampling import decoding, noise_keys, sample

TINY = {
    "gpt2": {"n_layer": 1, "n_embd": 16, "n_head": 2, "n_positions": 32},
    "opt": {
        "num_hidden_layers": 1,
        "hidden_size": 16,
        "ffn_dim": 16,
        "num_attention_heads": 2,
        "word_embed_proj_dim": 8,
        "max_position_embeddings": 32,
    },
    "gpt_neox": {
        "num_hidden_layers": 1,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_attention_heads": 2,
        "max_position_embeddings": 32,
    },
    "llama": {
        "num_hidden_layers": 1,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 32,
    },
}
TEXTS = ["the cat sat on the mat", "the dog sat on the log", "a cat and a dog met on the mat"] * 3
TEXT = "Below is an instruction.\n\n### Response:\n  Café — naïve, 東京 🙂\tdon't\n"
GOLDEN = {  # of "Hello world" and TEXT, without what the family puts before a prompt
    "gpt2": (
        "15496 995",
        "21106 318 281 12064 13 198 198 21017 18261 25 198 220 42151 851 41492 11 10545 251 109 12859 105 32485 197 "
        "9099 470 198",
    ),
    "opt": (
        "31414 232",
        "45943 16 41 15741 4 50118 50118 48134 19121 35 50118 1437 22450 93 39300 6 47416 46 15389 46499 11582 45868 "
        "50117 7254 75 50118",
    ),
    "pythia": (
        "12092 1533",
        "30003 310 271 9775 15 187 187 4118 19371 27 187 50276 36 2320 860 1905 36060 13 209 12676 111 5494 107 42908 "
        "186 9903 626 187",
    ),
}
LEADING = {"gpt2": [], "opt": [2], "pythia": []}
END = {"gpt2": 50256, "opt": 2, "pythia": 0}
SIZE = {"gpt2": 50257, "opt": 50265, "pythia": 50277}


def tiny(family: str = "gpt2", **other) -> Model:
    return Model(weights="random", architecture={"model_type": family, **TINY[family]}, **other)


def loaded(model: Model):
    tokenizer = model.load_tokenizer(TEXTS)
    return model.load_policy(tokenizer), tokenizer


def greedy(policy, tokenizer: Tokenizer, prompts: list[str], limit: int = 12) -> list[list[int]]:
    keys = noise_keys(0, "test", 0, prompts, 1)
    drawn = sample(policy, Tokens.pack(tokenizer.prompts(prompts)), decoding("greedy", limit), keys, tokenizer.eos)
    lengths = drawn.branches.lengths[:, 0].tolist()
    return [row[:n] for row, n in zip(drawn.branches.ids[:, 0].tolist(), lengths, strict=True)]


# the three real tokenizers


@pytest.fixture
def real(real_data):
    """real("opt", bos=False): the tokenizer of a family, as a run loads it."""

    def load(name: str, **settings) -> Tokenizer:
        folder = str(real_data / "tokenizers" / name)
        return Model(id="none", tokenizer=folder, **settings).load_tokenizer([])

    return load


def golden(name: str) -> list[list[int]]:
    return [[int(word) for word in ids.split()] for ids in GOLDEN[name]]


@pytest.mark.parametrize("name", sorted(GOLDEN))
def test_golden_ids(name, real):
    tokenizer = real(name)
    short, long = golden(name)
    assert tokenizer.prompts(["Hello world", TEXT]) == [LEADING[name] + short, LEADING[name] + long]
    assert tokenizer.responses(["Hello world", TEXT]) == [[*short, END[name]], [*long, END[name]]]
    assert tokenizer.eos == (END[name],)
    assert len(tokenizer.inner) == SIZE[name]


@pytest.mark.parametrize("name", sorted(GOLDEN))
def test_golden_ids_without_leading_tokens(name, real):
    tokenizer = real(name, bos=False)
    assert tokenizer.prompts(["Hello world", TEXT]) == golden(name)
    assert tokenizer.responses(["Hello world"]) == [[*golden(name)[0], END[name]]]


@pytest.mark.parametrize("name", sorted(GOLDEN))
def test_texts_come_back_stripped_and_without_special_tokens(name, real):
    tokenizer = real(name)
    ids = tokenizer.responses([TEXT, "", " it 's two words , unspaced ."])
    assert tokenizer.decode(ids) == [TEXT.strip(), "", "it 's two words , unspaced ."]
    assert ids[1] == [END[name]]


def test_no_texts_are_no_rows():
    tokenizer = tiny().load_tokenizer(TEXTS)
    assert tokenizer.prompts([]) == []
    assert tokenizer.responses([]) == []
    assert tokenizer.decode([]) == []
    assert tokenizer.decode([[], [0]]) == ["", ""]


def test_a_closing_token_of_the_family_is_taken_off_prompts():
    """As T5 does: an end token after the text would end the answer before it begins."""
    backend = Backend(backends.WordLevel({"</s>": 0, "<s>": 1, "hello": 2, "world": 3}, unk_token="</s>"))
    backend.post_processor = processors.TemplateProcessing("<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 0)])
    inner = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>")
    assert inner("hello")["input_ids"] == [1, 2, 0]
    tokenizer = Tokenizer(inner, eos=(0,))
    assert tokenizer.prompts(["hello", "world"]) == [[1, 2], [1, 3]]
    assert Tokenizer(inner, eos=(0,), bos=False).prompts(["hello"]) == [[2]]
    assert tokenizer.responses(["world"]) == [[3, 0]]


# real weights


def test_stories260k(real_data):
    """Its stories end with `<s>`, id 1, which also begins a prompt; `</s>` ends them too."""
    model = Model(path=str(real_data / "models" / "stories260K"))
    policy, tokenizer = loaded(model)
    assert tokenizer.eos == (1, 2)
    assert tokenizer.prompts(["Once upon a time"]) == [[1, 403, 407, 261, 378]]
    assert tokenizer.responses(["Once upon a time"]) == [[403, 407, 261, 378, 1]]
    assert model.max_positions == 512
    assert policy.vocabulary == len(tokenizer.inner) == 512
    answer = greedy(policy, tokenizer, ["One day, a little girl named Lily"], 60)
    assert tokenizer.decode(answer) == [
        "went to the park with her mom. She saw a big box with a big box. She wanted to play with it, but it was "
        'too high. She asked her mom, "Can I play with the box?'
    ]
    short = greedy(policy, tokenizer, ["One day, a little girl named Lily"], 400)[0]
    assert len(short) < 400
    assert short[-1] == 1
    assert not {1, 2} & set(short[:-1])


# weights and settings


@pytest.fixture
def opt_folder(tmp_path):
    """A tiny OPT with the dropout it ships with, stored in fp16 as the hub stores it, with a tokenizer."""
    torch.manual_seed(0)
    tokenizer = tiny().load_tokenizer(TEXTS)
    config = AutoConfig.for_model("opt", **TINY["opt"], vocab_size=len(tokenizer.inner), dropout=0.1)
    AutoModelForCausalLM.from_config(config).half().save_pretrained(tmp_path)
    tokenizer.save(tmp_path)
    return tmp_path


def test_weights_stored_in_fp16_load_in_fp32(opt_folder):
    stored = load_file(opt_folder / "model.safetensors")
    assert {weight.dtype for weight in stored.values()} == {torch.float16}
    policy, _ = loaded(Model(path=str(opt_folder)))
    assert {weight.dtype for weight in policy.parameters()} == {torch.float32}
    name = "model.decoder.layers.0.fc1.weight"
    assert torch.equal(policy.network.state_dict()[name], stored[name].float())
    half, _ = loaded(Model(path=str(opt_folder), dtype="bfloat16"))
    assert {weight.dtype for weight in half.parameters()} == {torch.bfloat16}


def test_random_weights_of_a_stored_architecture_are_not_the_stored_ones(opt_folder):
    torch.manual_seed(1)
    stored, _ = loaded(Model(path=str(opt_folder)))
    random, _ = loaded(Model(path=str(opt_folder), weights="random"))
    assert {weight.dtype for weight in random.parameters()} == {torch.float32}
    ours, theirs = random.state_dict(), stored.state_dict()
    assert {name: w.shape for name, w in ours.items()} == {name: w.shape for name, w in theirs.items()}
    name = "network.model.decoder.layers.0.fc1.weight"
    assert not torch.allclose(ours[name], theirs[name])


@pytest.mark.parametrize("weights", ["pretrained", "random"])
def test_dropout_is_set_whatever_is_stored(weights, opt_folder):
    assert AutoConfig.from_pretrained(opt_folder).dropout == 0.1
    for rate in (0.0, 0.3):
        policy, _ = loaded(Model(path=str(opt_folder), weights=weights, dropout=rate))
        assert policy.network.config.dropout == policy.network.config.attention_dropout == rate
        assert {m.dropout for m in policy.network.modules() if hasattr(m, "dropout")} == {rate}
        assert policy.dropout == (rate > 0)


def test_the_activation_of_gpt2_is_one_kernel_with_the_same_values_and_gradients():
    policy, _ = loaded(tiny())
    assert policy.network.config.activation_function == "gelu_new"  # also where it is saved
    plain = AutoModelForCausalLM.from_config(policy.network.config)
    plain.load_state_dict(policy.network.state_dict())
    own, usual = policy.network.transformer.h[0].mlp.act, plain.transformer.h[0].mlp.act
    assert type(own) is not type(usual)
    inputs = torch.linspace(-9, 9, 999, dtype=torch.float64, requires_grad=True)
    found, expected = (torch.autograd.grad(act(inputs).sum(), inputs)[0] for act in (own, usual))
    torch.testing.assert_close(own(inputs), usual(inputs), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    ids = torch.arange(20)[None]
    torch.testing.assert_close(policy.network(ids).logits, plain(ids).logits, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("family", sorted(EXACT))
def test_every_familys_dropout_is_set_and_noticed(family):
    assert not loaded(tiny(family))[0].dropout
    assert loaded(tiny(family, dropout=0.2))[0].dropout


@pytest.mark.parametrize("weights", ["pretrained", "random"])
def test_a_loaded_policy_is_ready_to_train(weights, opt_folder):
    """In training mode throughout: from_pretrained hands it over in evaluation mode, where dropout does nothing, and
    Lightning leaves modes as it finds them."""
    policy, tokenizer = loaded(Model(path=str(opt_folder), weights=weights, dropout=0.5))
    assert Counter(module.training for module in policy.modules()).keys() == {True}
    prompts, answers = Tokens.pack(tokenizer.prompts(["the cat"])), Tokens.pack(tokenizer.responses(["sat on"]))
    first, second = (branch_logprobs(policy, prompts, answers.unsqueeze()) for _ in range(2))
    assert not torch.equal(first, second)


@pytest.mark.parametrize("family", sorted(EXACT))
def test_the_same_seed_gives_the_same_weights(family):
    def weights(seed):
        torch.manual_seed(seed)
        return loaded(tiny(family))[0].state_dict()

    first, again, other = weights(0), weights(0), weights(1)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_a_trained_tokenizer_sets_the_vocabulary_and_the_end():
    policy, tokenizer = loaded(tiny(vocab_size=300))
    assert policy.vocabulary == len(tokenizer.inner) <= 300
    assert tokenizer.eos == (0,)
    config = policy.network.generation_config
    assert (config.eos_token_id, config.pad_token_id, config.do_sample) == ([0], 0, False)
    assert policy.network.config.eos_token_id == 0


@pytest.mark.parametrize("family", sorted(EXACT))
def test_positions_are_known_without_the_hub(family):
    assert tiny(family).max_positions == 32
    assert Model(id="gpt2").max_positions is None


# tokenizers trained on the corpus


def test_training_a_tokenizer_is_deterministic():
    def vocabulary(texts):
        return tiny(vocab_size=290).load_tokenizer(texts).inner.get_vocab()

    assert vocabulary(TEXTS) == vocabulary(list(TEXTS))
    assert vocabulary(TEXTS) != vocabulary([text.upper() for text in TEXTS])


def test_a_trained_tokenizer_reads_and_writes_any_text():
    tokenizer = tiny(vocab_size=270).load_tokenizer(TEXTS)
    assert len(tokenizer.inner) == 270
    ids = tokenizer.responses([TEXT, "the cat"])
    assert tokenizer.decode(ids) == [TEXT.strip(), "the cat"]
    assert all(row[-1] == 0 and 0 not in row[:-1] for row in ids)
    assert tokenizer.prompts(["the cat"]) == [ids[1][:-1]]
    assert len(ids[1]) < len("the cat")  # pieces, not bytes


# a saved policy


@pytest.mark.parametrize("family", sorted(EXACT))
def test_a_saved_policy_opens_with_transformers_and_answers_alike(family, tmp_path):
    torch.manual_seed(3)
    policy, tokenizer = loaded(tiny(family, vocab_size=280))
    with torch.no_grad():
        for weight in policy.parameters():
            if weight.ndim > 1:
                weight.mul_(20)  # so that answers differ
    prompts = ["the cat", "a dog sat", "on the mat met the dog"]
    answers = greedy(policy, tokenizer, prompts)
    assert len({tuple(answer) for answer in answers}) == 3
    save_policy(policy, tokenizer, tmp_path, card())

    words, network = AutoTokenizer.from_pretrained(tmp_path), AutoModelForCausalLM.from_pretrained(tmp_path)
    assert {weight.dtype for weight in network.parameters()} == {torch.float32}
    for prompt, answer in zip(prompts, answers, strict=True):
        ids = words(prompt, return_tensors="pt")
        out = network.generate(**ids, max_new_tokens=12)[0, ids["input_ids"].shape[1] :]
        assert out.tolist() == answer
    again, same = loaded(Model(path=str(tmp_path)))
    assert greedy(again, same, prompts) == answers
    assert same.eos == tokenizer.eos


def test_the_folder_of_a_run_stands_for_its_policy(tmp_path):
    (tmp_path / "policy").mkdir()
    assert Model(path=str(tmp_path)) == Model(path=str(tmp_path / "policy"))


def test_a_saved_policy_remembers_every_end_token(real_data, tmp_path):
    policy, tokenizer = loaded(Model(path=str(real_data / "models" / "stories260K")))
    save_policy(policy, tokenizer, tmp_path, card())
    again, same = loaded(Model(path=str(tmp_path)))
    assert same.eos == (1, 2)
    prompts = ["One day, a little girl named Lily", "Tom had a red ball."]
    answers = greedy(policy, tokenizer, prompts, 60)
    assert greedy(again, same, prompts, 60) == answers
    assert same.prompts(prompts) == tokenizer.prompts(prompts)


def card():
    row = dict.fromkeys(("rouge1", "rouge2", "rougeL", "gleu"), 12.5) | {"n": 3}
    names = dict.fromkeys(("model", "method", "data", "protocol", "config_hash"), "x")
    return {**names, "seed": 0, "versions": {"esolab": "0"}, "scores": {"x": {"sample": row}}}


# families


def settings(family: str, **more):
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    return {"model_type": family, **shape, "max_position_embeddings": 64, **more}


GROUPED = {"num_key_value_heads": 1}


@pytest.mark.parametrize(
    "architecture",
    [settings("qwen2", **GROUPED), settings("mistral", **GROUPED), settings("phi")],
    ids=lambda a: a["model_type"],
)
def test_another_family_that_fits_is_accepted_and_exact(architecture, plain):
    assert architecture["model_type"] not in EXACT
    policy, tokenizer = loaded(Model(weights="random", architecture=architecture))
    assert worst(policy, plain, prompt=5, response=4) < 1e-4
    for prompt, answer in zip(TEXTS[:3], greedy(policy, tokenizer, TEXTS[:3]), strict=True):
        ids = torch.tensor(tokenizer.prompts([prompt]))
        out = policy.network.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=12)
        assert out[0, ids.shape[1] :].tolist() == answer


@pytest.mark.parametrize(
    ("architecture", "why"),
    [
        (settings("bert"), "log-probs differ"),  # looks ahead
        (settings("falcon", alibi=True), "cannot be scored"),  # its biases follow places, not positions
        (settings("granite", **GROUPED, logits_scaling=4.0), "log-probs differ"),  # a factor after the head
        ({"model_type": "bloom", "hidden_size": 16, "n_layer": 1, "n_head": 2}, "bloom"),  # ALiBi, no position ids
        (settings("lfm2", **GROUPED, layer_types=["conv", "full_attention"]), "cannot be scored"),  # branches mix
    ],
    ids=lambda value: value["model_type"] if isinstance(value, dict) else "",
)
def test_a_family_that_does_not_fit_is_refused_by_name(architecture, why):
    torch.manual_seed(0)
    with pytest.raises(BadInput, match=why) as caught:
        loaded(Model(weights="random", architecture=architecture))
    assert architecture["model_type"] in str(caught.value)


def test_the_check_leaves_the_weights_alone(monkeypatch):
    from esolab import models

    before = {}
    check = models._check_tree

    def spy(policy):
        before.update(copy.deepcopy(policy.state_dict()))
        check(policy)

    monkeypatch.setattr(models, "_check_tree", spy)
    policy, _ = loaded(Model(weights="random", architecture=settings("qwen2", **GROUPED)))
    assert before
    assert all(torch.equal(before[name], weight) for name, weight in policy.state_dict().items())
    assert all(weight.grad is None for weight in policy.parameters())


def test_attention_with_a_window_is_not_scored_beyond_it(plain):
    """Mistral's window, here of 8 tokens: refused, or counted among the positions, or exact; never silently wrong."""
    model = Model(weights="random", architecture=settings("mistral", **GROUPED, sliding_window=8))
    try:
        policy, _ = loaded(model)
    except BadInput:
        return
    if model.max_positions > 8:
        assert worst(policy, plain, prompt=20, response=10) < 1e-3


def worst(policy, plain, prompt: int, response: int) -> float:
    """Largest difference of the shared forward to plain ones, on weights that are felt."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in policy.eval().parameters():
            if weight.ndim > 1:
                weight.mul_(20)
        ids = torch.randint(policy.vocabulary, (1, prompt), generator=generator)
        answers = torch.randint(policy.vocabulary, (1, 2, response), generator=generator)
        branches = Tokens(answers, torch.tensor([[response, response - 1]]))
        tree = branch_logprobs(policy, Tokens(ids, torch.tensor([prompt])), branches)
        rows = [plain(policy, ids[0].tolist(), answers[0, k, : response - k].tolist()) for k in range(2)]
    assert torch.cat(rows).std() > 0.5
    return max(float((tree[0, k, : response - k] - rows[k]).abs().max()) for k in range(2))


# what is refused


def test_a_tokenizer_larger_than_the_model_is_refused(opt_folder, tmp_path_factory):
    larger = tmp_path_factory.mktemp("larger")
    tiny(vocab_size=600).load_tokenizer([*TEXTS, *(f"word{i} word{i}" for i in range(200))]).save(larger)
    model = Model(path=str(opt_folder), tokenizer=str(larger))
    with pytest.raises(BadInput, match=r"model.tokenizer: \d+ tokens, but the model has embeddings for \d+"):
        loaded(model)


@pytest.mark.parametrize("key", ["path", "tokenizer"])
def test_a_path_that_is_no_folder_is_refused_before_anything_is_read(key, tmp_path):
    file = tmp_path / "model.bin"
    file.write_text("")
    for wrong in (file, tmp_path / "nowhere"):
        with pytest.raises(BadInput, match=f"model.{key}: '.*' is not a folder"):
            Model(id="gpt2", **{key: str(wrong)})


def test_nothing_named_is_refused():
    with pytest.raises(BadInput, match="no model is named"):
        Model()


@pytest.mark.parametrize("kind", ["gpt5", None])
def test_an_unknown_model_type_is_refused(kind):
    with pytest.raises(BadInput, match=r"model_type: .* is not a model type of transformers"):
        loaded(Model(weights="random", architecture={"model_type": kind, "n_layer": 1}))


def test_a_folder_without_weights_or_tokenizer_is_refused(opt_folder, tmp_path_factory):
    empty = tmp_path_factory.mktemp("empty")
    with pytest.raises(BadInput, match=r"cannot (read|use) the tokenizer of"):
        Model(path=str(empty)).load_tokenizer([])
    tokenizer = Model(path=str(opt_folder)).load_tokenizer([])
    with pytest.raises(BadInput, match=r"cannot (read|use) the weights of"):
        Model(path=str(empty)).load_policy(tokenizer)
    (opt_folder / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(BadInput, match=r"cannot (read|use) the weights of"):
        Model(path=str(opt_folder)).load_policy(tokenizer)


def test_a_tokenizer_without_an_end_token_is_refused(tmp_path):
    inner = tiny().load_tokenizer(TEXTS).inner
    PreTrainedTokenizerFast(tokenizer_object=inner.backend_tokenizer).save_pretrained(tmp_path)
    with pytest.raises(BadInput, match="names no end-of-text token"):
        Model(id="none", tokenizer=str(tmp_path)).load_tokenizer([])


def test_a_settings_mistake_in_the_architecture_is_refused():
    wrong = {"model_type": "gpt2", "n_layer": 1, "n_embd": 15, "n_head": 2}  # 15 does not divide by 2
    with pytest.raises(BadInput, match="model"):
        loaded(Model(weights="random", architecture=wrong))
