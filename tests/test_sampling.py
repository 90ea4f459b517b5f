import math

import pytest
import torch
from scipy import stats
from transformers import (
    GenerationConfig,
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from esolab.batch import Tokens
from esolab.errors import BadInput
from esolab.sampling import Sampling, decoding, draw, gumbel, noise_keys, sample, truncate

LENGTHS = [3, 1, 6, 2, 5, 4, 1, 3]


@pytest.fixture
def prompts(ragged):
    return ragged(LENGTHS, seed=1, width=7)


def keys(n=8, k=4, seed=0):
    return noise_keys(seed, "test", 0, [f"example {i}" for i in range(n)], k)


def answers(samples):
    return [
        [row[:n] for row, n in zip(ids, lengths, strict=True)]
        for ids, lengths in zip(samples.branches.ids.tolist(), samples.branches.lengths.tolist(), strict=True)
    ]


# what is drawn


def test_log_probs_are_those_of_a_plain_tempered_forward_at_every_step(policy, prompts):
    sampling = Sampling(max_new_tokens=9, k=4)
    samples = sample(policy, prompts, sampling, keys(), eos=(3, 4, 5))
    assert samples.temperatures.tolist() == [[0.5, 1.0, 1.5, 2.0]] * len(LENGTHS)
    checked = 0
    for b, row in enumerate(answers(samples)):
        prompt = prompts.ids[b, : LENGTHS[b]].tolist()
        for k, answer in enumerate(row):
            for t, token in enumerate(answer):
                with torch.no_grad():
                    logits = policy.network(input_ids=torch.tensor([[*prompt, *answer[:t]]])).logits[0, -1]
                expected = (logits / sampling.ladder[k]).log_softmax(-1)[token]
                assert samples.logprobs[b, k, t].item() == pytest.approx(expected.item(), rel=1e-4, abs=1e-4)
                checked += 1
            assert (samples.logprobs[b, k, len(answer) :] == 0).all()
    assert checked > 100
    assert samples.logprobs[samples.branches.mask].std() > 0.5


@pytest.mark.parametrize("temperature", [0.3, 0.5, 1.0, 2.0, 5.0])
@pytest.mark.parametrize("vocabulary", [2, 7, 16, 23])
def test_draws_follow_the_softmax(temperature, vocabulary):
    """The two stages of the draw together have the law of one: chi-square over 20,000 draws."""
    n = 20_000
    logits = torch.randn(vocabulary, generator=torch.Generator().manual_seed(vocabulary)) / temperature
    tokens, logprobs = draw(logits.expand(n, -1), keys(n, 1)[:, 0], 3, torch.zeros(n, dtype=torch.bool))
    expected = n * logits.double().softmax(-1)
    rare = expected < 5  # the test needs five in every class
    seen = torch.bincount(tokens, minlength=vocabulary).double()
    classes = [*zip(seen[~rare].tolist(), expected[~rare].tolist(), strict=True)]
    if rare.any():
        classes.append((float(seen[rare].sum()), float(expected[rare].sum())))
    observed, theory = (torch.tensor(column, dtype=torch.float64).numpy() for column in zip(*classes, strict=True))
    assert stats.chisquare(observed, theory).pvalue > 1e-4
    torch.testing.assert_close(logprobs, logits.log_softmax(-1)[tokens], rtol=1e-5, atol=1e-5)


def test_draws_of_one_key_at_successive_positions_are_independent():
    """Pairs of tokens at neighbouring positions: chi-square of the contingency table."""
    logits = torch.tensor([0.3, -0.2, 0.5, 0.0, -0.5]).expand(5000, -1)
    never = torch.zeros(5000, dtype=torch.bool)
    first, second = (draw(logits, keys(5000, 1)[:, 0], t, never)[0] for t in (0, 1))
    table = torch.bincount(first * 5 + second, minlength=25).view(5, 5).numpy()
    assert stats.chi2_contingency(table).pvalue > 1e-4


def test_draws_never_leave_the_truncated_support():
    logits = torch.randn(500, 10, generator=torch.Generator().manual_seed(0))
    cut = truncate(logits, torch.ones(500), Sampling(max_new_tokens=1, k=1, top_k=2))
    tokens, logprobs = draw(cut, keys(500, 1)[:, 0], 0, torch.zeros(500, dtype=torch.bool))
    assert torch.isin(tokens[:, None], torch.arange(10)).all()
    assert (cut.gather(1, tokens[:, None]) > -math.inf).all()
    kept = logits.topk(2).values.log_softmax(-1)
    assert ((logprobs[:, None] - kept).abs().min(1).values < 1e-5).all()


@pytest.mark.parametrize("vocabulary", [2, 9, 23])
def test_greedy_takes_the_likeliest(vocabulary):
    logits = 0.01 * torch.randn(200, vocabulary, generator=torch.Generator().manual_seed(1))  # noise would change it
    greedy = torch.arange(200) % 2 == 0
    tokens, logprobs = draw(logits, keys(200, 1)[:, 0], 0, greedy)
    assert torch.equal(tokens[greedy], logits.argmax(-1)[greedy])
    assert not torch.equal(tokens[~greedy], logits.argmax(-1)[~greedy])
    torch.testing.assert_close(logprobs[greedy], logits.log_softmax(-1).max(-1).values[greedy])


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7])
@pytest.mark.parametrize("sampling", [{"top_k": 1}, {"top_k": 5}, {"top_k": 50}, {"top_p": 0.3}, {"top_p": 0.9}])
def test_truncation_equals_that_of_transformers(temperature, sampling):
    logits = 3 * torch.randn(64, 23, generator=torch.Generator().manual_seed(2))
    warpers = LogitsProcessorList([TemperatureLogitsWarper(temperature)])
    warpers += [TopKLogitsWarper(sampling["top_k"]) if "top_k" in sampling else TopPLogitsWarper(sampling["top_p"])]
    ours = truncate(logits, torch.full((64,), temperature), Sampling(max_new_tokens=1, k=1, **sampling))
    theirs = warpers(None, logits)
    torch.testing.assert_close(ours, theirs)
    assert sampling.get("top_k", 0) >= 23 or bool(theirs.isneginf().any())


