"""Numba's CUDA simulator, taught what the kernels and their callers need of it: arrays by their interface.

The simulator swaps `cuda` inside one module at a time, from many threads; here it is swapped in all kernel modules,
once a launch.
"""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numba import cuda
from numba.cuda.simulator import kernel as simulated
from numba.cuda.simulator.cudadrv.devicearray import FakeCUDAArray


def at_address(interface: dict[str, Any]) -> Any:
    """What a CUDA array interface describes, as the simulator's array."""
    pointer, readonly = interface["data"]
    shape, dtype = interface["shape"], np.dtype(interface["typestr"])
    strides = interface["strides"] or np.empty(shape, np.uint8).strides
    if not interface["strides"]:
        strides = tuple(s * dtype.itemsize for s in strides)
    if 0 in shape:
        return FakeCUDAArray(np.empty(shape, dtype))
    ahead = sum((n - 1) * s for n, s in zip(shape, strides, strict=True) if s < 0)
    span = dtype.itemsize + sum((n - 1) * abs(s) for n, s in zip(shape, strides, strict=True))
    memory = (ctypes.c_uint8 * span).from_address(pointer + ahead)
    array: Any = np.ndarray(shape, dtype, memory, -ahead, strides)
    array.flags.writeable = not readonly
    return FakeCUDAArray(array)


def interface_of(array: Any) -> dict[str, Any]:
    a = array._ary
    flat = None if a.flags.c_contiguous else a.strides
    place = a.ctypes.data, not a.flags.writeable
    return {"shape": a.shape, "typestr": a.dtype.str, "data": place, "strides": flat, "stream": None, "version": 3}


@contextmanager
def swapped_everywhere(_function: Any, stand_in: Any) -> Iterator[None]:
    found = (m for name, m in sys.modules.items() if name.startswith("numbabn._cuda."))
    modules: list[Any] = [m for m in found if hasattr(m, "cuda")]
    before = [m.cuda for m in modules]
    for m in modules:
        m.cuda = stand_in
    try:
        yield
    finally:
        for m, original in zip(modules, before, strict=True):
            m.cuda = original


def shfl_xor_sync(module: Any, _mask: int, value: Any, lane: int) -> Any:
    """The value of another thread; the simulated block is one warp."""
    meeting, exchanged = module.__dict__.setdefault("warp", (threading.Barrier(module.blockDim.x), {}))
    t = module.threadIdx.x
    exchanged[t] = value
    meeting.wait()
    other = exchanged[t ^ lane]
    meeting.wait()
    return other


def install() -> None:
    """Change the simulator of this process."""
    original = simulated.FakeCUDAKernel.__call__

    def call(self: Any, *args: Any) -> None:
        known = (a if isinstance(a, FakeCUDAArray) else getattr(a, "__cuda_array_interface__", None) for a in args)
        given = [a if k is None or k is a else at_address(k) for a, k in zip(args, known, strict=True)]
        original(self, *given)

    simulated.FakeCUDAKernel.__call__ = call
    simulated.FakeCUDAModule.shfl_xor_sync = shfl_xor_sync
    simulated.swapped_cuda_module = swapped_everywhere
    FakeCUDAArray.__cuda_array_interface__ = property(interface_of)
    cuda.as_cuda_array = lambda value, sync=True: at_address(value.__cuda_array_interface__)
