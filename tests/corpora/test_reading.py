import gzip
import json
import subprocess
import sys
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from esolab.corpora.reading import Row, data_files, read
from esolab.errors import BadInput

RECORDS = [{"a": "one", "b": "x\u2028y"}, {"a": "twö", "b": ""}]
LINES = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in RECORDS)


def columns(path: Path) -> list[dict[str, object]]:
    rows = list(read(path))
    assert all(isinstance(row, Row) for row in rows), rows
    return [row.columns for row in rows]


def places(path: Path) -> list[str]:
    return [row.place.removeprefix(f"{path}, ") for row in read(path)]


@pytest.mark.parametrize("name", ["f.jsonl", "f.json", "f.jsonl.gz", "F.JSONL", "f.json.gz"])
def test_json_lines(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    content = ("\ufeff" + LINES.replace("\n", "\r\n\n")).encode()
    path.write_bytes(gzip.compress(content, mtime=0) if name.endswith("gz") else content)
    assert columns(path) == RECORDS
    assert places(path) == ["line 1", "line 3"]  # blank lines are fine and counted


def test_json_list(tmp_path: Path) -> None:
    path = tmp_path / "f.json"
    path.write_text(json.dumps(RECORDS, indent=1), "utf-8")
    assert columns(path) == RECORDS
    assert places(path) == ["record 1", "record 2"]


@pytest.mark.parametrize("name", ["f.csv", "f.csv.gz"])
def test_csv(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    content = '\ufeffa,b\r\none,"two\r\nlines, ""quoted"""\r\nthree,\r\n'.encode()
    path.write_bytes(gzip.compress(content, mtime=0) if name.endswith("gz") else content)
    assert columns(path) == [{"a": "one", "b": 'two\r\nlines, "quoted"'}, {"a": "three", "b": ""}]
    assert places(path) == ["line 3", "line 4"]


def test_parquet(tmp_path: Path) -> None:
    path = tmp_path / "f.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(RECORDS), path)
    assert columns(path) == RECORDS
    assert places(path) == ["record 1", "record 2"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("f.jsonl", b'{"a": "x"}\n{"a": \n', "f.jsonl, line 2: bad JSON (Expecting value at column 6): '{\"a\":'"),
        ("f.jsonl", b'{"a": "x"}\n["a"]\n', "f.jsonl, line 2: not a JSON object but ['a']"),
        ("f.jsonl", b'{"a": "x"}\n{"a": "\xff"}\n', "f.jsonl, line 2: not UTF-8 (invalid start byte at byte 7)"),
        (
            "f.jsonl",
            b'{"a": "x"}\n{"a": ' + b"1" * 5000 + b"}\n",
            "f.jsonl, line 2: bad JSON (Exceeds the limit (4300 digits) for integer string conversion",
        ),
        ("f.jsonl", b'{"a": "x"}\n' + b"[" * 100_000 + b"\n", "f.jsonl, line 2: bad JSON (too deeply nested): '[[["),
        ("f.json", b'[{"a": "x"}, 7]', "f.json, record 2: not a JSON object but 7"),
        ("f.csv", b"a,b\n1,2\n3\n", "f.csv, line 3: not as many cells as the header has"),
        ("f.csv", b"a,b\n1,2\n3,4,5\n", "f.csv, line 3: not as many cells as the header has"),
    ],
)
def test_a_bad_record_is_named_and_the_rest_is_read(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    first, bad = read(tmp_path / name)
    assert isinstance(first, Row)
    assert isinstance(bad, BadInput)
    assert message in str(bad)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("f.json", b'[{"a": "x"},\n {]', "f.json, line 2: bad JSON"),
        ("f.json", b"[" + b"1" * 5000 + b"]", "f.json: bad JSON (Exceeds the limit (4300 digits)"),
        ("f.json", b"[" * 100_000, "f.json: bad JSON (too deeply nested)"),
        ("f.json", b'["\xff"]', "f.json: cannot be read ('utf-8' codec"),
        ("f.jsonl.gz", b"no gzip", "f.jsonl.gz: cannot be read (Not a gzipped file"),
        (
            "f.jsonl.gz",
            gzip.compress(LINES.encode() * 99, mtime=0)[:-20],
            "f.jsonl.gz: cannot be read (Compressed file ended",
        ),
        ("f.jsonl.gz", gzip.compress(b"x", mtime=0)[:10] + b"\xff" * 20, "f.jsonl.gz: cannot be read (Error -3"),
        ("f.parquet", b"no parquet, but long enough", "f.parquet: cannot be read as Parquet ("),
        ("f.csv", b'a,b\n1,"open\n2,3\n', "f.csv, after line 1: bad CSV (unexpected end of data)"),
        ("f.csv", b"a\n\xff\n", "f.csv, after line 1: bad CSV ('utf-8' codec"),
        ("f.txt", b"", "f.txt: not a kind of file that is read; those are .jsonl, .json, .csv, .parquet"),
    ],
)
def test_a_file_that_cannot_be_read(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadInput) as caught:
        list(read(tmp_path / name))
    assert str(caught.value).startswith(f"{tmp_path}/{message}")


