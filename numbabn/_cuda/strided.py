"""All passes over arrays of any strides, element by element: right and without a copy, but slower.

Channels and the elements of one are counted through; where an element lies is found by division.
"""

from __future__ import annotations

import numpy as np

from .._compile_cuda import cuda, i32, inner, kernel
from .._geometry import SUM_DY, SUM_DY_XMU
from .._scalar import INVERTED
from .channels import invstd, moment_sums, put_affine, put_gradient, settle_dots, settle_moments
from .packets import lane, load, median, number, product, quotient, splat, store
from .plan import TEAMS
from .pointwise import slope
from .sums import WARPS, across_team, is_last, merged, moments_across_team, put_pair, total
from .walk import planes

PAIRS = 2 * WARPS  # elements of shared memory
AFFINE, GRADIENT = 3 * TEAMS, 6 * TEAMS


@inner
def times(index, stride):
    """A 32-bit index times a 64-bit stride, by two products of 32 bits."""
    high, low = i32(stride >> np.int64(16)), i32(stride & np.int64(0xFFFF))
    return (product(index, high) << np.int64(16)) + product(index, low)


@inner
def steps(index, extents, strides):
    """Offset of the index-th combination of axes, the fastest one first."""
    offset = np.int64(0)
    for k in range(len(extents)):
        rest = quotient(index, extents[k])
        offset += times(i32(index - rest * extents[k]), strides[k])
        index = rest
    return offset


@inner
def channel_at(at, channel, shape):
    """Offset of a channel; the last one stands in for those beyond."""
    return at[0] + steps(i32(min(channel, i32(shape[0][1] - i32(1)))), shape[1], at[1])


@inner
def pivot_of(x, at, channel, shape):
    """The median of three elements of a channel that lie far apart."""
    start, size = channel_at(at, channel, shape), shape[0][2]
    first, middle = load(x, start), load(x, start + steps(i32(size >> i32(1)), shape[2], at[2]))
    return median(first, middle, load(x, start + steps(i32(size - i32(1)), shape[2], at[2])))


@kernel
def moments_strided(
    x, running_mean, running_var, stats, partial, tickets, shape, at_x,
    numbers,
):  # fmt: skip
    """Statistics (3, C) and running statistics (C) of x; reads 1 element's bytes an element."""
    shared = cuda.shared.array(PAIRS, x.dtype)
    wide = cuda.shared.array(PAIRS, np.float64)
    flag = cuda.shared.array(1, np.int32)
    t, block, cut = i32(cuda.threadIdx.x), i32(cuda.blockIdx.x), i32(cuda.blockIdx.y)
    cuts, n_channels, team = i32(cuda.gridDim.y), shape[0][1], shape[0][3]
    mine, member, channel, row, j, c, row_step, column_step, width, count = planes(block, cut, t, shape[0])
    start, pivot = channel_at(at_x, channel, shape), pivot_of(x, at_x, channel, shape)
    zero = splat(pivot, 0.0)
    n, mean, m2 = number(pivot, 0.0), zero, zero
    while count > i32(0):
        v = load(x, start + steps(j, shape[2], at_x[2]))
        n, mean, m2 = merged(n, mean, m2, number(pivot, 1.0), v - pivot, zero)
        j, count = i32(j + team), i32(count - i32(1))
    n, mean, m2 = moments_across_team(n, mean, m2, shared, t, team)
    is_first = member == i32(0) and channel < n_channels
    if is_first:
        first, second = moment_sums(n, mean, m2, 0)
        put_pair(partial, cut, channel, n_channels, first, second)
    if is_last(tickets, block, cuts, flag, t):
        a, b = total(partial, channel, n_channels, cuts if channel < n_channels else i32(0), member, team)
        a, b = across_team(lane(a, 0), lane(b, 0), wide, t, team)
        if is_first:
            about = np.float64(lane(pivot, 0))
            settle_moments(channel, a, b, about, running_mean, running_var, stats, numbers)


