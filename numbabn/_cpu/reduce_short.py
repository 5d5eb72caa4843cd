"""Sums over channels whose planes are short: neighbouring channels together, in the order of memory.

Channel by channel, planes of 7x7 are 200 bytes here and there, which no prefetcher follows. Side by side they are the
rows of a matrix, a row for each plane of a channel, in which no vector ends with a plane: its columns are summed first.
Whole vectors have a loop apart from the last part: with one for both, sums took 1.08 to 1.25 times as long on AVX2.
"""

from __future__ import annotations

import numpy as np

from .._compile import inner, linked
from .partition import CHUNK, merge, n_parts, part_range, row
from .reduce_long import chunk_of_sums, deviations, retaken_chunk
from .vectors import cast, fma, hsum, lanes, load, load_part, prefetch, rounded, splat, store, store_part

PILOT = 4  # planes whose first elements give a part's first pivot: an eighth of a standard deviation off
RUN = 1024  # elements that the planes of a group, side by side, have at least: 4 KB of float32
LONG_RUN = 16 * RUN  # and at most. With the least, sums over 100 MB in planes of 7x7 and 14x14 took 1.2 to 1.65 times
# as long, sums in cache 1.05 to 1.25 times
GROUP = 1 << 20  # bytes of a group of more than the least run, for whoever reads it twice. With 2 MB, backwards over
# planes of 14x14 took up to 1.25 times as long
STRIP = 16  # planes that a column adds before columns are folded, by at most 11 additions more: about as many as a lane
# of long planes adds before it goes to float64
ROWS = 4  # that share a load and a store of the columns' sums. Sums in L2 took 1.05 to 1.1 times as long with two, and
# of arrays beyond it up to 1.25 times with eight
AHEAD = 8  # vectors from what is read to what is asked for. The same place of the next rows instead, which for few
# planes lies behind the array, took up to 9 times as long where no memory is mapped there


@inner
def long_group(x, n_inner):
    """Neighbouring channels that are summed together: each has a vector of scratch, and a column for each element."""
    return LONG_RUN // max(n_inner, lanes(x))


