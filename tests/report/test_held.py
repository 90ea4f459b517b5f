"""The models that a method holds."""

from collections.abc import Callable
from pathlib import Path

Make = Callable[..., Path]


def models(**millions: float) -> dict[str, object]:
    return {name.replace("_", " "): {"parameters": 1, "bytes": round(1e6 * mb)} for name, mb in millions.items()}


def test_models_stand_in_the_order_of_appendix_b(
    run: Make, say: Callable[..., str], cells: Callable[[str, str], list[str]]
) -> None:
    peak = {"peak_rss_bytes": 2_500_000_000}
    run("method=ppo-0000000a", models=models(policy=10, reward=5, reference=10, value=2048.25), **peak)
    run("method=eso-0000000b", models=models(policy=10, reward_harm=5, reward_help=2), **peak)
    run("method=sft-0000000c", models=models(policy=10), **peak)
    run("method=dpo-0000000d")  # of before results said what was held
    out = say()
    assert cells(out, "run") == ["run", "policy", "reward", "value", "reference", "models", "weights", "peak RSS"]
    assert cells(out, "PPO") == ["PPO", "10.0", "5.0", "2,048.2", "10.0", "4", "2,073.2", "2,500.0"]
    assert cells(out, "ESO") == ["ESO", "10.0", "7.0", "", "", "3", "17.0", "2,500.0"]
    assert cells(out, "SFT") == ["SFT", "10.0", "", "", "", "1", "10.0", "2,500.0"]
    assert "│ DPO" not in out


def test_policies_alone_need_no_table(run: Make, say: Callable[..., str]) -> None:
    run("method=sft-0000000c", models=models(policy=10), peak_rss_bytes=1)
    assert "models held" not in say()


def test_damage_is_named(run: Make, refuse: Callable[..., str]) -> None:
    folder = run("method=ppo-0000000a", models={"policy": {}, "value": {}}, peak_rss_bytes=1)
    assert refuse().startswith(f"{folder / 'result.json'} is damaged (no 'bytes')")
