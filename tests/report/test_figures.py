"""What is drawn, as numbers: means and spreads over seeds, and which figures there are."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from esolab.report import static
from esolab.report.curves import Point, by_step, last_epoch, over_seeds, stretch_for
from esolab.report.figures import Figure, Series, figures, reach, ticks
from esolab.report.findings import findings
from esolab.report.plots import plot
from esolab.report.static import write_figures
from esolab.report.styles import BASE, styles

Make = Callable[..., Path]


@pytest.fixture
def sweep(run: Make, tmp_path: Path) -> Callable[..., dict[str, Figure]]:
    """Two seeds of SFT and of ESO at each lambda: ROUGE-L is 10 times the method's place and the seed; the figures."""

    def make(lams: tuple[float, ...] = (0.5,), k: int = 4) -> dict[str, Figure]:
        for place, (method, lam) in enumerate([("sft", None), *(("eso", lam) for lam in lams)]):
            for seed in (0, 1):
                own = {"k": k} | ({} if lam is None else {"lam": lam})
                row = {"n": 2, "rouge1": 1.0, "rouge2": 1.0, "rougeL": 10.0 * place + seed, "gleu": 1.0, "length": 3.0}
                folder = run(
                    f"method={method},lam={lam},seed={seed}-0000000{place}",
                    {"a": ("x", 0.25 * place), "b": ("y", 0.25)},
                    metrics=_metrics(place, seed),
                    data="d",
                    seed=seed,
                    setting=f"s{seed}",
                    but_for_seed=f"{method}{lam}",
                    scores={"d": {"sample": row, "greedy": {**row, "rougeL": 30.0}}},
                    train={f"{name}_tokens": 100 * (place + 1) for name in ("sampled", "forward", "backward")}
                    | {"steps": 4},
                )
                config: dict[str, Any] = {"sampling": {"k": k}, "choices": {"method": method}}
                config |= {"method": {"lam": lam}} if "lam" in own else {}
                (folder / "config.yaml").write_text(yaml.safe_dump(config))
        return {figure.name: figure for figure in figures(findings([tmp_path]))}

    return make


