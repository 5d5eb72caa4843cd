"""Sums over channels whose inner runs are contiguous: moments for the forward pass, two sums for the backward.

A work item is one part of a group of channels that lie side by side, or of one channel where planes are long.
"""

from __future__ import annotations

import numpy as np

from .._compile import Grid, In, Table, WideRow, inner, kernel, prange, row
from .._geometry import M2, MEAN, SUM_DY, SUM_DY_XMU
from .partition import channel_parts, merge
from .reduce_long import part_dots, part_moments, plain_mean
from .reduce_short import is_short, narrow_size, short_dots, short_group, short_moments, short_parts, wide_size


@inner
def group_size(n_channels, n_inner):
    """Channels that are summed together."""
    return short_group(n_channels, n_inner) if is_short(n_inner) else 1


@inner
def group_parts(n_outer, n_inner):
    """Parts that a channel is cut into."""
    return short_parts(n_outer, n_inner) if is_short(n_inner) else channel_parts(n_outer, n_inner)


@inner
def group_moments(x, x0, xo, xc, first, width, n_outer, n_inner, part, parts, narrow, wide, partial, at):
    """Count, mean and M2 of one part of `width` channels from `first` on, to partial[at:]."""
    if is_short(n_inner):
        start = x0 + first * xc
        short_moments(x, start, xo, xc, width, n_outer, n_inner, part, parts, narrow, wide, partial, at)
        return
    for c in range(width):
        n, mean, m2 = part_moments(x, x0 + (first + c) * xc, xo, n_outer, n_inner, part, parts)
        to = at + c * parts + part
        partial[to, 0] = n
        partial[to, 1] = mean
        partial[to, 2] = m2


@inner
def merge_parts(x, start, xo, n_outer, n_inner, parts, partial, at):
    """Mean and M2 of a channel from its parts, partial[at : at + parts], in their order."""
    count = mean = m2 = 0.0
    for item in range(at, at + parts):
        mean, m2 = merge(count, mean, m2, partial[item, 0], partial[item, 1], partial[item, 2])
        count += partial[item, 0]
    return plain_mean(x, mean, start, xo, n_outer, n_inner), m2


@inner
def store_moments(x, x0, xo, xc, first, width, n_outer, n_inner, parts, partial, at, stats):
    """MEAN and M2 of `width` channels from `first` on from their parts at partial[at:]."""
    for c in range(first, first + width):
        k = at + (c - first) * parts
        stats[MEAN, c], stats[M2, c] = merge_parts(x, x0 + c * xc, xo, n_outer, n_inner, parts, partial, k)


@kernel
def moments_channels_first(x: In, stats: Table, grid: Grid) -> None:
    """Mean and M2 of each channel; reads 1 element's bytes an element."""
    n_outer, n_channels, n_inner = row(grid, 0)
    x0, xo, xc = row(grid, 1)
    group, parts = group_size(n_channels, n_inner), group_parts(n_outer, n_inner)
    partial = np.empty((n_channels * parts, 3))
    for index in prange((n_channels + group - 1) // group * parts):
        item = np.int64(index)
        first = item // parts * group
        width = min(group, n_channels - first)
        narrow, wide = np.empty(narrow_size(x, width), x.dtype), np.empty(wide_size(x, width))
        part = item % parts
        group_moments(x, x0, xo, xc, first, width, n_outer, n_inner, part, parts, narrow, wide, partial, first * parts)
        if parts == 1:
            store_moments(x, x0, xo, xc, first, width, n_outer, n_inner, parts, partial, first, stats)
    if parts > 1:
        store_moments(x, x0, xo, xc, 0, n_channels, n_outer, n_inner, parts, partial, 0, stats)


@inner
def group_dots(
    dy, x, mean, first, width, g0, go, gc, x0, xo, xc, n_outer, n_inner, part, parts, narrow, wide, partial, at
):
    """Sums of dy and of dy * (x - mean) over one part of `width` channels from `first` on, to partial[at:]."""
    if is_short(n_inner):
        short_dots(
            dy, x, mean, first, width, g0, go, gc, x0, xo, xc, n_outer, n_inner, part, parts, narrow, wide, partial, at
        )
        return
    for c in range(width):
        i = first + c
        s, t = part_dots(dy, x, mean[i], g0 + i * gc, go, x0 + i * xc, xo, n_outer, n_inner, part, parts)
        partial[at + c * parts + part, 0] = s
        partial[at + c * parts + part, 1] = t


@inner
def add_parts(parts, partial, at):
    """Both sums of a channel from its parts, in their order."""
    s = t = 0.0
    for item in range(at, at + parts):
        s += partial[item, 0]
        t += partial[item, 1]
    return s, t


@kernel
def backward_reduce_channels_first(dy: In, x: In, mean: WideRow, sums: Table, grid: Grid) -> None:
    """Sums of dy and dy * (x - mean) of each channel; reads 2 elements' bytes an element."""
    n_outer, n_channels, n_inner = row(grid, 0)
    g0, go, gc = row(grid, 1)
    x0, xo, xc = row(grid, 2)
    group, parts = group_size(n_channels, n_inner), group_parts(n_outer, n_inner)
    partial = np.empty((n_channels * parts, 2))
    for index in prange((n_channels + group - 1) // group * parts):
        item = np.int64(index)
        first = item // parts * group
        width = min(group, n_channels - first)
        narrow, wide = np.empty(narrow_size(x, width), x.dtype), np.empty(wide_size(x, width))
        part, at = item % parts, first * parts
        group_dots(
            dy, x, mean, first, width, g0, go, gc, x0, xo, xc, n_outer, n_inner, part, parts, narrow, wide, partial, at
        )
    for c in range(n_channels):
        sums[SUM_DY, c], sums[SUM_DY_XMU, c] = add_parts(parts, partial, c * parts)
