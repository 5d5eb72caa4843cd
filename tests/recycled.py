"""What the tests of recycled memory share: calls with known results, and what is held set back."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from cases import Array

import numbabn as nb
from numbabn import _recycle, config

SHAPE = (16, 32, 64, 32)  # 4 MiB of float32, from where on memory is recycled
ZEROS = np.zeros(SHAPE, np.float32)
NONE, ONES = np.zeros(32), np.ones(32)


def filled(value: float, shape: tuple[int, ...] = SHAPE) -> Array:
    """What a call returns: an array of one value."""
    return nb.normalize(
        ZEROS if shape == SHAPE else np.zeros(shape, np.float32), NONE, ONES, bias=np.full(32, float(value))
    )


def address(array: Array) -> int:
    return int(array.__array_interface__["data"][0])


def call_often() -> None:
    """Write -1 to all memory that can be had: two results at a time, of sizes that fit SHAPE's and of others."""
    for shape in (SHAPE, (17, *SHAPE[1:]), (32, *SHAPE[1:]), SHAPE):
        for _ in range(2):
            first, second = filled(-1.0, shape), filled(-1.0, shape)
            assert address(first) != address(second) and first[0, 0, 0, 0] == second[-1, -1, -1, -1] == -1.0
            del first, second
        gc.collect()


def is_recycled(array: Array) -> bool:
    return isinstance(array.base, _recycle._Block)


def call_is_recycled(value: float, shape: tuple[int, ...] = SHAPE) -> bool:
    """Whether a call's result is, which is gone when this is known."""
    return is_recycled(filled(value, shape))


def nothing_held() -> None:
    gc.collect()
    _recycle._held.clear()


@contextmanager
def small_too() -> Iterator[None]:
    """Recycle memory of any size, so that many arrays cost little."""
    smallest, _recycle._SMALLEST = _recycle._SMALLEST, 1
    try:
        yield
    finally:
        _recycle._SMALLEST = smallest


def cycle(y: Array) -> list[Any]:
    """A list that only the collector frees."""
    ring: list[Any] = [y]
    ring.append(ring)
    return ring


@contextmanager
def fast_collections() -> Iterator[None]:
    """Collections do not look at what was there before, of which there is much."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@contextmanager
def restored() -> Iterator[None]:
    """Nothing is held before and after, and the limit is what it was."""
    limit = config.recycle_limit
    nothing_held()
    yield
    config.recycle_limit = limit
    nothing_held()
