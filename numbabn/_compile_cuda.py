"""The one door to Numba's CUDA target: the provider, how kernels are compiled, and how they are launched."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from typing import Any, TypeVar

import numpy as np
from numba import cuda as cuda
from numba.core import config
from numba.core.errors import NumbaPerformanceWarning

if not config.ENABLE_CUDASIM and find_spec("numba_cuda") is None:
    raise ImportError("CUDA arrays need numba-cuda: install numbabn[cuda13] or numbabn[cuda12]")

BLOCK = 32 if config.ENABLE_CUDASIM else 256  # threads of every block; the simulator starts a Python thread for each
MOST_GRIDS = 1024  # that a kernel remembers
LEAST_BLOCKS = 3  # of a multiprocessor that a kernel leaves registers for: 80 each at most, and no spills
SIMULATED = bool(config.ENABLE_CUDASIM)  # kernels run as plain Python, a thread for each of the device's

i32 = np.int32  # what all integers in kernels are wrapped in: two 32-bit operands make a 64-bit result otherwise

_F = TypeVar("_F", bound=Callable[..., Any])


def inner(function: _F) -> _F:
    """Compile a function that only kernels call."""
    return function if SIMULATED else cuda.jit(device=True)(function)


class kernel:  # noqa: N801 - a decorator
    """A function of a grid of blocks; it is compiled for the types of its arguments when first launched."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.dispatcher = cuda.jit(function) if SIMULATED else cuda.jit(launch_bounds=(BLOCK, LEAST_BLOCKS))(function)
        self._configured: dict[Any, Any] = {}
        kernels.append(self)

    def on(self, grid: tuple[int, int], stream: Any, shared: int = 0) -> Callable[..., Any]:
        """What to call with the kernel's arguments, to run on this grid with so many bytes of dynamic shared memory."""
        if SIMULATED:  # one object that remembers the last grid
            return self.dispatcher[grid, BLOCK, stream, shared]  # type: ignore[no-any-return]
        key = grid, stream, shared
        launch = self._configured.get(key)
        if launch is None:
            if len(self._configured) >= MOST_GRIDS:
                self._configured.clear()
            with warnings.catch_warnings():  # small arrays have small grids: the caller need not know
                warnings.simplefilter("ignore", NumbaPerformanceWarning)
                launch = self._configured[key] = self.dispatcher[grid, BLOCK, stream, shared]
        return launch  # type: ignore[no-any-return]


@cache
def array_type(char: str, ndim: int, readonly: bool) -> Any:
    """Numba's type of a contiguous array; the simulator knows none."""
    if SIMULATED:
        return None
    types = importlib.import_module("numba.cuda.types")
    return types.Array({"f": types.float32, "d": types.float64}[char], ndim, "C", readonly=readonly)


kernels: list[kernel] = []  # all that are loaded
