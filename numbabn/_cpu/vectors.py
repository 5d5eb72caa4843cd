"""Explicit SIMD vectors for the kernels: one cache line of lanes that lives in registers like a scalar.

The number of lanes is fixed per dtype, not per CPU: LLVM splits the vectors for narrower machines, so every machine
adds in the same order. These are the bodies that plain Python runs, where a vector is a NumPy array; compiled code gets
the instructions that `intrinsics` registers under them.
"""

from __future__ import annotations

from typing import Any

import numpy as np


class Lanes(np.ndarray):
    """A vector where kernels run as plain Python, told from an array by its type."""


def lanes(x: Any) -> int:
    """Lanes of a vector of x's dtype."""
    return int(64 // x.itemsize)


def load(x: Any, i: int) -> Any:
    """Vector x[i : i + lanes]."""
    return load_part(x, i, lanes(x), splat(x, 0.0))


def load_like(x: Any, i: int, like: Any) -> Any:
    """As many elements from x[i:] as another vector has lanes."""
    return load_part(x, i, like.size, like)


def load_part(x: Any, i: int, n: int, fill: Any) -> Any:
    """First n lanes from x[i:], the others, and their number, from the vector `fill`."""
    _check_bounds(x, i, n)
    vector = fill.copy()
    vector[:n] = x[i : i + n]
    return vector


def store(x: Any, i: int, v: Any) -> None:
    """Write all lanes of v to x[i:]."""
    store_part(x, i, v, v.size)


def store_part(x: Any, i: int, v: Any, n: int) -> None:
    """Write the first n lanes of v to x[i:]."""
    _check_bounds(x, i, n)
    x[i : i + n] = v[:n]


def stream(x: Any, i: int, v: Any) -> None:
    """Write all lanes of v to x[i:], an address on a cache line, past the caches; `fence` before handing x on."""
    store(x, i, v)


def prefetch(x: Any, i: int) -> None:
    """Ask for the cache line of x[i], which need not exist, to come into the first-level cache."""


def prefetch_far(x: Any, i: int) -> None:
    """Ask for a line as `prefetch` does, to come into the second-level cache, where it may lie for longer."""


def fence() -> None:
    """Make streamed lanes visible to other threads."""


def in_order() -> None:
    """Keep what reads memory above before what writes it below, even if Numba has told LLVM that the two are apart."""


def plain(array: Any) -> Any:
    """The same array, as one that a kernel makes is to Numba: what takes either is then compiled once."""
    return array


def until_aligned(x: Any, i: int) -> int:
    """Elements from x[i] to the next cache line."""
    return int(-(x.ctypes.data + i * x.itemsize) % 64) // int(x.itemsize)


def splat(like: Any, value: float) -> Any:
    """Vector like an array's or another vector, with `value` in every lane."""
    if isinstance(like, Lanes):
        return np.full_like(like, value)
    return np.full(lanes(like), value, like.dtype).view(Lanes)


def rounded(x: Any, value: float) -> float:
    """Nearest float64 that x's dtype can hold: the high part of a split mean."""
    return float(x.dtype.type(value))


def cast(v: Any, dtype: Any) -> Any:
    """Lanes of v converted to dtype."""
    return v.astype(dtype)


def cast_like(v: Any, like: Any) -> Any:
    """Lanes of v converted to another vector's dtype."""
    return v.astype(like.dtype)


def sqrt(v: Any) -> Any:
    """Square root of each lane."""
    return np.sqrt(v)


def fma(a: Any, b: Any, c: Any) -> Any:
    """a * b + c, rounded once where compiled."""
    return a * b + c


def within(v: Any, n: int, low: float, high: float) -> bool:
    """Whether each of the first n lanes lies between low and high; NaN does not."""
    return bool(((v[:n] > low) & (v[:n] < high)).all())


def where_zero(test: Any, a: Any, b: Any) -> Any:
    """Lanes of a where those of `test` are 0, else of b."""
    return np.where(test == 0.0, a, b).view(Lanes)


def hsum(v: Any) -> float:
    """Sum of the lanes in float64, halves added to halves."""
    v = v.astype(np.float64)
    while v.size > 1:
        v = v[: v.size // 2] + v[v.size // 2 :]
    return float(v[0])


def _check_bounds(x: Any, i: int, n: int) -> None:
    if not 0 <= i <= i + n <= x.size:
        raise IndexError(f"lanes {i}..{i + n} of an array of {x.size}")