def test_a_bad_parquet_file_is_said_once(tmp_path: Path) -> None:
    """By us: the library would log it, too."""
    (tmp_path / "f.parquet").write_bytes(b"no parquet, but long enough")
    code = "import sys, pathlib; from esolab.corpora.reading import read\ntry: list(read(pathlib.Path(sys.argv[1])))\n"
    code += "except ValueError as error: print(error)"
    command = [sys.executable, "-c", code, str(tmp_path / "f.parquet")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"{tmp_path}/f.parquet: cannot be read as Parquet (")
    assert done.stderr == ""


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"gone\.jsonl: cannot be read \(.*No such file"):
        list(read(tmp_path / "gone.jsonl"))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (3, "f, line 1: 'a' should be text and is 3"),
        (None, "f, line 1: 'a' should be text and is None"),
        ("x" * 100, ""),
        (["x" * 100], f"f, line 1: 'a' should be text and is ['{'x' * 57}…"),
        (" \n", r"f, line 1: 'a' is empty: ' \n'"),
        ("\ud83d", r"f, line 1: 'a' holds half of a surrogate pair: '\ud83d'"),
    ],
)
def test_text(value: object, message: str) -> None:
    row = Row("f, line 1", {"a": value})
    if not message:
        assert row.text("b", "a") == value
        return
    with pytest.raises(BadInput) as caught:
        row.text("a")
    assert str(caught.value) == message


def test_a_missing_column_names_those_found() -> None:
    with pytest.raises(BadInput) as caught:
        Row("f, line 1", {"x": "1", "y": "2"}).text("a", "b")
    assert str(caught.value) == (
        "f, line 1: no column 'a' or 'b'; columns found: x, y. "
        "data=file data.prompt=COLUMN data.reference=COLUMN reads columns of any name"
    )


def test_optional_text_and_keys() -> None:
    row = Row("f, line 1", {"a": None, "b": " ", "n": 7, "t": True, "list": [{"a": "x"}], "none": []})
    assert (row.optional("a"), row.optional("gone"), row.optional("a", "b")) == ("", "", " ")
    assert row.key("n") == "7"
    with pytest.raises(BadInput, match="'t' should be text and is True"):
        row.key("t")
    with pytest.raises(BadInput, match="'n' should be text and is 7"):
        row.optional("n")
    assert row.first("list") == Row("f, line 1, list[0]", {"a": "x"})
    with pytest.raises(BadInput, match=r"line 1: 'none' should be a list of objects and is \[\]"):
        row.first("none")


def test_the_same_file_plain_and_zipped_is_refused(tmp_path: Path) -> None:
    for name in ("train.jsonl", "train.jsonl.gz", "README.md"):
        (tmp_path / name).touch()
    with pytest.raises(BadInput, match=r"train\.jsonl and train\.jsonl\.gz would be read as two files: remove one"):
        data_files(tmp_path)


def test_importing_a_corpus_loads_no_library_for_files_or_the_hub() -> None:
    heavy = ("datasets", "pyarrow", "huggingface_hub", "transformers")
    code = f"import sys, esolab.corpora.dolly, esolab.corpora.file; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
