"""Sums over channels whose planes are short: neighbouring channels together, in the order of memory.

Channel by channel, planes of 7x7 are 200 bytes here and there, which no prefetcher follows.
"""

from __future__ import annotations

import numpy as np

from .._compile import inner, row, unfold
from .partition import CHUNK, STRIP, merge, n_parts, part_range
from .reduce_long import chunk_of_sums, retaken_chunk
from .vectors import cast, fma, hsum, lanes, load, load_part, prefetch, rounded, splat, store, store_part

PILOT = 4  # planes whose first elements give a part's first pivot: an eighth of a standard deviation off
RUN = 1024  # elements that the planes of a group, side by side, have at least: 4 KB of float32


@inner
def short_group(n_channels, n_inner):
    """Neighbouring channels that are summed together."""
    return min(n_channels, (RUN + n_inner - 1) // n_inner)


@inner
def planes_of_chunk(n_inner):
    return CHUNK // n_inner


@inner
def planes_of_strip(x, n_inner):
    """Planes whose squares or products a lane adds in x's dtype, at most 20: about as many as in long planes' sums."""
    return max(1, STRIP // (4 * max(lanes(x), n_inner)))


@inner
def short_parts(n_outer, n_inner):
    planes = planes_of_chunk(n_inner)
    return n_parts(n_outer * n_inner, (n_outer + planes - 1) // planes)


@inner
def narrow_size(x, width):
    """Length of the scratch, in x's dtype, for `width` channels: a vector of sums and one of squares for each."""
    return 2 * width * lanes(x)


@inner
def wide_size(x, width):
    """Length of the float64 scratch: a vector of squares for each channel, then pivot, base, mean and M2 of each.

    Or two vectors of sums for each.
    """
    return width * 2 * lanes(x)


@inner
def add_plane(x, k, n_inner, ahead, pivot, narrow, at):
    """Add the deviations of one plane from its channel's pivot, and their squares, to the channel's two vectors."""
    step = lanes(x)
    center = splat(x, pivot)
    s, q = load(narrow, at), load(narrow, at + step)
    stop = k + n_inner
    while k + step <= stop:
        prefetch(x, k + ahead)
        d = load(x, k) - center
        s, q = s + d, fma(d, d, q)
        k += step
    if k < stop:
        prefetch(x, k + ahead)
        d = load_part(x, k, stop - k, center) - center
        s, q = s + d, fma(d, d, q)
    store(narrow, at, s)
    store(narrow, at + step, q)


@inner
def flush_squares(x, width, narrow, wide):
    """Add the sums of squares to those in float64 and begin anew."""
    step = lanes(x)
    zero = splat(x, 0.0)
    for c in range(width):
        q = cast(load(narrow, (2 * c + 1) * step), np.float64)
        store_part(wide, c * step, load_part(wide, c * step, step, q) + q, step)
        store(narrow, (2 * c + 1) * step, zero)


@inner
def short_chunk(x, start, stride, c_stride, width, n_inner, first, last, narrow, wide, near):
    """Sums of planes first..last of `width` channels, their pivots at wide[near:]."""
    step = lanes(x)
    zero = splat(x, 0.0)
    for c in range(width):
        store(narrow, 2 * c * step, zero)
        store(narrow, (2 * c + 1) * step, zero)
        store_part(wide, c * step, cast(zero, np.float64), step)
    planes = planes_of_strip(x, n_inner)
    for strip in range(first, last, planes):
        for o in range(strip, min(strip + planes, last)):
            for c in range(width):
                add_plane(x, start + o * stride + c * c_stride, n_inner, stride, wide[near + c], narrow, 2 * c * step)
        flush_squares(x, width, narrow, wide)


@inner
def pilot_mean(x, k, stride, n_inner, n_planes):
    """Mean of the first elements of a few planes, a vector of each."""
    n = min(lanes(x), n_inner)
    zero = splat(x, 0.0)
    s = cast(zero, np.float64)
    for o in range(n_planes):
        s = s + cast(load_part(x, k + o * stride, n, zero), np.float64)
    return hsum(s) / (n_planes * n)


@unfold
def short_moments(x, grid, first, width, part, parts, narrow, wide, partial, at):
    """Count, mean and M2 of one part of `width` channels from `first` on, to partial[at:], one `parts` after another.

    As for long planes, chunk by chunk around the mean of the chunk before.
    """
    step = lanes(x)
    n_outer, _, n_inner = row(grid, 0)
    start, stride, c_stride = row(grid, 1)
    start += first * c_stride
    planes = planes_of_chunk(n_inner)
    begin, end = part_range(n_outer, planes, part, parts)
    near, base, mean, m2 = width * step, width * (step + 1), width * (step + 2), width * (step + 3)
    for c in range(width):
        pivot = pilot_mean(x, start + c * c_stride + begin * stride, stride, n_inner, min(PILOT, end - begin))
        wide[near + c] = rounded(x, pivot)
        wide[base + c] = pivot
        wide[mean + c] = wide[m2 + c] = 0.0
    count, used = 0.0, min(step, n_inner)
    for o in range(begin, end, planes):
        last = min(o + planes, end)
        n = float((last - o) * n_inner)
        short_chunk(x, start, stride, c_stride, width, n_inner, o, last, narrow, wide, near)
        for c in range(width):
            squares = load_part(wide, c * step, step, cast(splat(x, 0.0), np.float64))
            chunk_mean, chunk_m2, sound = chunk_of_sums(wide[near + c], load(narrow, 2 * c * step), squares, n, used)
            if not sound:
                k = start + c * c_stride
                chunk_mean, chunk_m2 = retaken_chunk(x, k, stride, n_inner, o * n_inner, last * n_inner)
            wide[near + c] = rounded(x, chunk_mean)
            wide[mean + c], wide[m2 + c] = merge(
                count, wide[mean + c], wide[m2 + c], n, chunk_mean - wide[base + c], chunk_m2
            )
        count += n
    for c in range(width):
        to = at + c * parts + part
        partial[to, 0] = count
        partial[to, 1] = wide[base + c] + wide[mean + c]
        partial[to, 2] = wide[m2 + c]


@inner
def add_plane_dots(dy, x, g, k, n_inner, g_ahead, x_ahead, high, narrow, at):
    """Add dy of one plane, and dy * (x - high), to its channel's two vectors."""
    step = lanes(x)
    center, zero = splat(x, high), splat(x, 0.0)
    s, t = load(narrow, at), load(narrow, at + step)
    stop = k + n_inner
    while k + step <= stop:
        prefetch(dy, g + g_ahead)
        prefetch(x, k + x_ahead)
        v = load(dy, g)
        s, t = s + v, fma(v, load(x, k) - center, t)
        g += step
        k += step
    if k < stop:
        prefetch(dy, g + g_ahead)
        prefetch(x, k + x_ahead)
        v = load_part(dy, g, stop - k, zero)
        s, t = s + v, fma(v, load_part(x, k, stop - k, center) - center, t)
    store(narrow, at, s)
    store(narrow, at + step, t)


@unfold
def short_dots(dy, x, mean, grid, first, width, part, parts, narrow, wide, partial, at):
    """Both sums over one part of `width` channels from `first` on, to partial[at:], a channel `parts` after another.

    Both in x's dtype within a strip: with dy in float64, planes of 7x7 in cache took 1.25 times as long.
    """
    step = lanes(x)
    n_outer, _, n_inner = row(grid, 0)
    g0, go, gc = row(grid, 1)
    x0, xo, xc = row(grid, 2)
    zero = splat(x, 0.0)
    planes = planes_of_strip(x, n_inner)
    begin, end = part_range(n_outer, planes_of_chunk(n_inner), part, parts)
    size = 2 * width * step
    for k in range(0, size, step):
        store_part(wide, k, cast(zero, np.float64), step)
        store(narrow, k, zero)
    for strip in range(begin, end, planes):
        for o in range(strip, min(strip + planes, end)):
            for c in range(width):
                g, k = g0 + o * go + (first + c) * gc, x0 + o * xo + (first + c) * xc
                high = rounded(x, mean[first + c])
                add_plane_dots(dy, x, g, k, n_inner, go, xo, high, narrow, 2 * c * step)
        for k in range(0, size, step):
            s = cast(load(narrow, k), np.float64)
            store_part(wide, k, load_part(wide, k, step, s) + s, step)
            store(narrow, k, zero)
    for c in range(width):
        s = hsum(load_part(wide, 2 * c * step, step, cast(zero, np.float64)))
        t = hsum(load_part(wide, (2 * c + 1) * step, step, cast(zero, np.float64)))
        to = at + c * parts + part
        partial[to, 0] = s
        partial[to, 1] = t - (mean[first + c] - rounded(x, mean[first + c])) * s