def test_no_truncation_is_division_by_temperature_with_0_for_greedy():
    logits = torch.randn(3, 11, generator=torch.Generator().manual_seed(3))
    temperature = torch.tensor([0.5, 0.0, 2.0])
    ours = truncate(logits, temperature, Sampling(max_new_tokens=1, k=1))
    torch.testing.assert_close(ours, logits / torch.tensor([[0.5], [1.0], [2.0]]))


def test_top_k_and_top_p_act_together():
    logits = torch.log(torch.tensor([[0.4, 0.3, 0.2, 0.1]]))
    kept = truncate(logits, torch.ones(1), Sampling(max_new_tokens=1, k=1, top_k=3, top_p=0.5)).isfinite()
    assert kept.tolist() == [[True, True, False, False]]  # 4/9 + 3/9 of what top-k left hold a half


# the noise


def test_noise_is_gumbel():
    noise = gumbel(keys(200, 1)[:, 0], 2, 500).double()
    assert noise.mean().item() == pytest.approx(0.5772, abs=0.015)
    assert noise.var().item() == pytest.approx(math.pi**2 / 6, abs=0.03)
    assert stats.kstest(noise.flatten().numpy(), stats.gumbel_r.cdf).pvalue > 1e-4
    for quantile in (0.001, 0.01, 0.5, 0.99, 0.999):  # the tails decide which rare token is drawn
        assert (noise < stats.gumbel_r.ppf(quantile)).double().mean().item() == pytest.approx(quantile, rel=0.4)
    assert noise.isfinite().all()


def test_noise_differs_across_keys_positions_and_indices():
    several = torch.stack([gumbel(keys(20, 2).flatten(), position, 30) for position in range(10)])  # [10, 40, 30]
    assert several.unique().numel() > 0.999 * several.numel()  # as fp32 allows
    for a, b in ((several[1:], several[:-1]), (several[:, 1:], several[:, :-1]), (several[..., 1:], several[..., :-1])):
        correlation = torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1]
        assert abs(correlation) < 0.03


def test_noise_does_not_depend_on_its_company():
    many = keys(6, 2).flatten()
    assert torch.equal(gumbel(many, 4, 9)[5:7], gumbel(many[5:7], 4, 9))
    assert torch.equal(gumbel(many, 4, 9)[:, :5], gumbel(many, 4, 5))


