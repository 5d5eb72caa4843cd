"""The steps of `_steps` for arrays on a device: the same names, bound to where x is."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from . import _device as device
from ._device import DeviceArray
from ._forks import load
from ._layout import Layout, device_frame
from ._moments import Moments

Rows = tuple[DeviceArray, ...]

_FLOAT64 = np.dtype(np.float64)
_LEFT_OUT = {"weight": 1.0, "bias": 0.0}


@cache
def _load(name: str) -> Any:
    """The backend and its parts, loaded on first use: they import Numba's CUDA."""
    return load(name)


class Steps:
    """The steps of one call, on the device and the stream of its first array.

    With `kept`, statistics go to an array of the caller's kind, else to scratch memory.
    """

    def __init__(self, x: DeviceArray, kept: bool = True) -> None:
        self.x = x
        self.kept = kept
        self.out: DeviceArray = x

    # -- arguments -----------------------------------------------------------------------------------------------------

    def fit(self, *_arguments: Any) -> None:
        """Rows of arguments that need no look one by one: here they always do."""

    def adopt_like(self, name: str, value: Any, dy: DeviceArray, dy_name: str) -> DeviceArray:
        return self._ordered(device.adopt_like(name, value, dy, dy_name))

    def buffer(self, name: str, value: Any, shape: tuple[int, ...]) -> DeviceArray:
        return self._ordered(device.buffer(name, value, shape, self.x))

    def output(self, out: Any, like: DeviceArray, *same: tuple[str, DeviceArray | None]) -> Any:
        self.out = self._ordered(device.output(out, like, same))
        return self.out.source

    def rows_of(self, layout: Layout, out: Any, names: tuple[str, ...], values: tuple[Any, ...]) -> Rows:
        """Per-channel arguments as they lie; a weight that is None is 1, a bias 0; None for one without a name."""
        given = next((v.dtype for v in values if hasattr(v, "dtype") and isinstance(v.dtype, np.dtype)), layout.dtype)
        return tuple(self._row(layout, out, *pair, given) for pair in zip(names, values, strict=True))

    def row_of(self, layout: Layout, out: Any, name: str, value: Any) -> DeviceArray:
        """A per-channel argument as it lies; zeros for one without a name."""
        row = self._row(layout, out, name, value, _FLOAT64)
        return self._constant(layout, 0.0, _FLOAT64) if row is None else row

    def _row(self, layout: Layout, out: Any, name: str, value: Any, dtype: np.dtype[Any]) -> Any:
        if isinstance(value, DeviceArray):
            array = value
        elif value is None:
            if name and name not in _LEFT_OUT:
                raise ValueError(f"{name} is None, expected one value for each channel")
            return self._constant(layout, _LEFT_OUT.get(name, 0.0), dtype) if name else None
        else:
            array = self._ordered(device.parameter(name, value, layout.kept_shape, self.x))
        if out is not None:
            device.require_apart(self.out, name, array)
        return array

    def _constant(self, layout: Layout, value: float, dtype: np.dtype[Any]) -> DeviceArray:
        memory = _load("_cuda.memory")
        return device.adopt("constant", memory.constant(self.x.device, layout.n_channels, value, dtype))

    def _ordered(self, array: DeviceArray) -> DeviceArray:
        """Work on x's stream comes after all that this array's stream has been given so far."""
        if array.stream != self.x.stream:
            _load("_cuda.launch").order(array.stream, self.x.stream)
        return array

    # -- results -------------------------------------------------------------------------------------------------------

    def zeros(self, layout: Layout) -> Any:
        """Statistics or sums of nothing."""
        table = device.empty(self.x, (3, layout.n_channels), _FLOAT64)
        _each("fill_row", self.x, (), (table,), 0.0)
        return table.source

    def saved(self, rows: Rows, eps: float, shape: tuple[int, ...]) -> tuple[Any, Any]:
        """Mean and invstd of the rows mean and var."""
        mean, scale = (device.empty(self.x, shape, _FLOAT64) for _ in range(2))
        _each("save_row", self.x, rows[:2], (mean, scale), float(eps))
        return mean.source, scale.source

    def own(self, row: Any) -> Any:
        """A row of statistics or sums, to be returned."""
        return row

    def _table(self, layout: Layout) -> DeviceArray:
        """Three float64 rows, in an array of the caller's kind if the call returns them."""
        return device.empty(self.x, (3, layout.n_channels), _FLOAT64) if self.kept else self._scratch_table(layout)

    def _scratch_table(self, layout: Layout) -> DeviceArray:
        scratch = device.adopt("scratch", _load("_cuda.workspace").table(self.x, layout.n_channels))
        return scratch.row(0, 3 * layout.n_channels)

    # -- steps ---------------------------------------------------------------------------------------------------------

    def moments(self, x: DeviceArray, layout: Layout) -> Any:
        geometry = _geometry(layout, x)
        if geometry is None:
            return self.zeros(layout)
        stats = self._table(layout)
        _load("_cuda").moments(x, stats, geometry)
        return stats.source

    def normalize(self, x: DeviceArray, y: Any, rows: Rows, layout: Layout, fit: bool = False) -> None:
        geometry = _geometry(layout, x, self.out)
        if geometry is not None:
            _load("_cuda").normalize(x, self.out, *rows, geometry)

    def infer(self, x: DeviceArray, y: Any, rows: Rows, layout: Layout, eps: float, fit: bool) -> None:
        geometry = _geometry(layout, x, self.out)
        if geometry is not None:
            _load("_cuda").infer(x, self.out, *rows, geometry, float(eps))

    def scale(self, dy: DeviceArray, dx: Any, rows: Rows, layout: Layout) -> None:
        zero = (self._constant(layout, value, rows[0].dtype) for value in (0.0, -0.0))
        self.normalize(dy, dx, (next(zero), *rows[1:], next(zero)), layout)

    def train(
        self, x: DeviceArray, y: Any, rows: Rows, layout: Layout, eps: float, momentum: float, ddof: float, fit: bool
    ) -> Any:
        stats = self._table(layout)
        numbers = float(eps), float(momentum), float(ddof)
        _load("_cuda").forward(x, self.out, *rows, stats, _geometry(layout, x, self.out), *numbers)
        return stats.source

    def backward_reduce(self, dy: DeviceArray, x: DeviceArray, rows: Rows, layout: Layout) -> Any:
        geometry = _geometry(layout, dy, x)
        if geometry is None:
            return self.zeros(layout)
        sums = self._table(layout)
        _load("_cuda").backward_reduce(dy, x, *rows[:2], sums, geometry)
        return sums.source

    def backward_elemt(
        self, dy: DeviceArray, x: DeviceArray, dx: Any, rows: Rows, sums: Rows, layout: Layout, count: float
    ) -> None:
        geometry = _geometry(layout, dy, x, self.out)
        if geometry is not None:
            table = self._scratch_table(layout)
            for k, row in enumerate(sums):
                _each("copy_row", self.x, (row,), (table.row(k, layout.n_channels),))
            _load("_cuda").backward_elemt(dy, x, self.out, *rows, table, geometry, count)

    def backward(self, dy: DeviceArray, x: DeviceArray, dx: Any, rows: Rows, layout: Layout, fit: bool) -> Any:
        geometry = _geometry(layout, dy, x, self.out)
        if geometry is None:
            return self.zeros(layout)
        sums = self._table(layout)
        _load("_cuda").backward(dy, x, self.out, *rows, sums, geometry)
        return sums.source

    def update_running(
        self, running_mean: Any, running_var: Any, moments: Moments, momentum: float, ddof: float
    ) -> None:
        """Blend moments into running statistics, of which one may be None."""
        mean, m2 = self.x, device.adopt("m2", moments.m2)
        scratch = device.adopt("scratch", _load("_cuda.workspace").table(mean, mean.size))
        spare = [scratch.row(k, mean.size) for k in range(3)]
        outputs = spare[0] if running_mean is None else running_mean, spare[1] if running_var is None else running_var
        numbers = float(moments.count), 0.0, float(momentum), float(ddof)
        _each("finish_row", mean, (mean, m2), (*outputs, spare[2]), numbers)


