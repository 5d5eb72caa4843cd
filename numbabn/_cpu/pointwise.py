"""Element by element: y from x, dx from dy and x. In place is as good as out of place: a vector is read, then written.

The mean is split into a part that the array's dtype holds and a rest: x - high is exact where x is near the mean, and
the rest goes into the constant. So data far from zero keeps all its digits at no cost.
"""

from __future__ import annotations

import numpy as np

from .._compile import Grid, In, Out, Pack, inner, kernel, prange, row
from .._geometry import BIAS, INVSTD, MEAN, SUM_DY, SUM_DY_XMU, WEIGHT
from .intrinsics import fma, lanes, load, load_part, rounded, splat, store, store_part

SPAN = 16384  # elements of one work item, 64 KB of float32


@inner
def affine(x, pack, c):  # type: ignore[no-untyped-def]
    """High, a and b of channel c, so that y = (x - high) * a + b."""
    mean = pack[MEAN, c]
    high = rounded(x, mean)
    a = pack[WEIGHT, c] * pack[INVSTD, c]
    return high, a, pack[BIAS, c] - (mean - high) * a


@inner
def gradient(x, pack, c, count):  # type: ignore[no-untyped-def]
    """High means of x and dy, a, b and d of channel c, so that dx = (dy - g_high) * a + ((x - x_high) * b + d)."""
    mean, r = pack[MEAN, c], pack[INVSTD, c]
    g_mean = pack[SUM_DY, c] / count
    x_high, g_high = rounded(x, mean), rounded(x, g_mean)
    a = pack[WEIGHT, c] * r
    b = -a * r * r * (pack[SUM_DY_XMU, c] / count)
    return x_high, g_high, a, b, -a * (g_mean - g_high) - b * (mean - x_high)


