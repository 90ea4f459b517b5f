from dataclasses import replace
from pathlib import Path

import pytest
import torch

from esolab.bench.job import Job
from esolab.bench.setting import prepare
from esolab.bench.workloads import CORPORA, QUANTILES, load, spread, tokenizer_folder
from esolab.errors import BadInput

TINY = Job("dolly", "plain", model="tiny", prompts=6, k=3, max_new=9)


@pytest.fixture(scope="module")
def setting():
    return prepare(TINY)


def test_a_workload_is_the_same_every_time(setting):
    again = prepare(replace(TINY, lengths="ragged"))
    assert torch.equal(again.workload.batch.prompts.ids, setting.workload.batch.prompts.ids)
    assert torch.equal(again.workload.batch.references.ids, setting.workload.batch.references.ids)
    weights = zip(again.policy.parameters(), setting.policy.parameters(), strict=True)
    assert all(torch.equal(first, second) for first, second in weights)


def test_fixed_answers_are_as_long_as_may_be_and_ragged_ones_as_references(setting):
    assert setting.workload.lengths(3).tolist() == [[9] * 3] * 6
    ragged = [load("dolly", None, setting.tokenizer, 6, 3, "ragged", 64, 512).lengths(3) for _ in range(2)]
    assert torch.equal(*ragged)
    assert ragged[0].shape == (6, 3)
    assert set(ragged[0].flatten().tolist()) <= set(QUANTILES["dolly"]["references"])
    assert len(set(ragged[0].flatten().tolist())) > 3


def test_the_twin_has_the_lengths_of_the_records(setting):
    for name in CORPORA:
        batch = load(name, None, setting.tokenizer, 16, 4, "fixed", 64, 512).batch
        for tokens, kind, most in ((batch.prompts, "prompts", 512), (batch.references, "references", 64)):
            assert sorted(tokens.lengths.tolist()) == spread(QUANTILES[name][kind], 16, most)
        assert (
            setting.tokenizer.prompts(batch.prompt_texts)[0]
            == batch.prompts.ids[0, : batch.prompts.lengths[0]].tolist()
        )


def test_spread_takes_the_middles_of_equal_shares():
    assert spread([10, 20, 40], 2, most=100) == [15, 30]
    assert spread([10, 20, 40], 4, most=32) == [12, 18, 25, 32]


def test_real_records_keep_the_limits_and_their_order(real_data, setting):
    real = prepare(replace(TINY, data=str(real_data), max_prompt=200, prompts=4))
    batch = real.workload.batch
    assert int(batch.prompts.lengths.max()) <= 200
    assert int(batch.references.lengths.max()) <= 9
    positions = [int(name.rpartition("/")[2]) for name in batch.ids]
    assert positions == sorted(positions)


def test_a_folder_without_the_tokenizer_is_refused(tmp_path):
    with pytest.raises(BadInput, match="tokenizers/gpt2"):
        tokenizer_folder(str(tmp_path), Path())
