"""The steps behind the public functions: checked arrays, cut into frames, handed to the backend frame by frame."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from ._arrays import adopt, are_apart, is_device_array, parameter, require_apart
from ._arrays import adopt_like as adopt_like
from ._arrays import buffer as buffer
from ._arrays import output as output
from ._forks import load
from ._geometry import GRAD_WEIGHT, INVSTD, M2, MEAN, SUM_DY_XMU, Geometry
from ._layout import Layout, frame, pieces
from ._moments import Moments, invstd, merged
from ._scalar import INVERTED, blend

Array = npt.NDArray[Any]
Rows = tuple[Array, ...]

_FLOAT32, _FLOAT64 = np.dtype(np.float32), np.dtype(np.float64)
_C_ALIGNED = 0x101  # NumPy's flags C_CONTIGUOUS and ALIGNED; to ask for them one by one takes 0.1 us more
_LEFT_OUT = {"weight": 1.0, "bias": 0.0}


@cache
def _backend() -> Any:
    """Loaded on first use: it imports Numba."""
    return load("_cpu")


def adopted(name: str, value: Any, kept: bool = True) -> tuple[Any, Any]:
    """Where a call's steps are, and its first array: this module and an ndarray, or those of a device."""
    if is_device_array(value):
        array = load("_device").adopt(name, value)
        return load("_device_steps").Steps(array, kept), array
    return sys.modules[__name__], adopt(name, value)


@lru_cache(maxsize=256)
def constant(shape: tuple[int, ...], value: float) -> Array:
    """Equal numbers, read-only."""
    row = np.full(shape, value)
    row.flags.writeable = False
    return row


def rows_of(layout: Layout, out: Array | None, names: tuple[str, ...], values: tuple[Any, ...]) -> Rows:
    """Per-channel arguments as rows; see `row_of`."""
    return tuple(row_of(layout, out, *item) for item in zip(names, values, strict=True))


def row_of(layout: Layout, out: Array | None, name: str, value: Any) -> Array:
    """A per-channel argument as a row for a kernel: flat, float32 or float64.

    An array that is so already, as nearly always, stays what it is; others are copied to float64. A weight may be None
    and is 1 then, a bias 0, and what has no name gets a row to write to.

    Raises
    ------
    TypeError, ValueError
        For what `parameter` refuses, None, and an argument that `out` overlaps.
    """
    if value is None:
        value = _stand_in(layout, name)
    if (
        type(value) is np.ndarray
        and (value.dtype is _FLOAT32 or value.dtype is _FLOAT64)
        and value.shape == layout.row_shape
        and value.flags.num & _C_ALIGNED == _C_ALIGNED
        and (out is None or are_apart(out, value))
    ):
        return value
    return _copied_row(layout, out, name, value)


def _stand_in(layout: Layout, name: str) -> Array:
    """What takes the place of a per-channel argument that is None."""
    if not name:
        return np.zeros(layout.kept_shape)
    if name not in _LEFT_OUT:
        raise ValueError(f"{name} is None, expected one value for each channel")
    return constant(layout.kept_shape, _LEFT_OUT[name])


def _copied_row(layout: Layout, out: Array | None, name: str, value: Any) -> Array:
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


def _look_later(*_arguments: Any) -> bool:
    """No, this once: the first call of a process does not wait for half a second of compilation."""
    global _look
    _look = _look_first
    return False


def _look_first(*arguments: Any) -> bool:
    """What `objects.fit` says, where it can be asked, and no where it cannot."""
    global _look
    _look = _backend().objects.entry() or (lambda *_: False)
    return _look(*arguments)


_look: Callable[..., bool] = _look_later


def fit(layout: Layout, x: Array, other: Array, y: Array, rows: tuple[Any, ...], written: int) -> Rows | None:
    """Four rows, if a kernel can have all arguments as they are, x lying as `layout` says; see `_cpu.objects.fit`.

    A weight and a bias that are None, the last two rows, are 1 and 0; statistics that are None get rows to write to, if
    they are `written`. To ask for everything by its name instead takes 1 to 1.5 us of a call, 15 where one is None.
    """
    order = layout.order
    if order is None or layout.row_shape is None:
        return None
    if order:
        if not (type(other) is type(y) is np.ndarray and other.ndim == y.ndim == x.ndim):
            return None
        x, other, y = x.transpose(order), other.transpose(order), y.transpose(order)
    a, b, c, d = rows
    if a is None or b is None or c is None or d is None:
        a, b, c, d = rows = _filled(layout.row_shape, rows, written)
    fits = _look(np.ndarray, _FLOAT32, _FLOAT64, x, other, y, a, b, c, d, layout.n_channels, written)
    return rows if fits else None


def _filled(shape: tuple[int, ...], rows: tuple[Any, ...], written: int) -> tuple[Any, ...]:
    a, b, weight, bias = rows
    return (
        np.zeros(shape) if written and a is None else a,
        np.zeros(shape) if written and b is None else b,
        constant(shape, 1.0) if weight is None else weight,
        constant(shape, 0.0) if bias is None else bias,
    )


def _flat(layout: Layout, fit: bool, *operands: Array) -> tuple[Sequence[Array], Geometry] | None:
    """`frame`, sooner for operands that `fit`."""
    if not fit:
        return frame(layout, *operands)
    order = layout.order
    flat = [a.transpose(order) for a in operands] if order else operands
    return flat, layout.frames[len(operands)].geometry  # type: ignore[union-attr]