@inner
def n_spans(n_planes, n_inner):  # type: ignore[no-untyped-def]
    """Work items: several short planes each, or a piece of a long one."""
    group = max(1, SPAN // n_inner)
    return (n_planes + group - 1) // group * max(1, n_inner // SPAN)


@inner
def span(item, n_planes, n_inner):  # type: ignore[no-untyped-def]
    """First and last plane of a work item, and the first and the number of elements it takes of each."""
    group = max(1, SPAN // n_inner)
    cuts = max(1, n_inner // SPAN)
    block = item // cuts
    cut = item - block * cuts
    i = n_inner * cut // cuts
    return block * group, min(n_planes, (block + 1) * group), i, n_inner * (cut + 1) // cuts - i


# -- channels first ----------------------------------------------------------------------------------------------------


@inner
def normalize_run(x, y, k, m, n, high, a, b):  # type: ignore[no-untyped-def]
    """n contiguous elements of one channel, from x[k:] to y[m:]."""
    step = lanes(x)
    stop = k + n
    while k + 4 * step <= stop:
        y0 = fma(load(x, k) - high, a, b)
        y1 = fma(load(x, k + step) - high, a, b)
        y2 = fma(load(x, k + 2 * step) - high, a, b)
        y3 = fma(load(x, k + 3 * step) - high, a, b)
        store(y, m, y0)
        store(y, m + step, y1)
        store(y, m + 2 * step, y2)
        store(y, m + 3 * step, y3)
        k += 4 * step
        m += 4 * step
    while k + step <= stop:
        store(y, m, fma(load(x, k) - high, a, b))
        k += step
        m += step
    if k < stop:
        store_part(y, m, fma(load_part(x, k, stop - k, high) - high, a, b), stop - k)


@inner
def normalize_channel(x, y, pack, c, n_outer, n_inner, x0, xo, y0, yo):  # type: ignore[no-untyped-def]
    h, a, b = affine(x, pack, c)
    high, scale, shift = splat(x, h), splat(x, a), splat(x, b)
    for o in range(n_outer):
        normalize_run(x, y, x0 + o * xo, y0 + o * yo, n_inner, high, scale, shift)


@kernel
def normalize_channels_first(x: In, y: Out, pack: Pack, grid: Grid) -> None:
    """y = (x - mean) * invstd * weight + bias; moves 2 elements' bytes an element."""
    n_outer, n_channels, n_inner = row(grid, 0)
    x0, xo, xc = row(grid, 1)
    y0, yo, yc = row(grid, 2)
    n_planes = n_outer * n_channels
    table = np.empty(3 * n_channels, x.dtype)
    normalize_coefficients(x, pack, 0, n_channels, table)
    for index in prange(n_spans(n_planes, n_inner)):
        first, last, i, n = span(np.int64(index), n_planes, n_inner)
        o = first // n_channels
        c = first - o * n_channels
        for _ in range(first, last):
            high, a, b = splat(x, table[c]), splat(x, table[n_channels + c]), splat(x, table[2 * n_channels + c])
            normalize_run(x, y, x0 + o * xo + c * xc + i, y0 + o * yo + c * yc + i, n, high, a, b)
            c += 1
            if c == n_channels:
                c = 0
                o += 1


@inner
def gradient_run(dy, x, dx, g, k, m, n, g_high, x_high, a, b, d):  # type: ignore[no-untyped-def]
    """n contiguous elements of one channel, from dy[g:] and x[k:] to dx[m:]."""
    step = lanes(x)
    stop = k + n
    while k + 2 * step <= stop:
        d0 = fma(load(dy, g) - g_high, a, fma(load(x, k) - x_high, b, d))
        d1 = fma(load(dy, g + step) - g_high, a, fma(load(x, k + step) - x_high, b, d))
        store(dx, m, d0)
        store(dx, m + step, d1)
        g += 2 * step
        k += 2 * step
        m += 2 * step
    if k + step <= stop:
        store(dx, m, fma(load(dy, g) - g_high, a, fma(load(x, k) - x_high, b, d)))
        g += step
        k += step
        m += step
    if k < stop:
        r = stop - k
        d0 = fma(load_part(dy, g, r, g_high) - g_high, a, fma(load_part(x, k, r, x_high) - x_high, b, d))
        store_part(dx, m, d0, r)


@inner
def gradient_channel(dy, x, dx, pack, c, count, n_outer, n_inner, g0, go, x0, xo, d0, do):  # type: ignore[no-untyped-def]
    h, gh, a, b, d = gradient(x, pack, c, count)
    x_high, g_high, scale, slope, shift = splat(x, h), splat(x, gh), splat(x, a), splat(x, b), splat(x, d)
    for o in range(n_outer):
        gradient_run(
            dy, x, dx, g0 + o * go, x0 + o * xo, d0 + o * do, n_inner, g_high, x_high, scale, slope, shift
        )


@kernel
def backward_elemt_channels_first(dy: In, x: In, dx: Out, pack: Pack, grid: Grid, count: float) -> None:
    """dx from dy, x and the two sums over `count` elements a channel; moves 3 elements' bytes an element."""
    n_outer, n_channels, n_inner = row(grid, 0)
    g0, go, gc = row(grid, 1)
    x0, xo, xc = row(grid, 2)
    d0, do, dc = row(grid, 3)
    n_planes = n_outer * n_channels
    table = np.empty(5 * n_channels, x.dtype)
    gradient_coefficients(x, pack, 0, n_channels, count, table)
    for index in prange(n_spans(n_planes, n_inner)):
        first, last, i, n = span(np.int64(index), n_planes, n_inner)
        o = first // n_channels
        c = first - o * n_channels
        for _ in range(first, last):
            x_high, g_high = splat(x, table[c]), splat(x, table[n_channels + c])
            a, b = splat(x, table[2 * n_channels + c]), splat(x, table[3 * n_channels + c])
            d = splat(x, table[4 * n_channels + c])
            g, k, m = g0 + o * go + c * gc + i, x0 + o * xo + c * xc + i, d0 + o * do + c * dc + i
            gradient_run(dy, x, dx, g, k, m, n, g_high, x_high, a, b, d)
            c += 1
            if c == n_channels:
                c = 0
                o += 1


# -- channels last -----------------------------------------------------------------------------------------------------


@inner
def normalize_coefficients(x, pack, c0, width, table):  # type: ignore[no-untyped-def]
    """High, a and b of `width` channels from c0 on, one after the other, to `table`."""
    for c in range(width):
        h, a, b = affine(x, pack, c0 + c)
        table[c] = h
        table[width + c] = a
        table[2 * width + c] = b


@inner
def normalize_rows(x, y, table, k, x_stride, m, y_stride, n_rows, width):  # type: ignore[no-untyped-def]
    step = lanes(x)
    zero = splat(x, 0.0)
    whole = width - width % step
    rest = width - whole
    for _ in range(n_rows):
        for c in range(0, whole, step):
            v = load(x, k + c) - load(table, c)
            store(y, m + c, fma(v, load(table, width + c), load(table, 2 * width + c)))
        if rest > 0:
            v = load_part(x, k + whole, rest, zero) - load_part(table, whole, rest, zero)
            a = load_part(table, width + whole, rest, zero)
            b = load_part(table, 2 * width + whole, rest, zero)
            store_part(y, m + whole, fma(v, a, b), rest)
        k += x_stride
        m += y_stride


@inner
def row_cuts(n_rows, n_channels):  # type: ignore[no-untyped-def]
    return max(1, min(n_rows, n_rows * n_channels // SPAN))


@kernel
def normalize_channels_last(x: In, y: Out, pack: Pack, grid: Grid) -> None:
    """y = (x - mean) * invstd * weight + bias; moves 2 elements' bytes an element."""
    n_outer, n_channels, n_inner = row(grid, 0)
    x0, xo, xc = row(grid, 1)
    y0, yo, yc = row(grid, 2)
    table = np.empty(3 * n_channels, x.dtype)
    normalize_coefficients(x, pack, 0, n_channels, table)
    cuts = row_cuts(n_outer, n_channels)
    for index in prange(cuts):
        cut = np.int64(index)
        first = n_outer * cut // cuts
        n_rows = n_outer * (cut + 1) // cuts - first
        normalize_rows(x, y, table, x0 + first * xo, xo, y0 + first * yo, yo, n_rows, n_channels)


@inner
def gradient_coefficients(x, pack, c0, width, count, table):  # type: ignore[no-untyped-def]
    """High means of x and dy, a, b and d of `width` channels from c0 on, one after the other, to `table`."""
    for c in range(width):
        h, gh, a, b, d = gradient(x, pack, c0 + c, count)
        table[c] = h
        table[width + c] = gh
        table[2 * width + c] = a
        table[3 * width + c] = b
        table[4 * width + c] = d


@inner
def gradient_rows(dy, x, dx, table, g, g_stride, k, x_stride, m, d_stride, n_rows, width):  # type: ignore[no-untyped-def]
    step = lanes(x)
    zero = splat(x, 0.0)
    whole = width - width % step
    rest = width - whole
    for _ in range(n_rows):
        for c in range(0, whole, step):
            u = fma(load(x, k + c) - load(table, c), load(table, 3 * width + c), load(table, 4 * width + c))
            store(dx, m + c, fma(load(dy, g + c) - load(table, width + c), load(table, 2 * width + c), u))
        if rest > 0:
            v = load_part(x, k + whole, rest, zero) - load_part(table, whole, rest, zero)
            b = load_part(table, 3 * width + whole, rest, zero)
            u = fma(v, b, load_part(table, 4 * width + whole, rest, zero))
            v = load_part(dy, g + whole, rest, zero) - load_part(table, width + whole, rest, zero)
            store_part(dx, m + whole, fma(v, load_part(table, 2 * width + whole, rest, zero), u), rest)
        g += g_stride
        k += x_stride
        m += d_stride


@kernel
def backward_elemt_channels_last(dy: In, x: In, dx: Out, pack: Pack, grid: Grid, count: float) -> None:
    """dx from dy, x and the two sums over `count` elements a channel; moves 3 elements' bytes an element."""
    n_outer, n_channels, n_inner = row(grid, 0)
    g0, go, gc = row(grid, 1)
    x0, xo, xc = row(grid, 2)
    d0, do, dc = row(grid, 3)
    table = np.empty(5 * n_channels, x.dtype)
    gradient_coefficients(x, pack, 0, n_channels, count, table)
    cuts = row_cuts(n_outer, n_channels)
    for index in prange(cuts):
        cut = np.int64(index)
        first = n_outer * cut // cuts
        n_rows = n_outer * (cut + 1) // cuts - first
        g, k, m = g0 + first * go, x0 + first * xo, d0 + first * do
        gradient_rows(dy, x, dx, table, g, go, k, xo, m, do, n_rows, n_channels)
