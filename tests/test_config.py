"""Configuration errors: every misfit at once, each with its way out."""

import json
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra

from esolab.check import check
from esolab.config import CONF, resolve, slug
from esolab.errors import BadInput


def choices(group: str) -> str:
    return ", ".join(sorted(path.stem for path in (CONF / group).glob("*.yaml")))


METHODS, CORPORA = choices("method"), choices("data")


def misfits(*overrides: str) -> list[str]:
    with pytest.raises(BadInput) as caught:
        resolve(overrides)
    return str(caught.value).splitlines()


def agree(found: list[str], expected: list[str]) -> None:
    """Each line found starts as one of those expected, and none of them is left over."""
    assert len(found) == len(expected), found
    assert [start for start in expected if not any(line.startswith(start) for line in found)] == [], found


def test_unknown_keys_come_with_the_nearest_right_one() -> None:
    found = misfits(
        "method.lamm=0.1", "sampling.temperature=[1.0]", "trainer.microbatch=4", "mdel=tiny", "sed=1", "zzzzzz=1"
    )
    agree(
        found,
        [
            "method.lamm=0.1: unknown key, did you mean method.lam?",
            "sampling.temperature=[1.0]: unknown key, did you mean sampling.temperatures?",
            "trainer.microbatch=4: unknown key, did you mean trainer.micro_batch?",
            "mdel=tiny: unknown key, did you mean model?",
            "sed=1: unknown key, did you mean seed?",
            "zzzzzz=1: unknown key",
        ],
    )
    assert "zzzzzz=1: unknown key" in found  # nothing is near: nothing is suggested


def test_a_key_at_the_wrong_place_comes_with_the_right_one() -> None:
    agree(
        misfits("lam=0.5", "lamm=0.1", "method.kk=2", "model.n_layer=2", "seeds=1"),
        [
            "lam=0.5: unknown key, did you mean method.lam?",
            "lamm=0.1: unknown key, did you mean method.lam?",
            "method.kk=2: unknown key, did you mean sampling.k?",
            "model.n_layer=2: unknown key, did you mean model.architecture.n_layer?",
            "seeds=1: unknown key, did you mean seed?",
        ],
    )
    assert misfits("+lam=0.5") == ["lam: unknown key, did you mean method.lam?"]


def test_a_key_that_the_yaml_leaves_out_is_told_how_to_give_it() -> None:
    (found,) = misfits("model.dtype=float16")
    assert found.endswith("no key of model's yaml, but its constructor has it; give +model.dtype=float16")
    assert resolve(["+model.dtype=float16"])["model"]["dtype"] == "float16"


@pytest.mark.parametrize(
    "key", ["method", "reward", "sampling", "data", "model", "logger", "seed", "method.lam", "protocol.max_total"]
)
def test_what_every_run_needs_cannot_be_taken_away(key: str) -> None:
    said = f"~{key}: a run needs {key}; leave ~{key} out, or give another value with {key}=..."
    agree(misfits(f"~{key}", "optimizer.lr=0"), [said, "optimizer.lr=0: "])


def test_an_architecture_may_leave_its_keys_to_transformers() -> None:
    assert "n_head" not in resolve(["~model.architecture.n_head"])["model"]["architecture"]


def test_what_a_constructor_needs_is_named_even_where_it_is_built_in_parts() -> None:
    config = resolve([])
    del config["method"]["lam"]
    assert list(check(config)) == ["method.lam: no value; give method.lam=..."]


def test_keys_that_are_added_by_force_are_unknown_too() -> None:
    found = misfits("+zzzzzz=1", "+method.lambda=0.1", "+trainer.epoch=3")
    assert "zzzzzz: unknown key" in found
    agree(
        found,
        [
            "zzzzzz: unknown key",
            "method.lambda: unknown key, did you mean method.lam?",
            "trainer.epoch: unknown key, did you mean trainer.epochs?",
        ],
    )


def test_unknown_choices_come_with_the_choices() -> None:
    agree(
        misfits("method=esoo", "data=doly", "logger=wnb", "experiments=quickstar"),
        [
            f"method=esoo: no such choice, did you mean eso? choices: {METHODS}",
            f"data=doly: no such choice, did you mean dolly? choices: {CORPORA}",
            f"logger=wnb: no such choice, did you mean wandb? choices: {choices('logger')}",
            "experiments=quickstar: no such choice, did you mean quickstart? choices: ",
        ],
    )


def test_an_unknown_choice_that_is_near_to_none_is_a_sentence_too() -> None:
    assert misfits("method=zzz") == [f"method=zzz: no such choice; choices: {METHODS}"]
    assert misfits("evaluation.data=zzz") == [f"evaluation.data: no corpus 'zzz'; corpora: {CORPORA}"]


