"""Arrays on a CUDA device: taken in by their interface, not their library, and checked as those on the host are."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from contextlib import nullcontext
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from ._arrays import is_device_array, require_supported, shares_memory
from ._forks import load


class DeviceArray:
    """Where an array on a device is and how it lies; `source` is what the caller gave or will get."""

    def __init__(
        self,
        source: Any,
        pointer: int,
        shape: tuple[int, ...],
        strides: tuple[int, ...],
        dtype: np.dtype[Any],
        readonly: bool,
        device: int | None,
        stream: int,
    ) -> None:
        self.source = source
        self.shape = shape
        self.strides = strides
        self.dtype = dtype
        self.readonly = readonly
        self.device = device
        self.stream = stream
        self.itemsize = dtype.itemsize
        self.ndim = len(shape)
        self.start = pointer
        steps = [(n - 1) * s for n, s in zip(shape, strides, strict=True)] if 0 not in shape else []
        self.size = int(np.prod(shape, dtype=np.int64))
        self.pointer = pointer + sum(s for s in steps if s < 0)  # the lowest address
        self.extent = 1 + sum(abs(s) for s in steps) // self.itemsize if self.size else 0

    @cached_property
    def shadow(self) -> npt.NDArray[Any]:
        """An ndarray at the same addresses, for questions about them; its elements cannot be read."""
        holder = type("Holder", (), {})()
        holder.__array_interface__ = {
            "data": (self.start, True),
            "shape": self.shape,
            "strides": self.strides,
            "typestr": self.dtype.str,
            "version": 3,
        }
        return np.asarray(holder)

    def is_same(self, other: Any) -> bool:
        """Whether another array of this shape is the same elements."""
        beside = adopt("out", other)
        steps = zip(self.shape, self.strides, beside.strides, strict=True)
        return self.start == beside.start and all(n == 1 or s == t for n, s, t in steps)

    @property
    def is_flat(self) -> bool:
        """Whether its elements lie one after another, in C order."""
        expected = self.itemsize
        for n, s in zip(reversed(self.shape), reversed(self.strides), strict=True):
            if n != 1 and s != expected:
                return self.size == 0
            expected *= n
        return True

    def row(self, k: int, n: int) -> DeviceArray:
        """n elements of a flat array from its element k * n on."""
        start = self.start + k * n * self.itemsize
        return DeviceArray(
            self.source, start, (n,), (self.itemsize,), self.dtype, self.readonly, self.device, self.stream
        )


def adopt(name: str, value: Any, beside: str = "x") -> DeviceArray:
    """The device array in `value`.

    Raises
    ------
    TypeError
        For an array on the host, beside one on a device, and a dtype in another byte order.
    ValueError
        For elements that do not lie on a multiple of their size: the device cannot read them.
    """
    if not is_device_array(value):
        raise TypeError(
            f"{name} is on the host ({type(value).__name__}) and {beside} on a CUDA device: move one of them, "
            "numbabn copies nothing between them"
        )
    interface = getattr(value, "__cuda_array_interface__", None)
    if interface is None:
        return _from_dlpack(value)
    shape, dtype = tuple(interface["shape"]), np.dtype(interface["typestr"])
    if not dtype.isnative:
        raise TypeError(f"{name} has dtype {dtype.str}, expected the device's byte order")
    strides = interface.get("strides") or _c_strides(shape, dtype.itemsize)
    pointer, readonly = interface["data"]
    if pointer % dtype.itemsize or any(s % dtype.itemsize for s in strides):
        raise ValueError(f"{name} has elements at addresses that are no multiples of their {dtype.itemsize} bytes")
    return DeviceArray(
        value,
        pointer or 0,
        shape,
        tuple(strides),
        dtype,
        bool(readonly),
        _device_of(value),
        _stream_of(value, interface),
    )


def require_device(name: str, array: DeviceArray, x: DeviceArray) -> None:
    """Refuse an array on another device than x; libraries that tell no number are taken to be on the same."""
    if array.device != x.device and None not in (array.device, x.device):
        raise TypeError(f"{name} is on CUDA device {array.device}, x on {x.device}")


def adopt_like(name: str, value: Any, dy: DeviceArray, dy_name: str) -> DeviceArray:
    """A second array operand: dy's shape, dtype and device; where they differ, dy has to follow it."""
    array = adopt(name, value, dy_name)
    require_supported(name, array.dtype)
    if array.shape != dy.shape:
        raise ValueError(f"{dy_name} has shape {dy.shape}, expected the shape of {name}, {array.shape}")
    if array.dtype != dy.dtype:
        raise TypeError(f"{dy_name} has dtype {dy.dtype}, expected the dtype of {name}, {array.dtype}")
    require_device(name, array, dy)
    return array