@inner
def near_group(x, n_inner, nbytes):
    """Neighbouring channels that are summed together and then read again, of so many bytes each."""
    return max((RUN + n_inner - 1) // n_inner, min(long_group(x, n_inner), GROUP // nbytes))


@inner
def planes_of_chunk(n_inner):
    return CHUNK // n_inner


@inner
def short_parts(n_outer, n_inner):
    planes = planes_of_chunk(n_inner)
    return n_parts(n_outer * n_inner, (n_outer + planes - 1) // planes)


@inner
def columns_size(x, width, n_inner):
    """Length of a row of scratch: a column for each place of `width` planes, and room for one more vector."""
    return width * n_inner + lanes(x)


@inner
def narrow_size(x, width, n_inner):
    """Length of the scratch in x's dtype: rows of centers and of both sums, then a vector of sums for each channel."""
    return 3 * columns_size(x, width, n_inner) + width * lanes(x)


@inner
def wide_size(x, width):
    """Length of the float64 scratch: a vector of squares for each channel, then pivot, base, mean and M2 of each.

    Or two vectors of sums for each.
    """
    return width * 2 * lanes(x)


@inner
def runs(side_by_side, width, n_inner):
    """How many runs of columns lie without gaps, and how long they are."""
    return (1, width * n_inner) if side_by_side else (width, n_inner)


@inner
def put_centers(x, values, at, width, n_inner, narrow):
    """Put each of `width` values from values[at:] into all columns of its channel, the last into the room behind."""
    for c in range(width):
        v = splat(x, values[at + c])
        for k in range(c * n_inner, (c + 1) * n_inner, lanes(x)):
            store(narrow, k, v)
    store(narrow, width * n_inner, splat(x, values[at + width - 1]))


@inner
def fold(narrow, k, n_inner):
    """Sum of the columns of a channel, as a vector."""
    step, zero = lanes(narrow), splat(narrow, 0.0)
    s = t = zero
    stop = k + n_inner
    while k + 2 * step <= stop:
        s, t = s + load(narrow, k), t + load(narrow, k + step)
        k += 2 * step
    if k + step <= stop:
        s = s + load(narrow, k)
        k += step
    if k < stop:
        t = t + load_part(narrow, k, stop - k, zero)
    return s + t


@inner
def add_rows(x, start, stride, c_stride, n_planes, width, n_inner, narrow):
    """Sums of deviations from the columns' centers, and of their squares, over a strip of planes, column by column."""
    step, size = lanes(x), columns_size(x, width, n_inner)
    zero = splat(x, 0.0)
    n_runs, length = runs(c_stride == n_inner, width, n_inner)
    for o in range(0, n_planes, ROWS):
        rows = min(ROWS, n_planes - o)
        for run in range(n_runs):
            k, at = run * length, start + run * c_stride + o * stride
            stop = k + length
            while k + step <= stop:
                center, i = load(narrow, k), at
                s, q = (load(narrow, k + size), load(narrow, k + 2 * size)) if o > 0 else (zero, zero)
                for _ in range(rows):
                    prefetch(x, i + AHEAD * step)
                    s, q = deviations(load(x, i) - center, s, q)
                    i += stride
                store(narrow, k + size, s)
                store(narrow, k + 2 * size, q)
                k += step
                at += step
            if k < stop:
                center, i = load(narrow, k), at
                s, q = (load(narrow, k + size), load(narrow, k + 2 * size)) if o > 0 else (zero, zero)
                for _ in range(rows):
                    s, q = deviations(load_part(x, i, stop - k, center) - center, s, q)
                    i += stride
                store(narrow, k + size, s)
                store(narrow, k + 2 * size, q)


@inner
def short_chunk(x, start, stride, c_stride, width, n_inner, first, last, narrow, wide, near):
    """Sums of planes first..last of `width` channels, their pivots at wide[near:]."""
    step, size = lanes(x), columns_size(x, width, n_inner)
    put_centers(x, wide, near, width, n_inner, narrow)
    for strip in range(first, last, STRIP):
        n_planes = min(STRIP, last - strip)
        add_rows(x, start + strip * stride, stride, c_stride, n_planes, width, n_inner, narrow)
        for c in range(width):
            at = 3 * size + c * step
            s = fold(narrow, size + c * n_inner, n_inner)
            q = cast(fold(narrow, 2 * size + c * n_inner, n_inner), np.float64)
            if strip > first:
                s, q = load(narrow, at) + s, load_part(wide, c * step, step, q) + q
            store(narrow, at, s)
            store_part(wide, c * step, q, step)


@inner
def pilot_mean(x, k, stride, n_inner, n_planes):
    """Mean of the first elements of a few planes, a vector of each."""
    n = min(lanes(x), n_inner)
    zero = splat(x, 0.0)
    s = zero
    for o in range(n_planes):
        s = s + load_part(x, k + o * stride, n, zero)
    return hsum(s) / (n_planes * n)


@linked
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
    count, used, sums = 0.0, min(step, n_inner), 3 * columns_size(x, width, n_inner)
    for o in range(begin, end, planes):
        last = min(o + planes, end)
        n = float((last - o) * n_inner)
        short_chunk(x, start, stride, c_stride, width, n_inner, o, last, narrow, wide, near)
        for c in range(width):
            squares = load_part(wide, c * step, step, cast(splat(x, 0.0), np.float64))
            s = load(narrow, sums + c * step)
            chunk_mean, chunk_m2, sound = chunk_of_sums(wide[near + c], s, squares, n, used)
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
def add_row_dots(dy, x, g_start, g_stride, gc, x_start, x_stride, xc, n_planes, width, n_inner, narrow):
    """Sums of dy, and of dy * (x - center), over a strip of planes, column by column."""
    step, size = lanes(x), columns_size(x, width, n_inner)
    zero = splat(x, 0.0)
    n_runs, length = runs(gc == n_inner and xc == n_inner, width, n_inner)
    for o in range(0, n_planes, ROWS):
        rows = min(ROWS, n_planes - o)
        for run in range(n_runs):
            k, g_at, x_at = run * length, g_start + run * gc + o * g_stride, x_start + run * xc + o * x_stride
            stop = k + length
            while k + step <= stop:
                center, g, i = load(narrow, k), g_at, x_at
                s, t = (load(narrow, k + size), load(narrow, k + 2 * size)) if o > 0 else (zero, zero)
                for _ in range(rows):
                    prefetch(dy, g + AHEAD * step)
                    prefetch(x, i + AHEAD * step)
                    v = load(dy, g)
                    s, t = s + v, fma(v, load(x, i) - center, t)
                    g += g_stride
                    i += x_stride
                store(narrow, k + size, s)
                store(narrow, k + 2 * size, t)
                k += step
                g_at += step
                x_at += step
            if k < stop:
                center, g, i = load(narrow, k), g_at, x_at
                s, t = (load(narrow, k + size), load(narrow, k + 2 * size)) if o > 0 else (zero, zero)
                for _ in range(rows):
                    v = load_part(dy, g, stop - k, zero)
                    s, t = s + v, fma(v, load_part(x, i, stop - k, center) - center, t)
                    g += g_stride
                    i += x_stride
                store(narrow, k + size, s)
                store(narrow, k + 2 * size, t)


@linked
def short_dots(dy, x, mean, grid, first, width, part, parts, narrow, wide, partial, at):
    """Both sums over one part of `width` channels from `first` on, to partial[at:], a channel `parts` after another.

    Both in x's dtype within a strip: with dy in float64, planes of 7x7 in cache took 1.25 times as long.
    """
    step = lanes(x)
    n_outer, _, n_inner = row(grid, 0)
    g0, go, gc = row(grid, 1)
    x0, xo, xc = row(grid, 2)
    zero = splat(x, 0.0)
    begin, end = part_range(n_outer, planes_of_chunk(n_inner), part, parts)
    size = columns_size(x, width, n_inner)
    put_centers(x, mean, first, width, n_inner, narrow)
    for strip in range(begin, end, STRIP):
        g, k = g0 + strip * go + first * gc, x0 + strip * xo + first * xc
        add_row_dots(dy, x, g, go, gc, k, xo, xc, min(STRIP, end - strip), width, n_inner, narrow)
        for c in range(2 * width):
            row_of_sums = (1 + c % 2) * size + c // 2 * n_inner
            s = cast(fold(narrow, row_of_sums, n_inner), np.float64)
            if strip > begin:
                s = load_part(wide, c * step, step, s) + s
            store_part(wide, c * step, s, step)
    for c in range(width):
        s = hsum(load_part(wide, 2 * c * step, step, cast(zero, np.float64)))
        t = hsum(load_part(wide, (2 * c + 1) * step, step, cast(zero, np.float64)))
        to = at + c * parts + part
        partial[to, 0] = s
        partial[to, 1] = t - (mean[first + c] - rounded(x, mean[first + c])) * s
