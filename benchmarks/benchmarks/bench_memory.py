"""Peak memory of a process on one large case: subtract `peakmem_arrays` for what a call takes on top of its arrays."""

from __future__ import annotations

from typing import Any

import numpy as np

import numbabn as nb

from .cases import SMALL

SHAPE = (4, 8, 16, 16) if SMALL else (64, 64, 112, 112)


class Memory:
    """All have the input, the gradient and all their kernels in memory; the output is a new array or none."""

    def setup(self) -> None:
        rng = np.random.default_rng(0)
        self.x, self.dy = (rng.standard_normal(SHAPE, np.float32) for _ in range(2))
        c = SHAPE[1]
        self.mean, self.var = np.zeros(c), np.ones(c)
        self.saved = (None, self.mean, self.var)
        arrays = self.x, self.dy
        self.x, self.dy = (a[:2] for a in arrays)
        for name in dir(self):
            if name.startswith("peakmem"):
                getattr(self, name)()
        self.x, self.dy = arrays

    def peakmem_arrays(self) -> None:
        """Nothing is called: what the others are compared with."""

    def peakmem_training(self) -> Any:
        return nb.batch_norm(self.x, self.mean, self.var, training=True)

    def peakmem_training_in_place(self) -> Any:
        return nb.batch_norm(self.x, self.mean, self.var, training=True, out=self.x)

    def peakmem_eval(self) -> Any:
        return nb.batch_norm(self.x, self.mean, self.var)

    def peakmem_backward(self) -> Any:
        return nb.batch_norm_backward(self.dy, self.x, *self.saved)

    def peakmem_moments_strided(self) -> Any:
        """No stride pattern makes a whole copy."""
        return nb.moments(self.x[::-1, :, ::2, ::-2])

    def peakmem_layer_step(self) -> Any:
        layer = nb.BatchNorm2d(SHAPE[1])
        return layer.backward(layer(self.x))