def test_wrong_types() -> None:
    agree(
        misfits(
            "trainer.epochs=many",
            "trainer.batch_size=2.5",
            "method.lam=null",
            "method.keep_eos=perhaps",
            "method.active_epochs=first",
            "trainer.precision=fp8",
            "evaluation.decodings=sample",
            "sampling.temperatures=[hot]",
        ),
        [
            "trainer.epochs=many: input should be a valid integer",
            "trainer.batch_size=2.5: input should be a valid integer",
            "method.lam=None: input should be a valid number",
            "method.keep_eos=perhaps: input should be a valid boolean",
            "method.active_epochs=first: input should be 'last', 'all' or 'all_but_last'",
            "trainer.precision=fp8: input should be '32-true', 'bf16-mixed'",
            "evaluation.decodings=sample: input should be a valid ",
            "sampling.temperatures.0=hot: input should be a valid number",
        ],
    )


@pytest.mark.parametrize("override", ["trainer.epochs=2.0", "trainer.epochs=true", "data.train='64'"])
def test_what_only_looks_like_an_integer_is_a_wrong_type(override: str) -> None:
    """It would reach the constructor as it is, a float, a truth value or a text."""
    (found,) = misfits(override)
    assert found.startswith(override.partition("=")[0])
    assert "valid integer" in found


@pytest.mark.parametrize(
    ("override", "what"),
    [
        ("seed=abc", "valid integer"),
        ("seed=5000000000", "less than 4294967296"),  # numpy and Lightning refuse it when the run has begun
        ("rerun=maybe", "valid boolean"),
        ("sft.reduction=token_men", "'token_mean', 'seq_sum' or 'seq_mean'"),  # silently another loss
        ("protocol.normalise=lokal", "'global' or 'local'"),
        ("protocol.max_total=few", "valid integer"),
    ],
)
def test_values_outside_of_a_constructor_call_are_checked_too(override: str, what: str) -> None:
    assert any(line.startswith(override) and what in line for line in misfits(override))


def test_out_of_range() -> None:
    agree(
        misfits(
            "seed=-1",
            "method.lam=-0.1",
            "sampling.temperatures=[0,1,-1,1]",
            "sampling.top_p=1.5",
            "trainer.micro_batch=0",
            "evaluation.limit=0",
            "model.dropout=1",
            "optimizer.lr=0",
            "optimizer.clip=0",
        ),
        [
            "seed=-1: input should be greater than or equal to 0",
            "method.lam=-0.1: input should be greater than or equal to 0",
            "sampling.temperatures.0=0: input should be greater than 0",
            "sampling.top_p=1.5: input should be less than or equal to 1",
            "trainer.micro_batch=0: input should be greater than 0",
            "evaluation.limit=0: input should be greater than 0",
            "model.dropout=1: input should be less than 1",
            "optimizer.lr=0: input should be greater than 0",
            "optimizer.clip=0: input should be greater than 0",
        ],
    )


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        ("sampling.k=1", "sampling.k=1: eso compares answers; give at least 2"),
        (
            "sampling.temperatures=[0.5,1.0]",
            "sampling.temperatures: 2 values [0.5, 1.0] for sampling.k=4; give k values",
        ),
        ("protocol=released sampling.k=3", "sampling.temperatures: 4 values [0.5, 1.0, 1.25, 1.5] for sampling.k=3"),
        (
            "model=gpt2 data=dolly data.max_prompt=900",
            "data.max_prompt=900 and data.max_response=128 of dolly: together 1028 tokens, gpt2 has 1024 positions",
        ),
        ("model=hf", "model.path: no model is named; give model.path=DIR"),
        ("method=nes sampling.k=3", "sampling.k=3: nes perturbs in pairs; give an even number"),
        (
            "model.architecture.n_layer=x",
            "model: cannot read the architecture (Validation error for field 'n_layer': TypeError: Field 'n_layer' "
            "expected int, got str (value: 'x'))",
        ),
        ("model=hf model.path=/no/such/folder", "model.path: '/no/such/folder' is not a folder"),
        ("model=gpt2 data=file", "data.path: no value; give data.path=..."),
    ],
)
def test_what_does_not_fit_together(overrides: str, line: str) -> None:
    (found,) = misfits(*overrides.split(" "))
    assert found.startswith(line)


def test_a_target_that_does_not_exist_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    (found,) = misfits("reward._target_=foo.Bar")
    assert found.startswith("reward._target_: 'foo.Bar' cannot be imported (Error loading 'foo.Bar': ModuleNotFound")
    assert caplog.records == []  # Hydra would log it, too


