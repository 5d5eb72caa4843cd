"""Sums over channels that lie next to each other in rows, (N, C) and NHWC: moments, and two sums for the backward.

A work item is one part of all rows of a panel of columns. Rows of a few channels are summed side by side, so many as
fill some vectors, as if they were one row; what a channel then has in several columns is merged in the end.
"""

from __future__ import annotations

import math

import numpy as np

from .._compile import Grid, In, Row, Table, inner, kernel, linked, prange, read_rows
from .._geometry import M2, MEAN, SUM_DY, SUM_DY_XMU
from .ahead import MEGABYTE, SECOND_LEVEL
from .channels import put_grad_weights, wide_part
from .partition import LEAST, ROWS, merge, row, row_parts, rows_range
from .reduce_rows import add_moments, rows_dots, rows_moments, whole_size
from .vectors import cast, lanes, load, splat, store_part

# Most columns that one work item takes of a row: the sums of 2,048 are 32 KB. With a megabyte of L2 or less, panels of
# 512, whose sums stay in L1 but whose rows do not follow one another in memory, took 1.05 to 1.1 times as long over
# 1,024 and 2,048 channels; panels of 4,096 up to 1.2 times. With two (an Intel Xeon) 2,048 channels in two panels take
# 0.85 to 0.95 of the time, the backward of (4096, 2048) 0.7.
PANEL = 1536 if SECOND_LEVEL > MEGABYTE else 2048
NARROW = 128  # columns that panels have at least, where there are so many
ABREAST = 128  # columns that rows side by side may have


@inner
def rows_abreast(n_rows, n_channels, gaps):
    """Rows that are summed side by side: none where they have gaps, or are too few for a chunk of such rows."""
    n = 1
    while not gaps and 2 * n * n_channels <= ABREAST and 2 * n * ROWS <= n_rows:
        n *= 2
    return n


