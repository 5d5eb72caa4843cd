"""Sums over channels whose inner runs are contiguous: moments for the forward pass, two sums for the backward.

Planes that are long and planes that are short have kernels of their own: one for both takes as long to compile as the
two together, and nearly all arrays need only one of them. A work item is one part of a channel, or of a group of
channels that lie side by side.
"""

from __future__ import annotations

import numpy as np

from .._compile import Grid, In, Row, Table, inner, kernel, prange, read_rows
from .._geometry import M2, MEAN, SUM_DY, SUM_DY_XMU
from .channels import put_grad_weights
from .partition import channel_parts, merge, n_groups, part_range, row
from .reduce_long import part_dots, part_moments, plain_mean
from .reduce_short import long_group, narrow_size, short_dots, short_moments, short_parts, wide_size


@inner
def merge_parts(x, start, xo, n_outer, n_inner, parts, partial, at):
    """Mean and M2 of a channel from its parts, partial[at : at + parts], in their order."""
    count, mean, m2 = partial[at, 0], partial[at, 1], partial[at, 2]
    for item in range(at + 1, at + parts):
        mean, m2 = merge(count, mean, m2, partial[item, 0], partial[item, 1], partial[item, 2])
        count += partial[item, 0]
    return plain_mean(x, mean, start, xo, n_outer, n_inner), m2


@inner
def store_moments(x, grid, first, width, parts, partial, at, stats):
    """MEAN and M2 of `width` channels from `first` on from their parts at partial[at:]."""
    n_outer, _, n_inner = row(grid, 0)
    x0, xo, xc = row(grid, 1)
    for c in range(first, first + width):
        k = at + (c - first) * parts
        stats[MEAN, c], stats[M2, c] = merge_parts(x, x0 + c * xc, xo, n_outer, n_inner, parts, partial, k)


@inner
def store_dots(invstd, first, width, parts, partial, at, sums):
    """All sums of `width` channels from `first` on from their parts at partial[at:], in their order."""
    for c in range(first, first + width):
        s = t = 0.0
        for item in range(at + (c - first) * parts, at + (c - first + 1) * parts):
            s += partial[item, 0]
            t += partial[item, 1]
        sums[SUM_DY, c] = s
        sums[SUM_DY_XMU, c] = t
    put_grad_weights(sums, invstd, first, width)


@kernel
def moments_long_channels_first(x: In, stats: Table, grid: Grid) -> None:
    """Mean and M2 of each channel; reads 1 element's bytes an element."""
    n_outer, n_channels, n_inner = row(grid, 0)
    x0, xo, xc = row(grid, 1)
    parts = channel_parts(n_outer, n_inner)
    partial = np.empty((n_channels * parts, 3))
    for index in prange(n_channels * parts):
        item = np.int64(index)
        c = item // parts
        part_moments(x, x0 + c * xc, xo, n_outer, n_inner, item % parts, parts, partial, item)
        if parts == 1:
            store_moments(x, grid, c, 1, parts, partial, c, stats)
    if parts > 1:
        store_moments(x, grid, 0, n_channels, parts, partial, 0, stats)


@kernel
def moments_short_channels_first(x: In, stats: Table, grid: Grid, threads: int) -> None:
    """Mean and M2 of each channel; reads 1 element's bytes an element."""
    n_outer, n_channels, n_inner = row(grid, 0)
    parts = short_parts(n_outer, n_inner)
    groups = n_groups(n_channels, long_group(x, n_inner), threads)
    partial = np.empty((n_channels * parts, 3))
    for index in prange(groups * parts):
        item = np.int64(index)
        first, last = part_range(n_channels, 1, item // parts, groups)
        width = last - first
        narrow, wide = np.empty(narrow_size(x, width, n_inner), x.dtype), np.empty(wide_size(x, width))
        short_moments(x, grid, first, width, item % parts, parts, narrow, wide, partial, first * parts)
        if parts == 1:
            store_moments(x, grid, first, width, parts, partial, first, stats)
    if parts > 1:
        store_moments(x, grid, 0, n_channels, parts, partial, 0, stats)


@kernel
def backward_reduce_long_channels_first(dy: In, x: In, mean: Row, invstd: Row, sums: Table, grid: Grid) -> None:
    """The three sums of each channel; reads 2 elements' bytes an element."""
    n_outer, n_channels, n_inner = row(grid, 0)
    g0, go, gc = row(grid, 1)
    x0, xo, xc = row(grid, 2)
    parts = channel_parts(n_outer, n_inner)
    partial = np.empty((n_channels * parts, 2))
    given = np.empty((2, n_channels))
    read_rows(given, (mean, invstd))
    means, invstds = given[0], given[1]
    for index in prange(n_channels * parts):
        item = np.int64(index)
        c = item // parts
        g, k, part = g0 + c * gc, x0 + c * xc, item % parts
        part_dots(dy, x, means[c], g, go, k, xo, n_outer, n_inner, part, parts, partial, item)
    store_dots(invstds, 0, n_channels, parts, partial, 0, sums)


@kernel
def backward_reduce_short_channels_first(
    dy: In, x: In, mean: Row, invstd: Row, sums: Table, grid: Grid, threads: int
) -> None:
    """The three sums of each channel; reads 2 elements' bytes an element."""
    n_outer, n_channels, n_inner = row(grid, 0)
    parts = short_parts(n_outer, n_inner)
    groups = n_groups(n_channels, long_group(x, n_inner), threads)
    partial = np.empty((n_channels * parts, 2))
    given = np.empty((2, n_channels))
    read_rows(given, (mean, invstd))
    means, invstds = given[0], given[1]
    for index in prange(groups * parts):
        item = np.int64(index)
        first, last = part_range(n_channels, 1, item // parts, groups)
        width = last - first
        narrow, wide = np.empty(narrow_size(x, width, n_inner), x.dtype), np.empty(wide_size(x, width))
        short_dots(dy, x, means, grid, first, width, item % parts, parts, narrow, wide, partial, first * parts)
    store_dots(invstds, 0, n_channels, parts, partial, 0, sums)
