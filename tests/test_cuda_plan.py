"""What each call launches, on what grid and over how many bytes: functions of the shape, so no device is needed.

Arrays here are addresses without memory, of a library that is this module; kernels are recorded, not run.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
import pytest
from devices import simulated

import numbabn as nb

pytestmark = pytest.mark.skipif(
    find_spec("numba_cuda") is None or simulated(), reason="numba-cuda is not installed, or simulated with small blocks"
)

float32, float64 = "float32", "float64"


class Place:
    """An array that is an address, and the library that it belongs to."""

    device = nullcontext()
    free = 1 << 40

    def __init__(self, shape: Any, dtype: Any = float32, address: int | None = None, strides: Any = None) -> None:
        self.shape, self.dtype = tuple(shape), np.dtype(dtype)
        size = math.prod(self.shape) * self.dtype.itemsize
        if address is None:
            address, Place.free = Place.free, Place.free + size // 256 * 256 + 256
        self.__cuda_array_interface__ = {
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (address, False),
            "strides": strides,
            "stream": None,
            "version": 3,
        }

    def __getitem__(self, k: int) -> Place:
        address = self.__cuda_array_interface__["data"][0] + k * self.shape[1] * self.dtype.itemsize
        return Place(self.shape[1:], self.dtype, address)

    def reshape(self, shape: Any) -> Place:
        return Place(shape, self.dtype, self.__cuda_array_interface__["data"][0])


def empty(shape: Any, dtype: Any) -> Place:
    return Place(shape, dtype)


def empty_like(array: Place) -> Place:
    return Place(array.shape, array.dtype, strides=array.__cuda_array_interface__["strides"])


class Launch(NamedTuple):
    """One launch: what runs, on what grid, with how much dynamic shared memory, given what."""

    name: str
    grid: tuple[int, int]
    shared: int
    args: tuple[Any, ...]

    def arrays(self) -> list[Any]:
        return [a for a in self.args if hasattr(a, "__cuda_array_interface__")]

    def bytes_moved(self, size: int) -> float:
        """Bytes for each of `size` elements; what has a number a channel is left out."""
        sizes = [math.prod(a.__cuda_array_interface__["shape"]) for a in self.arrays()]
        return sum(
            int(a.__cuda_array_interface__["typestr"][2])
            for a, n in zip(self.arrays(), sizes, strict=True)
            if n == size
        )


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Launch]]:
    from numbabn import _cuda
    from numbabn._compile_cuda import kernel
    from numbabn._cuda import memory, workspace

    found: list[Launch] = []

    def on(self: Any, grid: tuple[int, int], stream: Any, shared: int = 0) -> Any:
        return lambda *args: found.append(Launch(self.function.__name__, grid, shared, args))

    monkeypatch.setattr(kernel, "on", on)
    for module in (memory, workspace):
        numba_like = type("cuda", (), {})()
        numba_like.to_device = lambda a, stream=0: Place(a.shape, a.dtype)
        monkeypatch.setattr(module, "cuda", numba_like)
    monkeypatch.setattr(workspace, "_workspaces", {})
    memory.constant.cache_clear()
    assert _cuda.__name__ in sys.modules
    yield found
    memory.constant.cache_clear()


def rows(n: int, k: int) -> list[Any]:
    return [Place((n,)) for _ in range(k)]


def evaluate(x: Any, n: int) -> None:
    nb.batch_norm(x, *rows(n, 4))


def train(x: Any, n: int) -> None:
    given: tuple[Any, ...] = (x, *rows(n, 4), True)
    nb.batch_norm(*given)


def backward(x: Any, n: int) -> None:
    nb.batch_norm_backward(empty_like(x), x, *rows(n, 3))  # type: ignore[arg-type]


def backward_of_eval(x: Any, n: int) -> None:
    nb.batch_norm_backward(empty_like(x), x, *rows(n, 3), training=False)  # type: ignore[arg-type]


def dx_of_eval(x: Any, n: int) -> None:
    nb.batch_norm_backward(empty_like(x), None, *rows(n, 3), training=False, needs=("x",))  # type: ignore[arg-type]


LARGE: dict[str, tuple[int, ...]] = {"first": (32, 64, 56, 56), "odd": (256, 512, 7, 7), "last": (100_000, 256)}
SMALL: dict[str, tuple[int, ...]] = {"first": (16, 64, 14, 14), "odd": (32, 512, 7, 7)}
# Launches, and bytes of float32 an element. What the second of two launches finds in L2 comes off: 4 in training, 8 in
# its backward, 4 in that of eval.
TABLE: list[tuple[Any, dict[str, tuple[int, ...]], int, int]] = [
    (evaluate, LARGE, 1, 8),
    (train, LARGE, 2, 12),
    (train, SMALL, 1, 8),
    (dx_of_eval, LARGE, 1, 8),
    (backward_of_eval, LARGE, 2, 16),
    (backward, LARGE, 2, 20),
    (backward, SMALL, 1, 12),
]
ROWS = [(call, shape, n, bytes_) for call, shapes, n, bytes_ in TABLE for shape in shapes.values()]


@pytest.mark.parametrize(("call", "shape", "number", "moved"), ROWS, ids=lambda v: getattr(v, "__name__", str(v)))
def test_launches_and_bytes(call: Any, shape: Any, number: int, moved: int, launches: list[Launch]) -> None:
    call(Place(shape), shape[1])
    assert len(launches) == number
    assert sum(one.bytes_moved(math.prod(shape)) for one in launches) == moved
    for one in launches:
        assert len(one.arrays()) <= 7, "each array costs the host a microsecond"
        assert one.grid[1] <= 65535 and one.shared < 48 * 1024


@pytest.mark.parametrize("shape", [*LARGE.values(), *SMALL.values()], ids=str)
def test_steps_are_cut_by_the_shape_alone(shape: Any, launches: list[Launch]) -> None:
    for _ in range(2):
        train(Place(shape), shape[1])
        backward(Place(shape), shape[1])
    half = len(launches) // 2
    assert [one[:3] for one in launches[:half]] == [one[:3] for one in launches[half:]]


@pytest.mark.parametrize("shape", LARGE.values(), ids=str)
def test_large_arrays_fill_large_cards(shape: Any, launches: list[Launch]) -> None:
    train(Place(shape), shape[1])
    for one in launches:
        assert math.prod(one.grid) >= 2 * 132
        assert math.prod(shape) / (math.prod(one.grid) * 256) >= 24, "elements of a thread"


def test_warm_calls_with_out_allocate_nothing(launches: list[Launch], monkeypatch: pytest.MonkeyPatch) -> None:
    x, y, given = Place((32, 64, 56, 56)), Place((32, 64, 56, 56)), tuple(rows(64, 4))

    def calls() -> None:
        for array in (x, Place((512, 64), address=1 << 39)):
            out: Any = y if array is x else array
            learning: tuple[Any, ...] = (array, *given, True)
            nb.batch_norm(*learning, out=out)
            nb.batch_norm(*learning[:5], out=out)
            nb.normalize(*learning[:5], out=out)
            summed: tuple[Any, ...] = (array, array, *given, given[0], 9.0)
            nb.backward_elemt(*summed, out=out)

    calls()
    for name in ("empty", "empty_like"):
        monkeypatch.setitem(globals(), name, None)
    from numbabn._cuda import memory, workspace

    for module in (memory, workspace):
        monkeypatch.setattr(module, "cuda", None)
    calls()
    assert len(launches) % 2 == 0


def test_two_streams_share_no_scratch(launches: list[Launch]) -> None:
    x, y = Place((32, 64, 56, 56)), Place((32, 64, 56, 56))
    train(x, 64)
    from numbabn._cuda.workspace import room_for
    from numbabn._device import adopt

    here = adopt("x", x)
    there = adopt("x", y)
    there.stream = 7
    assert room_for(here, 0, 0, 0) is not workspace_of(there)


def workspace_of(x: Any) -> Any:
    from unittest.mock import patch

    from numbabn._cuda import workspace

    with patch.object(workspace, "stream_of", lambda handle: handle):
        return workspace.room_for(x, 0, 0, 0)


def test_beyond_32_bits(launches: list[Launch]) -> None:
    """Offsets and strides are 64-bit, what is counted in a block 32-bit."""
    shape = (3, 1 << 20, 1024)
    train(Place(shape), shape[1])
    tuples = [a for one in launches for a in one.args if isinstance(a, tuple)]
    assert any(int(v) > 1 << 27 for t in tuples for v in t)
    for t in tuples:
        if isinstance(t[0], np.int32):
            assert all(0 <= v < 1 << 31 for v in t)
