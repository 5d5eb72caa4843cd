"""The steps behind the public functions: checked arrays, cut into frames, handed to the backend frame by frame."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from ._forks import load
from ._geometry import BIAS, INVSTD, M2, MEAN, SUM_DY, SUM_DY_XMU, WEIGHT
from ._layout import Axes, frame, pieces
from ._moments import merged

Array = npt.NDArray[Any]


@cache
def _backend() -> Any:
    """Loaded on first use: it imports Numba."""
    return load("_cpu")


def pack_of(axes: Axes, mean: Any, scale: Any, weight: Any = None, bias: Any = None, rows: int = 5) -> Array:
    """A new pack with these rows filled in."""
    pack = np.empty((rows, axes.n_channels))
    per_channel: tuple[Any, ...] = (mean, scale, 1.0 if weight is None else weight, 0.0 if bias is None else bias)
    if len(axes.kept_shape) != 1:
        per_channel = tuple(np.reshape(value, -1) for value in per_channel)
    pack[MEAN], pack[INVSTD], pack[WEIGHT], pack[BIAS] = per_channel
    return pack


def _part(pack: Array, channels: slice) -> Array:
    whole = channels.stop - channels.start == pack.shape[1]
    return pack if whole else np.ascontiguousarray(pack[:, channels])


def moments(x: Array, axes: Axes) -> Array:
    """A pack with MEAN and M2 of x; zeros where x is empty."""
    pack = np.zeros((5, axes.n_channels))
    counts = np.zeros(axes.n_channels)
    for (flat,), geometry, channels in pieces(axes, (x,)):
        part = np.empty((5, geometry.n_channels))
        _backend().moments(flat, part, geometry)
        if geometry.size == x.size:
            return part
        so_far = counts[channels], pack[MEAN, channels], pack[M2, channels]
        pack[MEAN, channels], pack[M2, channels] = merged(*so_far, geometry.per_channel, part[MEAN], part[M2])
        counts[channels] += geometry.per_channel
    return pack


def normalize(x: Array, y: Array, pack: Array, axes: Axes) -> None:
    """Y from x and MEAN, INVSTD, WEIGHT, BIAS."""
    for (flat_x, flat_y), geometry, channels in pieces(axes, (x,), y):
        _backend().normalize(flat_x, flat_y, _part(pack, channels), geometry)


def invert(pack: Array, eps: float) -> None:
    """INVSTD from the variance that stands in its place."""
    _backend().invert(pack, float(eps))


def train(x: Array, y: Array, pack: Array, axes: Axes, eps: float, momentum: float, ddof: float) -> None:
    """Y and all statistics in the pack from x, WEIGHT, BIAS and the old running statistics."""
    eps, momentum, ddof = float(eps), float(momentum), float(ddof)
    whole = frame(axes, (x, y))
    if whole is not None:
        _backend().forward(*whole.operands, pack, whole.geometry, eps, momentum, ddof)
        return
    statistics = moments(x, axes)
    pack[MEAN], pack[M2] = statistics[MEAN], statistics[M2]
    _backend().finish(pack, float(axes.per_channel), eps, momentum, ddof)
    normalize(x, y, pack[:5], axes)


def backward_reduce(dy: Array, x: Array, pack: Array, axes: Axes) -> None:
    """SUM_DY and SUM_DY_XMU from dy, x and MEAN; zeros where they are empty."""
    sums = np.zeros((2, axes.n_channels))
    for (flat_dy, flat_x), geometry, channels in pieces(axes, (dy, x)):
        part = pack[:, channels].copy()
        _backend().backward_reduce(flat_dy, flat_x, part, geometry)
        sums[0, channels] += part[SUM_DY]
        sums[1, channels] += part[SUM_DY_XMU]
    pack[SUM_DY], pack[SUM_DY_XMU] = sums


def backward_elemt(dy: Array, x: Array, dx: Array, pack: Array, axes: Axes, count: float) -> None:
    """Dx from dy, x, MEAN, INVSTD, WEIGHT and both sums over `count` elements a channel."""
    for (flat_dy, flat_x, flat_dx), geometry, channels in pieces(axes, (dy, x), dx):
        _backend().backward_elemt(flat_dy, flat_x, flat_dx, _part(pack, channels), geometry, count)


def backward(dy: Array, x: Array, dx: Array, pack: Array, axes: Axes) -> None:
    """Dx, SUM_DY and SUM_DY_XMU from dy, x, MEAN, INVSTD and WEIGHT."""
    whole = frame(axes, (dy, x, dx)) if dy.size else None
    if whole is not None:
        _backend().backward(*whole.operands, pack, whole.geometry)
        return
    backward_reduce(dy, x, pack, axes)
    backward_elemt(dy, x, dx, pack, axes, float(axes.per_channel))
