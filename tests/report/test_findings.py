"""What runs say together: variants, comparisons, verdicts, and what is missing."""

import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from esolab.errors import BadInput
from esolab.report.findings import Findings, findings
from esolab.stats import compare, holm

Make = Callable[..., Path]


@pytest.fixture
def seeded(run: Make) -> Make:
    """Make a run of a method with a seed; `points` are ROUGE-L (0 to 1) by decoding, for prompts p0, p1, ..., `config`
    goes into its config.yaml."""

    def make(method: str, seed: int, points: dict[str, list[float]], config: dict[str, Any] | None = None) -> Path:
        words = json.dumps(config, sort_keys=True)
        decodings = list(points)
        first = {f"p{i}": ("an answer", x) for i, x in enumerate(points[decodings[0]])}
        folder = run(
            f"method={method},seed={seed}-{zlib.crc32(words.encode()):08x}",
            first,
            decoding=decodings[0],
            data="d",
            seed=seed,
            setting=f"s{seed}",
            but_for_seed=f"{method} {words}",
            experiment="table1",
        )
        result = json.loads((folder / "result.json").read_text())
        row = result["scores"]["d"][decodings[0]]
        lines = (folder / "predictions.jsonl").read_text().splitlines()
        for how in decodings:
            result["scores"]["d"][how] = {**row, "rougeL": 100 * sum(points[how]) / len(points[how])}
            if how != decodings[0]:
                rows = [json.loads(line) for line in lines[: len(points[how])]]
                lines += [
                    json.dumps({**r, "decoding": how, "rougeL": x}) for r, x in zip(rows, points[how], strict=True)
                ]
        (folder / "result.json").write_text(json.dumps(result))
        (folder / "predictions.jsonl").write_text("".join(line + "\n" for line in lines))
        if config is not None:
            (folder / "config.yaml").write_text(yaml.safe_dump(config))
        return folder

    return make


def spread(start: float, step: float = 0.01) -> list[float]:
    """Twelve scores from `start` on."""
    return [start + step * i for i in range(12)]


def named(found: Findings) -> list[str]:
    return [variant.name for variant in found.variants]


def test_runs_that_differ_in_their_seed_are_one_variant(seeded: Make, tmp_path: Path) -> None:
    for seed in (2, 0, 1):
        seeded("sft", seed, {"sample": spread(0.2 + 0.01 * seed)})
    found = findings([tmp_path])
    (variant,) = found.variants
    assert (variant.name, variant.seeds) == ("SFT", [0, 1, 2])
    (score,) = found.scores
    mean, deviation = score.values["rougeL"]
    assert mean == pytest.approx(26.5)  # 20 + 1 + 5.5: the middle seed, the middle of twelve prompts
    assert deviation == pytest.approx(1.0)  # of 25.5, 26.5, 27.5
    assert (score.seeds, score.data, score.decoding) == (3, "d", "sample")
    assert found.experiment == tmp_path.name
    assert found.facts["seeds"] == ["0", "1", "2"]
    assert found.contrasts == []


def test_a_variant_is_named_by_the_values_that_others_do_not_have(seeded: Make, tmp_path: Path) -> None:
    """protocol.lam says no more than method.lam, and is left out; what all have is, too; 10 comes after 2."""
    for k, lam in ((10, 0.5), (2, 0.5), (2, 0.05)):
        config = {
            "method": {"_target_": "esolab.methods.eso.ESO", "lam": lam, "advantage": "eso"},
            "protocol": {"lam": lam},
            "sampling": {"k": k},
            "outputs": f"somewhere/{k}",
            "choices": {"scale": "mini"},
        }
        seeded("eso", 0, {"sample": spread(0.2)}, config)
    seeded("sft", 0, {"sample": spread(0.2)}, {"method": {}, "protocol": {"lam": 0.05}, "sampling": {"k": 4}})
    found = findings([tmp_path])
    assert named(found) == ["SFT", "ESO lam=0.05 k=2", "ESO lam=0.5 k=2", "ESO lam=0.5 k=10"]
    assert dict(found.variants[1].settings) == {"method.lam": "lam=0.05", "sampling.k": "k=2"}
    assert found.scales == ["mini"]


