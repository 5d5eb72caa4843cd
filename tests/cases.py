"""What the tests share: memory layouts, accuracy bars, arrays that nobody can write, and the functions as a table."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import naive
import numpy as np
import numpy.typing as npt

import numbabn as nb

Array = npt.NDArray[Any]

DTYPES = (np.float32, np.float64)
# Without compilation a multiply-add rounds twice.
SLACK = 2.0 if os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0") else 1.0
BAR = {"f": SLACK * 1e-6, "d": SLACK * 1e-12}


def frozen(array: Any) -> Any:
    """The array itself, read-only: whoever writes to an input fails."""
    array.flags.writeable = False
    return array


def normal(shape: tuple[int, ...], dtype: npt.DTypeLike, seed: int = 0, mean: float = 0.0, std: float = 1.0) -> Array:
    """Read-only normal data."""
    return frozen((np.random.default_rng(seed).normal(size=shape) * std + mean).astype(dtype))  # type: ignore[no-any-return]


def uniform(n: int | tuple[int, ...], dtype: npt.DTypeLike, seed: int, low: float = -1.0, high: float = 1.0) -> Array:
    """Read-only uniform data."""
    return frozen(np.random.default_rng(seed).uniform(low, high, n).astype(dtype))  # type: ignore[no-any-return]


# -- layouts: the same values elsewhere in memory, NaN in the gaps -----------------------------------------------------


def channels_last(a: Array) -> Array:
    return np.moveaxis(np.moveaxis(a, 1, -1).copy(), -1, 1)


def channels_outermost(a: Array) -> Array:
    return np.swapaxes(np.swapaxes(a, 0, 1).copy(), 0, 1)


def gaps(axis: int) -> Callable[[Array], Array]:
    """Every second place along an axis."""

    def place(a: Array) -> Array:
        shape = list(a.shape)
        shape[axis] *= 2
        view = np.full(shape, np.nan, a.dtype)[(slice(None),) * (axis % a.ndim) + (slice(1, None, 2),)]
        view[...] = a
        return view

    return place


def cropped(a: Array) -> Array:
    """The middle of an array that is larger in its last axis: rows with gaps between them."""
    view = np.full((*a.shape[:-1], a.shape[-1] + 5), np.nan, a.dtype)[..., 2:-3]
    view[...] = a
    return view


def reversed_axes(*axes: int) -> Callable[[Array], Array]:
    """Negative strides along some axes; all of them if none is given."""
    return lambda a: np.flip(np.flip(a, axes or None).copy(), axes or None)


def byte_swapped(a: Array) -> Array:
    return a.astype(a.dtype.newbyteorder())


def unaligned(a: Array) -> Array:
    view = np.zeros(a.nbytes + 1, np.uint8)[1:].view(a.dtype).reshape(a.shape)
    view[...] = a
    return view


LAYOUTS: dict[str, Callable[[Array], Array]] = {
    "channels-first": np.ndarray.copy,
    "channels-last": channels_last,
    "channels-outermost": channels_outermost,
    "fortran": lambda a: a.copy(order="F"),
    "outer-gaps": gaps(0),
    "channel-gaps": gaps(1),
    "inner-gaps": gaps(-1),
    "cropped": cropped,
    "reversed": reversed_axes(0, 1),
    "backwards": reversed_axes(),
    "byte-swapped": byte_swapped,
    "unaligned": unaligned,
}


# -- comparisons -------------------------------------------------------------------------------------------------------


def assert_within(actual: Any, expected: Any, bar: Any, name: str = "result") -> None:
    """Every element is finite and within its bar of the oracle's long double."""
    actual = np.asarray(actual)
    assert actual.shape == expected.shape, f"{name} has shape {actual.shape}, not {expected.shape}"
    excess = np.abs(actual.astype(np.longdouble) - expected) / bar
    assert np.isfinite(actual).all() and (excess <= 1.0).all(), f"{name}: error is {excess.max():.3g} of the bar"


