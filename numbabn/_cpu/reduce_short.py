"""Sums over channels whose planes are short: neighbouring channels together, in the order of memory.

Channel by channel, planes of 7x7 are 200 bytes here and there, which no prefetcher follows. Side by side they are the
rows of a matrix, a row for each plane of a channel, in which no vector ends with a plane: its columns are summed first.
Whole vectors have a loop apart from the last part: with one for both, sums took 1.08 to 1.25 times as long on AVX2.
Few planes of a channel have few rows, for which columns do not pay.
"""

from __future__ import annotations

import numpy as np

from .._compile import inner, linked
from .partition import CHUNK, HIGH, LOW, MOST_SQUARES, STRIP, merge, n_parts, part_range, row
from .reduce_long import chunk_of_sums, deviations, retaken_chunk, run_deviations, run_dots
from .vectors import cast, fma, hsum, lanes, load, load_part, prefetch, rounded, splat, store, store_part, within

PILOT = 4  # planes whose first elements give a part's first pivot: an eighth of a standard deviation off
RUN = 1024  # elements that the planes of a group, side by side, have at least: 4 KB of float32
LONG_RUN = 16 * RUN  # and at most. With the least, sums over 100 MB in planes of 7x7 and 14x14 took 1.2 to 1.65 times
# as long, sums in cache 1.05 to 1.25 times
GROUP = 1 << 20  # bytes of a group of more than the least run, for whoever reads it twice. With 2 MB, backwards over
# planes of 14x14 took up to 1.25 times as long
FEW = 8  # planes of a channel at most that are summed channel by channel. One plane of 16x16 takes half the time so,
# eight of 14x14 0.93 of it
STRIP_PLANES = 8  # that a column adds, as many as a lane of long planes does before it goes to float64; columns are
# then folded, by at most 11 additions more. With 16, y of zeros and a few others was off by up to twice what is owed
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
def few(x, n_inner, inputs):
    """Planes of a channel that are summed channel by channel, in registers, if they have whole vectors.

    Of two inputs half as many: over eight planes each, 16 streams of memory, sums took 1.3 times as long. Planes of 7x7
    have three vectors of AVX-512: both sums over four take 0.75 of the time, moments of seven and eight 0.8 to 0.9.
    """
    return min(FEW, 3 * n_inner // lanes(x)) // inputs


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
    """Length of the scratch in x's dtype: rows of centers and of both sums."""
    return 3 * columns_size(x, width, n_inner)


@inner
def wide_size(x, width):
    """Length of the float64 scratch: two vectors of sums for each channel, then seven numbers of each."""
    return width * 3 * lanes(x)


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
def pilot_sum(x, k, stride, n, n_planes):
    """Sum of the first n <= lanes elements of a few planes, which may be beyond what their dtype holds."""
    zero, share = splat(x, 0.0), splat(x, 1.0 / PILOT)
    s = zero
    for o in range(n_planes):
        s = fma(load_part(x, k + o * stride, n, zero), share, s)
    return PILOT * hsum(s)


@inner
def put_pivots(x, start, stride, c_stride, n_planes, width, n_inner, wide, near):
    """Put the means of the first elements of a few planes, rounded and not, and two rows of zeros to wide[near:]."""
    n, step, zero = min(lanes(x), n_inner), lanes(wide), splat(wide, 0.0)
    for c in range(width):
        wide[near + c] = pilot_sum(x, start + c * c_stride, stride, n, n_planes)
    for c in range(0, width, step):
        m, k = min(step, width - c), near + c
        pivot = load_part(wide, k, m, zero) / float(n_planes * n)
        store_part(wide, k, cast(cast(pivot, x.dtype), np.float64), m)
        store_part(wide, k + width, pivot, m)
        store_part(wide, k + 2 * width, zero, m)
        store_part(wide, k + 3 * width, zero, m)


@inner
def put_sums(wide, at, width, s, squares, tested):
    """Put a channel's sums to three rows: of deviations, of their squares and, to be `tested`, of lanes' squared."""
    wide[at] = hsum(s)
    wide[at + width] = hsum(squares)
    if tested:
        wide[at + 2 * width] = hsum(squares * squares)


@inner
def short_chunk(x, start, stride, c_stride, width, n_inner, first, last, narrow, wide, near):
    """Sums of planes first..last of `width` channels, their pivots at wide[near:]."""
    step, size = lanes(x), columns_size(x, width, n_inner)
    put_centers(x, wide, near, width, n_inner, narrow)
    for strip in range(first, last, STRIP_PLANES):
        n_planes = min(STRIP_PLANES, last - strip)
        add_rows(x, start + strip * stride, stride, c_stride, n_planes, width, n_inner, narrow)
        for c in range(width):
            k, at = c * n_inner + size, 2 * c * step
            s = cast(fold(narrow, k, n_inner), np.float64)
            q = cast(fold(narrow, k + size, n_inner), np.float64)
            if strip > first:
                s, q = load_part(wide, at, step, s) + s, load_part(wide, at + step, step, q) + q
            if strip + STRIP_PLANES < last:
                store_part(wide, at, s, step)
                store_part(wide, at + step, q, step)
            else:
                put_sums(wide, near + c + 4 * width, width, s, q, True)


@inner
def few_deviations(x, k, stride, n_planes, n_inner, pivot):
    """Vectors of the sums of deviations over a few planes of a channel, and of their squares, in float64."""
    zero, center, ahead = splat(x, 0.0), splat(x, pivot), AHEAD * lanes(x)
    total = squares = cast(zero, np.float64)
    strip = max(1, STRIP // n_inner)
    for first in range(0, n_planes, strip):
        s = q = t = r = zero
        for o in range(first, min(first + strip, n_planes)):
            s, q, t, r = run_deviations(x, k + o * stride, n_inner, center, ahead, (s, q, t, r))
        total, squares = total + cast(s + t, np.float64), squares + cast(q + r, np.float64)
    return total, squares


@inner
def add_chunk(x, start, stride, c_stride, width, n_inner, first, last, count, wide, near):
    """Merge the chunk of planes first..last into the `count` elements before it.

    Of the seven rows at wide[near:], the first are the chunk's pivots, which its means replace; the second what means
    are relative to; then mean and M2 of all elements so far; then the chunk's sums.
    """
    step, zero, n = lanes(wide), splat(wide, 0.0), float((last - first) * n_inner)
    used = min(lanes(x), n_inner)
    for c in range(0, width, step):
        m, k = min(step, width - c), near + c
        s, q = load_part(wide, k + 4 * width, m, zero), load_part(wide, k + 5 * width, m, zero)
        fourth = load_part(wide, k + 6 * width, m, zero)
        offset = s / n
        mean, m2 = load_part(wide, k, m, zero) + offset, q - s * offset
        even = n <= 8.0 * used or within(2.0 * q * q - float(used) * fourth, m, 0.0, np.inf)
        if not (even and within(m2, m, LOW * n, HIGH) and within(MOST_SQUARES * m2 - q, m, 0.0, HIGH)):
            for i in range(k, k + m):
                s, q = wide[i + 4 * width], wide[i + 5 * width]
                mean, m2, sound = chunk_of_sums(wide[i], s, q, wide[i + 6 * width], n, used)
                if not sound:
                    at = start + (i - near) * c_stride
                    mean, m2 = retaken_chunk(x, at, stride, n_inner, first * n_inner, last * n_inner)
                wide[i + 4 * width], wide[i + 5 * width] = mean, m2
            mean, m2 = load_part(wide, k + 4 * width, m, zero), load_part(wide, k + 5 * width, m, zero)
        store_part(wide, k, cast(cast(mean, x.dtype), np.float64), m)
        old, old_m2 = load_part(wide, k + 2 * width, m, zero), load_part(wide, k + 3 * width, m, zero)
        mean, m2 = merge(count, old, old_m2, n, mean - load_part(wide, k + width, m, zero), m2)
        store_part(wide, k + 2 * width, mean, m)
        store_part(wide, k + 3 * width, m2, m)


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
    near, count = 2 * width * step, 0.0
    put_pivots(x, start + begin * stride, stride, c_stride, min(PILOT, end - begin), width, n_inner, wide, near)
    for o in range(begin, end, planes):
        last = min(o + planes, end)
        if last - o <= few(x, n_inner, 1):
            tested = (last - o) * n_inner > 8 * lanes(x)
            for c in range(width):
                k = start + c * c_stride + o * stride
                s, squares = few_deviations(x, k, stride, last - o, n_inner, wide[near + c])
                put_sums(wide, near + c + 4 * width, width, s, squares, tested)
        else:
            short_chunk(x, start, stride, c_stride, width, n_inner, o, last, narrow, wide, near)
        add_chunk(x, start, stride, c_stride, width, n_inner, o, last, count, wide, near)
        count += float((last - o) * n_inner)
    for c in range(width):
        to = at + c * parts + part
        partial[to, 0] = count
        partial[to, 1] = wide[near + c + width] + wide[near + c + 2 * width]
        partial[to, 2] = wide[near + c + 3 * width]


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


@inner
def put_dots(partial, at, s, t, mean, high):
    """Put both sums over a part of a channel, the low part of the mean taken off, to partial[at]."""
    partial[at, 0] = s
    partial[at, 1] = t - (mean - high) * s


@inner
def few_dots(dy, x, mean, g, go, gc, k, xo, xc, first, width, n_planes, n_inner, parts, partial, at):
    """Both sums over a few planes of `width` channels from `first` on, to partial[at:], as in `short_dots`.

    In one function with their loop: called channel by channel, they took 1.1 to 1.3 times as long over planes of 7x7.
    """
    zero, ahead = splat(x, 0.0), AHEAD * lanes(x)
    strip = max(1, STRIP // n_inner)
    for c in range(width):
        high = rounded(x, mean[first + c])
        center = splat(x, high)
        sum_dy = dots = 0.0
        for begin in range(0, n_planes, strip):
            s = t = u = v = zero
            for o in range(begin, min(begin + strip, n_planes)):
                i, j = g + o * go + c * gc, k + o * xo + c * xc
                s, t, u, v = run_dots(dy, x, i, j, n_inner, center, ahead, ahead, (s, t, u, v))
            sum_dy += hsum(s + u)
            dots += hsum(t + v)
        put_dots(partial, at + c * parts, sum_dy, dots, mean[first + c], high)


@linked
def short_dots(dy, x, mean, grid, first, width, part, parts, narrow, wide, partial, at):
    """Both sums over one part of `width` channels from `first` on, to partial[at:], a channel `parts` after another.

    Both in x's dtype within a strip: with dy in float64, planes of 7x7 in cache took 1.25 times as long.
    """
    step = lanes(x)
    n_outer, _, n_inner = row(grid, 0)
    g0, go, gc = row(grid, 1)
    x0, xo, xc = row(grid, 2)
    begin, end = part_range(n_outer, planes_of_chunk(n_inner), part, parts)
    if end - begin <= few(x, n_inner, 2):
        g, k = g0 + begin * go + first * gc, x0 + begin * xo + first * xc
        few_dots(dy, x, mean, g, go, gc, k, xo, xc, first, width, end - begin, n_inner, parts, partial, at + part)
        return
    zero = cast(splat(x, 0.0), np.float64)
    size = columns_size(x, width, n_inner)
    put_centers(x, mean, first, width, n_inner, narrow)
    for strip in range(begin, end, STRIP_PLANES):
        g, k = g0 + strip * go + first * gc, x0 + strip * xo + first * xc
        add_row_dots(dy, x, g, go, gc, k, xo, xc, min(STRIP_PLANES, end - strip), width, n_inner, narrow)
        for c in range(width):
            k, m = c * n_inner + size, 2 * c * step
            s = cast(fold(narrow, k, n_inner), np.float64)
            t = cast(fold(narrow, k + size, n_inner), np.float64)
            if strip > begin:
                s, t = load_part(wide, m, step, zero) + s, load_part(wide, m + step, step, zero) + t
            if strip + STRIP_PLANES < end:
                store_part(wide, m, s, step)
                store_part(wide, m + step, t, step)
            else:
                high = rounded(x, mean[first + c])
                put_dots(partial, at + c * parts + part, hsum(s), hsum(t), mean[first + c], high)