# -- arithmetic of moments ---------------------------------------------------------------------------------------------


def merge(a: Moments, b: Moments) -> tuple[Any, Any]:
    """Mean and M2 of two samples together."""
    mean = device.adopt("mean", a.mean)
    others = (device.adopt(name, value, "mean") for name, value in (("m2", a.m2), ("mean", b.mean), ("m2", b.m2)))
    results = tuple(device.empty(mean, mean.shape, _FLOAT64) for _ in range(2))
    _each("merge_row", mean, (mean, *others), results, (float(a.count), float(b.count)))
    return results[0].source, results[1].source


def spread(m2: Any, free: float, eps: float, power: float) -> Any:
    """m2 / free, or its square root, or 1 / sqrt(m2 / free + eps): power 1, 0.5 and -0.5."""
    given = device.adopt("m2", m2)
    result = device.empty(given, given.shape, _FLOAT64)
    _each("spread_row", given, (given,), (result,), float(free), float(eps), power)
    return result.source


# -- a layer's arrays --------------------------------------------------------------------------------------------------


def fill(array: Any, value: float) -> None:
    """Set all elements."""
    given = device.adopt("array", array)
    _each("fill_row", given, (), (given,), float(value))


def copy(array: Any, source: Any) -> None:
    """Set all elements to those of another device array."""
    given = device.adopt("array", array)
    _each("copy_row", given, (device.adopt("source", source),), (given,))


def add(array: Any, other: Any) -> None:
    """Add the elements of another device array."""
    given = device.adopt("array", array)
    _each("add_row", given, (device.adopt("other", other),), (given,))


def empty_beside(array: Any) -> Any:
    """A new array beside one, in its shape and dtype."""
    given = device.adopt("array", array)
    return device.empty(given, given.shape, given.dtype).source


def _geometry(layout: Layout, *operands: DeviceArray) -> Any:
    keys = (key for a in operands for key in (a.dtype, a.strides))
    return device_frame(layout.kept, layout.shape, *keys)


def _each(name: str, x: DeviceArray, inputs: Rows, outputs: Rows, *numbers: Any) -> None:
    """Run a kernel of `_cuda.rows` over all channels."""
    rows = _load("_cuda.rows")
    rows.each(getattr(rows, name), x, inputs, outputs, *numbers)
