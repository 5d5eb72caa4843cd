"""Planes that have a whole vector, but are too short to be worth bringing onto cache lines: 4x4 to 11x11.

Nothing is written in part or past the caches, so nothing has to be found out plane by plane. In cache an eval of 4x4
takes 0.45 to 0.7 of the time that it takes in the way of longer planes, of 7x7 0.7 to 0.9; backwards 0.65 to 0.9 on
AVX2 and as long on AVX-512.
"""

from __future__ import annotations

import numpy as np

from .._compile import inner
from .pointwise import LONG, slope
from .vectors import fma, in_order, lanes, load, prefetch, splat, store

AHEAD = 512  # elements from what is written to what is asked for. Without, evals of 7x7 in a third-level cache took 1.1
# times as long as in the way of longer planes: so fast a loop waits for the lines that it writes


@inner
def number(like, table, i):
    """Vector with table[i] in every lane. Numba asks a signed index whether it is below 0, six times in a backward."""
    return splat(like, table[np.uintp(i)])


@inner
def brief(x, n):
    """Whether planes of n elements are brief."""
    return lanes(x) <= n < LONG * lanes(x)


@inner
def first_without(last, n):
    """The first of the channels up to `last` in whose planes nothing further is asked for: it would lie behind the row.

    Other threads write there, and behind the array memory may not be mapped.
    """
    return last - 1 - AHEAD // n


@inner
def normalize_brief(x, y, table, n_channels, c, last, k, xc, m, yc, n):
    """Planes of channels c to `last` from x[k:] to y[m:], side by side or apart; their last two vectors overlap."""
    step, end = lanes(x), first_without(last, n)
    for i in range(c, last):
        high, a, b = number(x, table, i), number(x, table, n_channels + i), number(x, table, 2 * n_channels + i)
        later = m + AHEAD if i < end else m
        v, j = load(x, k), 0
        while j + step < n:
            following = min(j + step, n - step)
            prefetch(y, later + j)
            w = load(x, k + following)
            in_order()
            store(y, m + j, fma(v - high, a, b))
            v, j = w, following
        store(y, m + j, fma(v - high, a, b))
        k += xc
        m += yc


@inner
def gradient_brief(dy, x, dx, table, n_channels, c, last, g, gc, k, xc, m, dc, n):
    """Planes of channels c to `last` from dy[g:] and x[k:] to dx[m:], as in `normalize_brief`."""
    step, end = lanes(x), first_without(last, n)
    for i in range(c, last):
        x_high, g_high = number(x, table, i), number(x, table, n_channels + i)
        r, a = number(x, table, 2 * n_channels + i), number(x, table, 3 * n_channels + i)
        b, d = number(x, table, 4 * n_channels + i), number(x, table, 5 * n_channels + i)
        later = m + AHEAD if i < end else m
        w, v, j = load(dy, g), load(x, k), 0
        while j + step < n:
            following = min(j + step, n - step)
            prefetch(dx, later + j)
            next_w, next_v = load(dy, g + following), load(x, k + following)
            in_order()
            store(dx, m + j, slope(w, v, x_high, g_high, r, a, b, d))
            w, v, j = next_w, next_v, following
        store(dx, m + j, slope(w, v, x_high, g_high, r, a, b, d))
        g += gc
        k += xc
        m += dc
