"""What holds for every method there is a yaml for: a new one is tested by existing."""

import zlib
from dataclasses import fields, replace

import pytest
import torch
from hydra.utils import get_object
from training import config

from esolab.batch import Tokens
from esolab.config import CONF, build
from esolab.data import collate
from esolab.errors import BadInput
from esolab.logprobs import branch_logprobs
from esolab.methods import onpolicy
from esolab.methods.base import Optimizer
from esolab.methods.eso import ESO
from esolab.methods.onpolicy import OnPolicy
from esolab.methods.reward_model import RewardModel
from esolab.methods.sft import SFT
from esolab.policy import Policy

METHODS = sorted(path.stem for path in (CONF / "method").glob("*.yaml"))


def class_of(name):
    return get_object(config(name)["method"]["_target_"])


def is_on_policy(name):
    return issubclass(class_of(name), OnPolicy)


ON_POLICY = [name for name in METHODS if is_on_policy(name) and name != "ppo"]  # a term beside the likelihood
PAIRED = [name for name in METHODS if class_of(name).needs_pairs]
ALONE = [name for name in METHODS if name not in (*PAIRED, "ppo")]  # learn from the references
QUIET = [name for name in ON_POLICY if name != "unlike"]  # equal rewards teach them nothing (identity 1)
SCORING = [name for name in ON_POLICY if name != "nes"]  # by the log-probs of answers
ALWAYS = {"lam": 0.5, "active_epochs": "all"}


UNCLIPPED = {"optimizer": Optimizer(lr=1e-2, clip=1e9)}


def weights(method):
    return {name: weight.detach().clone() for name, weight in method.policy.named_parameters()}


def same_bytes(first, second):
    return all(torch.equal(first[name], second[name]) for name in first)


def active(name):
    if name == "ppo":
        return {"inner_epochs": 1}  # a later inner step starts from what Adam made of rounding
    return ALWAYS if name in ON_POLICY else {}


def test_there_are_methods_of_all_kinds():
    assert "eso" in ON_POLICY
    assert "sft" in METHODS
    assert "sft" not in ON_POLICY
    assert {"dpo", "reward_model"} <= set(PAIRED)
    assert not set(PAIRED) & set(ON_POLICY)


@pytest.mark.parametrize("protocol", ["paper", "released"])
@pytest.mark.parametrize("name", METHODS)
def test_a_step_is_finite_and_moves_the_weights(name, protocol, train, make_policy):
    dropout = config(name, protocol)["model"]["dropout"]
    assert (dropout > 0) == (protocol == "released")
    policy = make_policy("gpt2", dropout=dropout)
    before = {name: weight.detach().clone() for name, weight in policy.named_parameters()}
    method, watch, steps = train(name, **active(name), protocol=protocol, more={"policy": policy})
    assert len(steps) == len(watch.gradients) == 2
    for numbers in steps:
        assert all(isinstance(value, float | int) for value in numbers.values())
        assert torch.tensor([*numbers.values()]).isfinite().all()
        assert numbers["grad_norm"] > 0
    after = weights(method)
    assert all(weight.isfinite().all() for weight in after.values())
    still = {name for name in before if torch.equal(after[name], before[name])}
    # a bias before the head is in the rewards of both replies: their difference does not hold it
    assert still == ({"network.transformer.ln_f.bias"} if class_of(name) is RewardModel else set())


@pytest.mark.parametrize("name", ALONE)
def test_the_references_get_likelier(name, train):
    """Twenty epochs on sixteen examples, the method's own term in the last: likelihood was learned, and not undone."""
    _, _, steps = train(name, epochs=20)
    assert steps[-1]["loss/sft"] < 0.5 * steps[0]["loss/sft"]


@pytest.mark.parametrize("name", PAIRED)
def test_the_replies_of_pairs_get_told_apart(name, train):
    """Twenty epochs on sixteen pairs."""
    _, _, steps = train(name, epochs=20)
    assert steps[-1]["loss/own"] < 0.5 * steps[0]["loss/own"]
    assert steps[-1]["preference/margin"] > steps[0]["preference/margin"] + 0.5
    assert all(0 <= numbers["preference/accuracy"] <= 1 for numbers in steps)
    assert min(numbers["preference/accuracy"] for numbers in steps[-2:]) > 0.9


