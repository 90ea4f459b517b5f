import json
import subprocess

import pytest

from esolab.bench import race
from esolab.bench.__main__ import heats, main, parser
from esolab.bench.job import Job
from esolab.bench.race import Heat
from esolab.bench.table import explain, tables

ROW = {
    "workload", "contender", "model", "dtype", "lengths", "seconds", "phases", "tokens", "peak_rss_bytes", "ratio",
    "roofline", "prompts", "k",
}  # fmt: skip
SECONDS = {"esolab": [2.0, 4.0, 2.0], "plain": [8.0, 12.0, 20.0], "trl": [10.0, 30.0, 10.0]}
WORK = Job("xsum", "")


def found(seconds, references=5):
    tokens = {"prompts": 9, "sampled": 8, "scored": 8, "references": references}
    phases = {"sample": seconds / 2, "reward": 0.0, "update": seconds / 2}
    return {"seconds": seconds, "phases": phases, "tokens": tokens, "peak_bytes": int(seconds)}


@pytest.fixture
def children(monkeypatch):
    """Children that answer at once; the list is of those called."""
    called = []

    def child(job, seconds):
        if seconds <= 0:
            raise subprocess.TimeoutExpired("child", seconds)
        called.append(job)
        if job.contender == "machine":
            return {"rates": {"copy": 1.0}, "least": {"sample": 0.5, "reward": 0.0, "update": 0.5}}
        if job.contender == "authors":
            raise subprocess.CalledProcessError(1, "", stderr="Traceback\nMemoryError: too much")
        turn = sum(j.contender == job.contender for j in called) - 1
        return found(SECONDS[job.contender][turn % 3] * job.k / 4, 0 if job.contender == "trl" else 5)

    monkeypatch.setattr(race, "child", child)
    return called


def test_contenders_take_turns():
    order = [name for name, _ in Heat(WORK, ["esolab", "plain"], 3).turns()]
    assert order == ["machine", "esolab", "plain", "machine", "plain", "esolab", "machine", "esolab", "plain"]


def test_rows_are_medians_and_ratios_of_the_same_round(children, tmp_path):
    result = race.run([Heat(WORK, ["esolab", "plain", "trl"], 3)], tmp_path / "result.json", {"command": "race"})
    esolab, plain, trl, generate = result["rows"]
    assert [r["contender"] for r in result["rows"]] == ["esolab", "plain", "trl", "generate"]
    assert (esolab["seconds"], esolab["ratio"]) == (2.0, 1.0)
    assert (plain["seconds"], plain["ratio"]) == (12.0, 4.0)  # 4, 3, 10
    assert (trl["ratio"], trl["roofline"]) == (5.0, None)  # it leaves the references out
    assert esolab["roofline"] == 0.5  # 1/2, 1/4, 1/2
    assert plain["peak_rss_bytes"] == 20
    assert (generate["seconds"], generate["ratio"]) == (6.0, 4.0)
    assert json.loads((tmp_path / "result.json").read_text()) == result
    assert all(set(row) == ROW for row in result["rows"])
    assert [t.row_count for t in tables(result["rows"])] == [4]
    assert "sample 1.00 s of which 0.50 s is the least" in explain(result)[0]


def test_other_k_are_measured_against_the_headline(children, tmp_path):
    rows = race.run([Heat(WORK, ["esolab", "esolab-k8"], 1)], tmp_path / "result.json", {})["rows"]
    assert [(row["contender"], row["ratio"]) for row in rows] == [("esolab", 1.0), ("esolab-k8", 4.0)]
    assert [row["k"] for row in rows] == [4, 8]
    assert [row["roofline"] for row in rows] == [0.5, None]  # the least is that of the work named
    assert [job.k for job in children if job.contender == "esolab"] == [4, 8]


def test_a_contender_that_fails_is_left_out_and_named(children, tmp_path):
    result = race.run([Heat(WORK, ["authors", "esolab"], 2)], tmp_path / "result.json", {})
    assert [row["contender"] for row in result["rows"]] == ["esolab"]
    assert list(result["failed"].values()) == ["MemoryError: too much"]
    assert [job.contender for job in children].count("authors") == 1


