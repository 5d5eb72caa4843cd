"""CUDA: bytes a second by the device's own clock, beside CuPy and PyTorch. There is nothing to run without a card."""

from __future__ import annotations

import math
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np

import numbabn as nb

from .cases import SMALL

CALLS = 2 if SMALL else 100
# Elements that two launches read or write for each of x; one launch, where it is enough, moves less in training.
MOVES = {"training": 3, "eval": 2, "backward": 5, "dx of eval": 2}
SHAPES = [(4, 3, 9, 9)] if SMALL else [(32, 64, 56, 56), (32, 512, 28, 28), (32, 512, 7, 7), (100_000, 256)]


def _card() -> Any:
    """Numba's CUDA, if there is a card for it."""
    if find_spec("numba_cuda") is None:
        return None
    from numba import cuda

    return cuda if cuda.is_available() else None


def _call(operation: str, x: Any, dy: Any, row: Callable[[float], Any], out: Any) -> Callable[[], Any]:
    mean, invstd, weight, bias = (row(value) for value in (0.0, 1.0, 1.0, 0.0))
    return {
        "training": lambda: nb.batch_norm(x, mean, invstd, weight, bias, True, out=out),
        "eval": lambda: nb.batch_norm(x, mean, invstd, weight, bias, out=out),
        "backward": lambda: nb.batch_norm_backward(dy, x, weight, mean, invstd, out=out),
        "dx of eval": lambda: nb.batch_norm_backward(
            dy, None, weight, None, invstd, training=False, out=out, needs=("x",)
        ),
    }[operation]


def _seconds(cuda: Any, call: Callable[[], Any]) -> float:
    """Of one call, between two events around many."""
    first, last = cuda.event(), cuda.event()
    call()
    first.record()
    for _ in range(CALLS):
        call()
    last.record()
    last.synchronize()
    return float(cuda.event_elapsed_time(first, last)) / 1e3 / CALLS


if _card() is not None:

    class Rates:
        """Bytes of the arrays, each read or written once by a pass, over the time: more is better."""

        params = (list(MOVES), [str(shape) for shape in SHAPES])
        param_names = ("operation", "shape")
        unit = "GB/s"

        def setup(self, operation: str, shape: str) -> None:
            self.cuda = _card()
            self.shape = next(s for s in SHAPES if str(s) == shape)
            host = np.random.default_rng(0).normal(size=self.shape).astype(np.float32)
            self.x, self.dy, self.out = (self.cuda.to_device(host) for _ in range(3))

        def row(self, value: float) -> Any:
            return self.cuda.to_device(np.full(self.shape[1], value, np.float32))

        def _rate(self, operation: str, call: Callable[[], Any]) -> float:
            return MOVES[operation] * 4 * math.prod(self.shape) / _seconds(self.cuda, call) / 1e9

        def track_numbabn(self, operation: str, _: str) -> float:
            return self._rate(operation, _call(operation, self.x, self.dy, self.row, self.out))

        def track_copy(self, operation: str, _: str) -> float:
            return self._rate("eval", lambda: self.out.copy_to_device(self.x))

        def track_torch(self, operation: str, _: str) -> float:
            torch = _library("torch")
            x, rows = torch.as_tensor(self.x), [torch.as_tensor(self.row(v)) for v in (0.0, 1.0, 1.0, 0.0)]
            norm = torch.nn.functional.batch_norm
            if operation not in ("training", "eval"):
                raise NotImplementedError("its backward needs a graph of gradients")
            return self._rate(operation, lambda: norm(x, *rows, training=operation == "training"))

        def track_cupy(self, operation: str, _: str) -> float:
            cupy = _library("cupy")
            x, rows = cupy.asarray(self.x), [cupy.asarray(self.row(v)).reshape(-1, 1, 1) for v in (0.0, 1.0, 1.0, 0.0)]
            if operation != "eval" or x.ndim != 4:
                raise NotImplementedError("CuPy has arithmetic, no batch normalization")
            return self._rate(operation, lambda: (x - rows[0]) * (rows[1] * rows[2]) + rows[3])


def _library(name: str) -> Any:
    if find_spec(name) is None:
        raise NotImplementedError(f"{name} is not installed")
    return __import__(name)
