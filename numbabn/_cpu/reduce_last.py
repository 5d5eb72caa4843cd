"""Sums over channels that lie next to each other in rows, (N, C) and NHWC: moments, and two sums for the backward.

A work item is one part of all rows of a panel of columns. Rows of a few channels are summed side by side, so many as
fill some vectors, as if they were one row; what a channel then has in several columns is merged in the end.
"""

from __future__ import annotations

import math

import numpy as np

from .._compile import Grid, In, Table, WideRow, inner, kernel, prange, row
from .._geometry import M2, MEAN, SUM_DY, SUM_DY_XMU
from .channels import put_grad_weights, wide_part
from .intrinsics import cast, lanes, load_part, splat, store_part
from .partition import ROWS, merge, part_range, row_parts
from .reduce_rows import add_moments, rows_dots, rows_moments

PANEL = 512  # columns that one work item takes of a row: 2 KB of float32, and as much for each of its sums in L1
ABREAST = 128  # columns that rows side by side may have


@inner
def rows_abreast(n_rows, n_channels, gaps):
    """Rows that are summed side by side: none where they have gaps, or are too few for a chunk of such rows."""
    n = 1
    while not gaps and 2 * n * n_channels <= ABREAST and 2 * n * ROWS <= n_rows:
        n *= 2
    return n


@inner
def n_panels(n_columns):
    return (n_columns + PANEL - 1) // PANEL


@inner
def panel_of(item, panels, n_columns):
    """Part, first column and width of a work item of a pass over rows."""
    part = item // panels
    c0 = (item - part * panels) * PANEL
    return part, c0, min(PANEL, n_columns - c0)


@inner
def channels_of_panel(panel, panels, n_columns, abreast):
    """First channel of a panel, and how many it has."""
    _, c0, width = panel_of(panel, panels, n_columns)
    return c0, width // abreast


@inner
def merge_rows(partial, at, ahead, width, n_rows, parts):
    """Merge mean and M2 of all parts of `width` columns, each `ahead` further than the one before, in their order."""
    zero = splat(partial, 0.0)
    for part in range(1, parts):
        first, last = part_range(n_rows, ROWS, part, parts)
        k = at + part * ahead
        for c in range(0, width, lanes(partial)):
            n = min(lanes(partial), width - c)
            mean, m2 = load_part(partial, k + c, n, zero), load_part(partial, k + width + c, n, zero)
            add_moments(partial, at, width, c, n, float(first), float(last - first), mean, m2)


@inner
def store_moments(x, x0, xo, n_rows, abreast, c0, width, partial, at, stats):
    """Mean and M2 of channels from c0 on from those of the `width` columns at partial[at:], and of the last rows.

    Where differences of infinities made a mean NaN it is sum / n, which keeps infinities of one sign.
    """
    channels = width // abreast
    rows = n_rows // abreast
    means, m2s = stats[MEAN], stats[M2]
    for c in range(0, channels, lanes(x)):
        n, count = min(lanes(x), channels - c), float(rows)
        mean, m2 = wide_part(x, partial, at + c, n), wide_part(x, partial, at + width + c, n)
        for column in range(at + c + channels, at + width, channels):
            more = wide_part(x, partial, column, n), wide_part(x, partial, column + width, n)
            mean, m2 = merge(count, mean, m2, float(rows), *more)
            count += rows
        for r in range(rows * abreast, n_rows):
            v = wide_part(x, x, x0 + c0 + c + r * xo, n)
            mean, m2 = merge(count, mean, m2, 1.0, v, v - v)  # M2 of one value: 0, but NaN for an infinity
            count += 1.0
        store_part(means, c0 + c, mean, n)
        store_part(m2s, c0 + c, m2, n)
    for c in range(c0, c0 + channels):
        if math.isnan(means[c]):
            mean = 0.0
            for r in range(n_rows):
                mean += x[x0 + c + r * xo]
            means[c] = mean / n_rows
        if m2s[c] < 0.0:
            m2s[c] = 0.0


@inner
def rows_plan(n_outer, n_channels, gaps):
    """Rows abreast, and the rows, columns, parts and panels that then are summed."""
    abreast = rows_abreast(n_outer, n_channels, gaps)
    n_rows, n_columns = n_outer // abreast, n_channels * abreast
    return abreast, n_rows, n_columns, row_parts(n_rows, n_columns), n_panels(n_columns)


