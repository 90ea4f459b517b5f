import json

import pytest

from esolab.bench.step_time import main, read, table


def result(method, seconds):
    return {
        "method": method,
        "model": "tiny",
        "data": "newswire",
        "timing": {"step_seconds_median": seconds, "phases": {"sample": 4.0, "reward": 1.0, "update": 3.0}},
        "train": {"steps": 2, "sampled_tokens": 128, "scored_tokens": 256},
        "peak_rss_bytes": 2e9,
    }


@pytest.fixture
def folder(tmp_path):
    for method, seconds in (("eso", 4.0), ("sft", 1.0), ("nes", 9.0)):
        (tmp_path / method).mkdir()
        (tmp_path / method / "result.json").write_text(json.dumps(result(method, seconds)))
    return tmp_path


def test_methods_of_the_paper_in_its_order_per_step(folder):
    made = table(read(folder))
    cells = [list(column.cells) for column in made.columns]
    assert cells[0] == ["sft", "eso"]
    assert [column[1] for column in cells] == ["eso", "4.000", "2.000", "0.500", "1.500", "64", "128", "2.00", "3.2"]
    assert cells[-1][0] == ""  # the paper gives none for SFT


def test_bad_input_is_one_message_and_exit_code_2(tmp_path, capsys):
    assert main([str(tmp_path)]) == 2
    assert "no finished run" in capsys.readouterr().err
    assert main([]) == 2
