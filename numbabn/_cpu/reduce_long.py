"""Sums over one channel whose inner run is contiguous: moments for the forward pass, two sums for the backward."""

from __future__ import annotations

import math

import numpy as np

from .._compile import inner, linked
from .ahead import planes_ahead, prefetch_four
from .partition import CHUNK, STRIP, in_range, merge, part_range
from .vectors import cast, fma, hsum, lanes, load, load_part, prefetch, rounded, splat

PILOT = 128  # elements whose mean is a part's first pivot: a tenth of a standard deviation off


@inner
def deviations(d, s, q):
    """Sums of d and of its square with d added."""
    return s + d, fma(d, d, q)


@inner
def chunk_of_sums(pivot, sums, squares, count, width):
    """Mean and M2 of a chunk from vectors of its deviations and of their squares, and whether no digits were lost.

    They are where the pivot is more than a standard deviation off, as half of the squares then cancel; and where one
    of the `width` lanes in use holds most of the squares: its outlier drowns the others' last digits, all in one
    direction (3e-7 of the variance for a zero in data at 1e5). Lanes that add less than nine squares lose less, and
    differ by chance.
    """
    s = hsum(sums)
    q = hsum(squares)
    m2 = q - s * (s / count)
    even = count <= 8.0 * width or width * hsum(squares * squares) < 2.0 * q * q
    sound = in_range(m2, count) and m2 + m2 > q and even
    return pivot + s / count, 0.0 if m2 < 0.0 else m2, sound


@inner
def chunk_moments(x, near, start, stride, n_outer, n_inner, begin, end):
    """Mean and M2 of one chunk around a value near its mean, and whether no digits were lost."""
    count = float(end - begin)
    pivot = rounded(x, near)
    step = lanes(x)
    center = splat(x, pivot)
    zero = splat(x, 0.0)
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
            stop, ahead = k + n, stride * planes_ahead(o, n_outer, n_inner)
            while k + 4 * step <= stop:
                prefetch_four(x, k + ahead)
                s0, q0 = deviations(load(x, k) - center, s0, q0)
                s1, q1 = deviations(load(x, k + step) - center, s1, q1)
                s2, q2 = deviations(load(x, k + 2 * step) - center, s2, q2)
                s3, q3 = deviations(load(x, k + 3 * step) - center, s3, q3)
                k += 4 * step
            if k + step <= stop:
                prefetch(x, k + ahead)
                s0, q0 = deviations(load(x, k) - center, s0, q0)
                k += step
            if k + step <= stop:
                prefetch(x, k + ahead)
                s1, q1 = deviations(load(x, k) - center, s1, q1)
                k += step
            if k + step <= stop:
                prefetch(x, k + ahead)
                s2, q2 = deviations(load(x, k) - center, s2, q2)
                k += step
            if k < stop:
                prefetch(x, k + ahead)
                s3, q3 = deviations(load_part(x, k, stop - k, center) - center, s3, q3)
            begin += n
            i += n
            if i == n_inner:
                o += 1
                i = 0
        squares = squares + cast((q0 + q1) + (q2 + q3), np.float64)
    return chunk_of_sums(pivot, (s0 + s1) + (s2 + s3), squares, count, step)


@inner
def wide_moments(x, near, start, stride, n_inner, begin, end):
    """Mean and M2 of elements begin..end of the channel that starts at `start`, by float64 sums around a value."""
    step = lanes(x)
    pivot = rounded(x, near)
    fill = splat(x, pivot)
    center = cast(fill, np.float64)
    s = q = cast(splat(x, 0.0), np.float64)
    count = float(end - begin)
    o = begin // n_inner
    i = begin - o * n_inner
    while begin < end:
        n = min(n_inner - i, end - begin)
        k = start + o * stride + i
        for j in range(0, n, step):
            s, q = deviations(cast(load_part(x, k + j, min(step, n - j), fill), np.float64) - center, s, q)
        begin += n
        o += 1
        i = 0
    offset = hsum(s) / count
    m2 = hsum(q) - hsum(s) * offset
    return pivot + offset, 0.0 if m2 < 0.0 else m2


@inner
def retaken_chunk(x, start, stride, n_inner, begin, end):
    """Mean and M2 of a chunk that has lost digits, around its own mean and in float64."""
    near, _ = wide_moments(x, 0.0, start, stride, n_inner, begin, end)
    return wide_moments(x, near, start, stride, n_inner, begin, end)


