"""One case's arrays, which all contenders work on."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

import numbabn as nb

Array = npt.NDArray[Any]
Call = Callable[[], Any]  # gives y or dx, or a tuple that begins with it
Calls = dict[str, dict[str, Call]]  # by operation, then by the way it is called

EPS, MOMENTUM = 1e-5, 0.1
SMALL = 16_384  # elements: below, a call is mostly checks and dispatch
_BLOCK = 1 << 20


@dataclass(frozen=True)
class Case:
    """Shape with the channels on axis 1, as PyTorch writes it; the layout says what the memory order is."""

    layout: str
    shape: tuple[int, ...]
    dtype: str = "float32"

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.size * np.dtype(self.dtype).itemsize

    @property
    def dimensions(self) -> str:
        return "x".join(map(str, self.shape))

    def __str__(self) -> str:
        return f"{self.layout} {self.dimensions} {self.dtype}"


class Batch:
    """Arrays of a case, channels on axis 1; NHWC ones are views with the strides of their memory order.

    x has mean 0 and variance 1 in each channel, so that calls in place can be repeated: they leave it as it is. The
    other large arrays are made for the first call that uses them.
    """

    def __init__(self, case: Case) -> None:
        self.case = case
        self.dtype = np.dtype(case.dtype)
        self.channels = case.shape[1]
        self.axes = tuple(a for a in range(len(case.shape)) if a != 1)
        self.x = self._array(0)
        nb.batch_norm(self.x, training=True, eps=0, out=self.x)
        self.weight, self.bias, self.mean, self.var = (np.full(self.channels, v, self.dtype) for v in (1, 0, 0, 1))
        self.running_mean, self.running_var = self.mean.copy(), self.var.copy()

    @cached_property
    def dy(self) -> Array:
        return self._array(1)

    @cached_property
    def out(self) -> Array:
        return self._array(None)

    @property
    def axis(self) -> int:
        """Channel axis of `natural` arrays."""
        return -1 if self.case.layout == "nhwc" else 1

    def natural(self, array: Array) -> Array:
        """A contiguous view, in the order of memory."""
        return np.moveaxis(array, 1, -1) if self.case.layout == "nhwc" else array

    def flat(self, array: Array) -> Array:
        """A view of one dimension."""
        return self.natural(array).reshape(-1)

    def _array(self, seed: int | None) -> Array:
        n, c, *rest = self.case.shape
        last = self.case.layout == "nhwc"
        array: Array = np.empty((n, *rest, c) if last else self.case.shape, self.dtype)
        if seed is not None:
            _fill(array.reshape(-1), seed)
        return np.moveaxis(array, -1, 1) if last else array


def _fill(flat: Array, seed: int) -> None:
    """Seeded noise, a block of it over and over: gigabytes of fresh numbers would take longer than what is measured."""
    block = np.random.default_rng(seed).standard_normal(min(flat.size, _BLOCK), dtype=np.float32)
    for start in range(0, flat.size, _BLOCK):
        part = flat[start : start + _BLOCK]
        part[...] = block[: part.size]
