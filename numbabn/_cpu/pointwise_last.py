"""Element by element along rows, (N, C), NHWC and short planes side by side: y from x, dx from dy and x."""

from __future__ import annotations

import numpy as np

from .._compile import Grid, In, Out, Row, Table, inline, inner, kernel, linked, prange, read_rows
from .ahead import UNDER_WAY
from .channels import put_affines, put_gradients, repeat, row_size, spread, spread_from, table_start
from .partition import row
from .pointwise import SPAN, put, shared, slope
from .vectors import fence, fma, lanes, load, load_part, prefetch, splat, store_part, until_aligned

# Bytes of coefficients that stay in L1 beside the rows. Above, four rows share each coefficient that is loaded: forward
# passes over 2,048 and 4,096 channels then took 0.72 to 0.92 of the time, backward passes over 1,024 and more 0.8 to
# 0.97. Below, they took up to 1.5 times as long: the processor fetches one row at a time better ahead.
NEAR = 16384


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
    ahead, last = step % width, stop - step
    v = load(x, k) if k <= last else zero
    while k <= last:
        k += step
        following = load(x, min(k, last))
        put(y, m, fma(v - load(table, c), load(table, size + c), load(table, 2 * size + c)), streamed)
        v = following
        m += step
        c += ahead
        if c >= width:
            c -= width
    if k < stop:
        v = load_part(x, k, stop - k, zero) - load(table, c)
        store_part(y, m, fma(v, load(table, size + c), load(table, 2 * size + c)), stop - k)


@inline
def load_four(x, k, stride):
    """A vector of each of four rows."""
    return load(x, k), load(x, k + stride), load(x, k + 2 * stride), load(x, k + 3 * stride)


@inline
def normalize_part(x, y, table, size, c, n, k, x_stride, m, y_stride):
    """n < lanes columns of four rows, which are channels from c on."""
    high, a, b = load(table, c), load(table, size + c), load(table, 2 * size + c)
    for r in range(4):
        v = load_part(x, k + c + r * x_stride, n, high)
        store_part(y, m + c + r * y_stride, fma(v - high, a, b), n)


@inner
def normalize_four(x, y, table, k, x_stride, m, y_stride, width, streamed):
    """Four rows of `width` channels, two vectors or more, with coefficients that are loaded once for all four."""
    step, size = lanes(x), row_size(x, width)
    c, last = until_aligned(y, m), width - step
    normalize_part(x, y, table, size, 0, c, k, x_stride, m, y_stride)
    v0, v1, v2, v3 = load_four(x, k + c, x_stride)
    while c <= last:
        w0, w1, w2, w3 = load_four(x, k + min(c + step, last), x_stride)
        high, a, b = load(table, c), load(table, size + c), load(table, 2 * size + c)
        put(y, m + c, fma(v0 - high, a, b), streamed)
        put(y, m + c + y_stride, fma(v1 - high, a, b), streamed)
        put(y, m + c + 2 * y_stride, fma(v2 - high, a, b), streamed)
        put(y, m + c + 3 * y_stride, fma(v3 - high, a, b), streamed)
        v0, v1, v2, v3 = w0, w1, w2, w3
        c += step
    normalize_part(x, y, table, size, c, width - c, k, x_stride, m, y_stride)


