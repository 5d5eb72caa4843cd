"""Whole training passes in one launch: what has been reduced is written while it is in cache.

They call the pieces of the other modules in the same order as these modules' kernels do, so that fused or in
steps makes no difference to a bit.
"""

from __future__ import annotations

import numpy as np

from .._compile import Grid, In, Out, OutRow, Row, Table, WideRow, inner, kernel, prange, row
from .._geometry import GRAD_WEIGHT, INVSTD, M2, MEAN, SUM_DY, SUM_DY_XMU
from .._scalar import INVERTED
from .._scalar import blend as _blend
from .pointwise import gradient_coefficients, invstd, normalize_coefficients, row_size
from .pointwise_first import gradient_planes, normalize_planes
from .pointwise_last import gradient_cut, normalize_cut, row_cuts
from .reduce_first import add_parts, group_dots, group_moments, group_parts, group_size, merge_parts
from .reduce_last import PANEL, dots_item, dots_panel, moments_item, moments_panel, rows_plan
from .reduce_short import narrow_size, wide_size

GROUP = 1 << 16  # bytes of neighbouring channels that one work item takes

blend = inner(_blend)


@inner
def update_running(running_mean, running_var, mean, m2, count, momentum, ddof):
    """Blend the batch's statistics into the running ones, after all that reads what may be the same memory."""
    for c in range(len(mean)):
        running_mean[c] = blend(np.float64(running_mean[c]), mean[c], momentum)
        running_var[c] = blend(np.float64(running_var[c]), m2[c] / (count - ddof), momentum)


@kernel
def finish(
    running_mean: OutRow, running_var: OutRow, stats: Table, count: float, eps: float, momentum: float, ddof: float
) -> None:
    """invstd and the running statistics of all channels from mean and M2; C numbers."""
    for c in range(stats.shape[1]):
        stats[INVSTD, c] = invstd(stats[M2, c] / count, eps)
    update_running(running_mean, running_var, stats[MEAN], stats[M2], count, momentum, ddof)


@inner
def backwards(thread, threads, cuts):
    """First and last cut, exclusive, that a thread takes of a second pass: what it has read last comes first."""
    return cuts * (thread + 1) // threads - 1, cuts * thread // threads - 1


