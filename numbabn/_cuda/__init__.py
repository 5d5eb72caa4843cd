"""CUDA backend: the names and signatures of the CPU's, over flat device arrays.

A launch is ordered on the stream of its first operand, and nothing waits for the device. Rows are float32 or float64
each. Statistics and sums, float64 (3, C), are written by the last block that shares their channels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

from .._compile_cuda import SIMULATED, i32, kernel
from .._geometry import INVSTD, M2, MEAN, Geometry, Strides
from .._scalar import INVERTED
from . import fused_first, plan, pointwise_first, pointwise_last, reduce_first, reduce_last, rows, strided
from .launch import launch
from .operands import packets
from .plan import Plan
from .workspace import Workspace, room_for

if not SIMULATED:
    from . import intrinsics as intrinsics  # what packets compile to

Kernels: TypeAlias = tuple[kernel | None, ...]

# Of each step, the kernels for channels first, channels last, and any strides.
MOMENTS = reduce_first.moments_channels_first, reduce_last.moments_channels_last, strided.moments_strided
NORMALIZE = (
    pointwise_first.normalize_channels_first,
    pointwise_last.normalize_channels_last,
    strided.normalize_strided,
)
BACKWARD_REDUCE = (
    reduce_first.backward_reduce_channels_first,
    reduce_last.backward_reduce_channels_last,
    strided.backward_reduce_strided,
)
BACKWARD_ELEMT = (
    pointwise_first.backward_elemt_channels_first,
    pointwise_last.backward_elemt_channels_last,
    strided.backward_elemt_strided,
)

FORWARD = fused_first.forward_channels_first, None, None
BACKWARD = fused_first.backward_channels_first, None, None


class Way(NamedTuple):
    """What a step runs, on what grid, with what extents and places of its operands."""

    which: Any
    width: int  # elements of a packet
    plan: Plan
    shape: tuple[Any, ...]
    places: tuple[Any, ...]


def moments(x: Any, stats: Any, geometry: Geometry) -> None:
    """MEAN and M2 of x."""
    _reduce(x, None, None, stats, geometry, 0.0, 0.0, 0.0)


def normalize(x: Any, y: Any, mean: Any, invstd: Any, weight: Any, bias: Any, geometry: Geometry) -> None:
    """y from x and given statistics."""
    infer(x, y, mean, invstd, weight, bias, geometry, INVERTED)


def infer(x: Any, y: Any, mean: Any, var: Any, weight: Any, bias: Any, geometry: Geometry, eps: float) -> None:
    """y from x and given statistics, the variance among them."""
    way = _way(geometry, x.itemsize, NORMALIZE, plan.pointwise)
    given = (packets(row, 1) for row in (mean, var, weight, bias))
    both = packets(x, way.width), packets(y, way.width, True)
    launch(way.which, x, way.plan.grid, *both, *given, way.shape, *way.places, eps)


def backward_reduce(dy: Any, x: Any, mean: Any, invstd: Any, sums: Any, geometry: Geometry) -> None:
    """SUM_DY, SUM_DY_XMU and GRAD_WEIGHT of dy and x."""
    way = _way(geometry, x.itemsize, BACKWARD_REDUCE, plan.reduction)
    scratch = _scratch(x, way, geometry.n_channels)
    given = packets(mean, 1), packets(invstd, 1), packets(sums, 1, True), scratch.partial, scratch.tickets
    both = packets(dy, way.width), packets(x, way.width)
    launch(way.which, x, way.plan.grid, *both, *given, way.shape, *way.places[:2])


def backward_elemt(
    dy: Any, x: Any, dx: Any, mean: Any, invstd: Any, weight: Any, sums: Any, geometry: Geometry, count: float
) -> None:
    """dx from dy, x and the two sums over `count` elements a channel."""
    way = _way(geometry, x.itemsize, BACKWARD_ELEMT, plan.pointwise)
    given = (packets(row, 1) for row in (mean, invstd, weight, sums))
    all_three = packets(dy, way.width), packets(x, way.width), packets(dx, way.width, True)
    launch(way.which, x, way.plan.grid, *all_three, *given, way.shape, *way.places, count)


def forward(
    x: Any,
    y: Any,
    running_mean: Any,
    running_var: Any,
    weight: Any,
    bias: Any,
    stats: Any,
    geometry: Geometry,
    eps: float,
    momentum: float,
    ddof: float,
) -> None:
    """y, MEAN, INVSTD, M2 and the new running statistics, where there are any, from x."""
    way = _way(geometry, x.itemsize, FORWARD, plan.reduction)
    if not _is_staged(way, x.itemsize, 1):
        _reduce(x, running_mean, running_var, stats, geometry, eps, momentum, ddof)
        n = geometry.n_channels
        normalize(x, y, stats.row(MEAN, n), stats.row(INVSTD, n), weight, bias, geometry)
        return
    scratch = _scratch(x, way, geometry.n_channels)
    running = (scratch.row if row is None else packets(row, 1, True) for row in (running_mean, running_var))
    both = packets(x, way.width), packets(y, way.width, True)
    given = *both, *running, packets(weight, 1), packets(bias, 1), packets(stats, 1, True)
    numbers = float(geometry.per_channel), eps, momentum, ddof
    room = plan.staged_bytes(way.plan, way.width, x.itemsize, 1)
    launch(way.which, x, way.plan.grid, *given, way.shape, *way.places, numbers, shared=room)


def finish(
    running_mean: Any, running_var: Any, stats: Any, count: float, eps: float, momentum: float, ddof: float
) -> None:
    """INVSTD and the new running statistics from MEAN and M2."""
    n = running_mean.extent
    mean, scale, m2 = (stats.row(k, n) for k in (MEAN, INVSTD, M2))
    outputs = running_mean, running_var, scale
    rows.each(rows.finish_row, stats, (mean, m2), outputs, (count, eps, momentum, ddof))


def backward(dy: Any, x: Any, dx: Any, mean: Any, invstd: Any, weight: Any, sums: Any, geometry: Geometry) -> None:
    """dx, SUM_DY, SUM_DY_XMU and GRAD_WEIGHT from dy and x."""
    way, count = _way(geometry, x.itemsize, BACKWARD, plan.reduction), float(geometry.per_channel)
    if not _is_staged(way, x.itemsize, 2):
        backward_reduce(dy, x, mean, invstd, sums, geometry)
        backward_elemt(dy, x, dx, mean, invstd, weight, sums, geometry, count)
        return
    each = packets(mean, 1), packets(invstd, 1), packets(weight, 1), packets(sums, 1, True)
    given = packets(dy, way.width), packets(x, way.width), packets(dx, way.width, True), *each
    room = plan.staged_bytes(way.plan, way.width, x.itemsize, 2)
    launch(way.which, x, way.plan.grid, *given, way.shape, *way.places, count, shared=room)


def _reduce(
    x: Any,
    running_mean: Any,
    running_var: Any,
    stats: Any,
    geometry: Geometry,
    eps: float,
    momentum: float,
    ddof: float,
) -> None:
    """Statistics of x, and running ones where there are any."""
    way = _way(geometry, x.itemsize, MOMENTS, plan.reduction)
    scratch = _scratch(x, way, geometry.n_channels)
    running = (scratch.row if row is None else packets(row, 1, True) for row in (running_mean, running_var))
    numbers = float(geometry.per_channel), eps, momentum, ddof
    given = packets(x, way.width), *running, packets(stats, 1, True), scratch.partial, scratch.tickets
    launch(way.which, x, way.plan.grid, *given, way.shape, way.places[0], numbers)


def _way(geometry: Geometry | Strides, itemsize: int, kernels: Kernels, cut: Callable[..., Plan]) -> Way:
    if isinstance(geometry, Strides):
        found = cut(1, geometry.n_channels, geometry.per_channel, False, 1)
        shape = found.shape, tuple(map(i32, geometry.kept)), tuple(map(i32, geometry.reduced))
        return Way(kernels[2], 1, found, shape, geometry.places)
    width = plan.width_of(geometry, itemsize)
    found = cut(*geometry[:4], width)
    places = tuple(tuple(row // width) for row in geometry.grid[1:])
    if geometry.channels_last:  # what a thread steps over stands in place of the channels' stride, which is 1
        places = tuple((start, row, row * found.shape[3]) for start, row, _ in places)
    return Way(kernels[geometry.channels_last], width, found, found.shape, places)


def _is_staged(way: Way, itemsize: int, operands: int) -> bool:
    return way.which is not None and plan.is_staged(way.plan, way.width, itemsize, operands)


def _scratch(x: Any, way: Way, n_channels: int) -> Workspace:
    columns, cuts = way.plan.grid
    return room_for(x, 2 * n_channels * cuts, columns, n_channels)
