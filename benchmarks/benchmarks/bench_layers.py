"""Times of layers as users call them: every result is a new array."""

from __future__ import annotations

import numbabn as nb

from .beside.batch import Batch
from .cases import CASES


class Layers:
    """A training step, forward and backward, and an eval-mode call."""

    params = (list(CASES),)
    param_names = ("case",)

    def setup(self, case: str) -> None:
        batch = Batch(CASES[case])
        self.x, self.dy = (batch.natural(a) for a in (batch.x, batch.dy))
        self.learning, self.fixed = (nb.BatchNorm(batch.channels, axis=batch.axis) for _ in range(2))
        self.fixed.eval()
        self.time_step()
        self.time_eval()

    def time_step(self, *_: str) -> None:
        self.learning(self.x)
        self.learning.backward(self.dy)

    def time_eval(self, *_: str) -> None:
        self.fixed(self.x)
