"""What happens once a channel, in float64: sums become statistics, statistics become coefficients."""

from __future__ import annotations

import numpy as np

from .._compile_cuda import inner
from .._geometry import GRAD_WEIGHT, INVSTD, M2, MEAN, SUM_DY, SUM_DY_XMU
from .._scalar import affine as _affine
from .._scalar import blend as _blend
from .._scalar import gradient as _gradient
from .._scalar import invstd as _invstd
from .packets import lane

affine, blend, gradient, invstd = inner(_affine), inner(_blend), inner(_gradient), inner(_invstd)


@inner
def moment_sums(n, mean, m2, k):
    """Sum and sum of squares, less the pivot, of lane k: what only has to be added from here on."""
    count, rest = np.float64(n), np.float64(lane(mean, k))
    return count * rest, np.float64(lane(m2, k)) + count * rest * rest


@inner
def settle_moments(c, first, second, pivot, running_mean, running_var, stats, numbers):
    """Statistics and new running statistics of channel c from its sums; mean and invstd are returned."""
    count, eps, momentum, ddof = numbers
    n_channels = stats.size // 3
    rest = first / count
    m2 = second - first * rest
    m2 = 0.0 if m2 < 0.0 else m2
    mean = pivot + rest
    r = invstd(m2 / count, eps)
    stats[MEAN * n_channels + c] = mean
    stats[INVSTD * n_channels + c] = r
    stats[M2 * n_channels + c] = m2
    running_mean[c] = blend(np.float64(running_mean[c]), mean, momentum)
    running_var[c] = blend(np.float64(running_var[c]), m2 / (count - ddof), momentum)
    return mean, r


@inner
def settle_dots(c, sum_dy, sum_dy_xmh, high, mean, invstd, sums):
    """Sums of channel c from those about the high part of its mean; they are returned."""
    n_channels = sums.size // 3
    sum_dy_xmu = sum_dy_xmh - (mean - high) * sum_dy
    sums[SUM_DY * n_channels + c] = sum_dy
    sums[SUM_DY_XMU * n_channels + c] = sum_dy_xmu
    sums[GRAD_WEIGHT * n_channels + c] = invstd * sum_dy_xmu
    return sum_dy, sum_dy_xmu


@inner
def put_affine(table, at, pitch, mean, r, weight, bias):
    """High mean, a and b of a channel, to three rows of a table of x's dtype."""
    high = table.dtype.type(mean)
    a, b = affine(np.float64(high), mean, r, weight, bias)
    table[at] = high
    table[at + pitch] = a
    table[at + 2 * pitch] = b


@inner
def put_gradient(table, at, pitch, mean, r, weight, sum_dy, sum_dy_xmu, count):
    """High means of x and dy, r, a, b and d of a channel, to six rows of a table of x's dtype."""
    g_mean = sum_dy / count
    high, g_high = table.dtype.type(mean), table.dtype.type(g_mean)
    a, b, d = gradient(np.float64(high), np.float64(g_high), mean, g_mean, r, weight, sum_dy_xmu, count)
    table[at] = high
    table[at + pitch] = g_high
    table[at + 2 * pitch] = r
    table[at + 3 * pitch] = a
    table[at + 4 * pitch] = b
    table[at + 5 * pitch] = d
