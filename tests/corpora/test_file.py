from collections.abc import Callable
from pathlib import Path

import pytest

from esolab.corpora.file import File
from esolab.errors import BadInput

RECORD = {"prompt": "Say it.", "reference": "It.", "title": "T", "body": "B {x}", "n": 3}


def only(path: Path, **columns: str) -> tuple[str, str, str, str]:
    (example,) = File(path=str(path.parent), **columns)().test
    return example.id, example.prompt, example.reference, example.prompt[slice(*example.span)]


def refusal(path: Path, **columns: str) -> str:
    with pytest.raises(BadInput) as caught:
        File(path=str(path.parent), **columns)()
    return str(caught.value)


def test_columns(write: Callable[..., Path]) -> None:
    path = write("test.jsonl", [RECORD])
    assert only(path) == ("file/test/0", "Say it.", "It.", "Say it.")
    assert only(path, prompt="title", reference="body", id="n") == ("3", "T", "B {x}", "T")


def test_the_other_reply_of_a_pair(write: Callable[..., Path]) -> None:
    path = write("test.jsonl", [RECORD | {"worse": "That."}])
    (example,) = File(path=str(path.parent), rejected="worse")().test
    assert (example.reference, example.rejected) == ("It.", "That.")
    assert File(path=str(path.parent))().test[0].rejected is None
    assert "no column 'gone'" in refusal(path, rejected="gone")


def test_csv_columns(tmp_path: Path) -> None:
    (tmp_path / "test.csv").write_text("key,question,answer\nq1,Why?,Because.\n")
    assert only(tmp_path / "test.csv", prompt="question", reference="answer", id="key") == (
        "q1",
        "Why?",
        "Because.",
        "Why?",
    )


def test_template(write: Callable[..., Path]) -> None:
    path = write("test.jsonl", [RECORD])
    template = "{{{title}}}: {body}\n\nAnswer:"
    filled = "{T}: B {x}\n\nAnswer:"
    assert only(path, template=template) == ("file/test/0", filled, "It.", "B {x}")
    assert only(path, template=template, prompt="title")[3] == "T"


def test_the_span_skips_blank_columns(write: Callable[..., Path]) -> None:
    path = write("test.jsonl", [RECORD | {"body": " "}])
    assert only(path, template="{title}: {body}")[3] == "T"
    assert refusal(path, template="{body}").startswith(f"{path}, line 1: the prompt is empty")


def test_a_path_is_needed() -> None:
    with pytest.raises(BadInput, match=r"data=file reads local files only: set data\.path=FILE_OR_DIR"):
        File()()


@pytest.mark.parametrize(
    "columns", [{"template": "{title} {gone}"}, {"prompt": "gone"}, {"reference": "gone"}, {"id": "gone"}]
)
def test_an_unknown_column_names_those_found(write: Callable[..., Path], columns: dict[str, str]) -> None:
    path = write("test.jsonl", [RECORD])
    told = refusal(path, **columns)
    assert told.startswith(
        f"{path}, line 1: no column 'gone'; columns found: prompt, reference, title, body, n. "
        "data=file data.prompt=COLUMN data.reference=COLUMN reads columns of any name"
    )


@pytest.mark.parametrize(
    ("template", "what"),
    [
        ("{title", "expected '}' before end of string; a brace of the text is written twice"),
        ("no field", "needs {column} fields, each a plain column name"),
        ("{title} {}", "needs {column} fields, each a plain column name"),
        ("{title:>9}", "needs {column} fields, each a plain column name"),
        ("{title!r}", "needs {column} fields, each a plain column name"),
    ],
)
def test_a_template_that_cannot_be_filled(write: Callable[..., Path], template: str, what: str) -> None:
    path = write("test.jsonl", [RECORD])
    assert refusal(path, template=template) == f"data.template={template!r}: {what}"


def test_bad_values(write: Callable[..., Path]) -> None:
    path = write("test.jsonl", [RECORD, RECORD | {"prompt": " "}, RECORD | {"reference": ""}, RECORD | {"n": 3.5}])
    assert refusal(path).startswith(f"{path}, line 2: the prompt is empty. data.skip_bad=true leaves such records out")
    assert refusal(path, id="n").startswith(f"{path}, line 2: the prompt is empty")
    assert refusal(path, prompt="n").startswith(f"{path}, line 1: 'n' should be text and is 3")
    splits = File(path=str(path.parent), skip_bad=True)()
    assert (len(splits.test), splits.skipped) == (2, 2)


def test_a_repeated_id(write: Callable[..., Path]) -> None:
    path = write("test.jsonl", [RECORD, RECORD])
    assert refusal(path, id="n").startswith(
        f"{path}, line 2: the id '3' was used before, in {path}, line 1. data.skip_bad"
    )


def test_real(shared: Path) -> None:
    splits = File(path=str(shared / "tinystories"))()
    assert (len(splits.train), len(splits.dev), len(splits.test)) == (1447, 160, 285)
    assert splits.test[0].prompt.startswith("One day, a little girl named Lily found a needle")