@linked
def part_moments(x, start, stride, n_outer, n_inner, part, parts, partial, at):
    """Count, mean and M2 of one part of a channel, to partial[at].

    One pass: the pivot of a chunk is the mean of the chunk before it, of the first elements in the beginning. Chunks
    for which that is not good enough are taken again. Means are merged as offsets from the first pivot: hundreds of
    roundings far from zero would add up.
    """
    begin, end = part_range(n_outer * n_inner, CHUNK, part, parts)
    near, _ = wide_moments(x, 0.0, start, stride, n_inner, begin, min(begin + PILOT, end))
    base = near
    count = mean = m2 = 0.0
    for first in range(begin, end, CHUNK):
        last = min(first + CHUNK, end)
        n = float(last - first)
        near, chunk_m2, sound = chunk_moments(x, near, start, stride, n_outer, n_inner, first, last)
        if not sound:
            near, chunk_m2 = retaken_chunk(x, start, stride, n_inner, first, last)
        mean, m2 = merge(count, mean, m2, n, near - base, chunk_m2)
        count += n
    partial[at, 0] = count
    partial[at, 1] = base + mean
    partial[at, 2] = m2


@inner
def plain_mean(x, mean, start, stride, n_outer, n_inner):
    """The mean, unless differences of infinities made it NaN: then sum / n, which keeps infinities of one sign."""
    if math.isnan(mean):
        mean, _ = wide_moments(x, 0.0, start, stride, n_inner, 0, n_outer * n_inner)
    return mean


@inner
def strip_dots(dy, x, center, g, k, n, g_ahead, x_ahead):
    """Sums of dy and of dy * (x - center) over n contiguous elements, a vector each, the first in float64.

    Four vectors of dy are added before they go to float64: with each converted, sums in cache took 1.25 times as long.
    """
    step = lanes(x)
    zero = splat(x, 0.0)
    s = cast(zero, np.float64)
    t0 = t1 = t2 = t3 = zero
    stop = k + n
    while k + 4 * step <= stop:
        prefetch_four(dy, g + g_ahead)
        prefetch_four(x, k + x_ahead)
        g0 = load(dy, g)
        g1 = load(dy, g + step)
        g2 = load(dy, g + 2 * step)
        g3 = load(dy, g + 3 * step)
        t0 = fma(g0, load(x, k) - center, t0)
        t1 = fma(g1, load(x, k + step) - center, t1)
        t2 = fma(g2, load(x, k + 2 * step) - center, t2)
        t3 = fma(g3, load(x, k + 3 * step) - center, t3)
        s = s + cast((g0 + g1) + (g2 + g3), np.float64)
        g += 4 * step
        k += 4 * step
    while k + step <= stop:
        prefetch(dy, g + g_ahead)
        prefetch(x, k + x_ahead)
        g0 = load(dy, g)
        t0 = fma(g0, load(x, k) - center, t0)
        s = s + cast(g0, np.float64)
        g += step
        k += step
    if k < stop:
        prefetch(dy, g + g_ahead)
        prefetch(x, k + x_ahead)
        g1 = load_part(dy, g, stop - k, zero)
        t1 = fma(g1, load_part(x, k, stop - k, center) - center, t1)
        s = s + cast(g1, np.float64)
    return s, (t0 + t1) + (t2 + t3)


@inner
def chunk_dots(dy, x, mean, g_start, g_stride, x_start, x_stride, n_outer, n_inner, begin, end):
    """Sums of dy and of dy * (x - mean) over one chunk, strip by strip: equal products round alike in a lane."""
    center = splat(x, mean)
    s = t = cast(splat(x, 0.0), np.float64)
    o = begin // n_inner
    i = begin - o * n_inner
    while begin < end:
        n = min(n_inner - i, end - begin, STRIP)
        ahead = planes_ahead(o, n_outer, n_inner)
        g, k = g_start + o * g_stride + i, x_start + o * x_stride + i
        a, b = strip_dots(dy, x, center, g, k, n, ahead * g_stride, ahead * x_stride)
        s, t = s + a, t + cast(b, np.float64)
        begin += n
        i += n
        if i == n_inner:
            o += 1
            i = 0
    return hsum(s), hsum(t)


@linked
def part_dots(dy, x, mean, g_start, g_stride, x_start, x_stride, n_outer, n_inner, part, parts, partial, at):
    """Both sums over one part of a channel, to partial[at]; the low part of the mean is taken off at the end."""
    begin, end = part_range(n_outer * n_inner, CHUNK, part, parts)
    high = rounded(x, mean)
    s = t = 0.0
    for first in range(begin, end, CHUNK):
        last = min(first + CHUNK, end)
        a, b = chunk_dots(dy, x, high, g_start, g_stride, x_start, x_stride, n_outer, n_inner, first, last)
        s += a
        t += b
    partial[at, 0] = s
    partial[at, 1] = t - (mean - high) * s
