"""The steps behind the public functions: checked arrays, cut into frames, handed to the backend frame by frame."""

from __future__ import annotations

from functools import cache, lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from ._arrays import SUPPORTED, are_apart, parameter, require_apart
from ._forks import load
from ._geometry import INVSTD, M2, MEAN, Geometry
from ._layout import Layout, frame, pieces
from ._moments import merged

Array = npt.NDArray[Any]
Rows = tuple[Array, ...]

_FLOAT64 = np.dtype(np.float64)
_C_ALIGNED = 0x101  # NumPy's flags C_CONTIGUOUS and ALIGNED; to ask for them one by one takes 0.1 us more
_LEFT_OUT = {"weight": 1.0, "bias": 0.0}


@cache
def _backend() -> Any:
    """Loaded on first use: it imports Numba."""
    return load("_cpu")


@lru_cache(maxsize=256)
def constant(shape: tuple[int, ...], value: float, dtype: np.dtype[Any] = _FLOAT64) -> Array:
    """Equal numbers, read-only."""
    row = np.full(shape, value, dtype)
    row.flags.writeable = False
    return row


def rows_of(layout: Layout, out: Array | None, names: tuple[str, ...], values: tuple[Any, ...]) -> Rows:
    """Per-channel arguments as rows for a kernel: flat, of one dtype, that of x or float64.

    Arrays that are so already, as nearly always, stay what they are; others are copied to float64. A weight may be None
    and is 1 then, a bias 0, and what has no name gets a row to write to.

    Raises
    ------
    TypeError, ValueError
        For what `parameter` refuses, None, and an argument that `out` overlaps.
    """
    a, b, weight, bias = values
    if a is None or b is None or weight is None or bias is None:
        given = (value.dtype for value in values if type(value) is np.ndarray and value.dtype.char in SUPPORTED)
        dtype = next(given, layout.dtype.newbyteorder("="))
        a, b, weight, bias = values = tuple(
            _stand_in(layout, name, dtype) if value is None else value
            for name, value in zip(names, values, strict=True)
        )
    if (
        type(a) is type(b) is type(weight) is type(bias) is np.ndarray
        and a.dtype is b.dtype is weight.dtype is bias.dtype
        and (a.dtype is layout.dtype or a.dtype is _FLOAT64)
        and a.shape == b.shape == weight.shape == bias.shape == layout.row_shape
        and a.base is b.base is weight.base is bias.base is None  # they own their memory: no gaps, aligned,
        and (out is None or out.base is None)  # and apart from an `out` that owns its own
    ):
        return values
    return tuple(wide_row(layout, out, *item) for item in zip(names, values, strict=True))


def wide_row(layout: Layout, out: Array | None, name: str, value: Any) -> Array:
    """A per-channel argument as a float64 row; None and errors as in `rows_of`."""
    if value is None:
        value = _stand_in(layout, name, _FLOAT64)
    if (
        type(value) is np.ndarray
        and value.shape == layout.row_shape
        and value.flags.num & _C_ALIGNED == _C_ALIGNED
        and (out is None or are_apart(out, value))
    ):
        if value.dtype is _FLOAT64:
            return value
        if value.dtype.char in SUPPORTED:
            return value.astype(_FLOAT64)
    return _wide_copy(layout, out, name, value)


def _stand_in(layout: Layout, name: str, dtype: np.dtype[Any]) -> Array:
    """What takes the place of a per-channel argument that is None."""
    if not name:
        return np.zeros(layout.kept_shape, dtype)
    if name not in _LEFT_OUT:
        raise ValueError(f"{name} is None, expected one value for each channel")
    return constant(layout.kept_shape, _LEFT_OUT[name], dtype)


def _wide_copy(layout: Layout, out: Array | None, name: str, value: Any) -> Array:
    array = value
    if name:
        array = parameter(name, value, layout.kept_shape)
        if out is not None:
            require_apart(out, name, array)
    return np.array(array, np.float64).reshape(-1)


def moments(x: Array, layout: Layout) -> Array:
    """Statistics with MEAN and M2 of x; zeros where x is empty."""
    whole = frame(layout, x)
    stats = np.zeros((3, layout.n_channels))
    if whole is not None:
        (flat,), geometry = whole
        _backend().moments(flat, stats, geometry)
        return stats
    counts = np.zeros(layout.n_channels)
    for (flat,), geometry, channels in pieces(layout, (x,)):
        part = np.empty((3, geometry.n_channels))
        _backend().moments(flat, part, geometry)
        so_far = counts[channels], stats[MEAN, channels], stats[M2, channels]
        stats[MEAN, channels], stats[M2, channels] = merged(*so_far, geometry.per_channel, part[MEAN], part[M2])
        counts[channels] += geometry.per_channel
    return stats


