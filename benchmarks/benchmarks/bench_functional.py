"""Times of the functions on arrays of all memory orders, outputs reused."""

from __future__ import annotations

from .cases import CASES, DTYPES, Batch


class Functions:
    """One call; `time_training_in_place` writes over its input."""

    params = (list(CASES), DTYPES)
    param_names = ("case", "dtype")

    def setup(self, case: str, dtype: str) -> None:
        self.batch = Batch(case, dtype)

    def time_training(self, *_: str) -> None:
        self.batch.training()

    def time_training_in_place(self, *_: str) -> None:
        self.batch.training_in_place()

    def time_eval(self, *_: str) -> None:
        self.batch.eval()

    def time_backward(self, *_: str) -> None:
        self.batch.backward()

    def time_moments(self, *_: str) -> None:
        self.batch.moments()

    def time_normalize(self, *_: str) -> None:
        self.batch.normalize()
