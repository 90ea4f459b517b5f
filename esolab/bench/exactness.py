"""How far esolab's step is from the plain one on some device: the numbers of gpu-check."""

from __future__ import annotations

import torch
from torch import Tensor

from esolab.batch import Rollout
from esolab.bench.job import Job
from esolab.bench.ours import Esolab
from esolab.bench.plain import Plain
from esolab.bench.setting import Setting, prepare


def differences(job: Job) -> dict[str, float]:
    """Relative differences of one step from plain forwards: the gradient's norm, the sampler's log-probs."""
    setting = prepare(job)
    ours = Esolab(setting)
    ours.step()
    assert ours.method.last_rollout is not None
    rollout = ours.method.last_rollout[1]
    return {
        "gradients of the shared forward against two plain passes": gradient_difference(setting, rollout),
        "log-probs of the sampler against a plain softmax": sampler_difference(setting, rollout),
    }


def gradient_difference(setting: Setting, rollout: Rollout) -> float:
    """Norm of the difference between the gradients that lie in the policy and those of `plain` on the same answers,
    over the norm of the latter."""
    device = setting.policy.device
    weights = [weight for weight in setting.policy.parameters() if weight.requires_grad]
    shared = [torch.zeros_like(weight) if weight.grad is None else weight.grad.clone() for weight in weights]
    setting.policy.zero_grad(set_to_none=True)
    plain = Plain(setting)
    with setting.autocast():
        plain.update(plain.batch, rollout.branches.to(device), rollout.advantages.to(device))
    expected = [torch.zeros_like(weight) if weight.grad is None else weight.grad for weight in weights]
    pairs = list(zip(shared, expected, strict=True))
    distance = sum(float((a - b).float().square().sum()) for a, b in pairs)
    return float((distance / sum(float(b.float().square().sum()) for b in expected)) ** 0.5)


def sampler_difference(setting: Setting, rollout: Rollout) -> float:
    """Largest difference between a token's log-prob as the sampler had it and as softmax(logits / T) of a plain forward
    of the whole row has it, over the largest log-prob."""
    batch, device = setting.workload.batch, setting.policy.device
    worst = largest = 0.0
    for b in range(len(batch)):
        prompt = batch.prompts.ids[b, : batch.prompts.lengths[b]].to(device)
        for j, temperature in enumerate(rollout.temperatures[b].tolist()):
            answer = rollout.branches.ids[b, j, : rollout.branches.lengths[b, j]].to(device)
            with torch.no_grad(), setting.autocast():
                logits = setting.policy.network(input_ids=torch.cat([prompt, answer])[None]).logits
            logits = logits[0, len(prompt) - 1 : -1].float() / temperature
            plain: Tensor = logits.log_softmax(-1).gather(1, answer[:, None])[:, 0]
            own = rollout.logprobs[b, j, : len(answer)].to(device)
            worst, largest = max(worst, float((own - plain).abs().max())), max(largest, float(plain.abs().max()))
    return worst / largest
