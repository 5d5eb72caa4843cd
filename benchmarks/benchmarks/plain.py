"""The same work in plain NumPy, as one would write it for speed: few passes and temporaries, the same output reused."""

from __future__ import annotations

import numpy as np

from .cases import Array, Batch


class Plain:
    """NumPy's side of a batch; its methods are named like those of `Batch`."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch
        channel = batch.axis % batch.x.ndim
        self.axes = tuple(a for a in range(batch.x.ndim) if a != channel)
        self.shape = tuple(-1 if a == channel else 1 for a in range(batch.x.ndim))  # a number for each channel
        self.count = batch.x.size // batch.channels

    def training(self) -> None:
        b = self.batch
        mean = b.x.mean(self.axes, keepdims=True)
        np.subtract(b.x, mean, out=b.out)
        var = np.square(b.out).mean(self.axes, keepdims=True)
        b.mean += 0.1 * (mean.ravel() - b.mean)
        b.var += 0.1 * (var.ravel() * (self.count / (self.count - 1)) - b.var)
        self._affine(b.weight.reshape(self.shape) / np.sqrt(var + 1e-5), b.bias.reshape(self.shape))

    def eval(self) -> None:
        b = self.batch
        np.subtract(b.x, b.mean.reshape(self.shape), out=b.out)
        self._affine(*(a.reshape(self.shape) for a in (b.weight / np.sqrt(b.var + 1e-5), b.bias)))

    def backward(self) -> None:
        b = self.batch
        mean, invstd = (a.astype(b.x.dtype).reshape(self.shape) for a in (b.save_mean, b.save_invstd))
        centred = b.x - mean
        np.multiply(b.dy, centred, out=b.out)
        sum_dy, sum_dy_xmu = (a.sum(self.axes, keepdims=True) for a in (b.dy, b.out))
        np.multiply(centred, invstd**2 * sum_dy_xmu / self.count, out=b.out)
        np.subtract(b.dy, b.out, out=b.out)
        self._affine(scale := b.weight.reshape(self.shape) * invstd, -scale * sum_dy / self.count)

    def moments(self) -> None:
        mean = self.batch.x.mean(self.axes, keepdims=True)
        np.square(self.batch.x - mean).sum(self.axes)

    def _affine(self, scale: Array, shift: Array) -> None:
        """out * scale + shift, in place and in the dtype of out."""
        out = self.batch.out
        np.multiply(out, scale.astype(out.dtype), out=out)
        np.add(out, shift.astype(out.dtype), out=out)