@inner
def normalize_rows(x, y, table, k, x_stride, m, y_stride, n_rows, width, streamed):
    """Rows of `width` channels: four at a time, one by one, or without gaps as one run."""
    if 3 * width * x.itemsize > NEAR and y_stride % lanes(x) == 0:  # all rows lie alike on cache lines
        for _ in range(n_rows // 4):
            normalize_four(x, y, table, k, x_stride, m, y_stride, width, streamed)
            k += 4 * x_stride
            m += 4 * y_stride
        n_rows %= 4
    if x_stride == width and y_stride == width:
        normalize_cycle(x, y, table, k, m, n_rows * width, width, streamed)
    else:
        for r in range(n_rows):
            normalize_cycle(x, y, table, k + r * x_stride, m + r * y_stride, width, width, streamed)


@inner
def row_cuts(n_rows, n_channels):
    """Work items: some rows each. To be shared evenly they become smaller, but for that not less than four rows."""
    cuts = max(1, n_rows * n_channels // SPAN)
    return max(min(n_rows, cuts), min(n_rows // 4, shared(cuts)))


@linked
def normalize_cut(x, y, table, x0, xo, y0, yo, n_rows, n_channels, cut, cuts, streamed):
    """One of the cuts of all rows."""
    first = n_rows * cut // cuts
    n = n_rows * (cut + 1) // cuts - first
    normalize_rows(x, y, table, x0 + first * xo, xo, y0 + first * yo, yo, n, n_channels, streamed)
    if streamed:
        fence()


@kernel
def normalize_channels_last(
    x: In, y: Out, mean: Row, var: Row, weight: Row, bias: Row, grid: Grid, eps: float, streamed: bool
) -> None:
    """y = (x - mean) * weight / sqrt(var + eps) + bias; moves 2 elements' bytes an element."""
    n_outer, n_channels, n_inner = row(grid, 0)
    x0, xo, xc = row(grid, 1)
    y0, yo, yc = row(grid, 2)
    n_columns = n_channels * n_inner
    size = row_size(x, n_columns)
    memory = np.empty(3 * size + lanes(x), x.dtype)
    table = memory[table_start(memory, y, y0, yo) :]
    given = np.empty((4, n_channels))
    read_rows(given, (mean, var, weight, bias))
    at = spread_from(n_channels, n_inner, size)
    put_affines(x, given[0], given[1], given[2], given[3], eps, 0, n_channels, table, at, size)
    spread(table, n_channels, n_inner, size, 3)
    repeat(table, n_columns, size, 3)
    cuts = row_cuts(n_outer, n_columns)
    for index in prange(cuts):
        normalize_cut(x, y, table, x0, xo, y0, yo, n_outer, n_columns, np.int64(index), cuts, streamed)


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
    ahead, last = step % width, stop - step
    later, apart = UNDER_WAY // x.itemsize, g - k
    w, v = (load(dy, g), load(x, k)) if k <= last else (zero, zero)
    while k <= last:
        prefetch(dy, g + later)
        prefetch(x, k + later)
        g += step
        k += step
        next_w, next_v = load(dy, min(k, last) + apart), load(x, min(k, last))
        put(dx, m, gradient_at(table, c, size, w, v), streamed)
        w, v = next_w, next_v
        m += step
        c += ahead
        if c >= width:
            c -= width
    if k < stop:
        r = stop - k
        store_part(dx, m, gradient_at(table, c, size, load_part(dy, g, r, zero), load_part(x, k, r, zero)), r)


@inline
def gradient_part(dy, x, dx, table, size, c, n, g, g_stride, k, x_stride, m, d_stride):
    """n < lanes columns of four rows, which are channels from c on."""
    x_high, g_high = load(table, c), load(table, size + c)
    for r in range(4):
        w, v = load_part(dy, g + c + r * g_stride, n, g_high), load_part(x, k + c + r * x_stride, n, x_high)
        store_part(dx, m + c + r * d_stride, gradient_at(table, c, size, w, v), n)


@inner
def gradient_four(dy, x, dx, table, g, g_stride, k, x_stride, m, d_stride, width, streamed):
    """Four rows of `width` channels, as in `normalize_four`."""
    step, size = lanes(x), row_size(x, width)
    c, last = until_aligned(dx, m), width - step
    gradient_part(dy, x, dx, table, size, 0, c, g, g_stride, k, x_stride, m, d_stride)
    g0, g1, g2, g3 = load_four(dy, g + c, g_stride)
    v0, v1, v2, v3 = load_four(x, k + c, x_stride)
    while c <= last:
        h0, h1, h2, h3 = load_four(dy, g + min(c + step, last), g_stride)
        w0, w1, w2, w3 = load_four(x, k + min(c + step, last), x_stride)
        x_high, g_high, r = load(table, c), load(table, size + c), load(table, 2 * size + c)
        a, b, d = load(table, 3 * size + c), load(table, 4 * size + c), load(table, 5 * size + c)
        put(dx, m + c, slope(g0, v0, x_high, g_high, r, a, b, d), streamed)
        put(dx, m + c + d_stride, slope(g1, v1, x_high, g_high, r, a, b, d), streamed)
        put(dx, m + c + 2 * d_stride, slope(g2, v2, x_high, g_high, r, a, b, d), streamed)
        put(dx, m + c + 3 * d_stride, slope(g3, v3, x_high, g_high, r, a, b, d), streamed)
        g0, g1, g2, g3 = h0, h1, h2, h3
        v0, v1, v2, v3 = w0, w1, w2, w3
        c += step
    gradient_part(dy, x, dx, table, size, c, width - c, g, g_stride, k, x_stride, m, d_stride)


@inner
def gradient_rows(dy, x, dx, table, g, g_stride, k, x_stride, m, d_stride, n_rows, width, streamed):
    """Rows of `width` channels, as in `normalize_rows`."""
    if 6 * width * x.itemsize > NEAR and d_stride % lanes(x) == 0:
        for _ in range(n_rows // 4):
            gradient_four(dy, x, dx, table, g, g_stride, k, x_stride, m, d_stride, width, streamed)
            g += 4 * g_stride
            k += 4 * x_stride
            m += 4 * d_stride
        n_rows %= 4
    if g_stride == width and x_stride == width and d_stride == width:
        gradient_cycle(dy, x, dx, table, g, k, m, n_rows * width, width, streamed)
    else:
        for r in range(n_rows):
            gradient_cycle(
                dy, x, dx, table, g + r * g_stride, k + r * x_stride, m + r * d_stride, width, width, streamed
            )


@linked
def gradient_cut(dy, x, dx, table, g0, go, x0, xo, d0, do, n_rows, n_channels, cut, cuts, streamed):
    """One of the cuts of all rows."""
    first = n_rows * cut // cuts
    n = n_rows * (cut + 1) // cuts - first
    g, k, m = g0 + first * go, x0 + first * xo, d0 + first * do
    gradient_rows(dy, x, dx, table, g, go, k, xo, m, do, n, n_channels, streamed)
    if streamed:
        fence()


@kernel
def backward_elemt_channels_last(
    dy: In,
    x: In,
    dx: Out,
    mean: Row,
    invstd: Row,
    weight: Row,
    sums: Table,
    grid: Grid,
    count: float,
    streamed: bool,
) -> None:
    """dx from dy, x and the two sums over `count` elements a channel; moves 3 elements' bytes an element."""
    n_outer, n_channels, n_inner = row(grid, 0)
    g0, go, gc = row(grid, 1)
    x0, xo, xc = row(grid, 2)
    d0, do, dc = row(grid, 3)
    n_columns = n_channels * n_inner
    size = row_size(x, n_columns)
    memory = np.empty(6 * size + lanes(x), x.dtype)
    table = memory[table_start(memory, dx, d0, do) :]
    given = np.empty((3, n_channels))
    read_rows(given, (mean, invstd, weight))
    at = spread_from(n_channels, n_inner, size)
    put_gradients(x, given[0], given[1], given[2], sums, 0, n_channels, count, table, at, size)
    spread(table, n_channels, n_inner, size, 6)
    repeat(table, n_columns, size, 6)
    cuts = row_cuts(n_outer, n_columns)
    for index in prange(cuts):
        gradient_cut(dy, x, dx, table, g0, go, x0, xo, d0, do, n_outer, n_columns, np.int64(index), cuts, streamed)