def infer(x: Array, y: Array, rows: Rows, layout: Layout, eps: float, fit: bool = False) -> None:
    """Y from x and the rows mean, var, weight, bias."""
    whole = _flat(layout, fit, x, y)
    if whole is not None:
        (flat_x, flat_y), geometry = whole
        mean, var, weight, bias = rows
        _backend().infer(flat_x, flat_y, mean, var, weight, bias, geometry, eps)
        return
    for (flat_x, flat_y), geometry, channels in pieces(layout, (x,), y):
        _backend().infer(flat_x, flat_y, *(row[channels] for row in rows), geometry, eps)


def normalize(x: Array, y: Array, rows: Rows, layout: Layout, fit: bool = False) -> None:
    """Y from x and the rows mean, invstd, weight, bias."""
    infer(x, y, rows, layout, INVERTED, fit)


def scale(dy: Array, dx: Array, rows: Rows, layout: Layout) -> None:
    """Dx from dy and the rows mean, which does not matter, invstd and weight: the backward of fixed statistics."""
    flat = (layout.n_channels,)  # x - 0 and a * x + -0 keep the sign of a zero
    normalize(dy, dx, (constant(flat, 0.0), *rows[1:], constant(flat, -0.0)), layout)


def saved(rows: Rows, eps: float, shape: tuple[int, ...]) -> tuple[Array, Array]:
    """Mean and invstd of the rows mean and var, in float64 and in the kept axes' shape."""
    return np.array(rows[0], np.float64).reshape(shape), invstd(rows[1], eps).reshape(shape)


def zeros(layout: Layout) -> Array:
    """Statistics of nothing."""
    return np.zeros((3, layout.n_channels))


def own(row: Array) -> Array:
    """A row of statistics or sums, to be returned without the others."""
    return row.copy()


def train(x: Array, y: Array, rows: Rows, layout: Layout, eps: float, momentum: float, ddof: float, fit: bool) -> Array:
    """Y, the running statistics and all others, which are returned, from x, weight and bias.

    Rows are running mean, running variance, weight and bias; the first two are written.
    """
    running_mean, running_var, weight, bias = rows
    eps, momentum, ddof = float(eps), float(momentum), float(ddof)
    whole = _flat(layout, fit, x, y)
    if whole is not None:
        stats = np.empty((3, layout.n_channels))
        (flat_x, flat_y), geometry = whole
        _backend().forward(
            flat_x, flat_y, running_mean, running_var, weight, bias, stats, geometry, eps, momentum, ddof
        )
        return stats
    stats = moments(x, layout)
    _backend().finish(running_mean, running_var, stats, float(layout.per_channel), eps, momentum, ddof)
    normalize(x, y, (stats[MEAN], stats[INVSTD], weight, bias), layout)
    return stats


def update_running(
    running_mean: Array | None, running_var: Array | None, moments: Moments, momentum: float, ddof: float
) -> None:
    """Blend moments into running statistics, of which one may be None."""
    with np.errstate(all="ignore"):  # NumPy's settings could make one of the two raise after the other is written
        if running_mean is not None:
            running_mean[...] = blend(running_mean.astype(np.float64), moments.mean, momentum)
        if running_var is not None:
            running_var[...] = blend(running_var.astype(np.float64), moments.var(ddof), momentum)


def backward_reduce(dy: Array, x: Array, rows: Rows, layout: Layout) -> Array:
    """SUM_DY, SUM_DY_XMU and GRAD_WEIGHT from dy, x and the rows mean and invstd; zeros where they are empty."""
    mean, invstd = rows[:2]
    sums = np.zeros((3, layout.n_channels))
    whole = frame(layout, dy, x)
    if whole is not None:
        (flat_dy, flat_x), geometry = whole
        _backend().backward_reduce(flat_dy, flat_x, mean, invstd, sums, geometry)
        return sums
    for (flat_dy, flat_x), geometry, channels in pieces(layout, (dy, x)):
        part = np.empty((3, geometry.n_channels))
        _backend().backward_reduce(flat_dy, flat_x, mean[channels], invstd[channels], part, geometry)
        sums[:, channels] += part
    np.multiply(invstd, sums[SUM_DY_XMU], out=sums[GRAD_WEIGHT])
    return sums


def backward_elemt(dy: Array, x: Array, dx: Array, rows: Rows, both: Rows, layout: Layout, count: float) -> None:
    """Dx from dy, x, the rows mean, invstd, weight, and both sums over `count` elements a channel."""
    sums = np.stack(both, dtype=np.float64)
    for (flat_dy, flat_x, flat_dx), geometry, channels in pieces(layout, (dy, x), dx):
        part = np.ascontiguousarray(sums[:, channels])
        some = (row[channels] for row in rows)
        _backend().backward_elemt(flat_dy, flat_x, flat_dx, *some, part, geometry, count)


def backward(dy: Array, x: Array, dx: Array, rows: Rows, layout: Layout, fit: bool) -> Array:
    """Dx, and SUM_DY, SUM_DY_XMU and GRAD_WEIGHT, which are returned, from dy, x and the rows mean, invstd, weight."""
    whole = _flat(layout, fit, dy, x, dx)
    if whole is not None:
        sums = np.empty((3, layout.n_channels))
        (flat_dy, flat_x, flat_dx), geometry = whole
        mean, invstd, weight = rows
        _backend().backward(flat_dy, flat_x, flat_dx, mean, invstd, weight, sums, geometry)
        return sums
    sums = backward_reduce(dy, x, rows, layout)
    backward_elemt(dy, x, dx, rows, (sums[0], sums[1]), layout, float(layout.per_channel))
    return sums