def letter(prompts, responses, references):
    """The share of one letter: nothing that the references teach."""
    return torch.tensor([[answer.count("c") / max(1, len(answer.split())) for answer in a] for a in responses])


@pytest.mark.parametrize("name", [name for name in ON_POLICY if name != "nes"])  # its few draws are too noisy for this
def test_a_method_raises_its_reward(name, train):
    """Twenty epochs in which the method's own term outweighs the references': the answers earn more than they did."""
    lam = {"rloo": 15.0, "grpo": 15.0}.get(name, 5.0)
    settings = {"epochs": 20, "more": {"reward": letter, "optimizer": Optimizer(lr=1e-2)}}
    _, _, steps = train(name, lam=lam, active_epochs="all", **settings)
    earned = [numbers["reward/mean"] for numbers in steps]
    assert sum(earned[-4:]) / 4 > sum(earned[:4]) / 4 + 0.05


@pytest.mark.parametrize("name", METHODS)
def test_a_loss_that_is_not_finite_stops_before_the_weights_move(name, train, make_policy):
    policy = make_policy("gpt2")
    with torch.no_grad():
        next(policy.parameters())[0, 0] = float("inf")
    before = {key: weight.detach().clone() for key, weight in policy.named_parameters()}
    with pytest.raises(
        BadInput, match=r"training diverged at step 1: loss (sft|own|policy) nan.*no checkpoint was made yet.*row \d"
    ):
        train(name, more={"policy": policy})
    assert all(torch.equal(weight, before[key]) for key, weight in policy.named_parameters())


@pytest.mark.parametrize("name", METHODS)
def test_a_step_leaves_modes_as_they_were_and_no_gradient(name, train):
    method, watch, _ = train(name, **active(name))
    assert len(watch.modes) == len(watch.left) == 2
    assert all(all(modes) for modes in watch.modes)
    assert not any(any(left) for left in watch.left)
    assert method.policy.training


@pytest.mark.parametrize("name", METHODS)
def test_micro_batches_change_nothing(name, train):
    """1 x 16, 4 x 4, 16 x 1 and 5 + 5 + 5 + 1 prompts: one gradient, to 1e-5; and the terms that are logged."""

    def step(size):
        _, watch, steps = train(name, **active(name), batch=16, more={**UNCLIPPED, "micro_batch": size})
        return watch.gradients[0], {k: v for k, v in steps[0].items() if k.startswith("loss")}

    whole, terms = step(16)
    assert ("loss/own" if name in PAIRED else "loss/policy" if name == "ppo" else "loss/sft") in terms
    for size in (1, 4, 5):
        part, again = step(size)
        assert (part - whole).norm() < 1e-5 * whole.norm()
        assert again == pytest.approx(terms, rel=1e-4, abs=1e-7)


@pytest.mark.parametrize("name", METHODS)
def test_scoring_k_in_parts_changes_nothing(name, train):
    """All branches of a prompt in one row, or 1 or 2 or 3 at a time: one gradient, to 1e-5."""

    def step(size):
        method, watch, _ = train(name, **active(name), batch=16, more={**UNCLIPPED, "micro_k": size})
        return watch.gradients[0], method.account.counts

    whole, counts = step(None)
    for size in (1, 2, 3):
        part, again = step(size)
        assert (part - whole).norm() < 1e-5 * whole.norm()
        assert again["backward_tokens"] == counts["backward_tokens"]
        few = {"sft": 1, "nes": 1} | dict.fromkeys(("drl", "unlike", *PAIRED), 2)
        branches = few.get(name, 4 if name == "ppo" else 5)  # the reference among them
        assert (again["forward_tokens"] > counts["forward_tokens"]) == (size < branches)  # counted twice
    assert torch.equal(step(5)[0], whole)


@pytest.mark.parametrize("name", METHODS)
def test_training_twice_gives_the_same_bytes(name, train):
    first, second = (train(name, **active(name), epochs=2)[0] for _ in range(2))
    assert same_bytes(weights(first), weights(second))


