"""Learning from pairs: a chosen and a rejected reply to each prompt, for every method that does."""

from __future__ import annotations

from collections import defaultdict

from jaxtyping import Float
from torch import Tensor

from esolab.batch import Batch, Rollout
from esolab.methods.base import Method
from esolab.sampling import Reads


class Pairs(Method):
    """A method that compares the replies of a pair, without dropout, whatever `model.dropout` is."""

    needs_pairs = True

    @property
    def alone(self) -> bool:
        """Both replies share their prompt: dropout is off."""
        return False

    def terms(self, pairs: Batch, share: float, sft: Float[Tensor, "B"]) -> dict[str, Tensor]:
        """The loss terms of a micro-batch, by name: `share` of the batch are its pairs, `sft` weighs the summed
        log-probs of its chosen replies."""
        raise NotImplementedError

    def backward_all(
        self,
        batch: Batch,
        rollout: Rollout | None,
        sft_weight: float | None = None,
        reads: Reads | None = None,
    ) -> dict[str, float]:
        """Add the gradients of the whole batch of pairs, micro-batch by micro-batch; the value of each loss term."""
        sft, size = self.sft_shares(batch) * self.sft_weight, self.per_rank(len(batch))
        losses: dict[str, float] = defaultdict(float)
        with self.quiet():
            for rows in self.micro_batches(batch):
                self.descend(self.terms(batch[rows], len(rows) / size * (not self.spare), sft[rows]), losses)
        return dict(losses)

    def note(self, chosen: Float[Tensor, "B"], rejected: Float[Tensor, "B"], share: float) -> None:
        """Add the rewards of a micro-batch to the numbers of the step; a tie is half a success."""
        margin = (chosen - rejected).detach()
        right = (margin > 0).float() + 0.5 * (margin == 0).float()
        for name, values in (("chosen", chosen), ("rejected", rejected), ("margin", margin), ("accuracy", right)):
            self.numbers[f"preference/{name}"] += float(values.detach().mean()) * share