def test_what_most_do_without_is_not_said(seeded: Make, tmp_path: Path) -> None:
    for iw, temperatures, lam in ((False, None, 0.0), (True, None, 0.0), (False, [1.0, 1.0], 0.5)):
        method = {"_target_": "esolab.methods.eso.ESO", "iw": iw, "lam": lam}
        seeded("eso", 0, {"sample": spread(0.2)}, {"method": method, "sampling": {"temperatures": temperatures}})
    assert named(findings([tmp_path])) == ["ESO lam=0", "ESO lam=0.5 temperatures=[1,1]", "ESO iw=True lam=0"]


def test_a_variant_without_config_is_named_by_its_folder(run: Make, tmp_path: Path) -> None:
    for name in ("method=eso,method.lam=1-a", "method=eso,method.lam=2-b"):
        run(name, {"p": ("x", 0.5)})
    assert named(findings([tmp_path])) == ["ESO lam=1", "ESO lam=2"]


def test_among_what_answered_a_corpus_a_variant_needs_no_word_for_what_it_learned_from(
    run: Make, tmp_path: Path
) -> None:
    """But for what learned from one corpus and answered another's test, beside one that learned from that."""
    for data in ("news", "mail"):
        for method, points in (("sft", 0.2), ("eso", 0.4)):
            answers = {f"p{i}": ("an answer", points + 0.01 * i) for i in range(12)}
            run(f"method={method},data={data}-a", answers, data=data, but_for_seed=f"{method} {data}", setting=data)
    found = findings([tmp_path])
    assert named(found) == ["SFT mail", "SFT news", "ESO mail", "ESO news"]
    assert [variant.short for variant in found.variants] == ["SFT", "SFT", "ESO", "ESO"]
    assert [verdict.partition(",")[0] for verdict in found.verdicts if "ESO scores" in verdict] == ["mail", "news"]
    assert all("ESO scores 20.00 ROUGE-L points above SFT," in v for v in found.verdicts if " scores " in v)

    away = tmp_path / "method=eso,data=mail-a" / "result.json"
    result = json.loads(away.read_text())
    result["scores"]["news"] = result["scores"]["mail"]
    away.write_text(json.dumps(result))
    assert [variant.short for variant in findings([tmp_path]).variants] == ["SFT", "SFT", "ESO mail", "ESO news"]


def test_methods_stand_as_in_the_papers_tables(run: Make, tmp_path: Path) -> None:
    for method in ("ppo", "eso", "rrhf", "dpo", "drl", "unlike", "sft"):
        run(f"method={method}-a", {"p": ("x", 0.5)})
    assert named(findings([tmp_path])) == ["SFT", "Unlike", "DRL", "RRHF", "ESO", "DPO", "PPO"]


def test_comparisons_are_those_of_the_statistics_on_the_same_seeds_and_prompts(seeded: Make, tmp_path: Path) -> None:
    """SFT has a seed more and ESO a prompt more: neither counts."""
    base = {seed: spread(0.2 + 0.01 * seed) for seed in (0, 1, 2)}
    ours = {seed: [x + 0.05 + 0.01 * (i % 3) for i, x in enumerate(base[seed])] for seed in (0, 1)}
    for seed, points in base.items():
        seeded("sft", seed, {"sample": points})
    for seed, points in ours.items():
        seeded("eso", seed, {"sample": [*points, 1.0]})
    (contrast,) = findings([tmp_path]).contrasts
    gap = [[100 * (x - y) for x, y in zip(ours[seed], base[seed], strict=True)] for seed in (0, 1)]
    (expected,) = compare([gap])
    assert contrast.result.estimate == pytest.approx(6.0)  # 5, and the mean of 0, 1, 2
    assert (contrast.result.p, contrast.result.low) == pytest.approx((expected.p, expected.low))
    assert (contrast.result.seeds, contrast.result.prompts) == (2, 12)
    assert (contrast.a.name, contrast.b.name, contrast.kind) == ("ESO", "SFT", "base")


