"""Figures that carry over to other machines better than times: bytes moved per second, and the ratio to NumPy."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

from .cases import CASES, DTYPES, SMALL, Batch
from .plain import Plain

ROUNDS = 3 if SMALL else 15


def lower_quartiles(*calls: Callable[[], None]) -> list[float]:
    """Seconds that each call takes. Calls take turns, so that all see the same neighbours on the machine."""
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(ROUNDS):
        for call, mine in zip(calls, times, strict=True):
            call()  # untimed: brings back the caches that the others used
            start = time.perf_counter()
            call()
            mine.append(time.perf_counter() - start)
    return [statistics.quantiles(mine, n=4)[0] for mine in times]


class Rates:
    """What both kinds of figures share."""

    params = (list(CASES), DTYPES)
    param_names = ("case", "dtype")

    def setup(self, case: str, dtype: str) -> None:
        self.batch = Batch(case, dtype)
        self.plain = Plain(self.batch)


class Throughput(Rates):
    """Bytes of the arrays, each read or written once, over the time: more is better."""

    unit = "GB/s"

    def track_training(self, *_: str) -> float:
        return self._rate(self.batch.training, 2)

    def track_eval(self, *_: str) -> float:
        return self._rate(self.batch.eval, 2)

    def track_backward(self, *_: str) -> float:
        return self._rate(self.batch.backward, 3)

    def track_moments(self, *_: str) -> float:
        return self._rate(self.batch.moments, 1)

    def _rate(self, call: Callable[[], None], arrays: int) -> float:
        return arrays * float(self.batch.x.nbytes) / lower_quartiles(call)[0] / 1e9


class RatioToNumPy(Rates):
    """Our time over NumPy's for the same work in the same run: less is better."""

    unit = "ratio"

    def track_training(self, *_: str) -> float:
        return self._ratio(self.batch.training, self.plain.training)

    def track_eval(self, *_: str) -> float:
        return self._ratio(self.batch.eval, self.plain.eval)

    def track_backward(self, *_: str) -> float:
        return self._ratio(self.batch.backward, self.plain.backward)

    def track_moments(self, *_: str) -> float:
        return self._ratio(self.batch.moments, self.plain.moments)

    def _ratio(self, ours: Callable[[], None], theirs: Callable[[], None]) -> float:
        mine, other = lower_quartiles(ours, theirs)
        return mine / other
