"""A copy on all threads, as fast as it can be written: with ordinary stores, or past the caches."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from numbabn._cpu.vectors import fence, lanes, load, load_part, splat, store, store_part, stream, until_aligned

from .batch import Array

BLOCK = 64  # vectors that a thread copies at a time: 4 KB


def _copy(x: Any, y: Any, streamed: bool) -> None:
    """y = x, flat float32 arrays of one size; vectors begin where y has a cache line."""
    step = lanes(x)
    size = x.size
    head = min(size, until_aligned(y, 0))
    blocks = (size - head) // (BLOCK * step)
    zeros = splat(x, 0.0)
    if head > 0:
        store_part(y, 0, load_part(x, 0, head, zeros), head)
    for block in numba.prange(blocks):
        first = head + np.int64(block) * BLOCK * step
        for i in range(first, first + BLOCK * step, step):
            if streamed:
                stream(y, i, load(x, i))
            else:
                store(y, i, load(x, i))
        if streamed:
            fence()
    for i in range(head + blocks * BLOCK * step, size, step):
        n = min(step, size - i)
        store_part(y, i, load_part(x, i, n, zeros), n)


_compiled: Any = numba.njit(parallel=True, nogil=True, cache=True)(_copy)


def copy(x: Array, y: Array, streamed: bool) -> None:
    """Copy flat arrays of float32 or float64; the bytes do not care which."""
    _compiled(x.view(np.float32), y.view(np.float32), streamed)