@inner
def moments_item(x, x0, stride, n_rows, n_columns, parts, item, sums, partial):
    """Moments of one part of one panel, to its place in `partial`; `sums` is scratch for four rows."""
    part, c0, width = panel_of(item, n_panels(n_columns), n_columns)
    first, last = part_range(n_rows, ROWS, part, parts)
    rows_moments(x, x0 + c0, stride, first, last, width, sums, partial, item * 2 * min(PANEL, n_columns))


@inner
def moments_panel(x, x0, xo, n_outer, abreast, n_columns, parts, panel, partial, stats):
    """MEAN and M2 of a panel's channels from its parts."""
    panels, size = n_panels(n_columns), 2 * min(PANEL, n_columns)
    _, c0, width = panel_of(panel, panels, n_columns)
    merge_rows(partial, panel * size, panels * size, width, n_outer // abreast, parts)
    store_moments(x, x0, xo, n_outer, abreast, c0, width, partial, panel * size, stats)


@kernel
def moments_channels_last(x: In, stats: Table, grid: Grid) -> None:
    """Mean and M2 of each channel; reads 1 element's bytes an element."""
    n_outer, n_channels, n_inner = row(grid, 0)
    x0, xo, xc = row(grid, 1)
    abreast, n_rows, n_columns, parts, panels = rows_plan(n_outer, n_channels, xo != n_channels)
    width = min(PANEL, n_columns)
    partial = np.empty(panels * parts * 2 * width)
    for index in prange(panels * parts):
        sums = np.empty(4 * width, x.dtype)
        moments_item(x, x0, xo * abreast, n_rows, n_columns, parts, np.int64(index), sums, partial)
    for index in prange(panels):
        moments_panel(x, x0, xo, n_outer, abreast, n_columns, parts, np.int64(index), partial, stats)


@inner
def store_dots(dy, x, mean, g0, go, x0, xo, n_rows, abreast, c0, width, parts, partial, at, ahead, sums):
    """Both sums of channels from c0 on from those of their columns in all parts, in order, and of the last rows."""
    channels = width // abreast
    zero = cast(splat(x, 0.0), np.float64)
    for c in range(0, channels, lanes(x)):
        n, i = min(lanes(x), channels - c), c0 + c
        s = t = zero
        for part in range(parts):
            k = at + part * ahead
            for column in range(k + c, k + width, channels):
                s = s + wide_part(x, partial, column, n)
                t = t + wide_part(x, partial, column + width, n)
        for r in range(n_rows // abreast * abreast, n_rows):
            v = wide_part(x, dy, g0 + r * go + i, n)
            s = s + v
            t = t + v * (wide_part(x, x, x0 + r * xo + i, n) - wide_part(x, mean, i, n))
        store_part(sums[SUM_DY], i, s, n)
        store_part(sums[SUM_DY_XMU], i, t, n)


@inner
def dots_item(dy, x, mean, g0, go, x0, xo, abreast, n_rows, n_columns, parts, item, scratch, partial):
    """Both sums of one part of one panel, to its place in `partial`; `scratch` is for two rows."""
    part, c0, width = panel_of(item, n_panels(n_columns), n_columns)
    first, last = part_range(n_rows, ROWS, part, parts)
    g, k, at = g0 + c0, x0 + c0, item * 2 * min(PANEL, n_columns)
    rows_dots(dy, x, mean, width // abreast, c0, width, g, go, k, xo, first, last, scratch, partial, at)


@inner
def dots_panel(dy, x, mean, invstd, g0, go, x0, xo, n_outer, abreast, n_columns, parts, panel, partial, sums):
    """All sums of a panel's channels from its parts."""
    panels, size = n_panels(n_columns), 2 * min(PANEL, n_columns)
    _, c0, width = panel_of(panel, panels, n_columns)
    at, ahead = panel * size, panels * size
    store_dots(dy, x, mean, g0, go, x0, xo, n_outer, abreast, c0, width, parts, partial, at, ahead, sums)
    put_grad_weights(sums, invstd, c0, width // abreast)


@kernel
def backward_reduce_channels_last(dy: In, x: In, mean: WideRow, invstd: WideRow, sums: Table, grid: Grid) -> None:
    """The three sums of each channel; reads 2 elements' bytes an element."""
    n_outer, n_channels, n_inner = row(grid, 0)
    g0, go, gc = row(grid, 1)
    x0, xo, xc = row(grid, 2)
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
        dots_panel(dy, x, mean, invstd, g0, go, x0, xo, n_outer, abreast, n_columns, parts, panel, partial, sums)
