"""A few of the kills of `make torture`."""

import json
from pathlib import Path

import pytest
from torture import PLACES, kept, torture


def test_runs_are_compared_by_all_that_they_count_and_score(tmp_path: Path) -> None:
    def left(steps: int, rouge: float, seconds: float) -> dict[str, bytes]:
        made = {"timing": {"wall_seconds": seconds}, "peak_rss_bytes": int(seconds), "git_commit": f"{seconds}"}
        trunk = {"hash": "0123abcd", "wall_seconds": seconds, "git_commit": f"{seconds}"}
        result = {**made, "train": {"steps": steps}, "scores": {"x": {"sample": {"rougeL": rouge}}}, "trunk": trunk}
        (tmp_path / "result.json").write_text(json.dumps(result))
        return kept(tmp_path)

    (tmp_path / "policy").mkdir()
    for name in ("predictions.jsonl", "samples.jsonl"):
        (tmp_path / name).touch()
    (tmp_path / "metrics.csv").write_text("step,loss,seconds/update\n1,2.0,0.1\n")
    assert left(12, 31.5, 1.0) == left(12, 31.5, 2.0)
    assert left(12, 31.5, 1.0) != left(13, 31.5, 1.0)
    assert left(12, 31.5, 1.0) != left(12, 31.6, 1.0)


@pytest.mark.slow
def test_killed_runs_end_as_if_they_had_not_been() -> None:
    summary = torture(kills=8, each=1)
    assert set(summary.kills) == set(PLACES)
    assert summary.compared
