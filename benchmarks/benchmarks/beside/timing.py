"""Times of calls that take turns, so that all see the same neighbours on the machine."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

from .batch import SMALL, Batch, Call

PAUSE = 0.02  # seconds in which the threads of the side before fall asleep, where they spin after a call
BUDGET = 0.01  # seconds of timed calls in a turn
LOOP = 200  # small calls to one reading of the clock, as far as they fit in the budget


@dataclass(frozen=True)
class Turn:
    """One contender: whose threads it wakes, and how many calls a reading of the clock spans."""

    side: str
    call: Call
    loop: int = 1  # at most


@dataclass(frozen=True)
class Times:
    """Seconds of a call."""

    quartiles: tuple[float, float, float]
    readings: int

    @property
    def low(self) -> float:
        return self.quartiles[0]


def loop_of(b: Batch) -> int:
    """Calls to a reading of the clock."""
    return LOOP if b.x.size <= SMALL else 1


def measure(turns: list[Turn], rounds: int, tick: Callable[[], object] = lambda: None) -> list[Times]:
    """Times of each contender over some rounds; `tick` is called after each."""
    readings: list[list[float]] = [[] for _ in turns]
    side = ""
    for _ in range(rounds):
        for turn, mine in zip(turns, readings, strict=True):
            if turn.side != side:
                time.sleep(PAUSE)
                side = turn.side
            mine.extend(_timed(turn))
        tick()
    return [_summary(mine) for mine in readings]


def _timed(turn: Turn) -> list[float]:
    call = turn.call
    start = time.perf_counter()
    call()  # left out: it wakes threads, and brings back the caches that the others used
    end = time.perf_counter()
    loop = range(min(turn.loop, max(1, int(BUDGET / (end - start)))))
    found: list[float] = []
    budget = end + BUDGET
    while end < budget:
        start = time.perf_counter()
        for _ in loop:
            call()
        end = time.perf_counter()
        found.append((end - start) / len(loop))
    return found


def _summary(readings: list[float]) -> Times:
    if len(readings) == 1:
        return Times((readings[0],) * 3, 1)
    low, middle, high = statistics.quantiles(readings, n=4, method="inclusive")
    return Times((low, middle, high), len(readings))