@inner
def panel_width(x, n_rows, n_columns, parts, threads):
    """Columns of a panel, but for the last one: no more than PANEL, and so few that each thread has two work items.

    128 rows of 512 channels then took two threads 0.85 to 0.9 of the time. Each panel begins with a whole vector: how
    wide it is makes no difference to a bit.
    """
    panels = n_panels(n_columns, PANEL)
    most = whole_size(x, (n_columns + panels - 1) // panels)
    if threads == 1 or n_rows * n_columns < LEAST:
        return most
    panels = (2 * threads + parts - 1) // parts
    return min(most, max(NARROW, whole_size(x, (n_columns + panels - 1) // panels)))


@inner
def n_panels(n_columns, width):
    return (n_columns + width - 1) // width


@inner
def panel_of(item, n_columns, width):
    """Part, first column and width of a work item of a pass over rows in panels of `width` columns."""
    panels = n_panels(n_columns, width)
    part = item // panels
    c0 = (item - part * panels) * width
    return part, c0, min(width, n_columns - c0)


@inner
def channels_of_panel(panel, plan):
    """First channel of a panel, and how many it has."""
    abreast, _, n_columns, _, width, _ = plan
    _, c0, columns = panel_of(panel, n_columns, width)
    return c0, columns // abreast


@inner
def merge_rows(partial, at, ahead, size, n_rows, parts):
    """Merge mean and M2 of all parts, rows of `size`, each `ahead` further than the one before, in their order."""
    for part in range(1, parts):
        first, last = rows_range(n_rows, part, parts)
        k = at + part * ahead
        for c in range(0, size, lanes(partial)):
            mean, m2 = load(partial, k + c), load(partial, k + size + c)
            add_moments(partial, at, size, c, float(first), float(last - first), mean, m2)


@inner
def store_moments(x, x0, xo, n_rows, abreast, c0, width, partial, at, stats):
    """Mean and M2 of channels from c0 on from those of the `width` columns at partial[at:], and of the last rows.

    Where differences of infinities made a mean NaN it is sum / n, which keeps infinities of one sign.
    """
    channels, size = width // abreast, whole_size(x, width)
    rows = n_rows // abreast
    means, m2s = stats[MEAN], stats[M2]
    for c in range(0, channels, lanes(x)):
        n, count = min(lanes(x), channels - c), float(rows)
        mean, m2 = wide_part(x, partial, at + c, n), wide_part(x, partial, at + size + c, n)
        for column in range(at + c + channels, at + width, channels):
            more = wide_part(x, partial, column, n), wide_part(x, partial, column + size, n)
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
def rows_plan(x, n_outer, n_channels, gaps, threads):
    """Rows abreast, the rows, columns and parts that then are summed, and the width and number of panels."""
    abreast = rows_abreast(n_outer, n_channels, gaps)
    n_rows, n_columns = n_outer // abreast, n_channels * abreast
    parts = row_parts(n_rows, n_columns)
    width = panel_width(x, n_rows, n_columns, parts, threads)
    return abreast, n_rows, n_columns, parts, width, n_panels(n_columns, width)


@linked
def moments_item(x, grid, plan, item, sums, wide, partial):
    """Moments of one part of one panel, to its place in `partial`; scratch as in `rows_moments`."""
    x0, xo, _ = row(grid, 1)
    abreast, n_rows, n_columns, parts, width, _ = plan
    part, c0, columns = panel_of(item, n_columns, width)
    first, last = rows_range(n_rows, part, parts)
    rows_moments(x, x0 + c0, xo * abreast, first, last, columns, sums, wide, partial, item * 2 * width)


@linked
def moments_panel(x, grid, plan, panel, partial, stats):
    """MEAN and M2 of a panel's channels from its parts."""
    n_outer, _, _ = row(grid, 0)
    x0, xo, _ = row(grid, 1)
    abreast, n_rows, n_columns, parts, width, panels = plan
    at, ahead = panel * 2 * width, panels * 2 * width
    _, c0, columns = panel_of(panel, n_columns, width)
    merge_rows(partial, at, ahead, whole_size(x, columns), n_rows, parts)
    store_moments(x, x0, xo, n_outer, abreast, c0, columns, partial, at, stats)


@kernel
def moments_channels_last(x: In, stats: Table, grid: Grid, threads: int) -> None:
    """Mean and M2 of each channel; reads 1 element's bytes an element."""
    n_outer, n_channels, n_inner = row(grid, 0)
    x0, xo, xc = row(grid, 1)
    plan = rows_plan(x, n_outer, n_channels, xo != n_channels, threads)
    _, _, _, parts, width, panels = plan
    partial = np.empty(panels * parts * 2 * width)
    for index in prange(panels * parts):
        sums, wide = np.empty(4 * width, x.dtype), np.empty(2 * width)
        moments_item(x, grid, plan, np.int64(index), sums, wide, partial)
    for panel in range(panels):
        moments_panel(x, grid, plan, panel, partial, stats)


@inner
def store_dots(dy, x, mean, g0, go, x0, xo, n_rows, abreast, c0, width, parts, partial, at, ahead, sums):
    """Both sums of channels from c0 on from those of their columns in all parts, in order, and of the last rows."""
    channels, size = width // abreast, whole_size(x, width)
    zero = cast(splat(x, 0.0), np.float64)
    for c in range(0, channels, lanes(x)):
        n, i = min(lanes(x), channels - c), c0 + c
        s = t = zero
        for part in range(parts):
            k = at + part * ahead
            for column in range(k + c, k + width, channels):
                s = s + wide_part(x, partial, column, n)
                t = t + wide_part(x, partial, column + size, n)
        for r in range(n_rows // abreast * abreast, n_rows):
            v = wide_part(x, dy, g0 + r * go + i, n)
            s = s + v
            t = t + v * (wide_part(x, x, x0 + r * xo + i, n) - wide_part(x, mean, i, n))
        store_part(sums[SUM_DY], i, s, n)
        store_part(sums[SUM_DY_XMU], i, t, n)


@linked
def dots_item(dy, x, mean, grid, plan, item, scratch, partial):
    """Both sums of one part of one panel, to its place in `partial`; `scratch` is for two rows."""
    g0, go, _ = row(grid, 1)
    x0, xo, _ = row(grid, 2)
    abreast, n_rows, n_columns, parts, width, _ = plan
    part, c0, columns = panel_of(item, n_columns, width)
    first, last = rows_range(n_rows, part, parts)
    g, g_step, k, x_step = g0 + c0, go * abreast, x0 + c0, xo * abreast
    at, channels = item * 2 * width, columns // abreast
    rows_dots(dy, x, mean, channels, c0, columns, g, g_step, k, x_step, first, last, scratch, partial, at)


@linked
def dots_panel(dy, x, mean, invstd, grid, plan, panel, partial, sums):
    """All sums of a panel's channels from its parts."""
    n_outer, _, _ = row(grid, 0)
    g0, go, _ = row(grid, 1)
    x0, xo, _ = row(grid, 2)
    abreast, _, n_columns, parts, width, panels = plan
    at, ahead = panel * 2 * width, panels * 2 * width
    _, c0, columns = panel_of(panel, n_columns, width)
    store_dots(dy, x, mean, g0, go, x0, xo, n_outer, abreast, c0, columns, parts, partial, at, ahead, sums)
    put_grad_weights(sums, invstd, c0, columns // abreast)


@kernel
def backward_reduce_channels_last(dy: In, x: In, mean: Row, invstd: Row, sums: Table, grid: Grid, threads: int) -> None:
    """The three sums of each channel; reads 2 elements' bytes an element."""
    n_outer, n_channels, n_inner = row(grid, 0)
    g0, go, gc = row(grid, 1)
    x0, xo, xc = row(grid, 2)
    plan = rows_plan(x, n_outer, n_channels, go != n_channels or xo != n_channels, threads)
    _, _, _, parts, width, panels = plan
    partial = np.empty(panels * parts * 2 * width)
    given = np.empty((2, n_channels))
    read_rows(given, (mean, invstd))
    means, invstds = given[0], given[1]
    for index in prange(panels * parts):
        scratch = np.empty(2 * width, x.dtype)
        dots_item(dy, x, means, grid, plan, np.int64(index), scratch, partial)
    for panel in range(panels):
        dots_panel(dy, x, means, invstds, grid, plan, panel, partial, sums)