def test_other_settings_are_not_compared(seeded: Make, tmp_path: Path) -> None:
    seeded("sft", 0, {"sample": spread(0.2)})
    folder = seeded("eso", 0, {"sample": spread(0.4)})
    result = json.loads((folder / "result.json").read_text())
    (folder / "result.json").write_text(json.dumps({**result, "setting": "another"}))
    found = findings([tmp_path])
    assert found.contrasts == []
    assert found.order["d"] == "d, sample, from the highest ROUGE-L down: SFT 25.50; ESO 45.50."


@pytest.fixture
def three(seeded: Make, tmp_path: Path) -> Findings:
    """Three methods, two decodings, two seeds: at sample Unlike is nearly SFT, ESO 4 points above; greedy adds 5."""
    for seed in (0, 1):
        sample, greedy = spread(0.2 + 0.001 * seed), spread(0.25 + 0.001 * seed, 0.011)
        seeded("sft", seed, {"sample": sample, "greedy": greedy})
        swung = [x + 0.0002 + 0.01 * (-1) ** i for i, x in enumerate(sample)]
        seeded("unlike", seed, {"sample": swung, "greedy": greedy})
        above = [x + 0.04 + 0.001 * (i % 4) for i, x in enumerate(sample)]
        seeded("eso", seed, {"sample": above, "greedy": [x + 0.02 for x in greedy]})
    return findings([tmp_path])


def test_holm_counts_each_comparison_of_a_corpus_once(three: Findings) -> None:
    kinds = [(c.kind, c.a.name, c.decoding_a, c.b.name, c.decoding_b) for c in three.contrasts]
    assert kinds == [
        ("base", "Unlike", "sample", "SFT", "sample"),
        ("base", "Unlike", "greedy", "SFT", "greedy"),
        ("base", "ESO", "sample", "SFT", "sample"),
        ("base", "ESO", "greedy", "SFT", "greedy"),
        ("pair", "ESO", "sample", "Unlike", "sample"),
        ("decoding", "Unlike", "sample", "SFT", "greedy"),
        ("best", "Unlike", "greedy", "SFT", "greedy"),
        ("decoding", "ESO", "sample", "SFT", "greedy"),
        ("best", "ESO", "greedy", "SFT", "greedy"),
    ]
    tested = {kind[1:]: c.result for kind, c in zip(kinds, three.contrasts, strict=True)}
    assert len(tested) == 7  # each at its best is greedy against greedy, which is there
    assert [r.adjusted for r in tested.values()] == pytest.approx(holm([r.p for r in tested.values()]).tolist())
    assert three.contrasts[3].result is three.contrasts[8].result


def test_verdicts_begin_with_the_headline_and_end_with_what_decoding_does(three: Findings) -> None:
    eso, unlike, order, unlike_alone, eso_alone, best = three.verdicts
    assert eso.startswith("d, sample: ESO scores 4.15 ROUGE-L points above SFT, 95% interval ")
    assert eso.endswith("above in 2 of 2 seeds: distinguishable.")
    assert unlike.startswith("d, sample: Unlike scores 0.02 ROUGE-L points above SFT")
    assert "not distinguishable" in unlike
    assert order == three.order["d"]
    assert order == (
        "d, sample, from the highest ROUGE-L down: ESO 29.70, Unlike 25.57, SFT 25.55 "
        "(of neighbours, not distinguishable: Unlike and SFT)."
    )
    assert unlike_alone == "d, against decoding alone: Unlike at sample is below SFT at greedy."
    assert eso_alone == "d, against decoding alone: ESO at sample is below SFT at greedy."
    assert best.startswith(
        "d, each at its best decoding, which was picked on the test: Unlike at greedy is 0.00 points"
    )
    assert best.endswith("; ESO at greedy is 2.00 points above SFT at greedy (distinguishable).")