@kernel
def backward_reduce_strided(dy, x, mean, scale, sums, partial, tickets, shape, at_dy, at_x):
    """Sums (3, C) of dy and x; reads 2 elements' bytes an element."""
    shared = cuda.shared.array(PAIRS, x.dtype)
    wide = cuda.shared.array(PAIRS, np.float64)
    flag = cuda.shared.array(1, np.int32)
    t, block, cut = i32(cuda.threadIdx.x), i32(cuda.blockIdx.x), i32(cuda.blockIdx.y)
    cuts, n_channels, team = i32(cuda.gridDim.y), shape[0][1], shape[0][3]
    mine, member, channel, row, j, c, row_step, column_step, width, count = planes(block, cut, t, shape[0])
    of_dy, of_x = channel_at(at_dy, channel, shape), channel_at(at_x, channel, shape)
    high = x.dtype.type(mean[np.uint32(min(channel, i32(n_channels - i32(1))))])
    about = splat(load(x, of_x), high)
    a, b = splat(about, 0.0), splat(about, 0.0)
    while count > i32(0):
        g = load(dy, of_dy + steps(j, shape[2], at_dy[2]))
        a, b = a + g, b + g * (load(x, of_x + steps(j, shape[2], at_x[2])) - about)
        j, count = i32(j + team), i32(count - i32(1))
    first, second = across_team(lane(a, 0), lane(b, 0), shared, t, team)
    is_first = member == i32(0) and channel < n_channels
    if is_first:
        put_pair(partial, cut, channel, n_channels, first, second)
    if is_last(tickets, block, cuts, flag, t):
        d, e = total(partial, channel, n_channels, cuts if channel < n_channels else i32(0), member, team)
        d, e = across_team(lane(d, 0), lane(e, 0), wide, t, team)
        if is_first:
            rows = np.float64(mean[channel]), np.float64(scale[channel])
            settle_dots(channel, d, e, np.float64(high), *rows, sums)


@kernel
def normalize_strided(x, y, mean, var, weight, bias, shape, at_x, at_y, eps):
    """y from x and rows (C); without eps, var is invstd. Moves 2 elements' bytes an element."""
    table = cuda.shared.array(AFFINE, x.dtype)
    t, block, cut, team = i32(cuda.threadIdx.x), i32(cuda.blockIdx.x), i32(cuda.blockIdx.y), shape[0][3]
    mine, member, channel, row, j, c, row_step, column_step, width, count = planes(block, cut, t, shape[0])
    if member == i32(0) and channel < shape[0][1]:
        given = np.float64(var[channel])
        r = given if eps == INVERTED else invstd(given, eps)
        rows = np.float64(mean[channel]), r, np.float64(weight[channel]), np.float64(bias[channel])
        put_affine(table, mine, TEAMS, *rows)
    cuda.syncthreads()
    of_x, of_y = channel_at(at_x, channel, shape), channel_at(at_y, channel, shape)
    v = load(x, of_x)
    high, a, b = splat(v, table[mine]), splat(v, table[mine + TEAMS]), splat(v, table[mine + 2 * TEAMS])
    while count > i32(0):
        v = load(x, of_x + steps(j, shape[2], at_x[2]))
        store(y, of_y + steps(j, shape[2], at_y[2]), (v - high) * a + b)
        j, count = i32(j + team), i32(count - i32(1))


@kernel
def backward_elemt_strided(
    dy, x, dx, mean, scale, weight, sums, shape, at_dy, at_x,
    at_dx, n,
):  # fmt: skip
    """dx from dy, x, rows (C) and sums over n elements; moves 3 elements' bytes an element."""
    table = cuda.shared.array(GRADIENT, x.dtype)
    t, block, cut, team = i32(cuda.threadIdx.x), i32(cuda.blockIdx.x), i32(cuda.blockIdx.y), shape[0][3]
    n_channels = shape[0][1]
    mine, member, channel, row, j, c, row_step, column_step, width, count = planes(block, cut, t, shape[0])
    if member == i32(0) and channel < n_channels:
        both = sums[SUM_DY * n_channels + channel], sums[SUM_DY_XMU * n_channels + channel]
        rows = np.float64(mean[channel]), np.float64(scale[channel]), np.float64(weight[channel])
        put_gradient(table, mine, TEAMS, *rows, *both, n)
    cuda.syncthreads()
    of_dy, of_x = channel_at(at_dy, channel, shape), channel_at(at_x, channel, shape)
    of_dx, v = channel_at(at_dx, channel, shape), load(x, of_x)
    high, g_high, r = splat(v, table[mine]), splat(v, table[mine + TEAMS]), splat(v, table[mine + 2 * TEAMS])
    a, b = splat(v, table[mine + 3 * TEAMS]), splat(v, table[mine + 4 * TEAMS])
    d = splat(v, table[mine + 5 * TEAMS])
    while count > i32(0):
        g, v = load(dy, of_dy + steps(j, shape[2], at_dy[2])), load(x, of_x + steps(j, shape[2], at_x[2]))
        store(dx, of_dx + steps(j, shape[2], at_dx[2]), slope(g, v, high, g_high, r, a, b, d))
        j, count = i32(j + team), i32(count - i32(1))