# methods that learn from the policy's own answers


@pytest.fixture
def answered(monkeypatch):
    """How many prompts were answered at a time."""
    calls, sample = [], onpolicy.sample

    def spy(policy, prompts, *rest, **named):
        calls.append(len(prompts.lengths))
        return sample(policy, prompts, *rest, **named)

    monkeypatch.setattr(onpolicy, "sample", spy)
    return calls


@pytest.mark.parametrize("name", ON_POLICY)
def test_a_prompt_is_read_once_a_step(name, train, monkeypatch):
    """To be answered and for its answers to be scored; unless the batch is cut, or the weights change in between."""

    def step(**more):
        rows = []
        with monkeypatch.context() as patch:
            read = Policy.read
            patch.setattr(Policy, "read", lambda self, p: rows.append(len(p.lengths)) or read(self, p))
            method, watch, _ = train(name, **active(name), batch=16, more={**UNCLIPPED, **more})
        return sum(rows), method.account.counts["forward_tokens"], watch.gradients[0]

    once, few, whole = step(micro_batch=16)
    twice, many, cut = step(micro_batch=8)
    assert twice == 16 * (1 + (4 if name == "nes" else 1))
    assert (once, few < many) == ((twice, False) if name == "nes" else (16, True))
    assert (whole - cut).norm() < 1e-5 * whole.norm()


@pytest.mark.parametrize("name", ON_POLICY)
def test_its_own_gradient_is_not_zero_when_rewards_spread(name, train):
    method, own, steps = train(name, **active(name), more=UNCLIPPED)
    _, sft, _ = train("sft", more=UNCLIPPED)
    assert (method.last_rollout[1].rewards.std(1) > 0.05).any()
    assert steps[0]["reward/spread"] > 0.01
    assert (own.gradients[0] - sft.gradients[0]).norm() > 0.01 * sft.gradients[0].norm()
    assert steps[0].get("loss/own") != 0


@pytest.mark.parametrize("name", ON_POLICY)
def test_lambda_0_is_sft_to_the_byte_and_never_samples(name, train, answered):
    """Identity 10 of methods.md."""
    sft, _, _ = train("sft", epochs=2)
    assert answered == []
    sampled, _, _ = train(name, **active(name), epochs=2)
    assert not same_bytes(weights(sampled), weights(sft))
    assert answered == [8] * 4 * sampled.readings
    answered.clear()
    idle, watch, steps = train(name, lam=0.0, active_epochs="all", epochs=2)
    assert answered == []
    assert same_bytes(weights(idle), weights(sft))
    assert all("loss/own" not in numbers for numbers in steps)
    assert idle.account.counts == sft.account.counts
    assert len(watch.gradients) == 4


@pytest.mark.parametrize(("epochs", "which"), [(1, "all_but_last"), (2, "last")])
@pytest.mark.parametrize("name", ON_POLICY)
def test_an_inactive_epoch_is_sft_to_the_byte_and_never_samples(name, epochs, which, train, answered):
    """Identity 10: the weights before the first active epoch are those of SFT."""

    sft, plain, _ = train("sft", epochs=epochs)
    idle, watch, _ = train(name, lam=0.5, active_epochs=which, epochs=epochs)
    assert all(torch.equal(a, b) for a, b in zip(watch.gradients[:2], plain.gradients[:2], strict=True))
    if epochs == 1:
        assert answered == []
        assert same_bytes(weights(idle), weights(sft))
    else:
        assert answered == [8, 8] * idle.readings  # the last epoch only, each batch whole
        assert not same_bytes(weights(idle), weights(sft))


@pytest.mark.parametrize(("which", "sampled"), [("last", [2]), ("all_but_last", [0, 1])])
@pytest.mark.parametrize("name", ON_POLICY)
def test_active_epochs(name, which, sampled, train):
    method, _, steps = train(name, lam=0.5, active_epochs=which, epochs=3)
    assert [int(numbers["epoch"]) for numbers in steps if "reward/mean" in numbers] == sorted(sampled * 2)
    assert sorted(method.account.rewards) == sampled


