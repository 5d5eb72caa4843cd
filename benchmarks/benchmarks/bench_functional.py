"""Times of the functions: outputs reused, new, and in place."""

from __future__ import annotations

from .beside.batch import Batch
from .cases import CASES, OPERATIONS, SMALL_CALLS, call_of, few

WAYS = ("default", "in place")
CALLS = [*OPERATIONS, *(f"{name}, {way}" for name in OPERATIONS if name != "moments" for way in WAYS)]


class Functions:
    """One call."""

    params = (CALLS, few(list(CASES)))
    param_names = ("call", "case")

    def setup(self, call: str, case: str) -> None:
        self.call = call_of(Batch(CASES[case]), call)

    def time_call(self, *_: str) -> None:
        self.call()


class SmallCalls:
    """Arrays so small that checks and dispatch take the time; layers too."""

    params = (few(["layer-training", "layer-eval", *CALLS], 2), few(list(SMALL_CALLS)))
    param_names = ("call", "case")

    def setup(self, call: str, case: str) -> None:
        self.call = call_of(Batch(SMALL_CALLS[case]), call)

    def time_call(self, *_: str) -> None:
        self.call()