def test_stars_need_the_interval_too(three: Findings) -> None:
    stars = {(c.kind, c.a.name, c.decoding_a): c.stars for c in three.contrasts}
    assert stars["base", "Unlike", "sample"] == ""
    sure = next(c for c in three.contrasts if (c.kind, c.a.name, c.decoding_a) == ("base", "ESO", "sample"))
    assert sure.result.adjusted == pytest.approx(7 * 2 / 2**12)  # all twelve prompts above: two of the sign patterns
    assert stars["base", "ESO", "sample"] == "**"


def test_one_seed_is_said_to_be_one(seeded: Make, tmp_path: Path) -> None:
    seeded("sft", 0, {"sample": spread(0.2)})
    seeded("eso", 0, {"sample": spread(0.3)})
    assert findings([tmp_path]).verdicts[-1].startswith("d: one seed each")


def test_a_run_that_two_experiments_share_counts_once(seeded: Make, tmp_path: Path) -> None:
    folder = seeded("sft", 0, {"sample": spread(0.2)})
    other = tmp_path / "table2"
    other.mkdir()
    (other / folder.name).symlink_to(folder)
    found = findings([tmp_path, other])
    assert [len(variant.runs) for variant in found.variants] == [1]
    alone = findings([other])
    assert (alone.experiment, named(alone)) == ("table2", ["SFT"])


def test_a_half_finished_sweep_says_what_is_missing(seeded: Make, tmp_path: Path) -> None:
    left = {seed: seeded("sft", seed, {"sample": spread(0.2)}) for seed in (0, 1)}
    seeded("eso", 0, {"sample": spread(0.3)})
    begun = tmp_path / "method=drl,seed=0-00000000"
    begun.mkdir()
    (begun / "config.yaml").write_text("seed: 0\n")
    jobs = [
        {"name": "method=sft seed=0", "folder": left[0].name, "state": "done", "exit": 0, "seconds": 1.0, "said": []},
        {"name": "method=sft seed=1", "folder": left[1].name, "state": "failed", "exit": 1, "said": ["again alone"]},
        {"name": "method=eso seed=1", "folder": None, "state": "failed", "exit": 1, "said": ["line", "out of memory"]},
        {"name": "method=rrhf seed=0", "folder": None, "state": "waiting", "exit": None, "said": None},
        {"name": "method=rrhf seed=1", "folder": "gone-0", "state": "done", "exit": 0, "said": []},
    ]
    command = "python -m esolab -m experiments=table1"
    (tmp_path / "sweep.json").write_text(json.dumps({"schema": 1, "command": command, "jobs": jobs, "trunks": []}))
    found = findings([tmp_path])
    assert found.commands == [command]
    assert found.missing == [
        ("method=eso seed=1", "failed with exit code 1: out of memory"),
        ("method=rrhf seed=0", "waiting"),
        ("method=rrhf seed=1", "done, but its folder is gone"),
        (begun.name, "not finished"),
    ]
    assert [c.result.seeds for c in found.contrasts] == [1]


def test_a_damaged_sweep_is_bad_input(seeded: Make, tmp_path: Path) -> None:
    seeded("sft", 0, {"sample": spread(0.2)})
    (tmp_path / "sweep.json").write_text('{"schema": 1')
    with pytest.raises(BadInput, match=r"sweep\.json is damaged .*; delete it"):
        findings([tmp_path])
    (tmp_path / "sweep.json").write_text('{"schema": 2}')
    with pytest.raises(BadInput, match="has schema 2, this esolab reads 1"):
        findings([tmp_path])
