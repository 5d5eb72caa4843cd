"""The table of a run: one row for each case and operation, from the lower quartiles."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass

from . import limit
from .batch import Case
from .grid import MOVES
from .ours import MAIN
from .run import OURS, Result
from .timing import Times

REFERENCE = "torch"


@dataclass(frozen=True)
class Row:
    """Seconds, bytes per second and ratios; None where there is nothing to compare with."""

    case: Case
    operation: str
    ours: float
    default: float | None
    in_place: float | None
    rate: float | None
    fraction: float | None  # of what memory allows
    beside_torch: float | None  # torch's time over ours
    beside_best: float | None  # the fastest peer's time over ours
    best: str | None

    @property
    def lost(self) -> bool:
        return self.beside_best is not None and self.beside_best < 1


@dataclass(frozen=True)
class Summary:
    """Geometric mean and least of a figure over the shapes of a layout."""

    layout: str
    operation: str
    figures: dict[str, tuple[float, float] | None]


FIGURES = ("fraction", "beside_torch", "beside_best")


def rows(results: Iterable[Result]) -> list[Row]:
    """All rows, in the order of the run."""
    return [_row(result, operation) for result in results for operation in result.operations]


def summaries(table: list[Row]) -> list[Summary]:
    """One for each layout and operation."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in table:
        groups.setdefault((row.case.layout, row.operation), []).append(row)
    return [Summary(*key, {name: _spread(group, name) for name in FIGURES}) for key, group in groups.items()]


def _row(result: Result, operation: str) -> Row:
    sides = result.operations[operation]
    mine = {way: times.low for way, times in sides[OURS].items()}
    ours = mine.get(MAIN, mine.get("default", math.nan))
    peers = {side: _best(ways) for side, ways in sides.items() if side != OURS}
    best = min(peers, key=peers.__getitem__, default=None)
    least = limit.seconds(operation, _best(result.copies)) if result.copies else None
    moved = MOVES[operation] * result.case.nbytes if operation in MOVES else None
    return Row(
        case=result.case,
        operation=operation,
        ours=ours,
        default=mine.get("default"),
        in_place=mine.get("in place"),
        rate=None if moved is None else moved / ours,
        fraction=None if least is None else least / ours,
        beside_torch=peers[REFERENCE] / ours if REFERENCE in peers else None,
        beside_best=None if best is None else peers[best] / ours,
        best=best,
    )


def _best(ways: dict[str, Times]) -> float:
    return min(times.low for times in ways.values())


def _spread(group: list[Row], name: str) -> tuple[float, float] | None:
    values = [value for row in group if (value := getattr(row, name)) is not None]
    return (statistics.geometric_mean(values), min(values)) if values else None