@pytest.fixture
def own_gradient(make_parts, make_policy, rows):
    """own_gradient("eso"): a method, its rollout, and a function from a rollout to its own loss and gradient."""

    def make(name):
        parts = make_parts(sampling=build(config(name)["sampling"]), policy=make_policy("gpt2", seed=1))
        method, batch = build({**config(name)["method"], "lam": 1.0})(parts), collate(rows)

        def gradient(rollout):
            method.policy.zero_grad()
            scored = method.scored(rollout)
            logprobs = branch_logprobs(method.policy, batch.prompts, scored.branches)
            loss = (method.shares(rollout) * method.own_loss(scored, logprobs)).sum()
            loss.backward()
            return loss.item(), torch.cat([weight.grad.flatten() for weight in method.policy.parameters()])

        return method, method.rollout(batch), gradient

    return make


def changed(rollout, ids=lambda x: x, answers=lambda x: x):
    """A rollout with `ids` done to its tokens [B, K, T] and `answers` to all that has a value for each answer."""
    lists = [answers(torch.arange(len(texts))[None])[0].tolist() for texts in rollout.texts]
    values = {f.name: getattr(rollout, f.name) for f in fields(rollout) if f.name not in ("branches", "texts", "parts")}
    return replace(
        rollout,
        branches=Tokens(ids(answers(rollout.branches.ids)), answers(rollout.branches.lengths)),
        texts=[[texts[j] for j in order] for texts, order in zip(rollout.texts, lists, strict=True)],
        **{name: answers(value) for name, value in values.items()},
    )


@pytest.mark.parametrize("name", SCORING)
def test_padding_and_what_follows_an_answer_change_nothing(name, own_gradient):
    """Identity 9: columns of padding, and other tokens beyond the ends; sums of longer rows may round."""
    _, rollout, gradient = own_gradient(name)
    value, before = gradient(rollout)
    assert before.norm() > 0
    mask = rollout.branches.mask
    assert not mask.all()
    for token in (0, 9):

        def pollute(ids, token=token):
            return torch.nn.functional.pad(torch.where(mask, ids, token), (0, 3), value=token)

        polluted = changed(rollout, ids=pollute)
        polluted = replace(polluted, logprobs=torch.nn.functional.pad(rollout.logprobs, (0, 3)))
        again, after = gradient(polluted)
        assert again == pytest.approx(value, rel=1e-5, abs=1e-6)
        assert (after - before).norm() < 1e-6 * before.norm()


@pytest.mark.parametrize("name", [name for name in SCORING if name != "drl"])  # whose first answer is the baseline
def test_the_order_of_the_answers_changes_nothing(name, own_gradient):
    """Identity 9, but for rounding."""
    _, rollout, gradient = own_gradient(name)
    value, before = gradient(rollout)
    again, after = gradient(changed(rollout, answers=lambda x: x[:, [2, 0, 3, 1]]))
    assert again == pytest.approx(value, rel=1e-5, abs=1e-6)
    assert (after - before).norm() < 1e-5 * before.norm()


@pytest.mark.parametrize("name", SCORING)
def test_only_tokens_of_answers_are_pushed(name, own_gradient, monkeypatch):
    """Identity 9: every log-prob that a loss leans on is that of an answer's token, the end included, never of a
    prompt's or of what follows the end."""
    method, rollout, gradient = own_gradient(name)
    seen, forward = [], Policy.forward

    def spy(policy, read, ids, positions, mask, at, targets):
        logprobs = forward(policy, read, ids, positions, mask, at, targets)
        logprobs.register_hook(lambda grad: seen.append((targets, grad)))
        return logprobs

    monkeypatch.setattr(Policy, "forward", spy)
    gradient(rollout)
    ((targets, grad),) = seen
    scored = method.scored(rollout).branches
    assert targets.tolist() == scored.ids[scored.mask].tolist()
    assert not scored.mask.all()
    assert grad.ne(0).any()


@pytest.mark.parametrize("name", ON_POLICY)
def test_a_batch_is_sampled_whole(name, train, answered):
    method, _, _ = train(name, **active(name), batch=16, more={"micro_batch": 4})
    assert answered == [16] * method.readings


