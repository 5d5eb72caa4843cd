"""Element by element: y from x, dx from dy and x. In place is as good as out of place: a vector is read, then written.

The mean is split into a part that the array's dtype holds and a rest: x - high is exact where x is near the mean, and
the rest goes into the constant. So data far from zero keeps all its digits at no cost.
"""

from __future__ import annotations

import math

import numpy as np

from .._compile import Grid, In, Out, Pack, inner, kernel, prange, row
from .._geometry import BIAS, INVSTD, MEAN, SUM_DY, SUM_DY_XMU, WEIGHT
from .intrinsics import fence, fma, lanes, load, load_part, rounded, splat, store, store_part, stream, until_aligned

SPAN = 16384  # elements of one work item, 64 KB of float32
INVERTED = -1.0  # no eps: INVSTD is there already
LONG = 8  # vectors from which on a run is worth bringing onto cache lines, and may be streamed


@inner
def invstd(var, eps):
    """1 / sqrt(var + eps), and 0 where that sum is 0."""
    return 0.0 if var + eps == 0.0 else 1.0 / math.sqrt(var + eps)


@inner
def invert_all(pack, eps):
    """invstd of all channels from their variance, in its place; nothing if that has been done."""
    if eps != INVERTED:
        for c in range(pack.shape[1]):
            pack[INVSTD, c] = invstd(pack[INVSTD, c], eps)


@kernel
def invert(pack: Pack, eps: float) -> None:
    """invstd of all channels from their variance, in its place; C numbers."""
    invert_all(pack, eps)


@inner
def affine(x, pack, c):
    """High, a and b of channel c, so that y = (x - high) * a + b."""
    mean = pack[MEAN, c]
    high = rounded(x, mean)
    a = pack[WEIGHT, c] * pack[INVSTD, c]
    return high, a, pack[BIAS, c] - (mean - high) * a


@inner
def gradient(x, pack, c, count):
    """High means of x and dy, r, a, b and d of channel c: dx = (dy - g_high) * a + ((x - x_high) * r * b + d).

    r stays apart from b, so that no factor leaves float32's range before x and dy do.
    """
    mean, r = pack[MEAN, c], pack[INVSTD, c]
    g_mean = pack[SUM_DY, c] / count
    x_high, g_high = rounded(x, mean), rounded(x, g_mean)
    a = pack[WEIGHT, c] * r
    b = -a * (r * pack[SUM_DY_XMU, c] / count)
    return x_high, g_high, r, a, b, -a * (g_mean - g_high) - b * ((mean - x_high) * r)


@inner
def row_size(x, width):
    """Length of a row in a table of coefficients: a vector that starts at any of its channels stays inside."""
    return width + lanes(x)


@inner
def repeat(table, width, size, rows):
    """Continue each row of the table, `size` long, past its `width` entries by starting again."""
    for r in range(rows):
        for c in range(width, size):
            table[r * size + c] = table[r * size + c - width]


@inner
def normalize_coefficients(x, pack, c0, width, table):
    """High, a and b of `width` channels from c0 on, to the three rows of `table`."""
    size = row_size(x, width)
    for c in range(width):
        h, a, b = affine(x, pack, c0 + c)
        table[c] = h
        table[size + c] = a
        table[2 * size + c] = b
    repeat(table, width, size, 3)


@inner
def gradient_coefficients(x, pack, c0, width, count, table):
    """High means of x and dy, a, b and d of `width` channels from c0 on, to the six rows of `table`."""
    size = row_size(x, width)
    for c in range(width):
        h, gh, r, a, b, d = gradient(x, pack, c0 + c, count)
        table[c] = h
        table[size + c] = gh
        table[2 * size + c] = r
        table[3 * size + c] = a
        table[4 * size + c] = b
        table[5 * size + c] = d
    repeat(table, width, size, 6)