def test_who_is_not_done_in_time_is_left_out(children, tmp_path):
    result = race.run([Heat(WORK, ["esolab"], 1)], tmp_path / "result.json", {}, until=0.0)
    assert (result["rows"], set(result["failed"].values())) == ([], {"no time was left"})


def test_a_child_that_takes_too_long_is_stopped(tmp_path):
    with pytest.raises(subprocess.TimeoutExpired):
        race.child(WORK, 0.01)


def test_unequal_work_is_refused():
    heat = Heat(WORK, ["esolab", "plain"], 1, {"esolab": [found(1.0)], "plain": [found(1.0)]})
    heat.check_tokens()
    heat.found["plain"][0]["tokens"]["scored"] -= 1
    with pytest.raises(RuntimeError, match="scored"):
        heat.check_tokens()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--contenders", "esolab,nobody"], "'nobody' is not one of esolab, authors, plain, trl"),
        (["--data", "/no/such/folder"], "there is no such folder"),
        (["--rounds", "0"], "not a whole number above 0"),
        (["--speed"], "unrecognized arguments: --speed"),
    ],
)
def test_bad_input_is_one_message_and_exit_code_2(capsys, arguments, message):
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert message in err
    assert (out, err.count("\n")) == ("", 1)


def test_without_trl_it_is_skipped_in_one_line(children, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("esolab.bench.__main__.find_spec", lambda name: None)
    assert main(["--workloads", "dolly", "--contenders", "esolab,trl", "--rounds", "1", "--out", str(tmp_path)]) == 0
    assert "trl is not installed" in capsys.readouterr().err
    assert {job.contender for job in children} == {"machine", "esolab"}


def test_all_begins_with_the_headline(children, tmp_path):
    arguments = [
        "--workloads",
        "xsum",
        "--contenders",
        "esolab,plain",
        "--all",
        "--rounds",
        "1",
        "--out",
        str(tmp_path),
    ]
    assert main(arguments) == 0
    rows = json.loads((tmp_path / "result.json").read_text())["rows"]
    assert [rows[0][key] for key in ("contender", "model", "dtype", "lengths")] == [
        "esolab",
        "gpt2",
        "float32",
        "fixed",
    ]
    kinds = {(row["model"], row["dtype"], row["lengths"]) for row in rows}
    assert kinds == {
        ("gpt2", "float32", "fixed"),
        ("gpt2", "float32", "ragged"),
        ("tiny", "float32", "fixed"),
        ("gpt2", "bfloat16", "fixed"),
    }
    assert {"esolab-k2", "esolab-k8"} <= {row["contender"] for row in rows}


def test_no_work_is_raced_twice():
    chosen = parser().parse_args(["--all", "--lengths", "fixed,ragged", "--workloads", "xsum"])
    jobs = [heat.job for heat in heats(chosen, ["esolab"])]
    assert len(jobs) == len(set(jobs)) == 4
    assert [job.lengths for job in jobs[:2]] == ["fixed", "ragged"]


def test_the_parent_is_light():
    code = (
        "import sys, esolab.bench.__main__; print([m for m in ('torch', 'transformers', 'hydra') if m in sys.modules])"
    )
    import sys

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("lengths", ["fixed", "ragged"])
def test_trl_does_the_same_work_in_a_process_of_its_own(dtype, lengths):
    pytest.importorskip("trl")
    work = Job("xsum", "", model="tiny", dtype=dtype, lengths=lengths, prompts=2, max_new=30, max_prompt=20)
    heat = Heat(work, ["esolab", "trl"], 1)
    for name, job in heat.turns():
        heat.found.setdefault(name, []).append(race.child(job))
    heat.check_tokens()
    assert heat.found["trl"][0]["tokens"]["references"] == 0
    assert all(row["peak_rss_bytes"] > 1e8 for row in heat.rows())
    assert heat.row("esolab")["roofline"] > 0
