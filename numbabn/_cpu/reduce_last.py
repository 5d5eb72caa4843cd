"""Sums over channels that lie next to each other in rows, (N, C) and NHWC: moments, and two sums for the backward."""

from __future__ import annotations

import math

import numpy as np

from .._compile import Grid, In, Pack, inner, kernel, prange, row
from .._geometry import M2, MEAN, SUM_DY, SUM_DY_XMU
from .intrinsics import cast, cast_like, fma, lanes, load_part, splat, store_part, within
from .partition import HIGH, LOW, ROWS, merge, part_range, row_parts

PANEL = 1024  # channels that one work item takes of a row: 1 KB of float32


@inner
def rows_sum(x, k, stride, n_rows, width, total):
    """Sums of `width` columns over a chunk, in x's dtype, to `total`: row by row, as the memory comes in."""
    step = lanes(x)
    zero = splat(x, 0.0)
    for c in range(0, width, step):
        store_part(total, c, zero, min(step, width - c))
    for _ in range(n_rows // 4):
        for c in range(0, width, step):
            n = min(step, width - c)
            a = load_part(x, k + c, n, zero) + load_part(x, k + c + stride, n, zero)
            b = load_part(x, k + c + 2 * stride, n, zero) + load_part(x, k + c + 3 * stride, n, zero)
            store_part(total, c, load_part(total, c, n, zero) + (a + b), n)
        k += 4 * stride
    for _ in range(n_rows % 4):
        for c in range(0, width, step):
            n = min(step, width - c)
            store_part(total, c, load_part(total, c, n, zero) + load_part(x, k + c, n, zero), n)
        k += stride


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
    wide = cast(s, np.float64)
    offset = wide * splat(wide, 1.0 / n_rows)
    return cast(pivot, np.float64) + offset, cast(q, np.float64) - wide * offset


@inner
def column_mean(x, k, stride, n_rows, n):
    """Mean, float64, of n <= lanes columns over a chunk."""
    zero = splat(x, 0.0)
    s = cast(zero, np.float64)
    for r in range(n_rows):
        s = s + cast(load_part(x, k + r * stride, n, zero), np.float64)
    return s * splat(s, 1.0 / n_rows)


@inner
def rows_moments(x, start, stride, begin, end, width, total, partial, at):
    """Mean and M2 of `width` columns over rows begin..end, to partial[at:] and partial[at + width:]."""
    step = lanes(x)
    zero = splat(x, 0.0)
    wide = cast(zero, np.float64)
    for c in range(2 * width):
        partial[at + c] = 0.0
    for first in range(begin, end, ROWS):
        n_rows = min(ROWS, end - first)
        share = n_rows / (first - begin + n_rows)
        weight = (first - begin) * share
        k = start + first * stride
        rows_sum(x, k, stride, n_rows, width, total)
        for c in range(0, width, step):
            n = min(step, width - c)
            pivot = load_part(total, c, n, zero) * splat(x, 1.0 / n_rows)
            chunk_mean, chunk_m2 = column_moments(x, k + c, stride, n_rows, n, pivot)
            if not within(chunk_m2, n, LOW * n_rows, HIGH):
                chunk_mean, chunk_m2 = column_moments(
                    x, k + c, stride, n_rows, n, column_mean(x, k + c, stride, n_rows, n)
                )
            mean = load_part(partial, at + c, n, wide)
            m2 = load_part(partial, at + width + c, n, wide)
            delta = chunk_mean - mean
            store_part(partial, at + c, fma(delta, splat(wide, share), mean), n)
            m2 = fma(delta * delta, splat(wide, weight), m2 + chunk_m2)
            store_part(partial, at + width + c, m2, n)


@inner
def merge_rows(partial, at, size, x, start, stride, n_rows, parts, width, pack, c0):
    """Merge the parts that lie `size` apart from `at` on, in their order, to pack[:, c0 : c0 + width].

    Where differences of infinities made a mean NaN it is sum / n, which keeps infinities of one sign.
    """
    for c in range(c0, c0 + width):
        pack[MEAN, c] = pack[M2, c] = 0.0
    for part in range(parts):
        first, last = part_range(n_rows, ROWS, part, parts)
        k = at + part * size
        for c in range(width):
            mean, m2 = merge(
                float(first),
                pack[MEAN, c0 + c],
                pack[M2, c0 + c],
                float(last - first),
                partial[k + c],
                partial[k + width + c],
            )
            pack[MEAN, c0 + c] = mean
            pack[M2, c0 + c] = 0.0 if m2 < 0.0 else m2
    for c in range(width):
        if math.isnan(pack[MEAN, c0 + c]):
            total = 0.0
            for r in range(n_rows):
                total += x[start + r * stride + c]
            pack[MEAN, c0 + c] = total / n_rows


@inner
def block_moments(x, start, stride, n_rows, parts, c0, width, total, partial, pack):
    """Mean and M2 of `width` columns from c0 on over all rows, part after part."""
    for part in range(parts):
        first, last = part_range(n_rows, ROWS, part, parts)
        rows_moments(x, start, stride, first, last, width, total, partial, part * 2 * width)
    merge_rows(partial, 0, 2 * width, x, start, stride, n_rows, parts, width, pack, c0)


@kernel
def moments_channels_last(x: In, pack: Pack, grid: Grid) -> None:
    """Mean and M2 of each channel; reads 1 element's bytes an element."""
    n_outer, n_channels, n_inner = row(grid, 0)
    x0, xo, xc = row(grid, 1)
    parts = row_parts(n_outer, n_channels)
    panels = (n_channels + PANEL - 1) // PANEL
    partial = np.empty(panels * parts * 2 * PANEL)
    for index in prange(panels * parts):
        item = np.int64(index)
        panel = item % panels
        c0 = panel * PANEL
        width = min(PANEL, n_channels - c0)
        first, last = part_range(n_outer, ROWS, item // panels, parts)
        at = (panel * parts + item // panels) * 2 * PANEL
        rows_moments(x, x0 + c0, xo, first, last, width, np.empty(width, x.dtype), partial, at)
    for index in prange(panels):
        panel = np.int64(index)
        c0 = panel * PANEL
        width, at = min(PANEL, n_channels - c0), panel * parts * 2 * PANEL
        merge_rows(partial, at, 2 * PANEL, x, x0 + c0, xo, n_outer, parts, width, pack, c0)


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
def rows_dots(dy, x, pack, c0, width, g0, go, x0, xo, begin, end, high, dots, partial, at):
    """Both sums of `width` columns over rows begin..end, to partial[at:] and partial[at + width:]."""
    for c in range(width):
        high[c] = pack[MEAN, c0 + c]
    for c in range(2 * width):
        partial[at + c] = 0.0
    for first in range(begin, end, ROWS):
        n_rows = min(ROWS, end - first)
        g = g0 + c0 + first * go
        k = x0 + c0 + first * xo
        chunk_rows_dots(dy, x, high, g, go, k, xo, n_rows, width, dots, partial, at)
    for c in range(width):
        partial[at + width + c] -= (pack[MEAN, c0 + c] - np.float64(high[c])) * partial[at + c]


@inner
def add_rows(partial, at, parts, size, width, pack, c0):
    """Add the parts that lie `size` apart from `at` on, in their order, to pack[:, c0 : c0 + width]."""
    for c in range(c0, c0 + width):
        pack[SUM_DY, c] = pack[SUM_DY_XMU, c] = 0.0
    for part in range(parts):
        k = at + part * size
        for c in range(width):
            pack[SUM_DY, c0 + c] += partial[k + c]
            pack[SUM_DY_XMU, c0 + c] += partial[k + width + c]


@inner
def block_dots(dy, x, pack, n_rows, parts, c0, width, g0, go, x0, xo, high, dots, partial):
    """Both sums of `width` columns from c0 on over all rows, part after part."""
    for part in range(parts):
        first, last = part_range(n_rows, ROWS, part, parts)
        rows_dots(dy, x, pack, c0, width, g0, go, x0, xo, first, last, high, dots, partial, part * 2 * width)
    add_rows(partial, 0, parts, 2 * width, width, pack, c0)


@kernel
def backward_reduce_channels_last(dy: In, x: In, pack: Pack, grid: Grid) -> None:
    """Sums of dy and dy * (x - mean) of each channel; reads 2 elements' bytes an element."""
    n_outer, n_channels, n_inner = row(grid, 0)
    g0, go, gc = row(grid, 1)
    x0, xo, xc = row(grid, 2)
    parts = row_parts(n_outer, n_channels)
    panels = (n_channels + PANEL - 1) // PANEL
    partial = np.empty(panels * parts * 2 * PANEL)
    for index in prange(panels * parts):
        item = np.int64(index)
        panel = item % panels
        c0 = panel * PANEL
        first, last = part_range(n_outer, ROWS, item // panels, parts)
        at = (panel * parts + item // panels) * 2 * PANEL
        width = min(PANEL, n_channels - c0)
        high, dots = np.empty(width, x.dtype), np.empty(width, x.dtype)
        rows_dots(dy, x, pack, c0, width, g0, go, x0, xo, first, last, high, dots, partial, at)
    for panel in range(panels):
        c0 = panel * PANEL
        add_rows(partial, panel * parts * 2 * PANEL, parts, 2 * PANEL, min(PANEL, n_channels - c0), pack, c0)
