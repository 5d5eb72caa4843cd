"""Arrays on a CUDA device for the tests: a card, Numba's simulator, or whatever else answers for one."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


@cache
def missing() -> str:
    """Why there is no device; nothing if there is one."""
    if find_spec("numba_cuda") is None and not simulated():
        return "no CUDA device: numba-cuda is not installed (extras cuda12, cuda13)"
    from numba import cuda

    if simulated():
        import simulator

        simulator.install()
        return ""
    return "" if cuda.is_available() else "no CUDA device, and NUMBA_ENABLE_CUDASIM is not set"


@cache
def simulated() -> bool:
    from numba.core import config

    return bool(config.ENABLE_CUDASIM)


class OnDevice:
    """A copy of a host array on the device, with its strides, read-only as it is, at a multiple of `step` bytes."""

    def __init__(self, a: Array, shift: int = 0) -> None:
        from numba import cuda

        self.shape, self.dtype, self.strides = a.shape, a.dtype, a.strides
        first = a.__array_interface__["data"][0]
        low, high = np.lib.array_utils.byte_bounds(a) if a.size else (first, first)
        start = first - low
        memory = np.full(high - low + shift + 64, 0xFF, np.uint8)
        if a.size and 0 not in a.strides:
            np.ndarray(a.shape, a.dtype, memory, shift + start, a.strides)[...] = a
        else:
            memory[shift : shift + high - low] = _bytes(a, low, high)
        self.memory = cuda.to_device(memory)
        pointer = self.memory.__cuda_array_interface__["data"][0] + shift + start
        self.__cuda_array_interface__ = {
            "shape": a.shape,
            "typestr": a.dtype.str,
            "data": (pointer, not a.flags.writeable),
            "strides": a.strides,
            "stream": None,
            "version": 3,
        }


def to_device(a: Any, shift: int = 0) -> Any:
    """A copy of a host array, as a stranger would bring it: an interface and nothing else."""
    return OnDevice(a, shift)


def _bytes(a: Array, low: int, high: int) -> Array:
    import ctypes

    return np.ctypeslib.as_array((ctypes.c_uint8 * (high - low)).from_address(low))


def to_host(value: Any) -> Array:
    """A copy of a device array on the host."""
    from numba import cuda

    interface = value.__cuda_array_interface__
    shape, dtype = tuple(interface["shape"]), np.dtype(interface["typestr"])
    if 0 in shape:
        return np.empty(shape, dtype)
    strides = interface["strides"] or tuple(s * dtype.itemsize for s in np.empty(shape, np.uint8).strides)
    ahead = sum((n - 1) * s for n, s in zip(shape, strides, strict=True) if s < 0)
    extent = 1 + sum((n - 1) * abs(s) for n, s in zip(shape, strides, strict=True)) // dtype.itemsize
    flat = type("Flat", (), {})()
    place = interface["data"][0] + ahead, False
    flat.__cuda_array_interface__ = {**interface, "shape": (extent,), "strides": None, "data": place}
    flat.owner = value
    memory = np.array(cuda.as_cuda_array(flat).copy_to_host())
    return np.ndarray(shape, dtype, memory, -ahead, strides)
