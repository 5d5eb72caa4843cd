"""A layer's own arrays, on the host or on a CUDA device: made, filled, added to and copied where they are."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from ._arrays import adopt, is_device_array
from ._forks import load

HOST = "cpu"


def parse(device: Any) -> str:
    """The name of a device: "cpu", "cuda" for the current CUDA device, or "cuda:1" and so on.

    Raises
    ------
    ValueError
        For any other value.
    """
    name = HOST if device is None else str(device)
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise ValueError(f"device must be None, 'cpu', 'cuda' or 'cuda:<number>', got {device!r}")
    return name


def move(array: Any, device: str) -> Any:
    """The array itself where it is known to be on that device, else a copy there; waits for the device."""
    _, _, digits = device.partition(":")
    number = int(digits) if digits else None
    if is_device_array(array):
        if device != HOST and number in (None, load("_device").adopt("array", array).device):
            return array
        array = load("_cuda.memory").to_host(array)  # from one CUDA device to another too
    return array if device == HOST else load("_cuda.memory").to_device(array, number)


def on_host(array: Any) -> Any:
    """A copy on the host; waits for the device."""
    return load("_cuda.memory").to_host(array) if is_device_array(array) else np.array(array)


def fill(array: Any, value: float) -> None:
    """Set all elements."""
    if type(array) is np.ndarray:
        array[...] = value
    else:
        load("_device_steps").fill(array, value)


def copy_in(array: Any, values: Any) -> None:
    """Set all elements to those of an array of the host, of the same shape and dtype."""
    if is_device_array(array):
        load("_device_steps").copy(array, load("_cuda.memory").to_device(np.ascontiguousarray(values), None))
    else:
        array[...] = values


def zeros_like(array: Any) -> Any:
    """Zeros beside an array, in its shape and dtype."""
    if type(array) is np.ndarray:
        return np.zeros_like(array)
    zeros = load("_device_steps").empty_beside(array)
    fill(zeros, 0.0)
    return zeros


def add(array: Any, other: Any) -> Any:
    """The array, to whose elements those of another one have been added."""
    if type(array) is np.ndarray:
        with np.errstate(all="ignore"):
            array += other
    else:
        load("_device_steps").add(array, other)
    return array


def look(x: Any) -> Any:
    """What tells shape and size of an input: an ndarray, or where a device array is."""
    return load("_device").adopt("x", x) if is_device_array(x) else adopt("x", x)
