"""One look at all arguments of a call, in machine code: NumPy's attributes, asked one by one, take ten times as long.

Array objects are read where they lie; see `numbabn._objects`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .._compile import Object, inner, kernel
from .._objects import DATA, DTYPE, FLAGS, HALF, KNOWN, NDIM, SHAPE, TYPE, address, word

FLAT = 0x101  # NumPy's flags C_CONTIGUOUS and ALIGNED
FLAT_OUT = FLAT | 0x400  # and WRITEABLE


@inner
def is_array(at, kind, flags):
    return word(at + TYPE) == kind and word(at + FLAGS) & flags == flags


@inner
def n_axes(at):
    return word(at + NDIM) & HALF


@inner
def is_like(at, other):
    """Whether two arrays have one dtype and shape."""
    if word(at + DTYPE) != word(other + DTYPE) or n_axes(at) != n_axes(other):
        return False
    same = True
    for k in range(n_axes(at)):
        same = same and word(word(at + SHAPE) + 8 * k) == word(word(other + SHAPE) + 8 * k)
    return same


@inner
def size_of(at):
    """Elements of an array."""
    size = 1
    for k in range(n_axes(at)):
        size *= word(word(at + SHAPE) + 8 * k)
    return size


@inner
def is_row(at, kind, flags, n):
    return is_array(at, kind, flags) and n_axes(at) == 1 and word(word(at + SHAPE)) == n


@inner
def are_apart(a, a_bytes, b, b_bytes):
    """Whether two runs of memory share no byte."""
    return a + a_bytes <= b or b + b_bytes <= a


@kernel
def fit(
    ndarray: Object,
    float32: Object,
    float64: Object,
    x: Object,
    other: Object,
    y: Object,
    a: Object,
    b: Object,
    c: Object,
    d: Object,
    n_channels: int,
    written: int,
) -> bool:
    """Whether nothing has to be converted, copied or told apart before a kernel works on these arguments.

    x and `other` are arrays in C order of one shape and of the dtype float32 or float64; y is so too, writable, and the
    same elements as each of the two or apart from it. a to d are rows of `n_channels`, float32 or float64, apart from
    y, the first `written` of them writable. Other dtypes that are equal to these two, of arrays that were pickled, are
    left to whoever compares them.
    """
    kind, narrow, wide = address(ndarray), address(float32), address(float64)
    dtype = word(address(x) + DTYPE)
    if dtype != narrow and dtype != wide:
        return False
    if not (
        is_array(address(x), kind, FLAT)
        and is_array(address(other), kind, FLAT)
        and is_array(address(y), kind, FLAT_OUT)
        and is_like(address(other), address(x))
        and is_like(address(y), address(x))
    ):
        return False
    out = word(address(y) + DATA)
    n_bytes = size_of(address(x)) * (8 if dtype == wide else 4)
    for operand in (address(x), address(other)):
        data = word(operand + DATA)
        if data != out and not are_apart(data, n_bytes, out, n_bytes):
            return False
    rows = address(a), address(b), address(c), address(d)
    for k in range(4):
        flags = FLAT_OUT if k < written else FLAT
        if not is_row(rows[k], kind, flags, n_channels):
            return False
        dtype = word(rows[k] + DTYPE)
        if dtype != narrow and dtype != wide:
            return False
        if not are_apart(word(rows[k] + DATA), n_channels * (8 if dtype == wide else 4), out, n_bytes):
            return False
    return True


def entry() -> Callable[..., bool] | None:
    """Where to call `fit`, if arrays can be read here."""
    return fit.on(1, np.empty(0)) if KNOWN else None
