"""Arrays so small that checks and dispatch take the time."""

from __future__ import annotations

import numpy as np

import numbabn as nb

SHAPES = {"32x64": (32, 64), "2x8x4x4": (2, 8, 4, 4)}


class SmallCalls:
    """Functions with outputs reused, layers as users call them."""

    params = tuple(SHAPES)
    param_names = ("shape",)

    def setup(self, name: str) -> None:
        shape = SHAPES[name]
        rng = np.random.default_rng(0)
        self.x, self.dy = (rng.standard_normal(shape, np.float32) for _ in range(2))
        self.out = np.empty_like(self.x)
        self.weight, self.bias, self.mean, self.var = (np.full(shape[1], v, np.float32) for v in (1, 0, 0, 1))
        self.saved = (self.weight, np.zeros(shape[1]), np.ones(shape[1]))
        kind = nb.BatchNorm1d if len(shape) == 2 else nb.BatchNorm2d
        self.learning, self.fixed = kind(shape[1]), kind(shape[1])
        self.fixed.eval()
        nb.batch_norm(self.x, self.mean, self.var)  # compiled or loaded here, not in the first measurement
        self.time_layer_step(name)
        self.time_moments(name)

    def time_training(self, _: str) -> None:
        nb.batch_norm(self.x, self.mean, self.var, self.weight, self.bias, True, out=self.out)

    def time_eval(self, _: str) -> None:
        nb.batch_norm(self.x, self.mean, self.var, self.weight, self.bias, out=self.out)

    def time_backward(self, _: str) -> None:
        nb.batch_norm_backward(self.dy, self.x, *self.saved, out=self.out)

    def time_moments(self, _: str) -> None:
        nb.moments(self.x)

    def time_layer_step(self, _: str) -> None:
        self.learning(self.x)
        self.learning.backward(self.dy)

    def time_layer_eval(self, _: str) -> None:
        self.fixed(self.x)
