"""What happens once a channel, in float64: sums become statistics, statistics become coefficients.

The mean is split into a part that the array's dtype holds and a rest: x - high is exact where x is near the mean, and
the rest goes into the constant. So data far from zero keeps all its digits at no cost.
"""

from __future__ import annotations

import numpy as np

from .._compile import OutRow, Table, inner, kernel, read_rows, write_rows
from .._geometry import GRAD_WEIGHT, INVSTD, M2, MEAN, SUM_DY, SUM_DY_XMU
from .._scalar import INVERTED
from .._scalar import affine as _affine
from .._scalar import blend as _blend
from .._scalar import gradient as _gradient
from .vectors import cast, lanes, load_part, splat, sqrt, store, store_part, until_aligned, where_zero

blended, scaled, sloped = inner(_blend), inner(_affine), inner(_gradient)


@inner
def wide_part(like, row, c, n):
    """First n lanes of row[c:] in float64, as many lanes as a vector of `like` has."""
    return cast(load_part(row, c, n, cast(splat(like, 0.0), row.dtype)), np.float64)


@inner
def invstd(var, eps):
    """1 / sqrt(var + eps), and 0 where that sum is 0, lane by lane."""
    v = var + eps
    one = splat(v, 1.0)
    return where_zero(v, splat(v, 0.0), one / sqrt(where_zero(v, one, v)))


@inner
def put_invstds(stats, first, width, count, eps):
    """INVSTD of `width` channels from `first` on from their M2 over `count` elements."""
    m2, r = stats[M2], stats[INVSTD]
    for c in range(first, first + width, lanes(r)):
        n = min(lanes(r), first + width - c)
        store_part(r, c, invstd(wide_part(r, m2, c, n) / count, eps), n)


@inner
def put_grad_weights(sums, r, first, width):
    """GRAD_WEIGHT of `width` channels from `first` on from their SUM_DY_XMU and r, the invstd."""
    sum_dy_xmu, grad_weight = sums[SUM_DY_XMU], sums[GRAD_WEIGHT]
    for c in range(first, first + width):
        grad_weight[c] = r[c] * sum_dy_xmu[c]


@inner
def update_running(running_mean, running_var, mean, m2, count, momentum, ddof, table):
    """Blend the batch's statistics into the running ones, by way of two rows of a float64 table."""
    read_rows(table, (running_mean, running_var))
    for c in range(len(mean)):
        table[0, c] = blended(table[0, c], mean[c], momentum)
        table[1, c] = blended(table[1, c], m2[c] / (count - ddof), momentum)
    write_rows(table, (running_mean, running_var))


@kernel
def finish(
    running_mean: OutRow, running_var: OutRow, stats: Table, count: float, eps: float, momentum: float, ddof: float
) -> None:
    """invstd and the running statistics of all channels from mean and M2; C numbers."""
    put_invstds(stats, 0, stats.shape[1], count, eps)
    table = np.empty((2, stats.shape[1]))
    update_running(running_mean, running_var, stats[MEAN], stats[M2], count, momentum, ddof, table)


@inner
def row_size(x, width):
    """Length of a row in a table of coefficients, in whole vectors: one that starts at any channel stays inside."""
    return (width // lanes(x) + 2) * lanes(x)


@inner
def table_start(memory, y, at, stride):
    """Where in `memory` a table begins whose vectors lie on cache lines as those of the rows from y[at:] on do.

    It needs a vector of room. Three or six coefficients to a vector, each of them from two lines, took up to 1.3 times
    as long in eval and 1.2 times in the backward. Rows that lie differently on lines meet it in every place.
    """
    lead = until_aligned(y, at) if stride % lanes(y) == 0 else 0
    return (until_aligned(memory, 0) - lead) % lanes(y)


@inner
def spread_from(n_channels, n_inner, size):
    """Column of a table at which `spread` finds a number for each channel: the first, or that of the last so many."""
    return size - n_channels if n_inner > 1 else 0


@inner
def spread(table, n_channels, n_inner, size, rows):
    """Give all `n_inner` columns of a channel its number, in each row of the table.

    Vectors that reach behind a channel's columns end before the numbers that are still to be read: a row has more
    columns than all channels and a vector.
    """
    if n_inner > 1:
        for r in range(rows):
            at = r * size
            for c in range((r + 1) * size - n_channels, (r + 1) * size):
                v = splat(table, table[c])
                for k in range(at, at + n_inner, lanes(table)):
                    store(table, k, v)
                at += n_inner


@inner
def repeat(table, width, size, rows):
    """Continue each row of the table, `size` long, past its `width` entries by starting again."""
    for r in range(rows):
        for c in range(width, size):
            table[r * size + c] = table[r * size + c - width]


@inner
def put_affines(x, mean, var, weight, bias, eps, c0, width, table, at, size):
    """High, a and b of `width` channels from c0 on, so that y = (x - high) * a + b.

    They go to the three rows of `table`, `size` long, from column `at` on.
    """
    for c in range(0, width, lanes(x)):
        n, i = min(lanes(x), width - c), c0 + c
        m, v = wide_part(x, mean, i, n), wide_part(x, var, i, n)
        r = v if eps == INVERTED else invstd(v, eps)
        high = cast(m, x.dtype)
        a, b = scaled(cast(high, np.float64), m, r, wide_part(x, weight, i, n), wide_part(x, bias, i, n))
        store_part(table, at + c, high, n)
        store_part(table, at + size + c, cast(a, x.dtype), n)
        store_part(table, at + 2 * size + c, cast(b, x.dtype), n)


@inner
def put_gradients(x, mean, invstd, weight, sums, c0, width, count, table, at, size):
    """High means of x and dy, r, a, b and d of channels: dx = (dy - g_high) * a + ((x - x_high) * r * b + d).

    They go to the six rows of `table`; arguments as in `put_affines`.
    """
    for c in range(0, width, lanes(x)):
        n, i = min(lanes(x), width - c), c0 + c
        m, r = wide_part(x, mean, i, n), wide_part(x, invstd, i, n)
        g_mean = wide_part(x, sums[SUM_DY], i, n) / count
        x_high, g_high = cast(m, x.dtype), cast(g_mean, x.dtype)
        x_near, g_near = cast(x_high, np.float64), cast(g_high, np.float64)
        sum_dy_xmu, w = wide_part(x, sums[SUM_DY_XMU], i, n), wide_part(x, weight, i, n)
        a, b, d = sloped(x_near, g_near, m, g_mean, r, w, sum_dy_xmu, count)
        store_part(table, at + c, x_high, n)
        store_part(table, at + size + c, g_high, n)
        store_part(table, at + 2 * size + c, cast(r, x.dtype), n)
        store_part(table, at + 3 * size + c, cast(a, x.dtype), n)
        store_part(table, at + 4 * size + c, cast(b, x.dtype), n)
        store_part(table, at + 5 * size + c, cast(d, x.dtype), n)
