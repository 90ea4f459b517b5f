"""Token ids that have been made are read back, whatever happens to the file."""

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
def made(monkeypatch, tmp_path):
    """How often a corpus was tokenised; every corpus is large, and the folder is this test's."""
    calls, prompts = [], Tokenizer.prompts
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(store, "LARGE", 0)
    monkeypatch.setattr(Tokenizer, "prompts", lambda self, texts: calls.append(len(texts)) or prompts(self, texts))
    return calls


def test_a_large_corpus_is_tokenised_once(made):
    first, second = encode(EXAMPLES, tokenizer()), encode(EXAMPLES, tokenizer())
    assert made == [40]
    assert first == second
    assert len({len(row.prompt) for row in second}) > 1
    assert all(type(token) is int for row in second for token in row.prompt + row.reference)


@pytest.mark.parametrize(
    "other",
    [
        lambda: encode(EXAMPLES[:-1], tokenizer()),
        lambda: encode([*EXAMPLES[:-1], Example("39", "w1", "w2", (0, 0))], tokenizer()),
        lambda: encode(EXAMPLES, tokenizer(eos=(48,))),
        lambda: encode(EXAMPLES, tokenizer(bos=False)),
        lambda: encode(EXAMPLES, tokenizer({name: (i + 1) % 50 for name, i in WORDS.items()})),
    ],
)
def test_another_text_or_tokenizer_is_another_corpus(made, other):
    encode(EXAMPLES, tokenizer())
    other()
    assert len(made) == 2


def test_no_examples_are_no_rows(made):
    assert encode([], tokenizer()) == encode([], tokenizer()) == []


def test_a_small_corpus_is_not_kept(made, monkeypatch):
    monkeypatch.setattr(store, "LARGE", 10**6)
    assert encode(EXAMPLES, tokenizer()) == encode(EXAMPLES, tokenizer())
    assert made == [40, 40]
    assert not store.folder().exists()


def test_a_broken_file_is_made_anew(made, caplog):
    expected = encode(EXAMPLES, tokenizer())
    (file,) = store.folder().iterdir()
    file.write_bytes(file.read_bytes()[:100])
    assert encode(EXAMPLES, tokenizer()) == expected
    assert "made anew" in caplog.text
    assert encode(EXAMPLES, tokenizer()) == expected
    assert made == [40, 40]
    assert list(store.folder().iterdir()) == [file]


def test_a_folder_that_cannot_be_written_is_no_harm(made, monkeypatch, tmp_path, caplog):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert encode(EXAMPLES, tokenizer()) == encode(EXAMPLES, tokenizer())
    assert "not kept" in caplog.text