@inner
def n_spans(n_planes, n_inner):
    """Work items: several short planes each, or a piece of a long one."""
    group = max(1, SPAN // n_inner)
    return (n_planes + group - 1) // group * max(1, n_inner // SPAN)


@inner
def span(item, n_planes, n_inner):
    """First and last plane of a work item, and the first and the number of elements it takes of each."""
    group = max(1, SPAN // n_inner)
    cuts = max(1, n_inner // SPAN)
    block = item // cuts
    cut = item - block * cuts
    i = n_inner * cut // cuts
    return block * group, min(n_planes, (block + 1) * group), i, n_inner * (cut + 1) // cuts - i


# -- channels first ----------------------------------------------------------------------------------------------------


@inner
def put(y, m, v, streamed):
    if streamed:
        stream(y, m, v)
    else:
        store(y, m, v)


@inner
def normalize_run(x, y, k, m, n, high, a, b, streamed):
    """n contiguous elements of one channel, from x[k:] to y[m:]."""
    step = lanes(x)
    stop = k + n
    if n >= LONG * step:
        r = until_aligned(y, m)
        if r > 0:
            store_part(y, m, fma(load_part(x, k, r, high) - high, a, b), r)
            k += r
            m += r
    else:
        streamed = False
    while k + 4 * step <= stop:
        y0 = fma(load(x, k) - high, a, b)
        y1 = fma(load(x, k + step) - high, a, b)
        y2 = fma(load(x, k + 2 * step) - high, a, b)
        y3 = fma(load(x, k + 3 * step) - high, a, b)
        put(y, m, y0, streamed)
        put(y, m + step, y1, streamed)
        put(y, m + 2 * step, y2, streamed)
        put(y, m + 3 * step, y3, streamed)
        k += 4 * step
        m += 4 * step
    while k + step <= stop:
        put(y, m, fma(load(x, k) - high, a, b), streamed)
        k += step
        m += step
    if k < stop:
        store_part(y, m, fma(load_part(x, k, stop - k, high) - high, a, b), stop - k)


@inner
def normalize_planes(x, y, table, n_outer, n_channels, n_inner, x0, xo, xc, y0, yo, yc, streamed):
    """All planes of neighbouring channels, in the order of memory."""
    size = row_size(x, n_channels)
    for o in range(n_outer):
        for c in range(n_channels):
            high, a, b = splat(x, table[c]), splat(x, table[size + c]), splat(x, table[2 * size + c])
            normalize_run(x, y, x0 + o * xo + c * xc, y0 + o * yo + c * yc, n_inner, high, a, b, streamed)
    if streamed:
        fence()


@kernel
def normalize_channels_first(x: In, y: Out, pack: Pack, grid: Grid, eps: float, streamed: bool) -> None:
    """y = (x - mean) * invstd * weight + bias; moves 2 elements' bytes an element."""
    n_outer, n_channels, n_inner = row(grid, 0)
    x0, xo, xc = row(grid, 1)
    y0, yo, yc = row(grid, 2)
    n_planes = n_outer * n_channels
    size = row_size(x, n_channels)
    invert_all(pack, eps)
    table = np.empty(3 * size, x.dtype)
    normalize_coefficients(x, pack, 0, n_channels, table)
    for index in prange(n_spans(n_planes, n_inner)):
        first, last, i, n = span(np.int64(index), n_planes, n_inner)
        o = first // n_channels
        c = first - o * n_channels
        for _ in range(first, last):
            high, a, b = splat(x, table[c]), splat(x, table[size + c]), splat(x, table[2 * size + c])
            normalize_run(x, y, x0 + o * xo + c * xc + i, y0 + o * yo + c * yc + i, n, high, a, b, streamed)
            c += 1
            if c == n_channels:
                c = 0
                o += 1
        if streamed:
            fence()


@inner
def slope(g, v, x_high, g_high, r, a, b, d):
    """dx of one vector of dy and x."""
    return fma(g - g_high, a, fma((v - x_high) * r, b, d))


@inner
def gradient_run(dy, x, dx, g, k, m, n, x_high, g_high, r, a, b, d, streamed):
    """n contiguous elements of one channel, from dy[g:] and x[k:] to dx[m:]."""
    step = lanes(x)
    stop = k + n
    if n >= LONG * step:
        ahead = until_aligned(dx, m)
        if ahead > 0:
            g0, v0 = load_part(dy, g, ahead, g_high), load_part(x, k, ahead, x_high)
            store_part(dx, m, slope(g0, v0, x_high, g_high, r, a, b, d), ahead)
            g += ahead
            k += ahead
            m += ahead
    else:
        streamed = False
    while k + 2 * step <= stop:
        d0 = slope(load(dy, g), load(x, k), x_high, g_high, r, a, b, d)
        d1 = slope(load(dy, g + step), load(x, k + step), x_high, g_high, r, a, b, d)
        put(dx, m, d0, streamed)
        put(dx, m + step, d1, streamed)
        g += 2 * step
        k += 2 * step
        m += 2 * step
    if k + step <= stop:
        put(dx, m, slope(load(dy, g), load(x, k), x_high, g_high, r, a, b, d), streamed)
        g += step
        k += step
        m += step
    if k < stop:
        g0, v0 = load_part(dy, g, stop - k, g_high), load_part(x, k, stop - k, x_high)
        store_part(dx, m, slope(g0, v0, x_high, g_high, r, a, b, d), stop - k)


@inner
def gradient_planes(dy, x, dx, table, n_outer, n_channels, n_inner, g0, go, gc, x0, xo, xc, d0, do, dc, streamed):
    """All planes of neighbouring channels, in the order of memory."""
    size = row_size(x, n_channels)
    for o in range(n_outer):
        for c in range(n_channels):
            x_high, g_high = splat(x, table[c]), splat(x, table[size + c])
            r, a = splat(x, table[2 * size + c]), splat(x, table[3 * size + c])
            b, d = splat(x, table[4 * size + c]), splat(x, table[5 * size + c])
            g, k, m = g0 + o * go + c * gc, x0 + o * xo + c * xc, d0 + o * do + c * dc
            gradient_run(dy, x, dx, g, k, m, n_inner, x_high, g_high, r, a, b, d, streamed)
    if streamed:
        fence()


@kernel
def backward_elemt_channels_first(dy: In, x: In, dx: Out, pack: Pack, grid: Grid, count: float, streamed: bool) -> None:
    """dx from dy, x and the two sums over `count` elements a channel; moves 3 elements' bytes an element."""
    n_outer, n_channels, n_inner = row(grid, 0)
    g0, go, gc = row(grid, 1)
    x0, xo, xc = row(grid, 2)
    d0, do, dc = row(grid, 3)
    n_planes = n_outer * n_channels
    size = row_size(x, n_channels)
    table = np.empty(6 * size, x.dtype)
    gradient_coefficients(x, pack, 0, n_channels, count, table)
    for index in prange(n_spans(n_planes, n_inner)):
        first, last, i, n = span(np.int64(index), n_planes, n_inner)
        o = first // n_channels
        c = first - o * n_channels
        for _ in range(first, last):
            x_high, g_high = splat(x, table[c]), splat(x, table[size + c])
            r, a = splat(x, table[2 * size + c]), splat(x, table[3 * size + c])
            b, d = splat(x, table[4 * size + c]), splat(x, table[5 * size + c])
            g, k, m = g0 + o * go + c * gc + i, x0 + o * xo + c * xc + i, d0 + o * do + c * dc + i
            gradient_run(dy, x, dx, g, k, m, n, x_high, g_high, r, a, b, d, streamed)
            c += 1
            if c == n_channels:
                c = 0
                o += 1
        if streamed:
            fence()


# -- channels last -----------------------------------------------------------------------------------------------------


@inner
def normalize_cycle(x, y, table, k, m, n, width, streamed):
    """n contiguous elements, from x[k:] to y[m:], channels 0 to `width` again and again."""
    step = lanes(x)
    size = row_size(x, width)
    zero = splat(x, 0.0)
    stop = k + n
    c = 0
    r = min(n, until_aligned(y, m))
    if r > 0:
        v = load_part(x, k, r, zero) - load(table, c)
        store_part(y, m, fma(v, load(table, size + c), load(table, 2 * size + c)), r)
        k += r
        m += r
        c = r % width
    ahead = step % width
    while k + step <= stop:
        v = load(x, k) - load(table, c)
        put(y, m, fma(v, load(table, size + c), load(table, 2 * size + c)), streamed)
        k += step
        m += step
        c += ahead
        if c >= width:
            c -= width
    if k < stop:
        v = load_part(x, k, stop - k, zero) - load(table, c)
        store_part(y, m, fma(v, load(table, size + c), load(table, 2 * size + c)), stop - k)


@inner
def normalize_rows(x, y, table, k, x_stride, m, y_stride, n_rows, width, streamed):
    """Rows of `width` channels, without gaps as one run."""
    if x_stride == width and y_stride == width:
        normalize_cycle(x, y, table, k, m, n_rows * width, width, streamed)
    else:
        for r in range(n_rows):
            normalize_cycle(x, y, table, k + r * x_stride, m + r * y_stride, width, width, streamed)


@inner
def row_cuts(n_rows, n_channels):
    return max(1, min(n_rows, n_rows * n_channels // SPAN))


@inner
def normalize_cut(x, y, table, x0, xo, y0, yo, n_rows, n_channels, cut, cuts, streamed):
    """One of the cuts of all rows."""
    first = n_rows * cut // cuts
    n = n_rows * (cut + 1) // cuts - first
    normalize_rows(x, y, table, x0 + first * xo, xo, y0 + first * yo, yo, n, n_channels, streamed)
    if streamed:
        fence()


@kernel
def normalize_channels_last(x: In, y: Out, pack: Pack, grid: Grid, eps: float, streamed: bool) -> None:
    """y = (x - mean) * invstd * weight + bias; moves 2 elements' bytes an element."""
    n_outer, n_channels, n_inner = row(grid, 0)
    x0, xo, xc = row(grid, 1)
    y0, yo, yc = row(grid, 2)
    invert_all(pack, eps)
    table = np.empty(3 * row_size(x, n_channels), x.dtype)
    normalize_coefficients(x, pack, 0, n_channels, table)
    cuts = row_cuts(n_outer, n_channels)
    for index in prange(cuts):
        normalize_cut(x, y, table, x0, xo, y0, yo, n_outer, n_channels, np.int64(index), cuts, streamed)


@inner
def gradient_at(table, c, size, g, v):
    """dx of one vector of dy and x that starts at channel c."""
    x_high, g_high, r = load(table, c), load(table, size + c), load(table, 2 * size + c)
    return slope(
        g, v, x_high, g_high, r, load(table, 3 * size + c), load(table, 4 * size + c), load(table, 5 * size + c)
    )


@inner
def gradient_cycle(dy, x, dx, table, g, k, m, n, width, streamed):
    """n contiguous elements, from dy[g:] and x[k:] to dx[m:], channels 0 to `width` again and again."""
    step = lanes(x)
    size = row_size(x, width)
    zero = splat(x, 0.0)
    stop = k + n
    c = 0
    r = min(n, until_aligned(dx, m))
    if r > 0:
        store_part(dx, m, gradient_at(table, c, size, load_part(dy, g, r, zero), load_part(x, k, r, zero)), r)
        g += r
        k += r
        m += r
        c = r % width
    ahead = step % width
    while k + step <= stop:
        put(dx, m, gradient_at(table, c, size, load(dy, g), load(x, k)), streamed)
        g += step
        k += step
        m += step
        c += ahead
        if c >= width:
            c -= width
    if k < stop:
        r = stop - k
        store_part(dx, m, gradient_at(table, c, size, load_part(dy, g, r, zero), load_part(x, k, r, zero)), r)


@inner
def gradient_rows(dy, x, dx, table, g, g_stride, k, x_stride, m, d_stride, n_rows, width, streamed):
    """Rows of `width` channels, without gaps as one run."""
    if g_stride == width and x_stride == width and d_stride == width:
        gradient_cycle(dy, x, dx, table, g, k, m, n_rows * width, width, streamed)
    else:
        for r in range(n_rows):
            gradient_cycle(
                dy, x, dx, table, g + r * g_stride, k + r * x_stride, m + r * d_stride, width, width, streamed
            )


@inner
def gradient_cut(dy, x, dx, table, g0, go, x0, xo, d0, do, n_rows, n_channels, cut, cuts, streamed):
    """One of the cuts of all rows."""
    first = n_rows * cut // cuts
    n = n_rows * (cut + 1) // cuts - first
    g, k, m = g0 + first * go, x0 + first * xo, d0 + first * do
    gradient_rows(dy, x, dx, table, g, go, k, xo, m, do, n, n_channels, streamed)
    if streamed:
        fence()


@kernel
def backward_elemt_channels_last(dy: In, x: In, dx: Out, pack: Pack, grid: Grid, count: float, streamed: bool) -> None:
    """dx from dy, x and the two sums over `count` elements a channel; moves 3 elements' bytes an element."""
    n_outer, n_channels, n_inner = row(grid, 0)
    g0, go, gc = row(grid, 1)
    x0, xo, xc = row(grid, 2)
    d0, do, dc = row(grid, 3)
    table = np.empty(6 * row_size(x, n_channels), x.dtype)
    gradient_coefficients(x, pack, 0, n_channels, count, table)
    cuts = row_cuts(n_outer, n_channels)
    for index in prange(cuts):
        gradient_cut(dy, x, dx, table, g0, go, x0, xo, d0, do, n_outer, n_channels, np.int64(index), cuts, streamed)
