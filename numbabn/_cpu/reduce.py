"""Sums over everything but the channel: moments for the forward pass, two sums for the backward.

A channel's elements are cut into chunks and the chunks into parts, by the shape alone. Inside a chunk, which stays in
L1 or L2, sums run in the array's own dtype over a fixed number of lanes; between chunks they are float64, and parts are
merged in their order. Any number of threads therefore gives the same bits.
"""

from __future__ import annotations

import numpy as np

from .._compile import Grid, In, Pack, inner, kernel, prange, row
from .._geometry import M2, MEAN, SUM_DY, SUM_DY_XMU
from .._scalar import merge as _merge
from .intrinsics import cast, cast_like, fma, hsum, lanes, load, load_part, rounded, splat, store_part, within

CHUNK = 4096  # elements of a channel: 16 KB of float32, read twice, the second time from L1
ROWS = 64  # rows of a channels-last chunk: a lane adds 16 groups of four, 1e-7 of its sum
PARTS = 64  # most parts that a channel, or all rows, are cut into
LOW, HIGH = 1e-30, 1e36  # M2 per element, and M2, that float32 squares hold with all digits
PANEL = 256  # channels that one work item takes of a row: 1 KB of float32

merge = inner(_merge)


@inner
def n_parts(n_elements: int, n_chunks: int) -> int:
    """Parts of at least eight chunks and 32,768 elements."""
    return max(1, min(PARTS, n_elements // (8 * CHUNK), n_chunks // 8))


# -- channels first: the inner run of one (outer, channel) pair is contiguous ------------------------------------------


@inner
def chunk_sum(x, dtype, start, stride, n_inner, begin, end):
    """Sum of elements begin..end of the channel that starts at `start`, accumulated in `dtype`."""
    step = lanes(x)
    zero = splat(x, 0.0)
    s0 = s1 = s2 = s3 = cast(zero, dtype)
    o = begin // n_inner
    i = begin - o * n_inner
    while begin < end:
        n = min(n_inner - i, end - begin)
        k = start + o * stride + i
        stop = k + n
        while k + 4 * step <= stop:
            s0 = s0 + cast(load(x, k), dtype)
            s1 = s1 + cast(load(x, k + step), dtype)
            s2 = s2 + cast(load(x, k + 2 * step), dtype)
            s3 = s3 + cast(load(x, k + 3 * step), dtype)
            k += 4 * step
        while k + step <= stop:
            s0 = s0 + cast(load(x, k), dtype)
            k += step
        if k < stop:
            s1 = s1 + cast(load_part(x, k, stop - k, zero), dtype)
        begin += n
        o += 1
        i = 0
    return hsum((s0 + s1) + (s2 + s3))


@inner
def chunk_moments(x, dtype, start, stride, n_inner, begin, end):
    """Mean and M2 of one chunk in two passes; the first pass's mean, rounded, is the pivot of the second."""
    count = float(end - begin)
    pivot = rounded(x, chunk_sum(x, dtype, start, stride, n_inner, begin, end) / count)
    step = lanes(x)
    fill = splat(x, pivot)
    center = cast(fill, dtype)
    s0 = s1 = s2 = s3 = q0 = q1 = q2 = q3 = cast(splat(x, 0.0), dtype)
    o = begin // n_inner
    i = begin - o * n_inner
    while begin < end:
        n = min(n_inner - i, end - begin)
        k = start + o * stride + i
        stop = k + n
        while k + 4 * step <= stop:
            d0 = cast(load(x, k), dtype) - center
            d1 = cast(load(x, k + step), dtype) - center
            d2 = cast(load(x, k + 2 * step), dtype) - center
            d3 = cast(load(x, k + 3 * step), dtype) - center
            s0 = s0 + d0
            s1 = s1 + d1
            s2 = s2 + d2
            s3 = s3 + d3
            q0 = fma(d0, d0, q0)
            q1 = fma(d1, d1, q1)
            q2 = fma(d2, d2, q2)
            q3 = fma(d3, d3, q3)
            k += 4 * step
        while k + step <= stop:
            d0 = cast(load(x, k), dtype) - center
            s0 = s0 + d0
            q0 = fma(d0, d0, q0)
            k += step
        if k < stop:
            d1 = cast(load_part(x, k, stop - k, fill), dtype) - center
            s1 = s1 + d1
            q1 = fma(d1, d1, q1)
        begin += n
        o += 1
        i = 0
    s = hsum((s0 + s1) + (s2 + s3))
    q = hsum((q0 + q1) + (q2 + q3))
    m2 = q - s * (s / count)
    return pivot + s / count, 0.0 if m2 < 0.0 else m2


@inner
def in_range(m2, count):
    """False where squares may have left float32's range (or are NaN): the chunk is then taken again in float64."""
    return LOW * count < m2 < HIGH


@inner
def part_moments(x, start, stride, n_outer, n_inner, part, parts):
    """Count, mean and M2 of one part of a channel."""
    size = n_outer * n_inner
    n_chunks = (size + CHUNK - 1) // CHUNK
    begin = n_chunks * part // parts * CHUNK
    end = min(size, n_chunks * (part + 1) // parts * CHUNK)
    count = mean = m2 = 0.0
    for first in range(begin, end, CHUNK):
        last = min(first + CHUNK, end)
        n = float(last - first)
        chunk_mean, chunk_m2 = chunk_moments(x, x.dtype, start, stride, n_inner, first, last)
        if not in_range(chunk_m2, n):
            chunk_mean, chunk_m2 = chunk_moments(x, np.float64, start, stride, n_inner, first, last)
        mean, m2 = merge(count, mean, m2, n, chunk_mean, chunk_m2)
        count += n
    return count, mean, m2


@inner
def channel_parts(n_outer, n_inner):
    size = n_outer * n_inner
    return n_parts(size, (size + CHUNK - 1) // CHUNK)


@inner
def channel_moments(x, start, stride, n_outer, n_inner):
    """Mean and M2 of a whole channel, part after part."""
    parts = channel_parts(n_outer, n_inner)
    count = mean = m2 = 0.0
    for part in range(parts):
        n, part_mean, part_m2 = part_moments(x, start, stride, n_outer, n_inner, part, parts)
        mean, m2 = merge(count, mean, m2, n, part_mean, part_m2)
        count += n
    return mean, m2


@kernel
def moments_channels_first(x: In, pack: Pack, grid: Grid) -> None:
    """Mean and M2 of each channel; reads 1 element's bytes an element."""
    n_outer, n_channels, n_inner = row(grid, 0)
    x0, xo, xc = row(grid, 1)
    parts = channel_parts(n_outer, n_inner)
    partial = np.empty((n_channels * parts, 3))
    for index in prange(n_channels * parts):
        item = np.int64(index)
        c = item // parts
        n, mean, m2 = part_moments(x, x0 + c * xc, xo, n_outer, n_inner, item - c * parts, parts)
        partial[item, 0] = n
        partial[item, 1] = mean
        partial[item, 2] = m2
    for c in range(n_channels):
        count = mean = m2 = 0.0
        for item in range(c * parts, (c + 1) * parts):
            mean, m2 = merge(count, mean, m2, partial[item, 0], partial[item, 1], partial[item, 2])
            count += partial[item, 0]
        pack[MEAN, c] = mean
        pack[M2, c] = m2


@inner
def chunk_dots(dy, x, mean, g_start, g_stride, x_start, x_stride, n_inner, begin, end):
    """Sums of dy, in float64 lanes, and of dy * (x - mean) over one chunk."""
    step = lanes(x)
    zero = splat(x, 0.0)
    center = splat(x, mean)
    s0 = s1 = s2 = s3 = cast(zero, np.float64)
    t0 = t1 = t2 = t3 = zero
    o = begin // n_inner
    i = begin - o * n_inner
    while begin < end:
        n = min(n_inner - i, end - begin)
        g = g_start + o * g_stride + i
        k = x_start + o * x_stride + i
        stop = k + n
        while k + 4 * step <= stop:
            g0 = load(dy, g)
            g1 = load(dy, g + step)
            g2 = load(dy, g + 2 * step)
            g3 = load(dy, g + 3 * step)
            t0 = fma(g0, load(x, k) - center, t0)
            t1 = fma(g1, load(x, k + step) - center, t1)
            t2 = fma(g2, load(x, k + 2 * step) - center, t2)
            t3 = fma(g3, load(x, k + 3 * step) - center, t3)
            s0 = s0 + cast(g0, np.float64)
            s1 = s1 + cast(g1, np.float64)
            s2 = s2 + cast(g2, np.float64)
            s3 = s3 + cast(g3, np.float64)
            g += 4 * step
            k += 4 * step
        while k + step <= stop:
            g0 = load(dy, g)
            t0 = fma(g0, load(x, k) - center, t0)
            s0 = s0 + cast(g0, np.float64)
            g += step
            k += step
        if k < stop:
            g1 = load_part(dy, g, stop - k, zero)
            t1 = fma(g1, load_part(x, k, stop - k, center) - center, t1)
            s1 = s1 + cast(g1, np.float64)
        begin += n
        o += 1
        i = 0
    return hsum((s0 + s1) + (s2 + s3)), hsum((t0 + t1) + (t2 + t3))


@inner
def part_dots(dy, x, mean, g_start, g_stride, x_start, x_stride, n_outer, n_inner, part, parts):
    """Both sums over one part of a channel; the low part of the mean is taken off at the end."""
    size = n_outer * n_inner
    n_chunks = (size + CHUNK - 1) // CHUNK
    begin = n_chunks * part // parts * CHUNK
    end = min(size, n_chunks * (part + 1) // parts * CHUNK)
    high = rounded(x, mean)
    s = t = 0.0
    for first in range(begin, end, CHUNK):
        last = min(first + CHUNK, end)
        a, b = chunk_dots(dy, x, high, g_start, g_stride, x_start, x_stride, n_inner, first, last)
        s += a
        t += b
    return s, t - (mean - high) * s


@inner
def channel_dots(dy, x, mean, g_start, g_stride, x_start, x_stride, n_outer, n_inner):
    """Sums of dy and of dy * (x - mean) over a whole channel."""
    parts = channel_parts(n_outer, n_inner)
    s = t = 0.0
    for part in range(parts):
        a, b = part_dots(dy, x, mean, g_start, g_stride, x_start, x_stride, n_outer, n_inner, part, parts)
        s += a
        t += b
    return s, t


@kernel
def backward_reduce_channels_first(dy: In, x: In, pack: Pack, grid: Grid) -> None:
    """Sums of dy and dy * (x - mean) of each channel; reads 2 elements' bytes an element."""
    n_outer, n_channels, n_inner = row(grid, 0)
    g0, go, gc = row(grid, 1)
    x0, xo, xc = row(grid, 2)
    parts = channel_parts(n_outer, n_inner)
    partial = np.empty((n_channels * parts, 2))
    for index in prange(n_channels * parts):
        item = np.int64(index)
        c = item // parts
        s, t = part_dots(
            dy, x, pack[MEAN, c], g0 + c * gc, go, x0 + c * xc, xo, n_outer, n_inner, item - c * parts, parts
        )
        partial[item, 0] = s
        partial[item, 1] = t
    for c in range(n_channels):
        s = t = 0.0
        for item in range(c * parts, (c + 1) * parts):
            s += partial[item, 0]
            t += partial[item, 1]
        pack[SUM_DY, c] = s
        pack[SUM_DY_XMU, c] = t


# -- channels last: a row holds the channels next to each other; (N, C) and NHWC ---------------------------------------


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
def row_parts(n_rows, n_channels):
    return n_parts(n_rows * n_channels, (n_rows + ROWS - 1) // ROWS)


@inner
def part_rows(n_rows, part, parts):
    """First and last row of a part, whole chunks."""
    n_chunks = (n_rows + ROWS - 1) // ROWS
    return n_chunks * part // parts * ROWS, min(n_rows, n_chunks * (part + 1) // parts * ROWS)


@inner
def merge_rows(partial, at, size, n_rows, parts, width, pack, c0):
    """Merge the parts that lie `size` apart from `at` on, in their order, to pack[:, c0 : c0 + width]."""
    for c in range(c0, c0 + width):
        pack[MEAN, c] = pack[M2, c] = 0.0
    for part in range(parts):
        first, last = part_rows(n_rows, part, parts)
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


@inner
def block_moments(x, start, stride, n_rows, parts, c0, width, total, partial, pack):
    """Mean and M2 of `width` columns from c0 on over all rows, part after part."""
    for part in range(parts):
        first, last = part_rows(n_rows, part, parts)
        rows_moments(x, start, stride, first, last, width, total, partial, part * 2 * width)
    merge_rows(partial, 0, 2 * width, n_rows, parts, width, pack, c0)


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
        first, last = part_rows(n_outer, item // panels, parts)
        at = (panel * parts + item // panels) * 2 * PANEL
        rows_moments(x, x0 + c0, xo, first, last, width, np.empty(width, x.dtype), partial, at)
    for index in prange(panels):
        panel = np.int64(index)
        c0 = panel * PANEL
        merge_rows(partial, panel * parts * 2 * PANEL, 2 * PANEL, n_outer, parts, min(PANEL, n_channels - c0), pack, c0)


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
        first, last = part_rows(n_rows, part, parts)
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
        first, last = part_rows(n_outer, item // panels, parts)
        at = (panel * parts + item // panels) * 2 * PANEL
        width = min(PANEL, n_channels - c0)
        high, dots = np.empty(width, x.dtype), np.empty(width, x.dtype)
        rows_dots(dy, x, pack, c0, width, g0, go, x0, xo, first, last, high, dots, partial, at)
    for panel in range(panels):
        c0 = panel * PANEL
        add_rows(partial, panel * parts * 2 * PANEL, parts, 2 * PANEL, min(PANEL, n_channels - c0), pack, c0)
