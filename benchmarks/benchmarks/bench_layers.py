"""Times of layers as users call them: every result is a new array."""

from __future__ import annotations

import numbabn as nb

from .cases import CASES, DTYPES, Batch


class Layers:
    """A training step, forward and backward, and an eval-mode call."""

    params = (list(CASES), DTYPES)
    param_names = ("case", "dtype")

    def setup(self, case: str, dtype: str) -> None:
        batch = Batch(case, dtype)
        self.x, self.dy = batch.x, batch.dy
        self.learning = nb.BatchNorm(batch.channels, axis=batch.axis)
        self.fixed = nb.BatchNorm(batch.channels, axis=batch.axis)
        self.fixed.eval()
        self.time_step()
        self.time_eval()

    def time_step(self, *_: str) -> None:
        self.learning(self.x)
        self.learning.backward(self.dy)

    def time_eval(self, *_: str) -> None:
        self.fixed(self.x)
