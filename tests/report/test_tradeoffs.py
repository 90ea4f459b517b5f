"""Rewards of several parts."""

from collections.abc import Callable
from pathlib import Path

from esolab.report.tradeoffs import undominated

Make = Callable[..., Path]


def test_a_point_is_dominated_by_one_that_is_nowhere_lower_and_somewhere_higher() -> None:
    points = [[1.0, 0.0], [0.0, 1.0], [0.5, 0.5], [0.5, 0.4], [0.4, 0.4], [1.0, 0.0]]
    assert undominated(points) == [True, True, True, False, False, True]
    assert undominated([[3.0, -1.0, 2.0], [3.0, -1.0, 2.5]]) == [False, True]


def rows(*values: tuple[int, float | str, float | str]) -> list[dict[str, object]]:
    """Rows of metrics.csv: epoch, and two parts beside the columns that are no part's."""
    other = {"reward/mean": 7, "reward/spread": 7, "reward/flat": 7, "reward/0_t0.5": 7}
    return [{"step": i, "epoch": e, "reward/harm": x, "reward/help": y, **other} for i, (e, x, y) in enumerate(values)]


def test_parts_are_means_over_the_last_epoch_that_sampled(
    run: Make, say: Callable[..., str], cells: Callable[[str, str], list[str]]
) -> None:
    run("method=eso-0000000a", metrics=rows((0, 9, 9), (1, 1.0, 0.25), (1, 2.0, 0.75), (1, "nan", 0.5), (2, "", "")))
    run("method=ppo-0000000b", metrics=rows((3, 1.0, 0.5)))
    run("method=rloo-0000000c", metrics=rows((0, -1.0, 0.75)))
    out = say()
    assert "hh: parts of the reward" in out
    assert cells(out, "run") == ["run", "harm", "help", "not dominated"]
    assert cells(out, "ESO") == ["ESO", "1.5000", "0.5000", "yes"]
    assert cells(out, "PPO") == ["PPO", "1.0000", "0.5000", ""]
    assert cells(out, "RLOO") == ["RLOO", "-1.0000", "0.7500", "yes"]


def test_only_runs_with_the_same_parts_are_compared(run: Make, say: Callable[..., str]) -> None:
    run("method=eso-0000000a", metrics=rows((0, 1, 1)))
    run("method=ppo-0000000b", metrics=[{"step": 1, "epoch": 0, "reward/harm": 1, "reward/length": 1}])
    for method in ("rloo", "drl"):
        run(f"method={method}-0000000c", metrics=[{"step": 1, "epoch": 0, "reward/harm": 1}])
    run("method=grpo-0000000d", metrics=rows((0, 1, 1)), data="file")
    assert "parts of the reward" not in say()
    run("method=nes-0000000e", metrics=rows((0, 1, 1)))
    assert say().count("parts of the reward") == 1


def test_a_part_without_a_number_is_left_out(run: Make, say: Callable[..., str]) -> None:
    for name in "ab":
        run(f"method=eso,seed={name}-0000000{name}", metrics=rows((0, "nan", 1)))
    assert "parts of the reward" not in say()


def test_damaged_metrics_are_named(run: Make, refuse: Callable[..., str]) -> None:
    folder = run("method=eso-0000000a", metrics=rows((0, "x", 1)))
    assert refuse().startswith(f"{folder / 'metrics.csv'} is damaged (")