def test_places_that_are_not_there_are_said_beside_the_rest() -> None:
    sets = "evaluation.data=[file,vicuna]"
    agree(
        misfits("model=gpt2", "data=file", sets, "data.path=/nowhere", "data_root=/nowhere", "method.lam=-1"),
        [
            "method.lam=-1: ",
            "data.path=/nowhere: there is no such file or folder",
            "data_root=/nowhere: there is no such folder",
        ],
    )


def test_one_answer_is_enough_for_a_method_that_does_not_sample() -> None:
    assert resolve(["method=sft", "sampling.k=1"])["sampling"]["k"] == 1


def test_names_in_lists() -> None:
    agree(
        misfits("evaluation.decodings=[sample,beam]", "evaluation.data=[newswire,doly]", "data.max_prompt=250"),
        [
            "evaluation.decodings: 'beam' is not a decoding; use sample, greedy, t<temperature> or top<k>",
            f"evaluation.data: no corpus 'doly', did you mean dolly? corpora: {CORPORA}",
            "data.max_prompt=250 and data.max_response=24 of newswire: together 274 tokens, tiny has 256 positions",
        ],
    )
    agree(misfits("evaluation.decodings=[t0]"), ["evaluation.decodings: 't0' is not a decoding"])


@pytest.mark.parametrize(("place", "name"), [("data", "newswire"), ("decodings", "greedy")])
def test_lists_of_names_hold_each_once_and_one_at_least(place: str, name: str) -> None:
    assert misfits(f"evaluation.{place}=[]")[0].startswith(f"evaluation.{place}=[]: list should have at least 1 item")
    assert misfits(f"evaluation.{place}=[{name},{name}]") == [
        f"evaluation.{place}: '{name}' more than once; name each once"
    ]


def test_what_cannot_be_read() -> None:
    agree(
        misfits("method.lam", "sampling.temperatures=[1", "trainer.epochs=0"),
        [
            "method.lam: cannot be read as key=value",
            "sampling.temperatures=[1: cannot be read as key=value",
            "trainer.epochs=0: ",
        ],
    )


def test_a_value_without_a_key_cannot_be_read() -> None:
    agree(misfits("=3"), ["=3: "])


@pytest.mark.parametrize("missing", ["data=file", "evaluation.data=[newswire,file]"])
def test_a_missing_value_hides_no_other_misfit(missing: str) -> None:
    found = misfits("model=gpt2", missing, "method.lam=-1", "trainer.epoch=3")
    assert len(found) == 3
    assert any("data.path" in line for line in found)
    assert any(line.startswith("method.lam=-1: ") for line in found)
    assert any(line.startswith("trainer.epoch=3: unknown key, did you mean trainer.epochs?") for line in found)


def test_a_model_type_that_does_not_exist_hides_no_other_misfit() -> None:
    agree(
        misfits("model.architecture.model_type=gpt3", "method.lam=-1", "sampling.k=1"),
        ["model.architecture.model_type: 'gpt3' is not a model type", "method.lam=-1: ", "sampling.k=1: "],
    )


def test_misfits_of_every_kind_come_in_one_message() -> None:
    found = misfits(
        "method=eso",
        "data=dolyl",
        "data.path=there",  # belongs to a corpus that is not known: not judged
        "method.lamm=1",
        "method.lam=0.1",
        "sampling.k=1",
        "trainer.epochs=x",
        "evaluation.decodings=[beam]",
        "optimizer.lr=0",
        "data_roots=x",
        "seed",
    )
    starts = [
        "data=dolyl: no such choice",
        "method.lamm=1: unknown key",
        "data_roots=x: unknown key",
        "seed: cannot be read",
        "sampling.k=1: ",
        "trainer.epochs=x: ",
        "evaluation.decodings: 'beam'",
        "optimizer.lr=0: ",
    ]
    agree(found, starts)


def test_what_does_not_fit_together_is_said_beside_what_is_wrong_by_itself() -> None:
    """k < 2 is a misfit whatever else is wrong with the method."""
    agree(misfits("method.lam=-1", "sampling.k=1"), ["method.lam=-1: ", "sampling.k=1: "])


def test_the_order_of_overrides_does_not_matter(tmp_path: Path) -> None:
    assert resolve([f"data.path={tmp_path}", "data.max_prompt=96", "data.max_response=24", "data=file"])["data"]["path"]
    assert misfits("method.lam=0.1", "method=sft") == misfits("method=sft", "method.lam=0.1")


def test_a_good_configuration_is_plain_data_without_references() -> None:
    config = resolve(["data.max_response=20"])
    assert json.loads(json.dumps(config)) == config
    assert "${" not in json.dumps(config)
    assert config["sampling"]["max_new_tokens"] == 20
    assert config["trainer"]["threads"] >= 1
    assert "hydra" not in config


