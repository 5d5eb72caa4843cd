"""Sums over one channel whose inner run is contiguous: moments for the forward pass, two sums for the backward."""

from __future__ import annotations

import math

import numpy as np

from .._compile import inline, inner, linked
from .ahead import planes_ahead, prefetch_two
from .partition import CHUNK, MOST_SQUARES, STRIP, in_range, merge, part_range
from .vectors import cast, fma, hsum, lanes, load, load_part, prefetch, rounded, splat

PILOT = 128  # elements whose mean is a part's first pivot: a tenth of a standard deviation off


@inner
def deviations(d, s, q):
    """Sums of d and of its square with d added."""
    return s + d, fma(d, d, q)


@inline
def run_deviations(x, k, n, center, ahead, sums):
    """Add n contiguous elements to two pairs of sums, of deviations and of their squares, a vector to each in turn.

    With four pairs, which 16 registers do not hold, sums in cache took 1.15 to 1.3 times as long on AVX2.
    """
    s, q, t, r = sums
    step, stop = lanes(x), k + n
    while k + 2 * step <= stop:
        prefetch_two(x, k + ahead)
        s, q = deviations(load(x, k) - center, s, q)
        t, r = deviations(load(x, k + step) - center, t, r)
        k += 2 * step
    if k + step <= stop:
        prefetch(x, k + ahead)
        s, q = deviations(load(x, k) - center, s, q)
        k += step
    if k < stop:
        prefetch(x, k + ahead)
        t, r = deviations(load_part(x, k, stop - k, center) - center, t, r)
    return s, q, t, r


@inner
def chunk_of_sums(pivot, s, q, fourth, count, width):
    """Mean and M2 of a chunk from sums of its deviations and of their squares, and whether no digits were lost.

    They are where the pivot is more than 0.7 standard deviations off, as a third of the squares then cancels; and where
    one of the `width` lanes in use holds most of the squares (`fourth` is the sum of their squares): its outlier drowns
    the others' last digits, all in one direction (3e-7 of the variance for a zero in data at 1e5). Lanes that add less
    than nine squares lose less, and differ by chance.
    """
    m2 = q - s * (s / count)
    even = count <= 8.0 * width or width * fourth < 2.0 * q * q
    sound = in_range(m2, count) and MOST_SQUARES * m2 > q and even
    return pivot + s / count, 0.0 if m2 < 0.0 else m2, sound


@inner
def chunk_moments(x, near, start, stride, n_outer, n_inner, begin, end):
    """Mean and M2 of one chunk around a value near its mean, and whether no digits were lost."""
    count = float(end - begin)
    pivot = rounded(x, near)
    step = lanes(x)
    center = splat(x, pivot)
    zero = splat(x, 0.0)
    total = squares = cast(zero, np.float64)
    o = begin // n_inner
    i = begin - o * n_inner
    while begin < end:
        s = q = t = r = zero
        strip = min(begin + STRIP, end)
        while begin < strip:
            n, planes, near = planes_ahead(min(n_inner - i, strip - begin), o, i, n_outer, n_inner)
            ahead = planes * stride + near
            s, q, t, r = run_deviations(x, start + o * stride + i, n, center, ahead, (s, q, t, r))
            begin += n
            i += n
            if i == n_inner:
                o += 1
                i = 0
        total, squares = total + cast(s + t, np.float64), squares + cast(q + r, np.float64)
    return chunk_of_sums(pivot, hsum(total), hsum(squares), hsum(squares * squares), count, step)


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


@inline
def run_dots(dy, x, g, k, n, center, g_ahead, x_ahead, sums):
    """Add n contiguous elements to two pairs of sums, of dy and of dy * (x - center), as in `run_deviations`.

    All in x's dtype: with four vectors of dy that were added in float64, sums in cache took 1.1 to 1.35 times as long.
    """
    s, t, u, v = sums
    step, stop = lanes(x), k + n
    while k + 2 * step <= stop:
        prefetch_two(dy, g + g_ahead)
        prefetch_two(x, k + x_ahead)
        a, b = load(dy, g), load(dy, g + step)
        s, t = s + a, fma(a, load(x, k) - center, t)
        u, v = u + b, fma(b, load(x, k + step) - center, v)
        g += 2 * step
        k += 2 * step
    if k + step <= stop:
        prefetch(dy, g + g_ahead)
        prefetch(x, k + x_ahead)
        a = load(dy, g)
        s, t = s + a, fma(a, load(x, k) - center, t)
        g += step
        k += step
    if k < stop:
        prefetch(dy, g + g_ahead)
        prefetch(x, k + x_ahead)
        b = load_part(dy, g, stop - k, splat(dy, 0.0))
        u, v = u + b, fma(b, load_part(x, k, stop - k, center) - center, v)
    return s, t, u, v


@inner
def chunk_dots(dy, x, mean, g_start, g_stride, x_start, x_stride, n_outer, n_inner, begin, end):
    """Sums of dy and of dy * (x - mean) over one chunk, strip by strip: equal products round alike in a lane."""
    center, zero = splat(x, mean), splat(x, 0.0)
    s = t = cast(zero, np.float64)
    o = begin // n_inner
    i = begin - o * n_inner
    while begin < end:
        n, planes, near = planes_ahead(min(n_inner - i, end - begin, STRIP), o, i, n_outer, n_inner)
        g, k = g_start + o * g_stride + i, x_start + o * x_stride + i
        g_ahead, x_ahead, nothing = planes * g_stride + near, planes * x_stride + near, (zero, zero, zero, zero)
        a, b, c, d = run_dots(dy, x, g, k, n, center, g_ahead, x_ahead, nothing)
        s, t = s + cast(a + c, np.float64), t + cast(b + d, np.float64)
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