def _metrics(place: int, seed: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for epoch in (0, 1):
        for step in (1, 2):
            at = {"step": 2 * epoch + step, "epoch": float(epoch)}
            drawn = {"reward/mean": seed + step, "entropy": 2.0, "length/mean": 10.0 * step, "reward/0_t0.5": seed}
            drawn |= {"reward/1_t1": 2.0 * step, "reward/flat": 0.5}
            rows.append(at | (drawn if place and epoch else {}))
        rows.append({"step": 2 * epoch + 2, "epoch": float(epoch), "dev/loss": 3.0 - epoch + 0.5 * seed})
        rows[-1] |= {"dev/sample/rougeL": 5.0 * epoch, "dev/greedy/rougeL": 7.0}
    return rows


def _series(figure: Figure) -> dict[str, Series]:
    return {series.name: series for series in figure.series}


HALF = 0.5**0.5  # the standard deviation of two values that are 1 apart


def test_scores_stand_by_decoding_with_their_deviation_over_seeds(sweep: Callable[..., dict[str, Figure]]) -> None:
    drawn = _series(sweep()["scores-d"])
    assert list(drawn) == ["SFT", "ESO"]
    assert drawn["ESO"].x == ["sample", "greedy"]
    assert drawn["ESO"].y == [10.5, 30.0]
    assert drawn["ESO"].low == pytest.approx([10.5 - HALF, 30.0])
    assert drawn["ESO"].high == pytest.approx([10.5 + HALF, 30.0])


def test_curves_are_means_over_seeds(sweep: Callable[..., dict[str, Figure]]) -> None:
    made = sweep()
    loss = _series(made["dev-loss"])["SFT"]
    assert loss.x == [1.0, 2.0]  # epochs that are done
    assert loss.y == [3.25, 2.25]
    assert loss.high == pytest.approx([3.25 + HALF / 2, 2.25 + HALF / 2])
    assert _series(made["dev-score"])["ESO"].y == [0.0, 5.0]  # at sample, as scores are headed
    reward = _series(made["reward"])
    assert reward["SFT"].y == []  # it samples nothing
    assert reward["ESO"].x == [3.0, 4.0]
    assert reward["ESO"].y == [1.5, 2.5]
    assert _series(made["entropy"])["ESO"].y == [2.0, 2.0]


def test_rewards_by_temperature_are_of_the_last_epoch(sweep: Callable[..., dict[str, Figure]]) -> None:
    drawn = _series(sweep()["temperature"])["ESO"]
    assert (drawn.x, drawn.y) == ([0.5, 1.0], [0.5, 3.0])


def test_lengths_stand_against_rewards(sweep: Callable[..., dict[str, Figure]]) -> None:
    drawn = _series(sweep()["length-reward"])["ESO"]
    assert (drawn.x, drawn.y, drawn.labels) == ([10.0, 20.0], [1.5, 2.5], ["step 3", "step 4"])


def test_cost_is_forward_and_backward_tokens(sweep: Callable[..., dict[str, Figure]]) -> None:
    made = sweep()
    drawn = _series(made["cost-tokens-d"])
    assert (drawn["SFT"].x, drawn["ESO"].x, drawn["ESO"].y) == ([200.0], [400.0], [10.5])
    assert "cost-seconds-d" not in made  # these runs say nothing of their time


def test_a_sweep_of_lambda_is_one_curve(sweep: Callable[..., dict[str, Figure]]) -> None:
    made = sweep(lams=(1.0, 0.1, 0.5))
    (curve,) = made["lambda-d"].series
    assert curve.name == "ESO"
    assert curve.x == [0.1, 0.5, 1.0]
    assert curve.y == [20.5, 30.5, 10.5]
    assert made["lambda-d"].log_x
    assert "k-d" not in made  # it is one and the same


def test_a_lambda_of_0_has_no_logarithm(sweep: Callable[..., dict[str, Figure]]) -> None:
    made = sweep(lams=(0.0, 0.5))
    assert not made["lambda-d"].log_x
    assert made["lambda-d"].series[0].x == [0.0, 0.5]


def test_one_lambda_is_no_curve(sweep: Callable[..., dict[str, Figure]]) -> None:
    assert "lambda-d" not in sweep()


def test_many_steps_are_drawn_as_means_of_stretches() -> None:
    points = [Point(step, 0, float(step)) for step in range(1, 7)]
    assert by_step(points, 3) == {3.0: 2.0, 6.0: 5.0}
    assert by_step(points, 1) == {float(step): float(step) for step in range(1, 7)}
    assert [stretch_for(steps) for steps in (0, 1, 150, 151, 1500)] == [1, 1, 1, 2, 10]


def test_a_seed_that_ends_early_ends_the_curve() -> None:
    curve = over_seeds([{1.0: 1.0, 2.0: 2.0}, {1.0: 3.0}])
    assert (curve.x, curve.y) == ([1.0], [2.0])
    assert (curve.low[0], curve.high[0]) == pytest.approx((2 - 2 * HALF, 2 + 2 * HALF))
    assert over_seeds([]).x == []


def test_the_last_epoch_is_that_of_the_last_point() -> None:
    assert last_epoch([Point(1, 0, 9.0), Point(2, 1, 1.0), Point(3, 1, 2.0)]) == 1.5


def test_few_points_are_marked_one_by_one() -> None:
    few = Figure("f", "", "", "", "lines", [Series("a", "a", [2, 1], [0.0, 1.0]), Series("b", "b", [4], [3.0])], "")
    assert ticks(few) == [1, 2, 4]
    assert ticks(Figure("f", "", "", "", "lines", [Series("a", "a", list(range(50)), [0.0] * 50)], "")) == []
    assert reach(few) == pytest.approx([-0.24, 3.24])


def test_a_method_keeps_its_colour_and_its_variants_their_marks(
    sweep: Callable[..., dict[str, Figure]], tmp_path: Path
) -> None:
    sweep(lams=(0.1, 0.5))
    looks = styles(findings([tmp_path]).variants)
    assert looks["SFT"].colour == BASE
    first, second = looks["ESO lam=0.1"], looks["ESO lam=0.5"]
    assert first.colour == "#6a2f00"  # of #D55E00, half as light
    assert second.colour == "#eaae80"  # and half the way to white
    assert first.dash != second.dash
    assert len({look.marker for look in looks.values()}) == 3


def test_plotly_gets_the_numbers(sweep: Callable[..., dict[str, Figure]], tmp_path: Path) -> None:
    made = sweep(lams=(0.1, 0.5))
    looks = styles(findings([tmp_path]).variants)
    drawn = plot(made["scores-d"], looks)
    assert [trace["name"] for trace in drawn["data"]] == ["SFT", "ESO lam=0.1", "ESO lam=0.5"]
    assert drawn["data"][1]["y"] == [10.5, 30.0]
    assert drawn["data"][1]["error_y"]["array"] == pytest.approx([HALF, 0.0])
    assert drawn["data"][1]["marker"]["color"] == looks["ESO lam=0.1"].colour
    band, line = plot(made["lambda-d"], looks)["data"]
    assert band["x"] == [0.1, 0.5, 0.5, 0.1]
    assert band["y"] == pytest.approx([10.5 + HALF, 20.5 + HALF, 20.5 - HALF, 10.5 - HALF])
    assert line["y"] == [10.5, 20.5]
    assert plot(made["lambda-d"], looks)["layout"]["xaxis"]["type"] == "log"


def test_figures_are_files_that_do_not_change(
    sweep: Callable[..., dict[str, Figure]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = sweep(lams=(0.1, 0.5))
    names = ["scores-d", "lambda-d", "length-reward"]  # of each kind one
    monkeypatch.setattr(static, "figures", lambda found: [made[name] for name in names])
    found = findings([tmp_path])
    first, second = (write_figures(found, tmp_path / out) for out in ("one", "two"))
    assert [path.name for path in first] == [f"{name}.{kind}" for name in names for kind in ("png", "pdf", "svg")]
    assert {path.parent for path in first} == {tmp_path / "one" / "figures"}
    starts = {"pdf": b"%PDF", "svg": b"<?xml", "png": b"\x89PNG"}
    assert all(path.read_bytes().startswith(starts[path.suffix[1:]]) for path in first)
    digests = [[hashlib.sha256(path.read_bytes()).hexdigest() for path in paths] for paths in (first, second)]
    assert digests[0] == digests[1]