def test_resolving_leaves_hydra_as_it_was() -> None:
    GlobalHydra.instance().clear()
    resolve([])
    assert not GlobalHydra.instance().is_initialized()
    with pytest.raises(BadInput):
        resolve(["method.lam=-1"])
    assert not GlobalHydra.instance().is_initialized()


def test_no_data_is_read_and_no_model_built_to_judge(tmp_path: Path) -> None:
    config = resolve(["model=gpt2_medium", "data=dolly", f"data_root={tmp_path}"])
    assert config["data"]["root"] == str(tmp_path)
    (tmp_path / "bad.jsonl").write_text("no JSON")
    assert resolve(["model=gpt2", "data=file", f"data.path={tmp_path}/bad.jsonl"])["model"]["id"]


def test_evaluation_sets_other_than_the_training_corpus_get_their_own_nodes(tmp_path: Path) -> None:
    sets = "evaluation.data=[dolly,self_instruct,vicuna]"
    config = resolve(["data=dolly", "model=gpt2", sets, f"data_root={tmp_path}", f"data.path={tmp_path}"])
    assert config["evaluation"]["data"] == ["dolly", "self_instruct", "vicuna"]
    assert config["corpora"].keys() == {"self_instruct", "vicuna"}
    for name, target in (("self_instruct", "SelfInstruct"), ("vicuna", "Vicuna")):
        node = config["corpora"][name]
        assert node["_target_"] == f"esolab.corpora.{name}.{target}"
        assert node["root"] == str(tmp_path)
        assert node["path"] is None
    assert resolve(["data=dolly", "model=gpt2", sets, "protocol=released"])["corpora"]["vicuna"]["max_response"] == 64


def test_the_training_corpus_is_what_is_evaluated_unless_said_otherwise() -> None:
    config = resolve([])
    assert (config["evaluation"]["data"], config["corpora"]) == (["newswire"], {})
    assert resolve(["evaluation.data=newswire"])["evaluation"]["data"] == ["newswire"]
    other = resolve(["data=newswire", "model=gpt2", "evaluation.data=[vicuna]"])
    assert (other["evaluation"]["data"], list(other["corpora"])) == (["vicuna"], ["vicuna"])


def test_evaluation_sets_have_to_fit_the_policy_too() -> None:
    (found,) = misfits("evaluation.data=[newswire,vicuna]")
    assert "640 tokens, tiny has 256 positions" in found
    assert "vicuna" in found


def test_limits_and_tolerance_of_the_command_line_hold_for_every_evaluation_set() -> None:
    """Otherwise the ways out that messages name, a lower data.max_prompt and data.skip_bad=true, lead nowhere."""
    sets = "evaluation.data=[dolly,vicuna]"
    config = resolve(["data=dolly", "data.max_prompt=200", "data.max_response=40", "data.skip_bad=true", sets])
    node = config["corpora"]["vicuna"]
    assert (node["max_prompt"], node["max_response"], node["skip_bad"]) == (200, 40, True)


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        ([], "default"),
        (["method=eso", "method.lam=0.5", "seed=3"], "method=eso,method.lam=0.5,seed=3"),
        (["outputs=/x", "rerun=true", "logger=wandb", "logger.project=p", "experiments=quickstart"], "default"),
        (["hydra.job.num=3", "+experiments=a", "seed=1"], "seed=1"),
        (["outputs_of=3"], "outputs_of=3"),
        (["data.path=a/b c.jsonl"], "data.path=a-b-c.jsonl"),
        (["sampling.temperatures=[0.5,1]"], "sampling.temperatures=-0.5,1"),
        (["method=eso", "a=" + "x" * 80], "method=eso,a=" + "x" * 47),
        (["a=" + "x" * 57, "b=1"], "a=" + "x" * 57),  # no separator at the end
    ],
)
def test_slug(overrides: list[str], name: str) -> None:
    assert slug(overrides) == name
    assert len(name) <= 60


def test_the_slug_is_in_the_configuration() -> None:
    assert resolve(["seed=3", "outputs=/tmp/x"])["slug"] == "seed=3"


def test_the_yamls_travel_with_the_package() -> None:
    assert (CONF / "config.yaml").is_file()
    assert (CONF / "experiments" / "quickstart.yaml").is_file()


def test_a_path_with_an_equals_sign_needs_no_quotes(tmp_path):
    """Every run's folder has them."""
    folder = tmp_path / "method=sft,seed=1-0123abcd"
    folder.mkdir()
    (folder / "own.jsonl").write_text("{}")
    config = resolve(["data=file", f"data.path={folder / 'own.jsonl'}", "model.architecture.n_positions=1024"])
    assert config["data"]["path"] == str(folder / "own.jsonl")
    with pytest.raises(BadInput, match="cannot be read as key=value"):
        resolve(["data=file", f"data.path={tmp_path}/a=b,c=d"])
