"""What a language model is asked about two answers, and what its reply says."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from esolab.corpora.alpaca import unwrap
from esolab.judge.pairs import Pair

Position = Literal["first", "second", "tie", "invalid"]  # which of the two answers shown is better
Message = dict[str, str]

KEY = "More helpful:"
LETTERS: dict[str, Position] = {"A": "first", "B": "second"}
AROUND = " \t\r\n*_`\"'."  # what models put around a letter; anything else makes it another answer

# The form of Rafailov et al. 2023, appendix C.2 (helpfulness alone, a comparison before the letter), in words of ours.
FORM = """\
Somebody sent the query below to an assistant and got two responses. Judge which of them helps that person more.

Query:
{query}

Response A:
{first}

Response B:
{second}

Begin with a single sentence that weighs the two responses against each other. Then, on a line of its own, name the \
more helpful one by its letter, A or B, and add nothing to it. Reply in this form:
Comparison: <the sentence>
More helpful: <A or B>"""


@dataclass(frozen=True)
class Question:
    """A pair in the order in which its answers are shown: b's first where `swapped`."""

    pair: Pair
    swapped: bool

    @property
    def first(self) -> str:
        """The answer that is shown first."""
        return self.pair.b if self.swapped else self.pair.a

    @property
    def second(self) -> str:
        """The answer that is shown second."""
        return self.pair.a if self.swapped else self.pair.b

    @property
    def order(self) -> str:
        """The sides in the order they are shown in."""
        return "ba" if self.swapped else "ab"

    def messages(self) -> list[Message]:
        """The question as a chat; of a prompt in the Alpaca form what it asks, without the words around."""
        query = "\n\n".join(part.strip() for part in unwrap(self.pair.prompt) if part.strip())
        text = FORM.format(query=query, first=self.first.strip(), second=self.second.strip())
        return [{"role": "user", "content": text}]

    def winner(self, position: Position) -> str:
        """A verdict on positions as one on sides: a, b, tie or invalid."""
        if position in ("tie", "invalid"):
            return position
        return self.order[0 if position == "first" else 1]


def questions(pairs: Sequence[Pair], seed: int, both: bool) -> list[list[Question]]:
    """For each pair the question in an order drawn from seed and id, and in the other, too, if `both`."""
    drawn = [Question(pair, _coin(seed, pair.id)) for pair in pairs]
    return [[q, Question(q.pair, not q.swapped)] if both else [q] for q in drawn]


def _coin(seed: int, id: str) -> bool:
    """Counted, not drawn: it depends neither on the other pairs nor on how many there are."""
    return hashlib.sha256(f"order {seed} {id}".encode()).digest()[0] % 2 == 1


def parse(reply: str) -> Position:
    """What a reply says after its last `More helpful:`; anything but A or B is invalid."""
    _, found, said = reply.rpartition(KEY)
    return LETTERS.get(said.strip(AROUND), "invalid") if found else "invalid"
