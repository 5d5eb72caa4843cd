"""New arrays, on the memory of an earlier one that is gone where that fits.

The first touch of a page costs more than a pass over it: filling 64 MB of fresh memory took twice as long as filling
used memory, 128 MB three times. So the last large block that nobody refers to any more is held for the next output.

The base of an array from here is a `_Block`, and so is, in the end, the base of all that is made of it without a copy:
views, buffers, DLPack capsules, tensors. When the last of them goes, the block goes, and leaves its memory to
`_held`. There is no lock that a fork or a finaliser could meet: a finaliser runs in any thread and between any two
steps, even those of `empty_like`, and a deque's `append` and `pop` are single steps. A forked child has its own copy.
"""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ._config import current, of_process, watch

Array: TypeAlias = npt.NDArray[Any]
Bytes: TypeAlias = npt.NDArray[np.uint8]

# Up to 8 MiB glibc hands out used memory itself, from 32 MiB on never. A call in between costs 3 us more; smaller ones
# should not free what a larger one waits for.
_SMALLEST = 1 << 22
_ALIGNMENT = 64  # a cache line and a vector; malloc puts large arrays 16 bytes behind one

_held: deque[Bytes] = deque(maxlen=1)


class _Block:
    """Memory as long as an array needs it. No subclass of ndarray: NumPy would pass over it to the base beneath."""

    __slots__ = ("__array_interface__", "memory")

    def __init__(self, memory: Bytes, like: Array) -> None:
        self.memory = memory
        address: int = memory.__array_interface__["data"][0]
        self.__array_interface__ = {
            "version": 3,
            "data": (address, False),
            "shape": like.shape,
            "strides": _strides(like),
            "typestr": like.dtype.str,
        }

    def __reduce__(self) -> Any:
        raise TypeError("the memory of a result cannot be copied or pickled; copy the array")

    def __del__(self) -> None:
        try:
            memory = self.memory
            del self.memory, self.__array_interface__  # whoever revives the block finds nothing
            _held.append(memory)
            _trim()
        except Exception:  # it was never filled, or the interpreter is going down and its modules are empty
            return


def empty_like(like: Array) -> Array:
    """What ``np.empty_like(like, order="K", subok=False)`` makes, where it is large on a `_Block`."""
    size = like.nbytes
    if size < _SMALLEST:
        return np.empty_like(like, None, "K", False)  # by position: 30 ns less
    limit = current().recycle_limit
    if not limit:  # perhaps for this thread alone: what is held is for the others
        return np.empty_like(like, None, "K", False)
    memory = _take(size)
    if size > limit:
        return np.empty_like(like, None, "K", False)
    block: Any = _Block(_new(size) if memory is None else memory, like)
    return np.asarray(block)


def _take(needed: int) -> Bytes | None:
    """Memory that is held, if it fits; it is freed if not, before there is more of it.

    An eighth may be left over: batches whose length varies a little need not begin anew each time.
    """
    try:
        memory = _held.pop()
    except IndexError:
        return None
    return memory if needed <= memory.nbytes <= needed + needed // 8 else None


def _new(size: int) -> Bytes:
    """Uninitialised memory that starts on a multiple of the alignment."""
    memory = np.empty(size + _ALIGNMENT, np.uint8)
    start = -memory.__array_interface__["data"][0] % _ALIGNMENT
    return memory[start : start + size]


def _strides(like: Array) -> tuple[int, ...] | None:
    """Strides without gaps that keep the order of axes in memory; None for C order."""
    if like.flags.c_contiguous:
        return None
    strides, step = list(like.strides), like.itemsize
    for axis in sorted(range(like.ndim), key=lambda a: (abs(strides[a]), -a)):
        strides[axis] = step
        step *= like.shape[axis]
    return tuple(strides)


def _trim() -> None:
    """Free what is held if the process may not hold as much.

    The limit is the process's: a finaliser runs in whatever thread or task let go of an array last, and what that has
    set for itself says nothing about who comes next. It is read after the memory is in its place: so is one of the two
    sure to see the other, where a limit is lowered meanwhile.
    """
    with suppress(IndexError):
        if _held[0].nbytes > of_process().recycle_limit:
            _held.clear()


watch(_trim)
