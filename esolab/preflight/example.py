"""One example as training sees it: its tokens, what of them is learned, and what the reward says of answers to it."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby

from rich.text import Text

from esolab.assembly import Assembly
from esolab.batch import Batch, Tokens
from esolab.data import collate
from esolab.methods.onpolicy import OnPolicy, read
from esolab.methods.ppo import PPO
from esolab.policy import Tokenizer
from esolab.preflight.plan import batches
from esolab.rewards.base import usable
from esolab.sampling import noise_keys, sample

STYLES = {"prompt": "dim", "learned": "green", "masked": "bright_black"}
ENDS = 24  # tokens shown of either end of a long row


@dataclass(frozen=True)
class Part:
    """A row of token ids, each `prompt`, `learned` or `masked`."""

    name: str
    ids: list[int]
    marks: list[str]

    def count(self, mark: str) -> int:
        """How many tokens are so."""
        return self.marks.count(mark)


def parts(batch: Batch, branches: Tokens, row: int, names: list[str]) -> list[Part]:
    """The prompt of a row of the batch and its branches, each as wide as the batch: what lies beyond a prompt's or a
    branch's end is masked, a prompt is read and not learned."""
    width, length = batch.prompts.ids.shape[1], int(batch.prompts.lengths[row])
    marks = ["prompt"] * length + ["masked"] * (width - length)
    found = [Part("prompt", batch.prompts.ids[row].tolist(), marks)]
    for j, name in enumerate(names):
        learned = branches.mask[row, j].tolist()
        marks = ["learned" if yes else "masked" for yes in learned]
        found.append(Part(name, branches.ids[row, j].tolist(), marks))
    return found


def shown(part: Part, tokenizer: Tokenizer) -> Text:
    """A part on one line, a bar after each token: what is masked stands in brackets, so that it can be told without
    colour; of many tokens both ends."""
    text = Text()
    tokens = list(zip(part.ids, part.marks, strict=True))
    if len(tokens) > 2 * ENDS + 1:
        tokens = [*tokens[:ENDS], (-1, f"... {len(tokens) - 2 * ENDS} more ..."), *tokens[-ENDS:]]
    for mark, run in groupby(tokens, key=lambda token: token[1]):
        ids = [id for id, _ in run]
        if mark == "masked":
            text.append(f"[{len(ids)} masked]", STYLES[mark])
        elif mark not in STYLES:
            text.append(f" {mark} ", "italic")
        else:
            text.append("".join(f"{token(id, tokenizer)}|" for id in ids), STYLES[mark])
    return text


def token(id: int, tokenizer: Tokenizer) -> str:
    """A token as it reads in a text, on one line."""
    return str(tokenizer.inner.decode([id], clean_up_tokenization_spaces=False)).replace("\n", "⏎")


@dataclass(frozen=True)
class Scored:
    """An answer and its reward; None where the reward gave no number."""

    name: str
    text: str
    reward: float | None


def rewards(run: Assembly, batch: Batch, row: int, drawn: bool) -> list[Scored]:
    """The reward of the reference of a row, and, if `drawn`, of k answers of the policy as it stands."""
    one, method = batch[[row]], run.method
    names, texts = ["reference"], [one.reference_texts[0]]
    if drawn:
        how = method.drawn if isinstance(method, PPO) else method.parts.sampling
        keys = noise_keys(run.config["seed"], "preflight", 0, one.ids, how.k)
        answers = sample(method.policy, one.prompts.to(method.policy.device), how, keys, run.tokenizer.eos).branches
        names += [f"answer at T={t:g}" for t in how.ladder]
        texts += read(answers.ids, answers.lengths, run.tokenizer)[0]
    values, good = usable(method.parts.reward(one.prompt_texts, [texts], one.reference_texts), 1, len(texts))
    found = zip(names, texts, values[0].tolist(), good[0].tolist(), strict=True)
    return [Scored(name, text, value if fine else None) for name, text, value, fine in found]


def lines(run: Assembly, drawn: bool) -> list[Text]:
    """The first example of the run's first batch, and the rewards of its reference and of answers to it."""
    _, rows = next(batches(run))
    batch = collate(rows)
    names = ["chosen", "rejected"] if run.method.needs_pairs else ["reference"]
    found = parts(batch, run.method.branches(batch), 0, names)
    said = [Text(f"example: {batch.ids[0]}, of the first batch ({len(batch)} prompts)")]
    for part in found:
        what = "read, not learned" if part.name == "prompt" else f"{part.count('learned')} learned"
        head = f"  {part.name}, {len(part.ids) - part.count('masked')} tokens, {what}, {part.count('masked')} masked: "
        said.append(Text(head) + shown(part, run.tokenizer))
    if not isinstance(run.method, OnPolicy):
        return [*said, Text(f"  reward: method={run.label} asks none")]
    for one in rewards(run, batch, 0, drawn):
        number = "no usable number" if one.reward is None else f"{one.reward:.3f}"
        said.append(Text(f"  reward {number} of {one.name}: ") + Text(" ".join(one.text.split())[:90], "cyan"))
    return said