@pytest.mark.parametrize("name", ON_POLICY)
def test_the_rollout_is_what_the_reward_saw(name, train, tokenizer):
    seen = []

    def reward(prompts, responses, references):
        seen.append((prompts, responses, references))
        return torch.tensor([[len(answer.split()) / 6 for answer in answers] for answers in responses])

    method, _, steps = train(name, **active(name), more={"reward": reward})
    batch, rollout = method.last_rollout
    prompts, responses, references = seen[-1]
    assert len(seen) == 2
    assert (prompts, responses, references) == (batch.prompt_texts, rollout.texts, batch.reference_texts)
    for b, answers in enumerate(rollout.texts):
        for j, text in enumerate(answers):
            n, finished = int(rollout.branches.lengths[b, j]), bool(rollout.finished[b, j])
            ids = rollout.branches.ids[b, j, : n - finished].tolist()
            assert text.replace(" ", "") == "".join(tokenizer.inner.convert_ids_to_tokens(ids))
            assert "<end>" not in text
    assert steps[-1]["reward/mean"] == pytest.approx(float(rollout.rewards.mean()))
    assert method.account.counts["sampled_tokens"] > int(rollout.branches.lengths.sum())


@pytest.mark.parametrize("name", [name for name in ON_POLICY if get_object(config(name)["method"]["_target_"]) is ESO])
def test_answers_worth_nothing_are_not_scored(name, train, monkeypatch):
    """Half of the prompts get equal rewards for all answers: one gradient, for the references' price."""

    def reward(prompts, responses, references):
        spread = torch.tensor([[float(b % 2 * len(a)) for a in answers] for b, answers in enumerate(responses)])
        return spread / 10

    def step():
        method, watch, steps = train(name, **active(name), batch=16, more={**UNCLIPPED, "reward": reward})
        assert steps[0]["reward/flat"] >= 0.5
        return watch.gradients[0], method

    found, method = step()
    rollout = method.last_rollout[1]
    answers = (rollout.branches.lengths * (rollout.advantages != 0)).sum()
    references = method.last_rollout[0].references.lengths.sum()
    assert method.account.counts["scored_tokens"] == answers + references
    monkeypatch.setattr(ESO, "scored", lambda self, rollout: rollout)
    expected, plain = step()
    assert method.account.counts["scored_tokens"] < plain.account.counts["scored_tokens"]
    assert (found - expected).norm() < 1e-5 * expected.norm()


@pytest.mark.parametrize("name", ON_POLICY)
def test_fresh_answers_every_epoch(name, train):
    """The noise depends on the epoch: with a learning rate of next to nothing the answers still differ."""
    answers = {}

    def reward(prompts, responses, references):
        for prompt, texts in zip(prompts, responses, strict=True):
            answers.setdefault(prompt, []).append(texts)
        return torch.rand(len(prompts), len(responses[0]), generator=torch.Generator().manual_seed(0))

    train(name, **active(name), epochs=2, more={"reward": reward, "optimizer": Optimizer(lr=1e-30, lr_min=0.0)})
    assert len(answers) == 16
    assert sum(first != second for first, second in answers.values()) > 12


@pytest.mark.parametrize("name", ON_POLICY)
def test_what_is_logged_of_a_rollout(name, train):
    method, _, steps = train(name, **active(name))
    rollout = method.last_rollout[1]
    last, lengths = steps[-1], rollout.branches.lengths.float()
    assert last["length/mean"] == pytest.approx(float(lengths.mean()))
    assert last["length/finished"] == pytest.approx(float(rollout.finished.float().mean()))
    drawn = (rollout.temperatures > 0).float()  # DRL's greedy answers have no entropy
    entropy = -(rollout.logprobs.sum(-1) * drawn).sum() / (lengths * drawn).sum()
    assert last["entropy"] == pytest.approx(float(entropy), rel=1e-5)
    assert last["reward/spread"] == pytest.approx(float(rollout.rewards.std(1, correction=0).mean()), rel=1e-5)
    for j, temperature in enumerate(rollout.temperatures[0].tolist()):
        assert last[f"reward/{j}_t{temperature:g}"] == pytest.approx(float(rollout.rewards[:, j].mean()), rel=1e-5)
        assert last[f"length/{j}_t{temperature:g}"] == pytest.approx(float(lengths[:, j].mean()), rel=1e-5)