def _flat(layout: Layout, *operands: Array) -> tuple[list[Array], Geometry] | None:
    """`frame`, 0.6 us sooner where all are in C order."""
    if layout.plain:
        dtype, flat = layout.dtype, []
        for a in operands:
            if a.flags.num & _C_ALIGNED != _C_ALIGNED or a.dtype is not dtype:
                break
            flat.append(a.ravel())
        else:
            return flat, layout.frames[len(operands)].geometry  # type: ignore[union-attr]
    return frame(layout, *operands)


def infer(x: Array, y: Array, rows: Rows, layout: Layout, eps: float) -> None:
    """Y from x and the rows mean, var, weight, bias."""
    _pointwise(_backend().infer, x, y, rows, layout, eps)


def normalize(x: Array, y: Array, rows: Rows, layout: Layout) -> None:
    """Y from x and the rows mean, invstd, weight, bias."""
    _pointwise(_backend().normalize, x, y, rows, layout)


def _pointwise(step: Any, x: Array, y: Array, rows: Rows, layout: Layout, *more: float) -> None:
    whole = _flat(layout, x, y)
    if whole is not None:
        (flat_x, flat_y), geometry = whole
        step(flat_x, flat_y, *rows, geometry, *more)
        return
    for (flat_x, flat_y), geometry, channels in pieces(layout, (x,), y):
        step(flat_x, flat_y, *(row[channels] for row in rows), geometry, *more)


def train(x: Array, y: Array, rows: Rows, layout: Layout, eps: float, momentum: float, ddof: float) -> Array:
    """Y, the running statistics and all others, which are returned, from x, weight and bias.

    Rows are running mean, running variance, weight and bias; the first two are written.
    """
    running_mean, running_var, weight, bias = rows
    eps, momentum, ddof = float(eps), float(momentum), float(ddof)
    whole = _flat(layout, x, y)
    if whole is not None:
        stats = np.empty((3, layout.n_channels))
        (flat_x, flat_y), geometry = whole
        _backend().forward(
            flat_x, flat_y, running_mean, running_var, weight, bias, stats, geometry, eps, momentum, ddof
        )
        return stats
    stats = moments(x, layout)
    wide = weight.astype(np.float64), bias.astype(np.float64)
    _backend().finish(running_mean, running_var, stats, float(layout.per_channel), eps, momentum, ddof)
    normalize(x, y, (stats[MEAN], stats[INVSTD], *wide), layout)
    return stats


def backward_reduce(dy: Array, x: Array, mean: Array, layout: Layout) -> Array:
    """SUM_DY and SUM_DY_XMU of dy and x; zeros where they are empty."""
    sums = np.zeros((2, layout.n_channels))
    whole = frame(layout, dy, x)
    if whole is not None:
        (flat_dy, flat_x), geometry = whole
        _backend().backward_reduce(flat_dy, flat_x, mean, sums, geometry)
        return sums
    for (flat_dy, flat_x), geometry, channels in pieces(layout, (dy, x)):
        part = np.empty((2, geometry.n_channels))
        _backend().backward_reduce(flat_dy, flat_x, mean[channels], part, geometry)
        sums[:, channels] += part
    return sums


def backward_elemt(dy: Array, x: Array, dx: Array, rows: Rows, sums: Array, layout: Layout, count: float) -> None:
    """Dx from dy, x, the rows mean, invstd, weight, and both sums over `count` elements a channel."""
    for (flat_dy, flat_x, flat_dx), geometry, channels in pieces(layout, (dy, x), dx):
        part = np.ascontiguousarray(sums[:, channels])
        some = (row[channels] for row in rows)
        _backend().backward_elemt(flat_dy, flat_x, flat_dx, *some, part, geometry, count)


def backward(dy: Array, x: Array, dx: Array, rows: Rows, layout: Layout) -> Array:
    """Dx, and SUM_DY and SUM_DY_XMU, which are returned, from dy, x and the rows mean, invstd, weight."""
    whole = _flat(layout, dy, x, dx)
    if whole is not None:
        sums = np.empty((2, layout.n_channels))
        (flat_dy, flat_x, flat_dx), geometry = whole
        mean, invstd, weight = rows
        _backend().backward(flat_dy, flat_x, flat_dx, mean, invstd, weight, sums, geometry)
        return sums
    sums = backward_reduce(dy, x, rows[0], layout)
    backward_elemt(dy, x, dx, rows, sums, layout, float(layout.per_channel))
    return sums
