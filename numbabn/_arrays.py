"""What is this array? Kinds and dtypes that are taken, parameters and outputs that fit."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.exceptions import TooHardError

from ._recycle import empty_like

Array = npt.NDArray[Any]

SUPPORTED = frozenset("fd")  # dtype characters, either byte order: float32, float64
_DLPACK_CUDA = (2, 13)  # device types of DLPack: CUDA, and CUDA's managed memory
_OVERLAP_WORK = 1000  # candidate solutions np.shares_memory may try; undecided counts as overlap


def adopt(name: str, value: Any) -> Array:
    """The ndarray in `value`: itself, a view of a subclass, or a list converted; any dtype.

    Raises
    ------
    TypeError
        For masked arrays.
    """
    if type(value) is not np.ndarray:
        _refuse_device(name, value)
        if isinstance(value, np.ma.MaskedArray):
            raise TypeError(f"{name} is a masked array, whose mask would be lost: fill or drop the masked values first")
        value = np.asarray(value)
    return value  # type: ignore[no-any-return]


def is_device_array(value: Any) -> bool:
    """Whether a value's memory is on a CUDA device; asked before whether it is an ndarray, which it may be too."""
    if hasattr(value, "__cuda_array_interface__"):
        return True
    where = getattr(value, "__dlpack_device__", None)
    return where is not None and type(value) is not np.ndarray and where()[0] in _DLPACK_CUDA


def _refuse_device(name: str, value: Any) -> None:
    if is_device_array(value):
        raise TypeError(
            f"{name} is on a CUDA device ({type(value).__name__}) and the other arrays on the host: move one of them, "
            "numbabn copies nothing between them"
        )


def require_supported(name: str, dtype: np.dtype[Any]) -> None:
    """Refuse dtypes that no kernel takes."""
    if dtype.char not in SUPPORTED:
        raise TypeError(f"{name} has dtype {dtype}, expected float32 or float64: use {name}.astype('float32')")


def adopt_like(name: str, value: Any, dy: Array, dy_name: str) -> Array:
    """A second array operand: dy's shape and, byte order apart, dy's dtype; where they differ, dy has to follow it."""
    array = adopt(name, value)
    if array.dtype is dy.dtype and array.shape == dy.shape:
        return array
    require_supported(name, array.dtype)
    if array.shape != dy.shape:
        raise ValueError(f"{dy_name} has shape {dy.shape}, expected the shape of {name}, {array.shape}")
    if array.dtype.char != dy.dtype.char:
        raise TypeError(f"{dy_name} has dtype {dy.dtype}, expected the dtype of {name}, {array.dtype}")
    return array


def parameter(name: str, value: Any, shape: tuple[int, ...]) -> Array:
    """A per-channel argument of the kept axes' shape, any supported dtype."""
    if type(value) is np.ndarray and value.shape == shape and value.dtype.char in SUPPORTED:
        return value
    array = adopt(name, value)
    require_supported(name, array.dtype)
    if array.shape != shape:
        raise ValueError(f"{name} has shape {array.shape}, expected {shape}, one value for each channel")
    return array


def buffer(name: str, value: Any, shape: tuple[int, ...]) -> Array:
    """A per-channel argument that will be written in place."""
    if (  # one look at what nearly always fits
        type(value) is np.ndarray and value.shape == shape and value.dtype.char in SUPPORTED and value.flags.writeable
    ):
        return value
    if type(value) is not np.ndarray:
        _refuse_device(name, value)
    if not isinstance(value, np.ndarray):
        raise TypeError(f"{name} is updated in place and must be an ndarray, got {type(value).__name__}")
    array = parameter(name, value, shape)
    _require_writable(name, array)
    return array


def output(out: Any, like: Array, *same: tuple[str, Array | None]) -> Array:
    """The array to write a result of `like`'s shape and dtype to; a new one, in `like`'s memory order, for None.

    `out` may be one of `same`, element for element, and overlaps none of them otherwise.
    """
    if out is None:
        return empty_like(like)
    array: Array = out
    if not (  # one look at what nearly always fits
        type(out) is np.ndarray and out.shape == like.shape and out.dtype is like.dtype and out.flags.carray
    ):
        array = _fitting(out, like)
    for name, other in same:
        if other is None or other is array or are_apart(array, other):
            continue
        if np.may_share_memory(array, other) and not is_same(array, other):
            require_apart(array, name, other)
    return array


def _fitting(out: Any, like: Array) -> Array:
    """`out` as an ndarray, if a result of `like`'s shape and dtype can be written to it."""
    if type(out) is not np.ndarray:
        _refuse_device("out", out)
    if type(out) is not np.ndarray and (not isinstance(out, np.ndarray) or isinstance(out, np.ma.MaskedArray)):
        raise TypeError(f"out must be an ndarray, got {type(out).__name__}")
    if out.shape != like.shape:
        raise ValueError(f"out has shape {out.shape}, expected {like.shape}")
    if out.dtype != like.dtype:
        raise TypeError(f"out has dtype {out.dtype}, expected {like.dtype}")
    if not out.flags.writeable:
        raise ValueError("out is read-only, expected a writable array")
    array = np.asarray(out)
    if not array.flags.c_contiguous and _overlaps_itself(array):
        raise ValueError(f"out overlaps itself: shape {out.shape}, strides {out.strides}")
    return array


def require_apart(out: Array, name: str, other: Array) -> None:
    """Refuse an `out` that shares memory with another argument."""
    if not are_apart(out, other) and _overlaps(out, other):
        raise ValueError(f"out overlaps {name}; it must be apart from it or the very same elements as x or dy")


def _require_writable(name: str, array: Array) -> None:
    if not array.flags.writeable:
        raise ValueError(f"{name} is read-only, expected a writable array")


def are_apart(a: Array, b: Array) -> bool:
    """Whether two arrays, or those that they are views of, own their memory each: known at sight, for most arrays."""
    of_a = a if a.base is None else a.base
    of_b = b if b.base is None else b.base
    if of_a is of_b:
        return False
    return type(of_a) is np.ndarray and type(of_b) is np.ndarray and of_a.flags.owndata and of_b.flags.owndata


def is_same(a: Array, b: Array) -> bool:
    """Whether two arrays of one shape are the same elements."""
    if a is b:
        return True
    here, there = a.__array_interface__["data"][0], b.__array_interface__["data"][0]
    return here == there and all(n == 1 or s == t for n, s, t in zip(a.shape, a.strides, b.strides, strict=True))


def shares_memory(a: Array, b: Array | None = None) -> bool:
    """Whether two arrays share memory, or one has elements that do; undecided counts."""
    return _overlaps_itself(a) if b is None else _overlaps(a, b)


def _overlaps(a: Array, b: Array) -> bool:
    try:
        return bool(np.shares_memory(a, b, max_work=_OVERLAP_WORK))  # type: ignore[arg-type]
    except TooHardError:
        return True


def _overlaps_itself(array: Array) -> bool:
    """True unless each axis steps beyond all that the smaller axes span."""
    spanned = array.itemsize
    for step, n in sorted((abs(s), n) for s, n in zip(array.strides, array.shape, strict=True) if n > 1):
        if step < spanned:
            return True
        spanned += step * (n - 1)
    return False
