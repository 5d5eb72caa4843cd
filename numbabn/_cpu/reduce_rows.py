"""Sums over rows of neighbouring columns, each of which is a channel or one of a channel's columns.

A strip of rows is summed in the array's own dtype, row by row as the memory comes in, in lanes that stay in L1, and a
chunk of strips in float64. Rows of scratch are whole vectors: `whole_size`.
"""

from __future__ import annotations

import numpy as np

from .._compile import inner
from .ahead import prefetch_rows, rows_ahead
from .channels import wide_part
from .partition import HIGH, LOW, MOST_SQUARES, ROWS
from .vectors import (
    cast,
    cast_like,
    fma,
    lanes,
    load,
    load_like,
    load_part,
    splat,
    store,
    store_part,
    where_zero,
    within,
)

DOT_ROWS = ROWS // 2  # rows whose products a lane adds, 16 groups of four: equal ones round alike
STRIP_ROWS = 32  # rows that a lane adds, in groups of eight, before they go to float64. With all of a chunk, 16 groups,
# the variance of zeros and a few others was off by up to 1e-6; sums in cache take up to 1.05 times as long with four
PILOT = 16  # rows whose mean is a part's first pivot


@inner
def whole_size(x, width):
    """Length of a row of scratch for `width` columns."""
    return (width + lanes(x) - 1) // lanes(x) * lanes(x)


@inner
def rows_mean(x, k, stride, n_rows, width, mean):
    """Mean of `width` columns over a few rows, in x's dtype."""
    step = lanes(x)
    zero, share = splat(x, 0.0), splat(x, 1.0 / PILOT)
    for c in range(0, width, step):
        n = min(step, width - c)
        s = zero
        for r in range(n_rows):  # their own sum may be beyond what the dtype holds
            s = fma(load_part(x, k + r * stride + c, n, zero), share, s)
        store(mean, c, s * splat(s, PILOT / n_rows))


@inner
def four_deviations(x, k, stride, n, pivot):
    """Sums of x - pivot and of its square over four rows of n <= lanes columns, in the dtype of `pivot`."""
    zero = splat(x, 0.0)
    d0 = cast_like(load_part(x, k, n, zero), pivot) - pivot
    d1 = cast_like(load_part(x, k + stride, n, zero), pivot) - pivot
    d2 = cast_like(load_part(x, k + 2 * stride, n, zero), pivot) - pivot
    d3 = cast_like(load_part(x, k + 3 * stride, n, zero), pivot) - pivot
    return (d0 + d1) + (d2 + d3), fma(d0, d0, d1 * d1) + fma(d2, d2, d3 * d3)


@inner
def add_eight(x, k, stride, size, c, n, ahead, sums):
    """Add eight rows of n <= lanes columns to the strip's sums, and ask for eight lines that come later."""
    pivot = load(sums, c)
    prefetch_rows(x, k, c, 8, ahead)
    s0, q0 = four_deviations(x, k + c, stride, n, pivot)
    s1, q1 = four_deviations(x, k + c + 4 * stride, stride, n, pivot)
    store(sums, size + c, load(sums, size + c) + (s0 + s1))
    store(sums, 2 * size + c, load(sums, 2 * size + c) + (q0 + q1))


