"""Whole training passes over planes in one launch: what has been reduced is written while it is in cache.

They call the pieces of the other modules in the same order as these modules' kernels do, so that fused or in
steps makes no difference to a bit.
"""

from __future__ import annotations

import numpy as np

from .._compile import Grid, In, Out, OutRow, Row, Table, inner, kernel, linked, prange, read_rows
from .._geometry import INVSTD, M2, MEAN
from .._scalar import INVERTED
from .channels import put_affines, put_gradients, put_invstds, update_running
from .partition import channel_parts, n_groups, part_range, row
from .pointwise_first import gradient_long, gradient_short, normalize_long, normalize_short, staging_size
from .reduce_first import store_dots, store_moments
from .reduce_long import part_dots, part_moments
from .reduce_short import narrow_size, near_group, short_dots, short_moments, short_parts, wide_size
from .vectors import plain

GROUP = 1 << 16  # bytes of neighbouring channels that one work item takes, where a channel has less


@inner
def neighbours(count, itemsize):
    """Channels of `count` elements that one work item takes: as many as stay in L2, so that they share cache lines."""
    return max(1, GROUP // (count * itemsize))


@linked
def forward_table(x, weight, bias, means, invstds, stats, grid, eps, first, width, parts, partial, table):
    """Statistics of `width` channels from `first` on, whose parts are in `partial`, and the coefficients of y."""
    n_outer, _, n_inner = row(grid, 0)
    store_moments(x, grid, first, width, parts, partial, 0, stats)
    put_invstds(stats, first, width, float(n_outer * n_inner), eps)
    put_affines(x, means, invstds, weight, bias, INVERTED, first, width, table, 0, width)


@kernel
def forward_long_channels_first(
    x: In,
    y: Out,
    weight: Row,
    bias: Row,
    running_mean: OutRow,
    running_var: OutRow,
    stats: Table,
    grid: Grid,
    eps: float,
    momentum: float,
    ddof: float,
    streamed: bool,
    threads: int,
) -> None:
    """Training forward; moves 2 elements' bytes an element where a channel fits in cache, else 3."""
    n_outer, n_channels, n_inner = row(grid, 0)
    x0, xo, xc = row(grid, 1)
    count, parts = n_outer * n_inner, channel_parts(n_outer, n_inner)
    groups = n_groups(n_channels, neighbours(count, x.itemsize), threads)
    given = np.empty((2, n_channels))
    read_rows(given, (weight, bias))
    means, invstds, weights, biases = stats[MEAN], stats[INVSTD], given[0], given[1]
    for index in prange(groups):
        first, last = part_range(n_channels, 1, np.int64(index), groups)
        width = last - first
        partial = np.empty((width * parts, 3))
        for item in range(width * parts):
            start = x0 + (first + item // parts) * xc
            part_moments(x, start, xo, n_outer, n_inner, item % parts, parts, partial, item)
        table = np.empty(3 * width, x.dtype)
        forward_table(x, weights, biases, means, invstds, stats, grid, eps, first, width, parts, partial, table)
        normalize_long(x, y, table, grid, first, width, streamed)
    update_running(running_mean, running_var, means, stats[M2], float(count), momentum, ddof, given)


@kernel
def forward_short_channels_first(
    x: In,
    y: Out,
    weight: Row,
    bias: Row,
    running_mean: OutRow,
    running_var: OutRow,
    stats: Table,
    grid: Grid,
    eps: float,
    momentum: float,
    ddof: float,
    streamed: bool,
    threads: int,
) -> None:
    """Training forward; moves 2 elements' bytes an element where a group of channels fits in cache, else 3."""
    n_outer, n_channels, n_inner = row(grid, 0)
    count, parts = n_outer * n_inner, short_parts(n_outer, n_inner)
    groups = n_groups(n_channels, near_group(x, n_inner, count * x.itemsize), threads)
    given = np.empty((2, n_channels))
    read_rows(given, (weight, bias))
    means, invstds, weights, biases = stats[MEAN], stats[INVSTD], given[0], given[1]
    out = plain(y)
    for index in prange(groups):
        first, last = part_range(n_channels, 1, np.int64(index), groups)
        width = last - first
        partial = np.empty((width * parts, 3))
        narrow, wide = np.empty(narrow_size(x, width, n_inner), x.dtype), np.empty(wide_size(x, width))
        for part in range(parts):
            short_moments(x, grid, first, width, part, parts, narrow, wide, partial, 0)
        table = np.empty(3 * width, x.dtype)
        forward_table(x, weights, biases, means, invstds, stats, grid, eps, first, width, parts, partial, table)
        stage = np.empty(staging_size(x, width, n_inner), x.dtype) if streamed else table
        normalize_short(x, out, stage, table, grid, first, width, streamed)
    update_running(running_mean, running_var, means, stats[M2], float(count), momentum, ddof, given)


@linked
def backward_table(x, mean, invstd, weight, sums, grid, first, width, parts, partial, table):
    """All sums of `width` channels from `first` on, whose parts are in `partial`, and the coefficients of dx."""
    n_outer, _, n_inner = row(grid, 0)
    store_dots(invstd, first, width, parts, partial, 0, sums)
    put_gradients(x, mean, invstd, weight, sums, first, width, float(n_outer * n_inner), table, 0, width)


@kernel
def backward_long_channels_first(
    dy: In,
    x: In,
    dx: Out,
    mean: Row,
    invstd: Row,
    weight: Row,
    sums: Table,
    grid: Grid,
    streamed: bool,
    threads: int,
) -> None:
    """dx and the three sums; moves 3 elements' bytes an element where a channel fits in cache, else 5."""
    n_outer, n_channels, n_inner = row(grid, 0)
    g0, go, gc = row(grid, 1)
    x0, xo, xc = row(grid, 2)
    count, parts = n_outer * n_inner, channel_parts(n_outer, n_inner)
    groups = n_groups(n_channels, neighbours(count, 2 * x.itemsize), threads)
    given = np.empty((3, n_channels))
    read_rows(given, (mean, invstd, weight))
    means, invstds, weights = given[0], given[1], given[2]
    for index in prange(groups):
        first, last = part_range(n_channels, 1, np.int64(index), groups)
        width = last - first
        partial = np.empty((width * parts, 2))
        for item in range(width * parts):
            c = first + item // parts
            g, k, part = g0 + c * gc, x0 + c * xc, item % parts
            part_dots(dy, x, means[c], g, go, k, xo, n_outer, n_inner, part, parts, partial, item)
        table = np.empty(6 * width, x.dtype)
        backward_table(x, means, invstds, weights, sums, grid, first, width, parts, partial, table)
        gradient_long(dy, x, dx, table, grid, first, width, streamed)


@kernel
def backward_short_channels_first(
    dy: In,
    x: In,
    dx: Out,
    mean: Row,
    invstd: Row,
    weight: Row,
    sums: Table,
    grid: Grid,
    streamed: bool,
    threads: int,
) -> None:
    """dx and the three sums; moves 3 elements' bytes an element where a group of channels fits in cache, else 5."""
    n_outer, n_channels, n_inner = row(grid, 0)
    count, parts = n_outer * n_inner, short_parts(n_outer, n_inner)
    groups = n_groups(n_channels, near_group(x, n_inner, count * 2 * x.itemsize), threads)
    given = np.empty((3, n_channels))
    read_rows(given, (mean, invstd, weight))
    means, invstds, weights = given[0], given[1], given[2]
    out = plain(dx)
    for index in prange(groups):
        first, last = part_range(n_channels, 1, np.int64(index), groups)
        width = last - first
        partial = np.empty((width * parts, 2))
        narrow, wide = np.empty(narrow_size(x, width, n_inner), x.dtype), np.empty(wide_size(x, width))
        for part in range(parts):
            short_dots(dy, x, means, grid, first, width, part, parts, narrow, wide, partial, 0)
        table = np.empty(6 * width, x.dtype)
        backward_table(x, means, invstds, weights, sums, grid, first, width, parts, partial, table)
        stage = np.empty(staging_size(x, width, n_inner), x.dtype) if streamed else table
        gradient_short(dy, x, out, stage, table, grid, first, width, streamed)