@pytest.mark.parametrize(
    "other",
    [
        {"seed": 1},
        {"purpose": "evaluate"},
        {"epoch": 1},
        {"example": "b"},
        {"example": "a\n0"},
        {"seed": -1},
        {"j": 1},
    ],
    ids=str,
)
def test_noise_hangs_on_every_part_of_its_key(other):
    def key(seed=0, purpose="train", epoch=0, example="a", j=0):
        return noise_keys(seed, purpose, epoch, [example], 3)[0, j].item()

    assert key() == key()
    assert key() != key(**other)


def test_a_key_does_not_depend_on_its_company():
    many = noise_keys(0, "train", 1, ["a", "b", "c"], 4)
    assert many.shape == (3, 4)
    assert many.unique().numel() == 12
    assert torch.equal(noise_keys(0, "train", 1, ["c", "a"], 2), many[[2, 0], :2])
    assert noise_keys(0, "train", 1, [], 2).shape == (0, 2)


def test_keys_are_the_same_on_every_machine_and_day():
    """A literal: a change of the hash would change every result."""
    assert noise_keys(0, "train", 0, ["a"], 2).tolist() == [[8695522238952684919, 8014487917682619534]]


@pytest.mark.parametrize("key", [1, 0, -1, -(2**63), 2**63 - 1, 8695522238952684919])
def test_noise_is_splitmix64_in_plain_python(key):
    def noise(position, index):
        word = 2**64 - 1
        state = (key + (index + position * 1_000_003) * 0x9E3779B97F4A7C15) & word
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & word
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & word
        uniform = (((state ^ (state >> 31)) >> 11) + 0.5) / 2**53
        return -math.log(-math.log(uniform))

    for position in (0, 1, 127):
        expected = [noise(position, index) for index in range(20)]
        assert gumbel(torch.tensor([key]), position, 20)[0].tolist() == pytest.approx(expected, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize(("part", "value"), [("seed", 1), ("purpose", "other"), ("epoch", 1), ("ids", "other ")])
def test_answers_change_with_every_part_of_the_key(part, value, make_policy, prompts):
    def draws(seed=0, purpose="train", epoch=0, ids=""):
        key = noise_keys(seed, purpose, epoch, [f"{ids}{i}" for i in range(len(LENGTHS))], 2)
        return answers(sample(policy, prompts, Sampling(max_new_tokens=5, k=2), key, eos=(0,)))

    policy = make_policy("gpt2")
    assert draws() == draws()
    assert draws() != draws(**{part: value})


def test_answers_to_one_prompt_at_one_temperature_differ(make_policy, prompts):
    sampling = Sampling(max_new_tokens=6, k=2, temperatures=[1.0, 1.0])
    rows = answers(sample(make_policy("gpt2"), prompts, sampling, keys(k=2), eos=(0,)))
    assert sum(a != b for a, b in rows) >= 6  # of 8: a peaked first token that ends may come twice


# company, ends, lengths


def watch(policy, monkeypatch):
    """The rows of every forward that follows: prompts read, then answers that go on."""
    sizes, read, step = [], policy.read, policy.step
    monkeypatch.setattr(policy, "read", lambda tokens, *rest: sizes.append(len(tokens.lengths)) or read(tokens, *rest))
    monkeypatch.setattr(policy, "step", lambda tokens, *rest: sizes.append(len(tokens)) or step(tokens, *rest))
    return sizes


def test_answers_do_not_depend_on_batch_size_or_order(policy, prompts, monkeypatch):
    sizes = watch(policy, monkeypatch)
    sampling, key, eos = Sampling(max_new_tokens=12, k=4), keys(), (3, 4, 5)
    together = sample(policy, prompts, sampling, key, eos)
    assert sizes[0] == 8  # the prompt is read once, not k times
    assert sizes[1] > 20
    assert sizes[-1] <= 24  # rows have left the batch
    assert sizes == [sizes[0], *sorted(sizes[1:], reverse=True)]
    expected = answers(together)
    for size in (1, 3):
        alone = [
            sample(policy, prompts[i : i + size], sampling, key[i : i + size], eos) for i in range(0, len(key), size)
        ]
        assert [row for part in alone for row in answers(part)] == expected
        torch.testing.assert_close(torch.cat([part.finished for part in alone]), together.finished)
        sums = torch.cat([part.logprobs.sum(-1) for part in alone])
        torch.testing.assert_close(sums, together.logprobs.sum(-1), rtol=1e-4, atol=1e-4)
    order = torch.tensor([5, 2, 7, 0, 1, 6, 4, 3])
    turned = sample(policy, Tokens(prompts.ids[order], prompts.lengths[order]), sampling, key[order], eos)
    assert answers(turned) == [expected[i] for i in order]


def test_answers_do_not_depend_on_how_many_of_a_prompt_grow_at_once(policy, prompts):
    key, ladder = keys(), [0.5, 1.0, 1.5, 2.0]
    together = answers(sample(policy, prompts, Sampling(12, temperatures=ladder), key, (3, 4, 5)))
    for size in (1, 2):
        parts = [
            answers(
                sample(
                    policy,
                    prompts,
                    Sampling(12, k=size, temperatures=ladder[j : j + size]),
                    key[:, j : j + size],
                    (3, 4, 5),
                )
            )
            for j in range(0, 4, size)
        ]
        chunked = [[answer for part in parts for answer in part[b]] for b in range(len(key))]
        assert chunked == together


def test_answers_do_not_depend_on_padding_of_the_prompts(make_policy, prompts):
    policy, sampling = make_policy("opt"), Sampling(max_new_tokens=6, k=2)
    noise = torch.randint(23, prompts.ids.shape, generator=torch.Generator().manual_seed(9))
    ids = torch.nn.functional.pad(torch.where(prompts.mask, prompts.ids, noise), (0, 4), value=3)
    first, second = (sample(policy, p, sampling, keys(k=2), (0,)) for p in (prompts, Tokens(ids, prompts.lengths)))
    assert answers(first) == answers(second)


def test_an_end_token_ends_and_counts(policy, prompts):
    eos, limit = (3, 4, 5), 10
    samples = sample(policy, prompts, Sampling(max_new_tokens=limit, k=4), keys(), eos)
    finished, seen = samples.finished.tolist(), set()
    for b, row in enumerate(answers(samples)):
        for k, answer in enumerate(row):
            assert len(answer) >= 1
            assert not set(answer[:-1]) & set(eos)
            assert (answer[-1] in eos) == finished[b][k]
            assert finished[b][k] or len(answer) == limit
            seen.add((finished[b][k], answer[-1] if finished[b][k] else None))
    assert {last for _, last in seen} == {3, 4, 5, None}  # every end token, and answers without one
    assert samples.branches.ids.shape[-1] == int(samples.branches.lengths.max())
    assert samples.logprobs.shape == samples.branches.ids.shape


def test_an_end_token_at_the_limit_is_finished(policy, prompts):
    first = sample(policy, prompts, Sampling(max_new_tokens=1, k=4), keys(), eos=(3,))
    token = int(first.branches.ids[0, 0, 0])
    again = sample(policy, prompts, Sampling(max_new_tokens=1, k=4), keys(), eos=(token,))
    assert torch.equal(again.finished, again.branches.ids[..., 0] == token)
    assert again.finished.any()
    assert (again.branches.lengths == 1).all()


def test_all_end_at_once(make_policy, prompts, monkeypatch):
    policy = make_policy("gpt2")
    sizes = watch(policy, monkeypatch)
    samples = sample(policy, prompts, Sampling(max_new_tokens=9, k=2), keys(k=2), eos=tuple(range(23)))
    assert samples.branches.ids.shape == (8, 2, 1)
    assert samples.finished.all()
    assert sizes == [8]  # the prompts are read, and nothing is left to draw


# the policy while and after


@pytest.mark.parametrize("fails", [False, True])
def test_modes_and_gradients_are_restored(fails, make_policy, prompts, monkeypatch):
    policy = make_policy("gpt2", dropout=0.5).train()
    policy.network.transformer.h[0].eval()  # a mixture, as with a frozen part
    before = [module.training for module in policy.modules()]
    assert len(set(before)) == 2
    seen = []
    attention = policy.network.config._attn_implementation

    def spy(*_):
        seen.append((torch.is_grad_enabled(), any(module.training for module in policy.modules())))
        if fails and len(seen) == 3:
            raise RuntimeError("out of memory")

    policy.network.transformer.h[1].register_forward_pre_hook(spy)
    if fails:
        with pytest.raises(RuntimeError, match="out of memory"):
            sample(policy, prompts, Sampling(max_new_tokens=4), keys(), (0,))
    else:
        sample(policy, prompts, Sampling(max_new_tokens=4), keys(), (0,))
    assert set(seen) == {(False, False)}
    assert [module.training for module in policy.modules()] == before
    assert torch.is_grad_enabled()
    assert policy.network.config._attn_implementation == attention  # or no plain forward would work


def test_samples_carry_no_gradient_and_leave_none(make_policy, prompts):
    policy = make_policy("gpt2")
    samples = sample(policy, prompts, Sampling(max_new_tokens=4), keys(), (0,))
    assert not samples.logprobs.requires_grad
    assert samples.logprobs.grad_fn is None
    assert all(weight.grad is None for weight in policy.parameters())


def test_torchs_generator_is_neither_used_nor_moved(make_policy, prompts):
    policy = make_policy("gpt2")
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first = sample(policy, prompts, Sampling(max_new_tokens=4), keys(), (0,))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(1)
    assert answers(sample(policy, prompts, Sampling(max_new_tokens=4), keys(), (0,))) == answers(first)


def test_greedy_answers_equal_those_of_transformers(policy, prompts):
    eos, limit = [3, 4], 12
    samples = sample(policy, prompts, decoding("greedy", limit), keys(k=1), eos)
    ends = 0
    for b, (ours,) in enumerate(answers(samples)):
        config = GenerationConfig(do_sample=False, max_new_tokens=limit, eos_token_id=eos, pad_token_id=0)
        row = prompts.ids[b : b + 1, : LENGTHS[b]]
        theirs = policy.network.generate(row, attention_mask=torch.ones_like(row), generation_config=config)
        assert ours == theirs[0, LENGTHS[b] :].tolist()
        ends += ours[-1] in eos
    assert 0 < ends < len(LENGTHS)
    assert samples.temperatures.tolist() == [[0.0]] * len(LENGTHS)


def test_greedy_serves_the_first_answer_only(policy, prompts):
    mixed = sample(policy, prompts, Sampling(max_new_tokens=8, k=2, greedy=True), keys(k=2), (0,))
    greedy = sample(policy, prompts, decoding("greedy", 8), keys(k=1), (0,))
    assert [row[0] for row in answers(mixed)] == [row[0] for row in answers(greedy)]
    assert mixed.temperatures.tolist() == [[0.0, 2.0]] * len(LENGTHS)
    assert any(row[1] != row[0] for row in answers(mixed))


# how: Sampling and decoding


@pytest.mark.parametrize(
    ("settings", "ladder"),
    [
        ({"k": 4}, [0.5, 1.0, 1.5, 2.0]),
        ({}, [0.5, 1.0, 1.5, 2.0]),
        ({"k": 2}, [0.5, 2.0]),
        ({"k": 1}, [1.0]),
        ({"k": 6}, [0.5, 0.8, 1.1, 1.4, 1.7, 2.0]),
        ({"k": 3, "temperatures": [1.0, 1.0, 0.7]}, [1.0, 1.0, 0.7]),
        ({"k": 3, "greedy": True}, [0.0, 1.25, 2.0]),
        ({"k": 2, "temperatures": [0.9, 1.1], "greedy": True}, [0.0, 1.1]),
    ],
)
def test_ladder(settings, ladder):
    assert Sampling(max_new_tokens=8, **settings).ladder == pytest.approx(ladder)


@pytest.mark.parametrize("temperatures", [[], [1.0], [0.5, 1.0, 1.5]])
def test_temperatures_must_be_k_long(temperatures):
    with pytest.raises(BadInput, match=rf"sampling.temperatures: {len(temperatures)} values.*sampling.k=2"):
        Sampling(max_new_tokens=8, k=2, temperatures=temperatures)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("sample", Sampling(7, k=1)),
        ("greedy", Sampling(7, k=1, greedy=True)),
        ("t0.5", Sampling(7, k=1, temperatures=[0.5])),
        ("t2", Sampling(7, k=1, temperatures=[2.0])),
        ("top5", Sampling(7, k=1, top_k=5)),
        ("top10", Sampling(7, k=1, top_k=10)),
    ],
)
def test_decodings_by_name(name, expected):
    assert decoding(name, 7) == expected


@pytest.mark.parametrize("name", ["", "Greedy", "t", "t0", "t0.0", "t-1", "t.5", "top", "top0", "top5.5", "beam4"])
def test_a_name_that_is_no_decoding_is_refused(name):
    with pytest.raises(BadInput, match=r"evaluation.decodings: .* is not a decoding; use sample, greedy"):
        decoding(name, 7)