@inner
def rows_deviations(x, k, stride, n_rows, width, sums, wide):
    """Sums of x - pivot and of its square over a chunk, to the two rows of `wide`: row by row, as the memory comes in.

    The three rows of `sums` are the pivot and both sums over a strip, in x's dtype. What is left of eight rows goes to
    float64 one by one.
    """
    step, size = lanes(x), whole_size(x, width)
    zero = splat(x, 0.0)
    whole = width // step * step
    ahead = rows_ahead(x, width, stride, 8)
    for c in range(0, 2 * size, step):
        store(wide, c, cast(zero, np.float64))
    for first in range(0, n_rows, STRIP_ROWS):
        rows = min(STRIP_ROWS, n_rows - first)
        for c in range(size, 3 * size, step):
            store(sums, c, zero)
        for _ in range(rows // 8):
            for c in range(0, whole, step):
                add_eight(x, k, stride, size, c, step, ahead, sums)
            if whole < width:
                add_eight(x, k, stride, size, whole, width - whole, ahead, sums)
            k += 8 * stride
        for _ in range(rows % 8):
            for c in range(0, width, step):
                n = min(step, width - c)
                d = cast(load_part(x, k + c, n, zero) - load(sums, c), np.float64)
                store(wide, c, load_like(wide, c, d) + d)
                store(wide, size + c, fma(d, d, load_like(wide, size + c, d)))
            k += stride
        for c in range(0, 2 * size, step):
            v = cast(load(sums, size + c), np.float64)
            store(wide, c, load_like(wide, c, v) + v)


@inner
def moments_of_sums(pivot, s, q, count):
    """Mean and M2 from the sums of x - pivot and of its square, all in float64 but for the pivot."""
    offset = s * splat(s, 1.0 / count)
    return cast(pivot, np.float64) + offset, q - s * offset


@inner
def retaken_columns(x, k, stride, n_rows, n):
    """Mean and M2 of n <= lanes columns over a chunk that has lost digits, around their own means and in float64."""
    zero = splat(x, 0.0)
    s = cast(zero, np.float64)
    for r in range(n_rows):
        s = s + cast(load_part(x, k + r * stride, n, zero), np.float64)
    pivot = s * splat(s, 1.0 / n_rows)
    s = q = cast(zero, np.float64)
    for _ in range(n_rows // 4):
        d, squares = four_deviations(x, k, stride, n, pivot)
        s, q = s + d, q + squares
        k += 4 * stride
    for _ in range(n_rows % 4):
        d = cast(load_part(x, k, n, zero), np.float64) - pivot
        s, q = s + d, fma(d, d, q)
        k += stride
    return moments_of_sums(pivot, s, q, n_rows)


@inner
def any_difference(x, k, stride, n_rows, n, pivot):
    """1 in each of n <= lanes columns that has a value other than `pivot`, else 0."""
    differs, one = splat(x, 0.0), splat(x, 1.0)
    for r in range(n_rows):
        differs = where_zero(load_part(x, k + r * stride, n, pivot) - pivot, differs, one)
    return differs


@inner
def chunk_columns(x, k, stride, n_rows, n, pivot, s, q):
    """Mean and M2 of n <= lanes columns over a chunk from its sums, unless these have lost digits.

    They have where a pivot is more than 0.7 standard deviations away from its column's mean, as a third of the squares
    then cancels. Columns of one value have no squares and are exact: one such channel in sixteen made statistics take
    2.5 times as long while they were taken again.
    """
    mean, m2 = moments_of_sums(pivot, s, q, n_rows)
    left = MOST_SQUARES * m2 - q
    if within(left, n, LOW * n_rows, HIGH):
        return mean, m2
    differs = any_difference(x, k, stride, n_rows, n, pivot)
    if within(where_zero(differs, splat(left, 1.0), left), n, LOW * n_rows, HIGH):
        return mean, m2
    return retaken_columns(x, k, stride, n_rows, n)


@inner
def add_moments(partial, at, size, c, before, count, mean, m2):
    """Merge mean and M2 of `count` rows of a vector of columns into those of the rows before, at partial[at + c:].

    Chan, Golub and LeVeque (1983).
    """
    share = count / (before + count)
    old = load_like(partial, at + c, mean)
    delta = mean - old
    store(partial, at + c, fma(delta, splat(mean, share), old))
    m2 = load_like(partial, at + size + c, mean) + m2
    store(partial, at + size + c, fma(delta * delta, splat(mean, before * share), m2))


@inner
def rows_moments(x, start, stride, begin, end, width, sums, wide, partial, at):
    """Mean and M2 of `width` columns over rows begin..end, to the two rows of scratch at partial[at:].

    One pass: the pivot of a chunk is the mean of the chunk before it. Means are merged as offsets from the first pivot:
    hundreds of roundings far from zero would add up. `sums` and `wide` are scratch for four rows and for two.
    """
    step, size = lanes(x), whole_size(x, width)
    rows_mean(x, start + begin * stride, stride, min(PILOT, end - begin), width, sums)
    for c in range(size):
        sums[3 * size + c] = sums[c]
        partial[at + c] = partial[at + size + c] = 0.0
    for first in range(begin, end, ROWS):
        n_rows = min(ROWS, end - first)
        k = start + first * stride
        rows_deviations(x, k, stride, n_rows, width, sums, wide)
        for c in range(0, width, step):
            n = min(step, width - c)
            pivot = load(sums, c)
            like = cast(pivot, np.float64)
            s, q = load_like(wide, c, like), load_like(wide, size + c, like)
            mean, m2 = chunk_columns(x, k + c, stride, n_rows, n, pivot, s, q)
            store(sums, c, cast_like(mean, pivot))
            mean = mean - cast_like(load(sums, 3 * size + c), mean)
            add_moments(partial, at, size, c, float(first - begin), float(n_rows), mean, m2)
    for c in range(size):
        partial[at + c] += sums[3 * size + c]


@inner
def two_dots(dy, x, g, go, k, xo, n, center):
    """Sums of dy and of dy * (x - center) over two rows of n <= lanes columns."""
    zero = splat(x, 0.0)
    g0, g1 = load_part(dy, g, n, zero), load_part(dy, g + go, n, zero)
    t = fma(g0, load_part(x, k, n, zero) - center, g1 * (load_part(x, k + xo, n, zero) - center))
    return g0 + g1, t


@inner
def add_four_dots(dy, x, g, go, k, xo, size, c, n, dy_ahead, x_ahead, scratch, partial, at):
    """Add four rows of n <= lanes columns to the chunk's sums, and ask for four lines of both that come later.

    Four rows of dy are added before they go to float64: with each converted, sums in cache took 1.2 times as long.
    """
    center = load(scratch, c)
    prefetch_rows(x, k, c, 4, x_ahead)
    prefetch_rows(dy, g, c, 4, dy_ahead)
    s0, t0 = two_dots(dy, x, g + c, go, k + c, xo, n, center)
    s1, t1 = two_dots(dy, x, g + c + 2 * go, go, k + c + 2 * xo, xo, n, center)
    store(scratch, size + c, load(scratch, size + c) + (t0 + t1))
    s = cast(s0 + s1, np.float64)
    store(partial, at + c, load_like(partial, at + c, s) + s)


@inner
def chunk_dots(dy, x, g, go, k, xo, n_rows, width, scratch, partial, at):
    """Add both sums of `width` columns over a chunk to the two rows of scratch at partial[at:].

    The two rows of `scratch` are the high means and the sums of the products.
    """
    step, size = lanes(x), whole_size(x, width)
    zero = splat(x, 0.0)
    whole = width // step * step
    dy_ahead, x_ahead = rows_ahead(dy, width, go, 4), rows_ahead(x, width, xo, 4)
    for c in range(size, 2 * size, step):
        store(scratch, c, zero)
    for _ in range(n_rows // 4):
        for c in range(0, whole, step):
            add_four_dots(dy, x, g, go, k, xo, size, c, step, dy_ahead, x_ahead, scratch, partial, at)
        if whole < width:
            add_four_dots(dy, x, g, go, k, xo, size, whole, width - whole, dy_ahead, x_ahead, scratch, partial, at)
        g += 4 * go
        k += 4 * xo
    for _ in range(n_rows % 4):
        for c in range(0, width, step):
            n = min(step, width - c)
            v = load_part(dy, g + c, n, zero)
            d = load_part(x, k + c, n, zero) - load(scratch, c)
            store(scratch, size + c, fma(v, d, load(scratch, size + c)))
            s = cast(v, np.float64)
            store(partial, at + c, load_like(partial, at + c, s) + s)
        g += go
        k += xo
    for c in range(0, size, step):
        t = cast(load(scratch, size + c), np.float64)
        store(partial, at + size + c, load_like(partial, at + size + c, t) + t)


@inner
def rows_dots(dy, x, mean, channels, c0, width, g0, go, x0, xo, begin, end, scratch, partial, at):
    """Both sums of `width` columns over rows begin..end, to the two rows of scratch at partial[at:].

    The columns are channels from c0 on, again and again where rows lie abreast. `scratch` is for two rows.
    """
    step, size = lanes(x), whole_size(x, width)
    for column in range(0, width, channels):
        for c in range(0, channels, step):
            n = min(step, channels - c)
            store_part(scratch, column + c, cast(wide_part(x, mean, c0 + c, n), x.dtype), n)
    for c in range(width, size):
        scratch[c] = 0.0
    for c in range(2 * size):
        partial[at + c] = 0.0
    for first in range(begin, end, DOT_ROWS):
        n_rows = min(DOT_ROWS, end - first)
        chunk_dots(dy, x, g0 + first * go, go, x0 + first * xo, xo, n_rows, width, scratch, partial, at)
    for column in range(0, width, channels):
        for c in range(0, channels, step):
            n, k = min(step, channels - c), at + column + c
            low = wide_part(x, mean, c0 + c, n) - wide_part(x, scratch, c, n)
            t = wide_part(x, partial, k + size, n) - low * wide_part(x, partial, k, n)
            store_part(partial, k + size, t, n)