@inner
def item_size(n_channels, n_inner, count, itemsize):
    """Neighbouring channels that one work item takes: as many as stay in L2, so that short planes share cache lines."""
    return max(group_size(n_channels, n_inner), GROUP // (count * itemsize))


@kernel
def forward_channels_first(
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
) -> None:
    """Training forward; moves 2 elements' bytes an element where a channel fits in cache, else 3."""
    n_outer, n_channels, n_inner = row(grid, 0)
    x0, xo, xc = row(grid, 1)
    y0, yo, yc = row(grid, 2)
    group = item_size(n_channels, n_inner, n_outer * n_inner, x.itemsize)
    parts = group_parts(n_outer, n_inner)
    count = float(n_outer * n_inner)
    means, invstds = stats[MEAN], stats[INVSTD]
    for index in prange((n_channels + group - 1) // group):
        first = np.int64(index) * group
        last = min(first + group, n_channels)
        width = last - first
        narrow, wide = np.empty(narrow_size(x, width), x.dtype), np.empty(wide_size(x, width))
        partial = np.empty((width * parts, 3))
        for part in range(parts):
            group_moments(x, x0, xo, xc, first, width, n_outer, n_inner, part, parts, narrow, wide, partial, 0)
        for c in range(first, last):
            at = (c - first) * parts
            mean, m2 = merge_parts(x, x0 + c * xc, xo, n_outer, n_inner, parts, partial, at)
            stats[MEAN, c] = mean
            stats[M2, c] = m2
            stats[INVSTD, c] = invstd(m2 / count, eps)
        table = np.empty(3 * row_size(x, width), x.dtype)
        normalize_coefficients(x, means, invstds, weight, bias, INVERTED, first, width, table)
        normalize_planes(
            x, y, table, n_outer, width, n_inner, x0 + first * xc, xo, xc, y0 + first * yc, yo, yc, streamed
        )
    update_running(running_mean, running_var, means, stats[M2], count, momentum, ddof)


@kernel
def forward_channels_last(
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
    """Training forward; moves 3 elements' bytes an element, less what a thread's second pass finds in its cache."""
    n_outer, n_channels, n_inner = row(grid, 0)
    x0, xo, xc = row(grid, 1)
    y0, yo, yc = row(grid, 2)
    abreast, n_rows, n_columns, parts, panels = rows_plan(n_outer, n_channels, xo != n_channels)
    width = min(PANEL, n_columns)
    partial = np.empty(panels * parts * 2 * width)
    for index in prange(panels * parts):
        sums = np.empty(4 * width, x.dtype)
        moments_item(x, x0, xo * abreast, n_rows, n_columns, parts, np.int64(index), sums, partial)
    for index in prange(panels):
        moments_panel(x, x0, xo, n_outer, abreast, n_columns, parts, np.int64(index), partial, stats)
    for c in range(n_channels):
        stats[INVSTD, c] = invstd(stats[M2, c] / n_outer, eps)
    table = np.empty(3 * row_size(x, n_channels), x.dtype)
    normalize_coefficients(x, stats[MEAN], stats[INVSTD], weight, bias, INVERTED, 0, n_channels, table)
    cuts = row_cuts(n_outer, n_channels)
    for index in prange(threads):
        first, last = backwards(np.int64(index), threads, cuts)
        for cut in range(first, last, -1):
            normalize_cut(x, y, table, x0, xo, y0, yo, n_outer, n_channels, cut, cuts, streamed)
    update_running(running_mean, running_var, stats[MEAN], stats[M2], float(n_outer), momentum, ddof)


@kernel
def backward_channels_first(
    dy: In,
    x: In,
    dx: Out,
    mean: WideRow,
    invstd: WideRow,
    weight: WideRow,
    sums: Table,
    grid: Grid,
    streamed: bool,
) -> None:
    """dx and the three sums; moves 3 elements' bytes an element where a channel fits in cache, else 5."""
    n_outer, n_channels, n_inner = row(grid, 0)
    g0, go, gc = row(grid, 1)
    x0, xo, xc = row(grid, 2)
    d0, do, dc = row(grid, 3)
    group = item_size(n_channels, n_inner, n_outer * n_inner, 2 * x.itemsize)
    parts = group_parts(n_outer, n_inner)
    for index in prange((n_channels + group - 1) // group):
        first = np.int64(index) * group
        last = min(first + group, n_channels)
        width = last - first
        narrow, wide = np.empty(narrow_size(x, width), x.dtype), np.empty(wide_size(x, width))
        partial = np.empty((width * parts, 2))
        for part in range(parts):
            group_dots(
                dy,
                x,
                mean,
                first,
                width,
                g0,
                go,
                gc,
                x0,
                xo,
                xc,
                n_outer,
                n_inner,
                part,
                parts,
                narrow,
                wide,
                partial,
                0,
            )
        for c in range(first, last):
            sums[SUM_DY, c], sums[SUM_DY_XMU, c] = add_parts(parts, partial, (c - first) * parts)
            sums[GRAD_WEIGHT, c] = invstd[c] * sums[SUM_DY_XMU, c]
        table = np.empty(6 * row_size(x, width), x.dtype)
        gradient_coefficients(x, mean, invstd, weight, sums, first, width, float(n_outer * n_inner), table)
        gradient_planes(
            dy,
            x,
            dx,
            table,
            n_outer,
            width,
            n_inner,
            g0 + first * gc,
            go,
            gc,
            x0 + first * xc,
            xo,
            xc,
            d0 + first * dc,
            do,
            dc,
            streamed,
        )


@kernel
def backward_channels_last(
    dy: In,
    x: In,
    dx: Out,
    mean: WideRow,
    invstd: WideRow,
    weight: WideRow,
    sums: Table,
    grid: Grid,
    streamed: bool,
    threads: int,
) -> None:
    """dx and the three sums; moves 5 elements' bytes an element, less what a second pass finds in a thread's cache."""
    n_outer, n_channels, n_inner = row(grid, 0)
    g0, go, gc = row(grid, 1)
    x0, xo, xc = row(grid, 2)
    d0, do, dc = row(grid, 3)
    gaps = go != n_channels or xo != n_channels
    abreast, n_rows, n_columns, parts, panels = rows_plan(n_outer, n_channels, gaps)
    width = min(PANEL, n_columns)
    partial = np.empty(panels * parts * 2 * width)
    for index in prange(panels * parts):
        scratch, item = np.empty(2 * width, x.dtype), np.int64(index)
        dots_item(
            dy, x, mean, g0, go * abreast, x0, xo * abreast, abreast, n_rows, n_columns, parts, item, scratch, partial
        )
    for index in prange(panels):
        panel = np.int64(index)
        dots_panel(dy, x, mean, g0, go, x0, xo, n_outer, abreast, n_columns, parts, panel, partial, sums)
    for c in range(n_channels):
        sums[GRAD_WEIGHT, c] = invstd[c] * sums[SUM_DY_XMU, c]
    table = np.empty(6 * row_size(x, n_channels), x.dtype)
    gradient_coefficients(x, mean, invstd, weight, sums, 0, n_channels, float(n_outer), table)
    cuts = row_cuts(n_outer, n_channels)
    for index in prange(threads):
        first, last = backwards(np.int64(index), threads, cuts)
        for cut in range(first, last, -1):
            gradient_cut(dy, x, dx, table, g0, go, x0, xo, d0, do, n_outer, n_channels, cut, cuts, streamed)
