"""The steps behind the public functions: checked arrays, cut into frames, handed to the backend frame by frame."""

from __future__ import annotations

from functools import cache, lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from ._arrays import SUPPORTED, parameter, require_apart
from ._forks import load
from ._geometry import M2, MEAN, SUM_DY, SUM_DY_XMU
from ._layout import Axes, frame, pieces
from ._moments import merged

Array = npt.NDArray[Any]

_LEFT_OUT = {"weight": 1.0, "bias": 0.0, "": 0.0}


@cache
def _backend() -> Any:
    """Loaded on first use: it imports Numba."""
    return load("_cpu")


@lru_cache(maxsize=256)
def _constant(n_channels: int, name: str) -> Array:
    """Row in place of a per-channel argument that is None."""
    if name not in _LEFT_OUT:
        raise ValueError(f"{name} is None, expected one value for each channel")
    row = np.full(n_channels, _LEFT_OUT[name])
    row.flags.writeable = False
    return row


def pack_of(axes: Axes, out: Array | None, *named: tuple[str, Any]) -> Array:
    """A new pack whose rows are these per-channel arguments; without a name, a row of zeros.

    A weight may be None and is 1 then, a bias 0.

    Raises
    ------
    TypeError, ValueError
        For what `parameter` refuses, None, and an argument that `out` overlaps.
    """
    rows = []
    shape = axes.kept_shape
    for name, value in named:
        if value is None:
            value = _constant(axes.n_channels, name)
        else:
            if type(value) is not np.ndarray or value.shape != shape or value.dtype.char not in SUPPORTED:
                value = parameter(name, value, shape)
            if out is not None and (value is out or not (out.base is None and value.base is None)):
                require_apart(out, name, value)
        rows.append(value)
    flat = 0 if len(shape) == 1 else None
    return np.concatenate(rows, flat, dtype=np.float64).reshape(len(rows), axes.n_channels)


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


def infer(x: Array, y: Array, pack: Array, axes: Axes, eps: float) -> None:
    """Y from x, MEAN, WEIGHT, BIAS and the variance that stands in the place of INVSTD, which is written over it."""
    whole = frame(axes, x, y)
    if whole is not None:
        _backend().infer(*whole.operands, pack, whole.geometry, eps)
        return
    _backend().invert(pack, float(eps))
    normalize(x, y, pack, axes)


def train(x: Array, y: Array, pack: Array, axes: Axes, eps: float, momentum: float, ddof: float) -> None:
    """Y and all statistics in the pack from x, WEIGHT, BIAS and the old running statistics."""
    eps, momentum, ddof = float(eps), float(momentum), float(ddof)
    whole = frame(axes, x, y)
    if whole is not None:
        _backend().forward(*whole.operands, pack, whole.geometry, eps, momentum, ddof)
        return
    statistics = moments(x, axes)
    pack[MEAN], pack[M2] = statistics[MEAN], statistics[M2]
    _backend().finish(pack, float(axes.per_channel), eps, momentum, ddof)
    normalize(x, y, pack, axes)


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
    whole = frame(axes, dy, x, dx)
    if whole is not None:
        _backend().backward(*whole.operands, pack, whole.geometry)
        return
    backward_reduce(dy, x, pack, axes)
    backward_elemt(dy, x, dx, pack, axes, float(axes.per_channel))
