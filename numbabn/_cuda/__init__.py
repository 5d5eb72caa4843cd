"""CUDA backend: the names and signatures of the CPU's, over flat device arrays.

A launch is ordered on the stream of its first operand, and nothing waits for the device. Rows are of one dtype, the
operands' or float64. Statistics and sums, float64 (3, C), are written by the last block that shares their channels.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .._compile_cuda import SIMULATED, kernel
from .._geometry import INVSTD, MEAN, Geometry
from . import plan, pointwise_first, pointwise_last, reduce_first, reduce_last
from .channels import INVERTED
from .launch import launch, stream_of
from .operands import packets
from .workspace import workspace

if not SIMULATED:
    from . import intrinsics as intrinsics  # what packets compile to


def moments(x: Any, stats: Any, geometry: Geometry) -> None:
    """MEAN, INVSTD and M2 of x; INVSTD is without eps."""
    _reduce(x, None, None, stats, geometry, 0.0, 0.0, 0.0)


def normalize(x: Any, y: Any, mean: Any, invstd: Any, weight: Any, bias: Any, geometry: Geometry) -> None:
    """y from x and given statistics."""
    infer(x, y, mean, invstd, weight, bias, geometry, INVERTED)


def infer(x: Any, y: Any, mean: Any, var: Any, weight: Any, bias: Any, geometry: Geometry, eps: float) -> None:
    """y from x and given statistics, the variance among them."""
    last = geometry.channels_last
    width = plan.width_of(geometry, x.itemsize)
    cut = plan.pointwise(*geometry[:4], width)
    which = pointwise_last.normalize_channels_last if last else pointwise_first.normalize_channels_first
    rows = (packets(row, 1) for row in (mean, var, weight, bias))
    launch(
        which, x, cut.grid, packets(x, width), packets(y, width, True), *rows, cut.shape, *_places(geometry, width), eps
    )


def backward_reduce(dy: Any, x: Any, mean: Any, invstd: Any, sums: Any, geometry: Geometry) -> None:
    """SUM_DY, SUM_DY_XMU and GRAD_WEIGHT of dy and x."""
    last = geometry.channels_last
    width = plan.width_of(geometry, x.itemsize)
    cut = plan.reduction(*geometry[:4], width)
    which = reduce_last.backward_reduce_channels_last if last else reduce_first.backward_reduce_channels_first
    n = geometry.n_channels
    scratch = workspace(x, stream_of(x.stream), 2 * n * cut.grid[1], cut.grid[0], n)
    rows = packets(mean, 1), packets(invstd, 1), packets(sums, 1, True)
    given = packets(dy, width), packets(x, width), *rows, scratch.partial, scratch.tickets
    launch(which, x, cut.grid, *given, cut.shape, *_places(geometry, width)[:2])


def backward_elemt(
    dy: Any, x: Any, dx: Any, mean: Any, invstd: Any, weight: Any, sums: Any, geometry: Geometry, count: float
) -> None:
    """dx from dy, x and the two sums over `count` elements a channel."""
    last = geometry.channels_last
    width = plan.width_of(geometry, x.itemsize)
    cut = plan.pointwise(*geometry[:4], width)
    which = pointwise_last.backward_elemt_channels_last if last else pointwise_first.backward_elemt_channels_first
    rows = (packets(row, 1) for row in (mean, invstd, weight, sums))
    given = packets(dy, width), packets(x, width), packets(dx, width, True), *rows
    launch(which, x, cut.grid, *given, cut.shape, *_places(geometry, width), count)


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
    """y, MEAN, INVSTD, M2 and the new running statistics from x."""
    _reduce(x, running_mean, running_var, stats, geometry, eps, momentum, ddof)
    n = geometry.n_channels
    infer(x, y, stats.row(MEAN, n), stats.row(INVSTD, n), weight, bias, geometry, INVERTED)


def backward(
    dy: Any, x: Any, dx: Any, mean: Any, invstd: Any, weight: Any, sums: Any, geometry: Geometry
) -> None:
    """dx, SUM_DY, SUM_DY_XMU and GRAD_WEIGHT from dy and x."""
    backward_reduce(dy, x, mean, invstd, sums, geometry)
    backward_elemt(dy, x, dx, mean, invstd, weight, sums, geometry, float(geometry.per_channel))


def _reduce(
    x: Any, running_mean: Any, running_var: Any, stats: Any, geometry: Geometry, eps: float, momentum: float, ddof: float
) -> None:
    """Statistics of x, and running ones where there are any."""
    width = plan.width_of(geometry, x.itemsize)
    cut = plan.reduction(*geometry[:4], width)
    which = reduce_last.moments_channels_last if geometry.channels_last else reduce_first.moments_channels_first
    n = geometry.n_channels
    scratch = workspace(x, stream_of(x.stream), 2 * n * cut.grid[1], cut.grid[0], n)
    running = (scratch.row if row is None else packets(row, 1, True) for row in (running_mean, running_var))
    numbers = float(geometry.per_channel), eps, momentum, ddof
    given = packets(x, width), *running, packets(stats, 1, True), scratch.partial, scratch.tickets
    launch(which, x, cut.grid, *given, cut.shape, _places(geometry, width)[0], numbers)


def _places(geometry: Geometry, width: int) -> tuple[tuple[np.int64, ...], ...]:
    """Of each operand, where it starts and its strides, in packets."""
    return tuple(tuple(row // width) for row in geometry.grid[1:])
