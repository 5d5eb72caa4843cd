"""Figures that carry over to other machines better than times: bytes a second, and ratios within one run."""

from __future__ import annotations

from .beside import limit
from .beside.batch import Batch, Call
from .beside.grid import MOVES
from .beside.peers import PEERS
from .beside.timing import Turn, loop_of, measure
from .cases import CASES, OPERATIONS, SMALL, call_of, few

ROUNDS = 2 if SMALL else 8


class _Rates:
    """What all of them share."""

    params: tuple[list[str], list[str]] = (OPERATIONS, few(list(CASES)))
    param_names = ("operation", "case")

    def setup(self, operation: str, case: str) -> None:
        self.batch = Batch(CASES[case])
        self.call = call_of(self.batch, operation)

    def _seconds(self, others: dict[str, Call]) -> tuple[float, float]:
        """Lower quartiles of our call, and of the best of the others."""
        loop = loop_of(self.batch)
        turns = [Turn("numbabn", self.call, loop), *(Turn(side, call, loop) for side, call in others.items())]
        mine, *theirs = (times.low for times in measure(turns, ROUNDS))
        return mine, min(theirs, default=mine)


class Throughput(_Rates):
    """Bytes of the arrays, each read or written once, over the time: more is better."""

    unit = "GB/s"

    def track_rate(self, operation: str, _: str) -> float:
        return MOVES[operation] * self.batch.case.nbytes / self._seconds({})[0] / 1e9


class FractionOfLimit(_Rates):
    """The least time that the best copy of the array allows, over ours: more is better, 1 is all there is."""

    unit = "fraction"

    def track_fraction(self, operation: str, _: str) -> float:
        mine, copy = self._seconds(limit.copies(self.batch))
        return (limit.seconds(operation, copy) or mine) / mine


class _Ratio(_Rates):
    """Our time over a peer's for the same work in the same run: less is better."""

    unit = "ratio"
    peer: str

    def setup(self, operation: str, case: str) -> None:
        if PEERS[self.peer].missing():
            raise NotImplementedError(f"{self.peer} is not installed")
        super().setup(operation, case)
        ways = PEERS[self.peer].calls(self.batch)[operation]
        self.theirs = {f"{self.peer} {way}": call for way, call in ways.items()}

    def track_ratio(self, *_: str) -> float:
        mine, other = self._seconds(self.theirs)
        return mine / other


class RatioToNumPy(_Ratio):
    """Beside plain NumPy, which has no `normalize` that would not be `eval`."""

    params = (OPERATIONS[:-1], few(list(CASES)))
    peer = "numpy"


class RatioToTorch(_Ratio):
    """Beside PyTorch's better way; skipped where it is not installed."""

    params = (OPERATIONS[:-1], few(list(CASES)))
    peer = "torch"
