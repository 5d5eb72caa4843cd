"""What happens once a channel, in float64: sums become statistics, statistics become coefficients.

The mean is split into a part that the array's dtype holds and a rest: x - high is exact where x is near the mean, and
the rest goes into the constant. So data far from zero keeps all its digits at no cost.
"""

from __future__ import annotations

import numpy as np

from .._compile import OutRow, Table, inner, kernel
from .._geometry import GRAD_WEIGHT, INVSTD, M2, MEAN, SUM_DY, SUM_DY_XMU
from .._scalar import INVERTED
from .._scalar import affine as _affine
from .._scalar import blend as _blend
from .._scalar import gradient as _gradient
from .._scalar import invstd as _invstd
from .intrinsics import lanes, rounded

blend, invstd = inner(_blend), inner(_invstd)
scaled, sloped = inner(_affine), inner(_gradient)


@inner
def put_invstds(stats, first, width, count, eps):
    """INVSTD of `width` channels from `first` on from their M2 over `count` elements."""
    for c in range(first, first + width):
        stats[INVSTD, c] = invstd(stats[M2, c] / count, eps)


@inner
def put_grad_weights(sums, r, first, width):
    """GRAD_WEIGHT of `width` channels from `first` on from their SUM_DY_XMU and r, the invstd."""
    for c in range(first, first + width):
        sums[GRAD_WEIGHT, c] = r[c] * sums[SUM_DY_XMU, c]


@inner
def update_running(running_mean, running_var, mean, m2, count, momentum, ddof):
    """Blend the batch's statistics into the running ones, after all that reads what may be the same memory."""
    for c in range(len(mean)):
        running_mean[c] = blend(np.float64(running_mean[c]), mean[c], momentum)
        running_var[c] = blend(np.float64(running_var[c]), m2[c] / (count - ddof), momentum)


@kernel
def finish(
    running_mean: OutRow, running_var: OutRow, stats: Table, count: float, eps: float, momentum: float, ddof: float
) -> None:
    """invstd and the running statistics of all channels from mean and M2; C numbers."""
    put_invstds(stats, 0, stats.shape[1], count, eps)
    update_running(running_mean, running_var, stats[MEAN], stats[M2], count, momentum, ddof)


@inner
def affine(x, mean, r, weight, bias):
    """High, a and b of a channel, so that y = (x - high) * a + b."""
    high = rounded(x, mean)
    a, b = scaled(high, mean, r, weight, bias)
    return high, a, b


@inner
def gradient(x, mean, r, weight, sum_dy, sum_dy_xmu, count):
    """High means of x and dy, r, a, b and d of a channel: dx = (dy - g_high) * a + ((x - x_high) * r * b + d)."""
    g_mean = sum_dy / count
    x_high, g_high = rounded(x, mean), rounded(x, g_mean)
    a, b, d = sloped(x_high, g_high, mean, g_mean, r, weight, sum_dy_xmu, count)
    return x_high, g_high, r, a, b, d


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
def put_affines(x, mean, var, weight, bias, eps, c0, width, table, at, size):
    """High, a and b of `width` channels from c0 on, to the three rows of `table`, `size` long, from column `at` on."""
    for c in range(width):
        v = np.float64(var[c0 + c])
        r = v if eps == INVERTED else invstd(v, eps)
        h, a, b = affine(x, np.float64(mean[c0 + c]), r, np.float64(weight[c0 + c]), np.float64(bias[c0 + c]))
        table[at + c] = h
        table[at + size + c] = a
        table[at + 2 * size + c] = b


@inner
def normalize_coefficients(x, mean, var, weight, bias, eps, c0, width, table):
    """High, a and b of `width` channels from c0 on, to the three rows of `table`."""
    size = row_size(x, width)
    put_affines(x, mean, var, weight, bias, eps, c0, width, table, 0, size)
    repeat(table, width, size, 3)


@inner
def put_gradients(x, mean, invstd, weight, sums, c0, width, count, table, at, size):
    """High means of x and dy, r, a, b and d of channels, to the six rows of `table`; arguments as in `put_affines`."""
    for c in range(width):
        i = c0 + c
        h, gh, r, a, b, d = gradient(x, mean[i], invstd[i], weight[i], sums[SUM_DY, i], sums[SUM_DY_XMU, i], count)
        table[at + c] = h
        table[at + size + c] = gh
        table[at + 2 * size + c] = r
        table[at + 3 * size + c] = a
        table[at + 4 * size + c] = b
        table[at + 5 * size + c] = d


@inner
def gradient_coefficients(x, mean, invstd, weight, sums, c0, width, count, table):
    """High means of x and dy, r, a, b and d of `width` channels from c0 on, to the six rows of `table`."""
    size = row_size(x, width)
    put_gradients(x, mean, invstd, weight, sums, c0, width, count, table, 0, size)
    repeat(table, width, size, 6)
