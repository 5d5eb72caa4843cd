"""Memory on the device that does not come from the caller: results for libraries that cannot allocate, constants."""

from __future__ import annotations

import importlib
import math
from functools import lru_cache
from typing import Any

import numpy as np

from .._compile_cuda import cuda
from .launch import on_device, stream_of


def allocate(x: Any, shape: tuple[int, ...], dtype: np.dtype[Any], strides: tuple[int, ...] | None = None) -> Any:
    """A new Numba array beside x, not initialised."""
    with on_device(x.device):
        return cuda.device_array(shape, dtype, strides=strides, stream=stream_of(x.stream))


@lru_cache(maxsize=256)
def constant(device: int | None, n: int, value: float, dtype: np.dtype[Any]) -> Any:
    """Equal numbers on a device, not to be written."""
    with on_device(device):
        return cuda.to_device(np.full(max(n, 1), value, dtype))


def to_device(array: Any, device: int | None) -> Any:
    """A copy of an array of the host."""
    with on_device(device):
        return cuda.to_device(array)


def to_host(array: Any) -> Any:
    """A copy of a device array; waits for it."""
    return cuda.as_cuda_array(array).copy_to_host()


def import_dlpack(value: Any) -> tuple[Any, ...]:
    """Pointer, shape, strides, dtype, read-only, device and stream of an array that only speaks DLPack."""
    view = importlib.import_module("cuda.core.utils").StridedMemoryView.from_dlpack(value, stream_ptr=-1)
    dtype, shape = np.dtype(view.dtype), tuple(view.shape)
    counted = view.strides if view.strides is not None else [math.prod(shape[k + 1 :]) for k in range(len(shape))]
    strides = tuple(s * dtype.itemsize for s in counted)
    return view.ptr, shape, strides, dtype, view.readonly, view.device_id, 0