def parameter(name: str, value: Any, shape: tuple[int, ...], x: DeviceArray) -> DeviceArray:
    """A per-channel argument of the kept axes' shape, any supported dtype, on x's device."""
    array = adopt(name, value)
    require_supported(name, array.dtype)
    if array.shape != shape:
        raise ValueError(f"{name} has shape {array.shape}, expected {shape}, one value for each channel")
    require_device(name, array, x)
    if not array.is_flat:
        raise ValueError(f"{name} has strides {array.strides}, expected one value after another on the device")
    return array


def buffer(name: str, value: Any, shape: tuple[int, ...], x: DeviceArray) -> DeviceArray:
    """A per-channel argument that will be written in place."""
    array = parameter(name, value, shape, x)
    _require_writable(name, array)
    return array


def output(out: Any, like: DeviceArray, same: Iterable[tuple[str, DeviceArray | None]]) -> DeviceArray:
    """The array to write a result of `like`'s shape and dtype to; a new one, in `like`'s memory order, for None.

    `out` may be one of `same`, element for element, and overlaps none of them otherwise.
    """
    if out is None:
        return empty_like(like)
    array = adopt("out", out)
    if array.shape != like.shape:
        raise ValueError(f"out has shape {array.shape}, expected {like.shape}")
    if array.dtype != like.dtype:
        raise TypeError(f"out has dtype {array.dtype}, expected {like.dtype}")
    _require_writable("out", array)
    require_device("out", array, like)
    if array.size and array.extent != array.size and shares_memory(array.shadow):
        raise ValueError(f"out overlaps itself: shape {array.shape}, strides {array.strides}")
    for name, other in same:
        if other is not None and not (other.start == array.start and other.strides == array.strides):
            require_apart(array, name, other)
    return array


def require_apart(out: DeviceArray, name: str, other: DeviceArray) -> None:
    """Refuse an `out` that shares memory with another argument."""
    ahead = other.pointer + other.extent * other.itemsize <= out.pointer
    behind = out.pointer + out.extent * out.itemsize <= other.pointer
    if out.size and other.size and not (ahead or behind) and shares_memory(out.shadow, other.shadow):
        raise ValueError(f"out overlaps {name}; it must be apart from it or the very same elements as x or dy")


def empty_like(like: DeviceArray) -> DeviceArray:
    """A new array of the caller's kind, in `like`'s shape, dtype and memory order."""
    order = sorted(range(like.ndim), key=lambda a: (-abs(like.strides[a]), a))
    if order == list(range(like.ndim)):
        return empty(like, like.shape, like.dtype)
    namespace = namespace_of(like.source)
    if namespace is not None:
        with _placed(like.source):
            return adopt("result", namespace.empty_like(like.source))
    packed = _c_strides(tuple(like.shape[a] for a in order), like.itemsize)
    strides = tuple(packed[order.index(a)] for a in range(like.ndim))
    return adopt("result", load("_cuda.memory").allocate(like, like.shape, like.dtype, strides))


def empty(like: DeviceArray, shape: tuple[int, ...], dtype: np.dtype[Any]) -> DeviceArray:
    """A new array in C order beside `like`: of its library, if that can allocate, else of Numba."""
    namespace = namespace_of(like.source)
    if namespace is None:
        return adopt("result", load("_cuda.memory").allocate(like, shape, dtype))
    with _placed(like.source):
        return adopt("result", namespace.empty(shape, dtype=getattr(namespace, dtype.name)))


def namespace_of(value: Any) -> Any:
    """The library of an array, if it has `empty` and is not Numba's own."""
    name = type(value).__module__.partition(".")[0]
    module = sys.modules.get(name)
    return module if name not in ("numba", "numpy") and hasattr(module, "empty") else None


def _placed(value: Any) -> Any:
    """Context in which a library allocates where one of its arrays is."""
    device = getattr(value, "device", None)
    return device if hasattr(device, "__enter__") else nullcontext()


def _require_writable(name: str, array: DeviceArray) -> None:
    if array.readonly:
        raise ValueError(f"{name} is read-only, expected a writable array")


def _c_strides(shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    strides = [itemsize]
    for n in shape[:0:-1]:
        strides.append(strides[-1] * n)
    return tuple(reversed(strides[: len(shape)]))


def _device_of(value: Any) -> int | None:
    """Number of an array's device, as its library tells it; None stands for the current one."""
    device = getattr(value, "device", None)
    number = getattr(device, "id", getattr(device, "index", None))
    return number if isinstance(number, int) else None


def _stream_of(value: Any, interface: dict[str, Any]) -> int:
    """Handle of the stream on which an array's library works at present; 0 is the default one."""
    if type(value).__module__.partition(".")[0] == "torch":
        return int(sys.modules["torch"].cuda.current_stream(value.device).cuda_stream)
    stream = interface.get("stream")
    return 0 if stream is None else int(stream)


def _from_dlpack(value: Any) -> DeviceArray:
    return DeviceArray(value, *load("_cuda.memory").import_dlpack(value))
