"""What each element meets: y from x, dx from dy and x, by coefficients of its channel.

In place is as good as out of place: a vector is read, then written.

The mean is split into a part that the array's dtype holds and a rest: x - high is exact where x is near the mean, and
the rest goes into the constant. So data far from zero keeps all its digits at no cost.
"""

from __future__ import annotations

import math

from .._compile import Pack, inner, kernel
from .._geometry import BIAS, INVSTD, MEAN, SUM_DY, SUM_DY_XMU, WEIGHT
from .intrinsics import fma, lanes, rounded, store, stream

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
def put(y, m, v, streamed):
    if streamed:
        stream(y, m, v)
    else:
        store(y, m, v)


@inner
def slope(g, v, x_high, g_high, r, a, b, d):
    """dx of one vector of dy and x."""
    return fma(g - g_high, a, fma((v - x_high) * r, b, d))
