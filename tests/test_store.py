"""Token ids that have been made are read back, whatever happens to the file."""

from dataclasses import replace

import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from esolab import store
from esolab.batch import Example
from esolab.data import encode
from esolab.policy import Tokenizer

WORDS = {f"w{i}": i for i in range(50)}
EXAMPLES = [Example(str(i), f"w{i % 50} w{i % 7}" + " w1" * (i % 3), f"w{i % 11}", (0, 0)) for i in range(40)]


def tokenizer(words=WORDS, **settings):
    backend = Backend(models.WordLevel(words, unk_token="w0"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return Tokenizer(PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="w49"), **{"eos": (49,), **settings})


@pytest.fixture
def made(monkeypatch):
    """How often a corpus was tokenised; every corpus is large."""
    calls, prompts = [], Tokenizer.prompts
    monkeypatch.setattr(store, "LARGE", 0)
    monkeypatch.setattr(Tokenizer, "prompts", lambda self, texts: calls.append(len(texts)) or prompts(self, texts))
    return calls


def test_a_large_corpus_is_tokenised_once(made, tmp_path):
    first, second = (encode(EXAMPLES, tokenizer(), tmp_path / "new") for _ in range(2))
    assert made == [40]
    assert first == second == encode(EXAMPLES, tokenizer())
    assert len({len(row.prompt) for row in second}) > 1
    assert all(type(token) is int for row in second for token in row.prompt + row.reference)


OTHERS = {
    "fewer": (EXAMPLES[:-1], {}),
    "another text": ([*EXAMPLES[:-1], Example("39", "w1", "w2", (0, 0))], {}),
    "another end": (EXAMPLES, {"eos": (48,)}),
    "without leading tokens": (EXAMPLES, {"bos": False}),
    "another vocabulary": (EXAMPLES, {"words": {name: (i + 1) % 50 for name, i in WORDS.items()}}),
}


@pytest.mark.parametrize("other", OTHERS)
def test_another_text_or_tokenizer_is_another_corpus(made, tmp_path, other):
    examples, settings = OTHERS[other]
    encode(EXAMPLES, tokenizer(), tmp_path)
    encode(examples, tokenizer(**settings), tmp_path)
    assert len(made) == 2


def test_no_examples_are_no_rows(made, tmp_path):
    assert encode([], tokenizer(), tmp_path) == encode([], tokenizer(), tmp_path) == []


def test_a_small_corpus_is_not_kept(made, monkeypatch, tmp_path):
    monkeypatch.setattr(store, "LARGE", 10**6)
    assert encode(EXAMPLES, tokenizer(), tmp_path) == encode(EXAMPLES, tokenizer(), tmp_path)
    assert made == [40, 40]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("size", [0, 100])
def test_a_broken_file_is_made_anew(made, caplog, tmp_path, size):
    expected = encode(EXAMPLES, tokenizer(), tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:size])
    assert encode(EXAMPLES, tokenizer(), tmp_path) == expected
    assert "made anew" in caplog.text
    assert encode(EXAMPLES, tokenizer(), tmp_path) == expected
    assert made == [40, 40]
    assert list(tmp_path.iterdir()) == [file]


def test_a_folder_that_cannot_be_written_is_no_harm(made, tmp_path, caplog):
    (tmp_path / "file").write_text("")
    below = tmp_path / "file" / "below"
    assert encode(EXAMPLES, tokenizer(), below) == encode(EXAMPLES, tokenizer(), below)
    assert "not kept" in caplog.text


def test_pairs_are_kept_with_both_replies(made, tmp_path):
    pairs = [replace(e, rejected=f"w{i} w2") if i % 3 else e for i, e in enumerate(EXAMPLES)]
    first, second = (encode(pairs, tokenizer(), tmp_path) for _ in range(2))
    assert made == [40]
    assert first == second == encode(pairs, tokenizer())
    assert [row.rejected for row in second[:3]] == [None, [1, 2, 49], [2, 2, 49]]
    encode(EXAMPLES, tokenizer(), tmp_path)
    assert len(made) == 3  # without the rejected replies it is another corpus
