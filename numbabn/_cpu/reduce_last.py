"""Sums over channels that lie next to each other in rows, (N, C) and NHWC: moments, and two sums for the backward."""

from __future__ import annotations

import math

import numpy as np

from .._compile import Grid, In, Table, WideRow, inner, kernel, prange, row
from .._geometry import M2, MEAN, SUM_DY, SUM_DY_XMU
from .intrinsics import cast, cast_like, fma, lanes, load_part, splat, store_part, within
from .partition import HIGH, LOW, ROWS, part_range, row_parts

PANEL = 512  # channels that one work item takes of a row: 2 KB of float32, and as much for each of its sums in L1
PILOT = 8  # rows whose mean is a part's first pivot


@inner
def rows_mean(x, k, stride, n_rows, width, mean):
    """Mean of `width` columns over a few rows, in x's dtype."""
    step = lanes(x)
    zero = splat(x, 0.0)
    for c in range(0, width, step):
        n = min(step, width - c)
        s = zero
        for r in range(n_rows):
            s = s + load_part(x, k + r * stride + c, n, zero)
        store_part(mean, c, s * splat(s, 1.0 / n_rows), n)


@inner
def rows_deviations(x, k, stride, n_rows, width, sums):
    """Sums of x - pivot and of its square over a chunk, in x's dtype: row by row, as the memory comes in.

    The three rows of `sums`, `width` long, are the pivot and both results.
    """
    step = lanes(x)
    zero = splat(x, 0.0)
    for c in range(width, 3 * width, step):
        store_part(sums, c, zero, min(step, 3 * width - c))
    for _ in range(n_rows // 4):
        for c in range(0, width, step):
            n = min(step, width - c)
            pivot = load_part(sums, c, n, zero)
            d0, d1 = load_part(x, k + c, n, pivot) - pivot, load_part(x, k + c + stride, n, pivot) - pivot
            d2, d3 = (
                load_part(x, k + c + 2 * stride, n, pivot) - pivot,
                load_part(x, k + c + 3 * stride, n, pivot) - pivot,
            )
            s, q = load_part(sums, width + c, n, zero), load_part(sums, 2 * width + c, n, zero)
            store_part(sums, width + c, s + ((d0 + d1) + (d2 + d3)), n)
            store_part(sums, 2 * width + c, q + (fma(d0, d0, d1 * d1) + fma(d2, d2, d3 * d3)), n)
        k += 4 * stride
    for _ in range(n_rows % 4):
        for c in range(0, width, step):
            n = min(step, width - c)
            pivot = load_part(sums, c, n, zero)
            d0 = load_part(x, k + c, n, pivot) - pivot
            s, q = load_part(sums, width + c, n, zero), load_part(sums, 2 * width + c, n, zero)
            store_part(sums, width + c, s + d0, n)
            store_part(sums, 2 * width + c, fma(d0, d0, q), n)
        k += stride


@inner
def moments_of_sums(pivot, s, q, count):
    """Mean and M2, float64, from the sums of x - pivot and of its square."""
    wide = cast(s, np.float64)
    offset = wide * splat(wide, 1.0 / count)
    return cast(pivot, np.float64) + offset, cast(q, np.float64) - wide * offset


@inner
def column_moments(x, k, stride, n_rows, n, pivot):
    """Mean and M2, float64, of n <= lanes columns over a chunk, summed in the dtype of `pivot`."""
    zero = splat(x, 0.0)
    s = q = splat(pivot, 0.0)
    for _ in range(n_rows // 4):
        d0 = cast_like(load_part(x, k, n, zero), pivot) - pivot
        d1 = cast_like(load_part(x, k + stride, n, zero), pivot) - pivot
        d2 = cast_like(load_part(x, k + 2 * stride, n, zero), pivot) - pivot
        d3 = cast_like(load_part(x, k + 3 * stride, n, zero), pivot) - pivot
        s = s + ((d0 + d1) + (d2 + d3))
        q = q + (fma(d0, d0, d1 * d1) + fma(d2, d2, d3 * d3))
        k += 4 * stride
    for _ in range(n_rows % 4):
        d0 = cast_like(load_part(x, k, n, zero), pivot) - pivot
        s = s + d0
        q = fma(d0, d0, q)
        k += stride
    return moments_of_sums(pivot, s, q, n_rows)


@inner
def column_mean(x, k, stride, n_rows, n):
    """Mean, float64, of n <= lanes columns over a chunk."""
    zero = splat(x, 0.0)
    s = cast(zero, np.float64)
    for r in range(n_rows):
        s = s + cast(load_part(x, k + r * stride, n, zero), np.float64)
    return s * splat(s, 1.0 / n_rows)


@inner
def chunk_columns(x, k, stride, n_rows, n, pivot, s, q):
    """Mean and M2 of n <= lanes columns over a chunk from its sums, unless these have lost digits.

    Where a pivot is more than a standard deviation away from its column's mean, half of the squares would cancel: the
    columns are taken again around their own means. What float32 then still cannot hold is taken in float64.
    """
    mean, m2 = moments_of_sums(pivot, s, q, n_rows)
    if within(m2 + m2 - cast(q, np.float64), n, LOW * n_rows, HIGH):
        return mean, m2
    mean, m2 = column_moments(x, k, stride, n_rows, n, cast_like(mean, pivot))
    if within(m2, n, LOW * n_rows, HIGH):
        return mean, m2
    return column_moments(x, k, stride, n_rows, n, column_mean(x, k, stride, n_rows, n))


@inner
def add_moments(partial, at, width, c, n, before, count, mean, m2):
    """Merge mean and M2 of `count` rows of n columns into those of the rows before them, at partial[at + c:].

    Chan, Golub and LeVeque (1983).
    """
    share = count / (before + count)
    old = load_part(partial, at + c, n, mean)
    delta = mean - old
    store_part(partial, at + c, fma(delta, splat(mean, share), old), n)
    m2 = load_part(partial, at + width + c, n, mean) + m2
    store_part(partial, at + width + c, fma(delta * delta, splat(mean, before * share), m2), n)


@inner
def rows_moments(x, start, stride, begin, end, width, sums, partial, at):
    """Mean and M2 of `width` columns over rows begin..end, to partial[at:] and partial[at + width:].

    One pass: the pivot of a chunk is the mean of the chunk before it. Means are merged as offsets from the first pivot:
    hundreds of roundings far from zero would add up.
    """
    step = lanes(x)
    zero = splat(x, 0.0)
    rows_mean(x, start + begin * stride, stride, min(PILOT, end - begin), width, sums)
    for c in range(width):
        sums[3 * width + c] = sums[c]
        partial[at + c] = partial[at + width + c] = 0.0
    for first in range(begin, end, ROWS):
        n_rows = min(ROWS, end - first)
        k = start + first * stride
        rows_deviations(x, k, stride, n_rows, width, sums)
        for c in range(0, width, step):
            n = min(step, width - c)
            pivot = load_part(sums, c, n, zero)
            s, q = load_part(sums, width + c, n, zero), load_part(sums, 2 * width + c, n, zero)
            mean, m2 = chunk_columns(x, k + c, stride, n_rows, n, pivot, s, q)
            store_part(sums, c, cast_like(mean, pivot), n)
            mean = mean - cast_like(load_part(sums, 3 * width + c, n, zero), mean)
            add_moments(partial, at, width, c, n, float(first - begin), float(n_rows), mean, m2)
    for c in range(width):
        partial[at + c] += sums[3 * width + c]


@inner
def n_panels(n_channels):
    return (n_channels + PANEL - 1) // PANEL


@inner
def panel_of(item, panels, n_channels):
    """Part, first channel and width of a work item of a pass over rows, and the length of its results."""
    part = item // panels
    c0 = (item - part * panels) * PANEL
    return part, c0, min(PANEL, n_channels - c0), 2 * min(PANEL, n_channels)


@inner
def moments_item(x, x0, xo, n_rows, n_channels, parts, item, sums, partial):
    """Moments of one part of one panel, to its place in `partial`; `sums` is scratch for four rows."""
    part, c0, width, size = panel_of(item, n_panels(n_channels), n_channels)
    first, last = part_range(n_rows, ROWS, part, parts)
    rows_moments(x, x0 + c0, xo, first, last, width, sums, partial, item * size)


@inner
def merge_panel(x, x0, xo, n_rows, n_channels, parts, panel, partial, stats):
    """Mean and M2 of a panel's channels from its parts, merged in their order.

    Where differences of infinities made a mean NaN it is sum / n, which keeps infinities of one sign.
    """
    panels = n_panels(n_channels)
    _, c0, width, size = panel_of(panel, panels, n_channels)
    zero = splat(partial, 0.0)
    at = panel * size
    for part in range(1, parts):
        first, last = part_range(n_rows, ROWS, part, parts)
        k = (part * panels + panel) * size
        for c in range(0, width, lanes(partial)):
            n = min(lanes(partial), width - c)
            mean, m2 = load_part(partial, k + c, n, zero), load_part(partial, k + width + c, n, zero)
            add_moments(partial, at, width, c, n, float(first), float(last - first), mean, m2)
    for c in range(width):
        mean, m2 = partial[at + c], partial[at + width + c]
        if math.isnan(mean):
            mean = 0.0
            for r in range(n_rows):
                mean += x[x0 + c0 + r * xo + c]
            mean /= n_rows
        stats[MEAN, c0 + c] = mean
        stats[M2, c0 + c] = 0.0 if m2 < 0.0 else m2


@kernel
def moments_channels_last(x: In, stats: Table, grid: Grid) -> None:
    """Mean and M2 of each channel; reads 1 element's bytes an element."""
    n_outer, n_channels, n_inner = row(grid, 0)
    x0, xo, xc = row(grid, 1)
    parts, panels = row_parts(n_outer, n_channels), n_panels(n_channels)
    width = min(PANEL, n_channels)
    partial = np.empty(panels * parts * 2 * width)
    for index in prange(panels * parts):
        sums = np.empty(4 * width, x.dtype)
        moments_item(x, x0, xo, n_outer, n_channels, parts, np.int64(index), sums, partial)
    for index in prange(panels):
        merge_panel(x, x0, xo, n_outer, n_channels, parts, np.int64(index), partial, stats)


@inner
def chunk_rows_dots(dy, x, high, g, go, k, xo, n_rows, width, dots, partial, at):
    """Add both sums of `width` columns over a chunk to partial[at:] and partial[at + width:]."""
    step = lanes(x)
    zero = splat(x, 0.0)
    wide = cast(zero, np.float64)
    for c in range(0, width, step):
        store_part(dots, c, zero, min(step, width - c))
    for _ in range(n_rows // 2):
        for c in range(0, width, step):
            n = min(step, width - c)
            center = load_part(high, c, n, zero)
            g0, g1 = load_part(dy, g + c, n, zero), load_part(dy, g + go + c, n, zero)
            t = g0 * (load_part(x, k + c, n, zero) - center)
            t = fma(g1, load_part(x, k + xo + c, n, zero) - center, t)
            store_part(dots, c, load_part(dots, c, n, zero) + t, n)
            s = cast(g0, np.float64) + cast(g1, np.float64)
            store_part(partial, at + c, load_part(partial, at + c, n, wide) + s, n)
        g += 2 * go
        k += 2 * xo
    if n_rows % 2 == 1:
        for c in range(0, width, step):
            n = min(step, width - c)
            g0 = load_part(dy, g + c, n, zero)
            t = g0 * (load_part(x, k + c, n, zero) - load_part(high, c, n, zero))
            store_part(dots, c, load_part(dots, c, n, zero) + t, n)
            store_part(partial, at + c, load_part(partial, at + c, n, wide) + cast(g0, np.float64), n)
    for c in range(0, width, step):
        n = min(step, width - c)
        t = load_part(partial, at + width + c, n, wide) + cast(load_part(dots, c, n, zero), np.float64)
        store_part(partial, at + width + c, t, n)


@inner
def rows_dots(dy, x, mean, c0, width, g0, go, x0, xo, begin, end, high, dots, partial, at):
    """Both sums of `width` columns over rows begin..end, to partial[at:] and partial[at + width:]."""
    for c in range(width):
        high[c] = mean[c0 + c]
    for c in range(2 * width):
        partial[at + c] = 0.0
    for first in range(begin, end, ROWS):
        n_rows = min(ROWS, end - first)
        g = g0 + c0 + first * go
        k = x0 + c0 + first * xo
        chunk_rows_dots(dy, x, high, g, go, k, xo, n_rows, width, dots, partial, at)
    for c in range(width):
        partial[at + width + c] -= (mean[c0 + c] - np.float64(high[c])) * partial[at + c]


@inner
def dots_item(dy, x, mean, g0, go, x0, xo, n_rows, n_channels, parts, item, high, dots, partial):
    """Both sums of one part of one panel, to its place in `partial`; `high` and `dots` are scratch for a row."""
    part, c0, width, size = panel_of(item, n_panels(n_channels), n_channels)
    first, last = part_range(n_rows, ROWS, part, parts)
    rows_dots(dy, x, mean, c0, width, g0, go, x0, xo, first, last, high, dots, partial, item * size)


@inner
def add_panel(n_channels, parts, panel, partial, sums):
    """Both sums of a panel's channels, its parts added in their order."""
    panels = n_panels(n_channels)
    _, c0, width, size = panel_of(panel, panels, n_channels)
    for c in range(c0, c0 + width):
        sums[SUM_DY, c] = sums[SUM_DY_XMU, c] = 0.0
    for part in range(parts):
        k = (part * panels + panel) * size
        for c in range(width):
            sums[SUM_DY, c0 + c] += partial[k + c]
            sums[SUM_DY_XMU, c0 + c] += partial[k + width + c]


@kernel
def backward_reduce_channels_last(dy: In, x: In, mean: WideRow, sums: Table, grid: Grid) -> None:
    """Sums of dy and dy * (x - mean) of each channel; reads 2 elements' bytes an element."""
    n_outer, n_channels, n_inner = row(grid, 0)
    g0, go, gc = row(grid, 1)
    x0, xo, xc = row(grid, 2)
    parts, panels = row_parts(n_outer, n_channels), n_panels(n_channels)
    width = min(PANEL, n_channels)
    partial = np.empty(panels * parts * 2 * width)
    for index in prange(panels * parts):
        high, dots = np.empty(width, x.dtype), np.empty(width, x.dtype)
        dots_item(dy, x, mean, g0, go, x0, xo, n_outer, n_channels, parts, np.int64(index), high, dots, partial)
    for index in prange(panels):
        add_panel(n_channels, parts, np.int64(index), partial, sums)
