"""Sums over channels whose inner run is contiguous: moments for the forward pass, two sums for the backward."""

from __future__ import annotations

import math

import numpy as np

from .._compile import Grid, In, Pack, inner, kernel, prange, row
from .._geometry import M2, MEAN, SUM_DY, SUM_DY_XMU
from .intrinsics import cast, fma, hsum, lanes, load, load_part, rounded, splat
from .partition import CHUNK, STRIP, channel_parts, in_range, merge, part_range

PILOT = 128  # elements whose mean is a part's first pivot: a tenth of a standard deviation off


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
def deviations(d, s, q):
    """Sums of d and of its square with d added."""
    return s + d, fma(d, d, q)


@inner
def chunk_moments(x, dtype, near, start, stride, n_inner, begin, end):
    """Mean and M2 of one chunk around a value near its mean, and whether no digits were lost.

    They are where `near` is more than a standard deviation off, as half of the squares then cancel; and where one lane
    holds most of the squares: its outlier drowns the others' last digits, all in one direction (3e-7 of the variance
    for a zero in data at 1e5).
    """
    count = float(end - begin)
    pivot = rounded(x, near)
    step = lanes(x)
    fill = splat(x, pivot)
    center = cast(fill, dtype)
    zero = cast(splat(x, 0.0), dtype)
    s0 = s1 = s2 = s3 = zero
    squares = cast(zero, np.float64)
    o = begin // n_inner
    i = begin - o * n_inner
    while begin < end:
        q0 = q1 = q2 = q3 = zero
        strip = min(begin + STRIP, end)
        while begin < strip:
            n = min(n_inner - i, strip - begin)
            k = start + o * stride + i
            stop = k + n
            while k + 4 * step <= stop:
                s0, q0 = deviations(cast(load(x, k), dtype) - center, s0, q0)
                s1, q1 = deviations(cast(load(x, k + step), dtype) - center, s1, q1)
                s2, q2 = deviations(cast(load(x, k + 2 * step), dtype) - center, s2, q2)
                s3, q3 = deviations(cast(load(x, k + 3 * step), dtype) - center, s3, q3)
                k += 4 * step
            if k + step <= stop:
                s0, q0 = deviations(cast(load(x, k), dtype) - center, s0, q0)
                k += step
            if k + step <= stop:
                s1, q1 = deviations(cast(load(x, k), dtype) - center, s1, q1)
                k += step
            if k + step <= stop:
                s2, q2 = deviations(cast(load(x, k), dtype) - center, s2, q2)
                k += step
            if k < stop:
                s3, q3 = deviations(cast(load_part(x, k, stop - k, fill), dtype) - center, s3, q3)
            begin += n
            i += n
            if i == n_inner:
                o += 1
                i = 0
        squares = squares + cast((q0 + q1) + (q2 + q3), np.float64)
    s = hsum((s0 + s1) + (s2 + s3))
    q = hsum(squares)
    m2 = q - s * (s / count)
    sound = in_range(m2, count) and m2 + m2 > q and 8.0 * hsum(squares * squares) < q * q
    return pivot + s / count, 0.0 if m2 < 0.0 else m2, sound


@inner
def part_moments(x, start, stride, n_outer, n_inner, part, parts):
    """Count, mean and M2 of one part of a channel.

    One pass: the pivot of a chunk is the mean of the chunk before it, of the first elements in the beginning. Chunks
    for which that is not good enough are taken again around their own mean, then in float64. Means are merged as
    offsets from the first pivot: hundreds of roundings far from zero would add up.
    """
    begin, end = part_range(n_outer * n_inner, CHUNK, part, parts)
    pilot = min(begin + PILOT, end)
    count = mean = m2 = 0.0
    near = base = chunk_sum(x, x.dtype, start, stride, n_inner, begin, pilot) / (pilot - begin)
    for first in range(begin, end, CHUNK):
        last = min(first + CHUNK, end)
        n = float(last - first)
        near, chunk_m2, sound = chunk_moments(x, x.dtype, near, start, stride, n_inner, first, last)
        if not sound:
            near = chunk_sum(x, x.dtype, start, stride, n_inner, first, last) / n
            near, chunk_m2, sound = chunk_moments(x, x.dtype, near, start, stride, n_inner, first, last)
        if not sound:
            near = chunk_sum(x, np.float64, start, stride, n_inner, first, last) / n
            near, chunk_m2, sound = chunk_moments(x, np.float64, near, start, stride, n_inner, first, last)
        mean, m2 = merge(count, mean, m2, n, near - base, chunk_m2)
        count += n
    return count, base + mean, m2


@inner
def plain_mean(x, mean, start, stride, n_outer, n_inner):
    """The mean, unless differences of infinities made it NaN: then sum / n, which keeps infinities of one sign."""
    size = n_outer * n_inner
    return chunk_sum(x, np.float64, start, stride, n_inner, 0, size) / size if math.isnan(mean) else mean


@inner
def channel_moments(x, start, stride, n_outer, n_inner):
    """Mean and M2 of a whole channel, part after part."""
    parts = channel_parts(n_outer, n_inner)
    count = mean = m2 = 0.0
    for part in range(parts):
        n, part_mean, part_m2 = part_moments(x, start, stride, n_outer, n_inner, part, parts)
        mean, m2 = merge(count, mean, m2, n, part_mean, part_m2)
        count += n
    return plain_mean(x, mean, start, stride, n_outer, n_inner), m2


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
        pack[MEAN, c] = plain_mean(x, mean, x0 + c * xc, xo, n_outer, n_inner)
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
    begin, end = part_range(n_outer * n_inner, CHUNK, part, parts)
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
