"""The oracle: batch normalization written as the formulas read, in long double, over any axis or tuple of axes.

It knows NumPy and nothing else. Per-channel numbers have the shape of the kept axes, in array order.
"""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]
Axis: TypeAlias = int | tuple[int, ...]


def kept_axes(ndim: int, axis: Axis) -> tuple[int, ...]:
    """The channel axes, counted from 0, in array order."""
    return tuple(sorted(a % ndim for a in (axis if isinstance(axis, tuple) else (axis,))))


def reduced_axes(ndim: int, axis: Axis) -> tuple[int, ...]:
    kept = kept_axes(ndim, axis)
    return tuple(a for a in range(ndim) if a not in kept)


def spread(c: Any, ndim: int, axis: Axis) -> Array:
    """Per-channel numbers in long double with the reduced axes put back as 1."""
    return np.expand_dims(np.asarray(c, np.longdouble), reduced_axes(ndim, axis))


def moments(x: Array, axis: Axis = 1) -> tuple[int, Array, Array]:
    """Count, mean and sum of squared deviations, in two passes; the mean is corrected by that of the deviations."""
    wide, reduced = x.astype(np.longdouble), reduced_axes(x.ndim, axis)
    count = math.prod(x.shape[a] for a in reduced)
    mean = wide.sum(reduced) / count
    mean = mean + (wide - spread(mean, x.ndim, axis)).sum(reduced) / count
    deviation = wide - spread(mean, x.ndim, axis)
    return count, mean, (deviation * deviation).sum(reduced)


def invstd(var: Any, eps: float) -> Array:
    """1 / sqrt(var + eps), and 0 where that sum is 0."""
    total = np.asarray(var, np.longdouble) + np.longdouble(eps)
    return np.where(total == 0, np.longdouble(0), 1 / np.sqrt(np.where(total == 0, np.longdouble(1), total)))


def normalize(x: Array, mean: Any, scale: Any, weight: Any = None, bias: Any = None, axis: Axis = 1) -> Array:
    y = (x.astype(np.longdouble) - spread(mean, x.ndim, axis)) * spread(scale, x.ndim, axis)
    if weight is not None:
        y = y * spread(weight, x.ndim, axis)
    return y if bias is None else y + spread(bias, x.ndim, axis)


def forward(
    x: Array, weight: Any = None, bias: Any = None, eps: float = 1e-5, axis: Axis = 1
) -> tuple[Array, Array, Array]:
    """Training: y, mean and invstd of the batch."""
    count, mean, m2 = moments(x, axis)
    scale = invstd(m2 / count, eps)
    return normalize(x, mean, scale, weight, bias, axis), mean, scale


def running(mean: Any, var: Any, x: Array, momentum: float, ddof: float = 1, axis: Axis = 1) -> tuple[Array, Array]:
    """Running statistics after the batch x, `momentum` being the weight of the new value."""
    count, batch, m2 = moments(x, axis)
    old = np.longdouble(1) - np.longdouble(momentum)
    new_mean = momentum * batch + old * np.asarray(mean, np.longdouble)
    return new_mean, momentum * (m2 / (np.longdouble(count) - ddof)) + old * np.asarray(var, np.longdouble)


def backward_reduce(dy: Array, x: Array, mean: Any, axis: Axis = 1) -> tuple[Array, Array]:
    """sum(dy) and sum(dy * (x - mean)) of each channel."""
    wide, reduced = dy.astype(np.longdouble), reduced_axes(x.ndim, axis)
    return wide.sum(reduced), (wide * (x.astype(np.longdouble) - spread(mean, x.ndim, axis))).sum(reduced)


def backward(
    dy: Array, x: Array, weight: Any, mean: Any, scale: Any, training: bool = True, axis: Axis = 1
) -> tuple[Array, Array, Array]:
    """Gradients with respect to x, weight and bias."""
    sum_dy, sum_dy_xmu = backward_reduce(dy, x, mean, axis)
    r = spread(scale, x.ndim, axis)
    dx = dy.astype(np.longdouble)
    if training:
        count = math.prod(x.shape[a] for a in reduced_axes(x.ndim, axis))
        xmu = x.astype(np.longdouble) - spread(mean, x.ndim, axis)
        dx = dx - spread(sum_dy / count, x.ndim, axis) - xmu * r * r * spread(sum_dy_xmu / count, x.ndim, axis)
    dx = dx * r if weight is None else dx * r * spread(weight, x.ndim, axis)
    return dx, np.asarray(scale, np.longdouble) * sum_dy_xmu, sum_dy