def flat(prompts, responses, references):
    return torch.full((len(prompts), len(responses[0])), 0.3)


@pytest.mark.parametrize("name", QUIET)
def test_equal_rewards_leave_sft_alone_and_are_counted_flat(name, train):
    """Identity 1 through the whole step: no more than the rounding of further branches in the row."""
    _, own, steps = train(name, **active(name), more={"reward": flat})
    _, sft, _ = train("sft")
    assert [numbers["reward/flat"] for numbers in steps] == [1.0, 1.0]
    assert (own.gradients[0] - sft.gradients[0]).norm() < 1e-5 * sft.gradients[0].norm()
    _, _, steps = train(name, **active(name))
    assert steps[0]["reward/flat"] < 1.0


@pytest.mark.parametrize("name", SCORING)
def test_an_answer_without_a_usable_reward_takes_no_part(name, train):
    """What a bad answer says, how long it is and how likely: nothing of it reaches the gradient."""
    bad = {(b, j): value for b, j, value in ((0, 0, None), (0, 3, "x"), (2, 1, float("nan")), (5, 2, float("inf")))}

    def reward(prompts, responses, references):
        rows = [[zlib.crc32(answer.encode()) / 2**32 for answer in answers] for answers in responses]
        return [[bad.get((b, j), x) for j, x in enumerate(row)] for b, row in enumerate(rows)]

    reward.max_bad_share = 1.0
    pushed = []
    hook = OnPolicy.sequence_logprobs

    def watched(method, rollout, logprobs, mean=False):
        leaf = hook(method, rollout, logprobs, mean)
        if leaf.requires_grad:
            leaf.retain_grad()
            pushed.append((rollout, leaf))
        return leaf

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OnPolicy, "sequence_logprobs", watched)
        method, _, _ = train(name, **active(name), batch=16, more={**UNCLIPPED, "reward": reward})
    rollout = method.last_rollout[1]
    k = rollout.rewards.shape[1]
    expected = sum(j < k for _, j in bad)
    assert method.account.counts["bad_rewards"] == int((~rollout.good).sum()) == expected > 0
    assert (rollout.advantages[~rollout.good] == 0).all()
    assert all((leaf.grad[~scored.good] == 0).all() for scored, leaf in pushed)
    assert any((leaf.grad != 0).any() for _, leaf in pushed) or name == "unlike"


@pytest.mark.parametrize("name", ON_POLICY)
def test_the_reference_is_scored_as_sft_scores_it(name, train, make_parts, rows):
    """SFT beside the policy's own answers is the same number as SFT alone."""
    _, _, own = train(name, **active(name), batch=16)
    batch, method = collate(rows), SFT(make_parts())
    with torch.no_grad():
        scores = branch_logprobs(method.policy, batch.prompts, batch.references.unsqueeze())
    assert own[0]["loss/sft"] == pytest.approx(float(-scores.sum() / batch.references.lengths.sum()), rel=1e-5)


def test_watching_the_gradient_changes_nothing(train):
    """The two parts of ESO's gradient, measured at every step: the same bytes, and parts that add up."""
    settings = {"batch": 16, "epochs": 2, "more": UNCLIPPED}
    watched, own, steps = train("eso", **ALWAYS, watch_every=1, **settings)
    alone, _, quiet = train("eso", **ALWAYS, watch_every=0, **settings)
    assert same_bytes(weights(watched), weights(alone))
    assert not any(key.startswith("gradient/") for numbers in quiet for key in numbers)
    _, sft, _ = train("sft", **settings)
    a, b, cosine = (steps[0][f"gradient/{part}"] for part in ("policy", "pull", "cosine"))
    assert min(a, b) > 0
    assert abs(cosine) < 1
    total = (own.gradients[0] - sft.gradients[0]).norm().item()
    assert (a * a + b * b + 2 * a * b * cosine) ** 0.5 == pytest.approx(total, rel=1e-4)
