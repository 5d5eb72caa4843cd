"""Measure a grid: for each case all contenders, all operations and the copies, in one set of rounds."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from . import limit, ours
from .batch import Batch, Calls, Case
from .peers import PEERS
from .timing import Times, Turn, loop_of, measure

OURS, COPY = "numbabn", "copy"
Contender = tuple[str, str, str]  # operation, side, way


@dataclass(frozen=True)
class Result:
    """Times of one case: of the copies by way, and of each operation by side and way."""

    case: Case
    copies: dict[str, Times]
    operations: dict[str, dict[str, dict[str, Times]]] = field(default_factory=dict)


def grid(cases: list[Case], operations: list[str], peers: list[str], rounds: int) -> Iterator[Result]:
    """Results of the cases, one after the other, under a progress bar on stderr."""
    bar: Any = import_module("tqdm").tqdm(total=len(cases) * rounds, unit="round", file=sys.stderr)
    with bar:
        for case in cases:
            bar.set_description(f"{case.layout} {case.dimensions}")
            yield one(case, operations, peers, rounds, bar.update)


def one(
    case: Case, operations: list[str], peers: list[str], rounds: int, tick: Callable[[], object] = lambda: None
) -> Result:
    """Result of one case."""
    batch = Batch(case)
    contenders = dict(_contenders(batch, operations, peers))
    times = dict(zip(contenders, measure(list(contenders.values()), rounds, tick), strict=True))
    result = Result(case, {way: t for (operation, _, way), t in times.items() if operation == COPY})
    for (operation, side, way), t in times.items():
        if operation != COPY:
            result.operations.setdefault(operation, {}).setdefault(side, {})[way] = t
    return result


def _contenders(b: Batch, operations: list[str], peers: list[str]) -> Iterator[tuple[Contender, Turn]]:
    """Operation by operation, so that those that are compared are measured close to each other."""
    sides: dict[str, Calls] = {OURS: ours.calls(b), **{name: PEERS[name].calls(b) for name in peers}}
    loop = loop_of(b)
    for operation in operations:
        if operation.startswith("layer") and b.case.layout != "small":
            continue
        for side, calls in sides.items():
            for way, call in calls.get(operation, {}).items():
                yield (operation, side, way), Turn(side, call, loop)
    if b.case.layout != "small":
        for way, call in limit.copies(b).items():
            yield (COPY, COPY, way), Turn(f"{COPY} {way}", call, loop)
