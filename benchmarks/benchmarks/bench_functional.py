"""Functions and layers over shapes that users meet; NUMBABN_BENCH_SMALL=1 shrinks every shape for a quick pass."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

import numbabn as nb

SMALL = os.environ.get("NUMBABN_BENCH_SMALL") == "1"
SHAPES: dict[str, tuple[int, ...]] = {
    "large planes": (8, 64, 112, 112),
    "medium planes": (32, 64, 56, 56),
    "short planes": (32, 512, 7, 7),
    "few channels": (64, 3, 224, 224),
    "rows": (4096, 1024),
    "small": (32, 64),
}
if SMALL:
    SHAPES = {name: tuple(min(n, 9) for n in shape) for name, shape in SHAPES.items()}


class Functions:
    """Times with outputs reused."""

    params = (list(SHAPES), ["first", "last"], ["float32", "float64"])
    param_names = ("shape", "channels", "dtype")

    def setup(self, shape: str, channels: str, dtype: str) -> None:
        rng = np.random.default_rng(0)
        self.x, self.dy = (rng.standard_normal(SHAPES[shape]).astype(dtype) for _ in range(2))
        if channels == "last":
            order = (0, *range(2, self.x.ndim), 1)
            self.x, self.dy = (np.ascontiguousarray(a.transpose(order)) for a in (self.x, self.dy))
        self.axis = 1 if channels == "first" else -1
        c = self.x.shape[self.axis]
        self.out = np.empty_like(self.x)
        self.mean, self.var = np.zeros(c, np.float32), np.ones(c, np.float32)
        self.weight, self.bias = np.ones(c, np.float32), np.zeros(c, np.float32)
        _, self.save_mean, self.save_invstd = nb.batch_norm_forward(self.x, training=True, axis=self.axis)

    def _forward(self, training: bool) -> None:
        nb.batch_norm(self.x, self.mean, self.var, self.weight, self.bias, training, axis=self.axis, out=self.out)

    def time_training(self, *_: Any) -> None:
        self._forward(True)

    def time_eval(self, *_: Any) -> None:
        self._forward(False)

    def time_backward(self, *_: Any) -> None:
        saved = (self.weight, self.save_mean, self.save_invstd)
        nb.batch_norm_backward(self.dy, self.x, *saved, axis=self.axis, out=self.out)

    def time_moments(self, *_: Any) -> None:
        nb.moments(self.x, axis=self.axis)


class Layer:
    """A training step of a layer, and the memory it takes."""

    def setup(self) -> None:
        shape = SHAPES["medium planes"]
        self.layer = nb.BatchNorm2d(shape[1])
        self.x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
        self.layer.backward(self.layer(self.x))

    def time_step(self) -> None:
        self.layer.backward(self.layer(self.x))

    def peakmem_step(self) -> None:
        self.layer.backward(self.layer(self.x))


class Start:
    """What a new process waits for."""

    def timeraw_import(self) -> str:
        return "import numbabn"

    def timeraw_first_result(self) -> str:
        return "import numbabn, numpy; numbabn.batch_norm(numpy.ones((8, 4), 'f4'), training=True)"
