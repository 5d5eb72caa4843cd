"""The same work in plain NumPy, as one would write it for speed: few passes and temporaries, the same output reused."""

from __future__ import annotations

import numpy as np

from .batch import EPS, MOMENTUM, Array, Batch, Calls


def calls(b: Batch) -> Calls:
    """What NumPy does in a few lines."""
    side = Plain(b)
    return {name: {"out": getattr(side, name)} for name in ("training", "eval", "backward", "moments")}


class Plain:
    """NumPy's side of a batch."""

    def __init__(self, b: Batch) -> None:
        self.batch = b
        self.shape = tuple(1 if a in b.axes else -1 for a in range(b.x.ndim))  # a number for each channel
        self.count = b.x.size // b.channels
        mean, var = b.x.mean(b.axes, np.float64), b.x.var(b.axes, np.float64)
        self.saved = tuple(a.astype(b.dtype).reshape(self.shape) for a in (mean, 1 / np.sqrt(var + EPS)))

    def training(self) -> Array:
        b = self.batch
        mean = b.x.mean(b.axes, keepdims=True)
        np.subtract(b.x, mean, out=b.out)
        var = np.square(b.out).mean(b.axes, keepdims=True)
        b.running_mean += MOMENTUM * (mean.ravel() - b.running_mean)
        b.running_var += MOMENTUM * (var.ravel() * (self.count / (self.count - 1)) - b.running_var)
        return self._affine(b.weight.reshape(self.shape) / np.sqrt(var + EPS), b.bias.reshape(self.shape))

    def eval(self) -> Array:
        b = self.batch
        np.subtract(b.x, b.mean.reshape(self.shape), out=b.out)
        return self._affine(*(a.reshape(self.shape) for a in (b.weight / np.sqrt(b.var + EPS), b.bias)))

    def backward(self) -> Array:
        b = self.batch
        mean, invstd = self.saved
        centred = b.x - mean
        np.multiply(b.dy, centred, out=b.out)
        sum_dy, sum_dy_xmu = (a.sum(b.axes, keepdims=True) for a in (b.dy, b.out))
        np.multiply(centred, invstd**2 * sum_dy_xmu / self.count, out=b.out)
        np.subtract(b.dy, b.out, out=b.out)
        return self._affine(scale := b.weight.reshape(self.shape) * invstd, -scale * sum_dy / self.count)

    def moments(self) -> tuple[Array, Array]:
        mean = self.batch.x.mean(self.batch.axes, keepdims=True)
        return mean, np.square(self.batch.x - mean).sum(self.batch.axes)

    def _affine(self, scale: Array, shift: Array) -> Array:
        """out * scale + shift, in place and in the dtype of out."""
        out = self.batch.out
        np.multiply(out, scale.astype(out.dtype), out=out)
        np.add(out, shift.astype(out.dtype), out=out)
        return out
