"""What a kernel is given: memory of the device, seen as packets or elements."""

from __future__ import annotations

from typing import Any

import numpy as np

from .._compile_cuda import array_type


class Operand:
    """An array of packets, for a kernel; Numba sees its type at once and takes no stream from it."""

    __slots__ = ("__cuda_array_interface__", "_numba_type_")

    def __init__(self, pointer: int, shape: tuple[int, ...], dtype: np.dtype[Any], readonly: bool) -> None:
        self.__cuda_array_interface__ = {
            "shape": shape,
            "typestr": dtype.str,
            "data": (pointer, readonly),
            "strides": None,
            "stream": None,
            "version": 3,
        }
        self._numba_type_ = array_type(dtype.char, len(shape), readonly)


def packets(array: Any, width: int, written: bool = False) -> Operand:
    """A flat device array as packets of that many elements: aligned ones, of rank 2, or at any address, of rank 3."""
    n, pointer = array.extent // width, array.pointer
    if width == 1:
        shape: tuple[int, ...] = (n,)
    else:
        shape = (n, width) if pointer % 16 == 0 else (n, 1, width)
    return Operand(pointer, shape, array.dtype, not written)
