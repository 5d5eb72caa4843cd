"""Packets of 16 bytes that live in registers, and fast scalar arithmetic: what kernels need beyond Numba's Python.

A packet is what one access moves: a row of an array of rank 2 (16 bytes, aligned) or 3 (the same bytes at any
address), an element of an array of rank 1. These are the bodies that Numba's simulator runs, where a packet is a NumPy
array; compiled code gets the instructions that `intrinsics` registers under them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .._compile_cuda import BLOCK


def load(x: Any, i: Any) -> Any:
    """Packet x[i]."""
    return _packet(x[i])


def store(x: Any, i: Any, v: Any) -> None:
    """Write a packet to x[i]."""
    if x.ndim == 1:
        x[i] = v[0]
        return
    for k in range(len(v)):
        if x.ndim == 2:
            x[i, k] = v[k]
        else:
            x[i, 0, k] = v[k]


def put(x: Any, i: Any, v: Any) -> None:
    """Write the lanes of a packet to x[i], x[i + BLOCK] and so on, so that neighbours meet no bank twice."""
    for k in range(len(v)):
        x[i + k * BLOCK] = v[k]


def take(x: Any, i: Any, like: Any) -> Any:
    """Packet that `put` wrote."""
    return np.array([x[i + k * BLOCK] for k in range(len(like))], like.dtype)


def gather(x: Any, i: Any, like: Any) -> Any:
    """Packet of neighbouring elements x[i], x[i + 1] and so on of an array of rank 1."""
    return np.array([x[i + k] for k in range(len(like))], like.dtype)


def splat(like: Any, value: Any) -> Any:
    """Packet with `value` in every lane."""
    return np.full_like(like, value)


def lanes(v: Any) -> int:
    """Number of lanes."""
    return len(v)


def lane(v: Any, k: Any) -> Any:
    """One lane."""
    return v[k]


def lane_sum(v: Any) -> Any:
    """Sum of all lanes."""
    return v.sum(dtype=v.dtype)


def single(value: Any) -> Any:
    """Packet of one lane."""
    return np.array([value])


def number(like: Any, value: Any) -> Any:
    """A scalar of a packet's dtype: a plain literal would drag float64 into float32 arithmetic."""
    return like.dtype.type(value)


def median(a: Any, b: Any, c: Any) -> Any:
    """Lane by lane, the one in the middle."""
    return np.maximum(np.minimum(a, b), np.minimum(np.maximum(a, b), c))


def reciprocal(value: Any) -> Any:
    """1 / value, to 2 units in the last place in float32."""
    return type(value)(1) / value


def quotient(a: Any, b: Any) -> Any:
    """a // b of two 32-bit integers that are not negative."""
    return np.int32(a // b)


def product(a: Any, b: Any) -> Any:
    """a * b of two 32-bit integers, in 64 bits."""
    return np.int64(a) * np.int64(b)


def _packet(row: Any) -> Any:
    array = getattr(row, "_item", row)
    return np.array(getattr(array, "_ary", array)).reshape(-1)