def assert_bits(actual: Any, expected: Any, name: str = "result") -> None:
    """The same bits, signs of zeros and NaN included, wherever they lie."""
    a, b = np.asarray(actual), np.asarray(expected)
    assert (a.shape, a.dtype) == (b.shape, b.dtype), f"{name}: {a.dtype}{a.shape} against {b.dtype}{b.shape}"
    assert a.tobytes() == b.tobytes(), f"{name}: {np.count_nonzero(a != b)} of {a.size} elements differ"


def y_bar(y: Array, dtype: npt.DTypeLike) -> Array:
    """Largest error that y, normalised with weights not above 1, may have."""
    return BAR[np.dtype(dtype).char] * np.maximum(1.0, np.abs(y) / 4.0)


def gradient_bars(
    dy: Array, x: Array, weight: Any, mean: Any, scale: Any, axis: naive.Axis = 1
) -> tuple[Any, Any, Any]:
    """Largest errors of dx, dweight and dbias: relative to the terms that are summed, since sums may cancel."""
    bar = BAR[dy.dtype.char]
    size = np.abs(dy.astype(np.longdouble))
    x_hat = np.abs(naive.normalize(x, mean, scale, axis=axis))
    sums = naive.backward_reduce(size, x_hat, np.zeros_like(mean), axis)
    means = (naive.spread(s, x.ndim, axis) / (x.size // s.size) for s in sums)
    terms = size + next(means) + x_hat * next(means)
    w = scale if weight is None else np.abs(weight) * scale
    return bar * naive.spread(w, x.ndim, axis) * np.maximum(1.0, terms / 4.0), bar * sums[1], bar * sums[0]


# -- the functions on one shape ----------------------------------------------------------------------------------------

SHAPE = (4, 3, 5, 7)
WEIGHT, BIAS, MEAN = (uniform(3, np.float64, seed) for seed in (11, 12, 13))
SCALE, SUM = uniform(3, np.float64, 14, 0.5, 2.0), uniform(3, np.float64, 15)
OTHER = normal(SHAPE, np.float64, 16)


def like(a: Any) -> Array:
    """A second operand of a's shape and dtype."""
    a = np.asarray(a)
    if a.dtype.kind != "f" or a.shape[1:] != SHAPE[1:]:
        return np.ones_like(a)
    return OTHER[: a.shape[0]].astype(a.dtype)


# Every function that maps an array to an array, as a function of that array.
CALLS: dict[str, Callable[..., Any]] = {
    "training": lambda x, **k: nb.batch_norm(x, None, None, WEIGHT, BIAS, True, **k),
    "eval": lambda x, **k: nb.batch_norm(x, MEAN, SCALE, WEIGHT, BIAS, **k),
    "forward": lambda x, **k: nb.batch_norm_forward(x, None, None, WEIGHT, BIAS, True, **k)[0],
    "normalize": lambda x, **k: nb.normalize(x, MEAN, SCALE, WEIGHT, BIAS, **k),
    "backward": lambda dy, **k: nb.batch_norm_backward(dy, like(dy), WEIGHT, MEAN, SCALE, **k).x,
    "backward-by-x": lambda x, **k: nb.batch_norm_backward(like(x), x, WEIGHT, MEAN, SCALE, **k).x,
    "eval-backward": lambda dy, **k: (
        nb.batch_norm_backward(dy, None, WEIGHT, None, SCALE, training=False, needs=("x",), **k).x
    ),
    "elemt": lambda dy, **k: nb.backward_elemt(dy, like(dy), MEAN, SCALE, WEIGHT, SUM, SUM, 140, **k),
    "elemt-by-x": lambda x, **k: nb.backward_elemt(like(x), x, MEAN, SCALE, WEIGHT, SUM, SUM, 140, **k),
}
# And those that reduce it.
REDUCTIONS: dict[str, Callable[..., Any]] = {
    "moments": lambda x, **k: nb.moments(x, **k).m2,
    "reduce": lambda dy, **k: nb.backward_reduce(dy, like(dy), MEAN, SCALE, **k)[1],
    "reduce-by-x": lambda x, **k: nb.backward_reduce(like(x), x, MEAN, SCALE, **k)[1],
}
