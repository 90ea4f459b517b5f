"""What the tests of the corpora share: records written to files, and the project's real data where it is there."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from esolab.batch import Example

Write = Callable[[str, Iterable[dict]], Path]
Lengths = Callable[[list[Example], list[Example]], tuple[int, int]]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """write("dolly/train.jsonl", records): a file of JSON lines under tmp_path."""

    def write(name: str, records: Iterable[dict]) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(record) + "\n" for record in records), "utf-8")
        return path

    return write


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data beside the repository; the test is skipped where there is none."""
    folder = Path(__file__).parents[2].parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"REAL DATA NOT CHECKED: there is no {folder}")
    return folder


@pytest.fixture
def lengths_in_tokens() -> Lengths:
    """The most tokens of a prompt and of a reference with its end, in a byte-level BPE trained on the first examples.

    Prompt and reference must be the same tokens apart as together.
    """

    def lengths(train: list[Example], examples: list[Example]) -> tuple[int, int]:
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=2000, initial_alphabet=alphabet, show_progress=False)
        tokenizer.train_from_iterator([text for e in train for text in (e.prompt, e.reference)], trainer)
        prompts, references = (
            [tokenizer.encode(t).ids for t in texts] for texts in zip(*map(texts_of, examples), strict=True)
        )
        assert [tokenizer.encode(e.prompt + e.reference).ids for e in examples] == list(
            map(list.__add__, prompts, references)
        )
        return max(map(len, prompts)), max(map(len, references)) + 1

    return lengths


def texts_of(example: Example) -> tuple[str, str]:
    return example.prompt, example.reference
