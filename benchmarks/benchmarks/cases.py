"""The data that benchmarks share; NUMBABN_BENCH_SMALL=1 shrinks it for a quick pass that shows what no longer runs."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import numpy.typing as npt

import numbabn as nb

Array = npt.NDArray[Any]

SMALL = os.environ.get("NUMBABN_BENCH_SMALL") == "1"
DTYPES = ["float32"] if SMALL else ["float32", "float64"]

# By memory order: NHWC is contiguous with its channels last.
SHAPES: dict[str, list[tuple[int, ...]]]
if SMALL:
    SHAPES = {"NCHW": [(4, 3, 9, 9)], "NHWC": [(4, 9, 9, 3)], "NC": [(32, 8)]}
else:
    SHAPES = {
        "NCHW": [(8, 64, 112, 112), (32, 64, 56, 56), (32, 512, 7, 7), (64, 3, 224, 224)],
        "NHWC": [(8, 112, 112, 64), (32, 56, 56, 64), (32, 7, 7, 512), (64, 224, 224, 3)],
        "NC": [(4096, 1024), (100_000, 16)],
    }
CASES = {f"{order} {'x'.join(map(str, shape))}": shape for order in SHAPES for shape in SHAPES[order]}


class Batch:
    """One case's arrays, and the calls that are measured: each writes to the same output every time."""

    def __init__(self, case: str, dtype: str) -> None:
        shape = CASES[case]
        self.axis = -1 if case.startswith("NHWC") else 1
        self.channels = shape[self.axis]
        rng = np.random.default_rng(0)
        self.x = rng.standard_normal(shape, dtype)  # type: ignore[call-overload]
        self.dy = rng.standard_normal(shape, dtype)  # type: ignore[call-overload]
        self.out = np.empty_like(self.x)
        self.weight, self.bias, self.mean, self.var = (np.full(self.channels, v, np.float32) for v in (1, 0, 0, 1))
        _, self.save_mean, self.save_invstd = nb.batch_norm_forward(self.x, training=True, axis=self.axis, out=self.out)
        # Compiled here, not in the first measurement: with --quick there is no other.
        for call in (self.training, self.eval, self.backward, self.moments, self.normalize):
            call()

    def training(self) -> None:
        self._forward(True, self.out)

    def training_in_place(self) -> None:
        self._forward(True, self.x)

    def eval(self) -> None:
        self._forward(False, self.out)

    def backward(self) -> None:
        saved = (self.weight, self.save_mean, self.save_invstd)
        nb.batch_norm_backward(self.dy, self.x, *saved, axis=self.axis, out=self.out)

    def moments(self) -> None:
        nb.moments(self.x, axis=self.axis)

    def normalize(self) -> None:
        given = (self.save_mean, self.save_invstd, self.weight, self.bias)
        nb.normalize(self.x, *given, axis=self.axis, out=self.out)

    def _forward(self, training: bool, out: Array) -> None:
        buffers = (self.mean, self.var, self.weight, self.bias)
        nb.batch_norm(self.x, *buffers, training, axis=self.axis, out=out)
