"""Whole training passes in one launch, where a block's channels fit in shared memory: each element is read once.

They call the pieces of the other modules in the same order as these modules' kernels do: not a bit differs.
"""

from __future__ import annotations

import numpy as np

from .._compile_cuda import BLOCK, cuda, i32, inner, kernel
from .channels import moment_sums, put_affine, put_gradient, settle_dots, settle_moments
from .packets import lane, lanes, load, splat, store, take
from .plan import TEAMS
from .pointwise import slope
from .pointwise_first import AFFINE, GRADIENT
from .reduce_first import PAIRS, pivot_of, team_dots, team_moments
from .walk import ahead, offset_of, planes, steps_of


@inner
def staged_packet(staged, place, like):
    """A thread's next packet in shared memory, and where the one after it is."""
    return take(staged, place, like), i32(place + i32(BLOCK) * lanes(like))


@kernel
def forward_channels_first(
    x, y, running_mean, running_var, weight, bias, stats, shape, at_x,
    at_y, numbers,
):  # fmt: skip
    """y (N, C, S), statistics (3, C) and running statistics (C) of x; moves 2 elements' bytes an element."""
    shared = cuda.shared.array(PAIRS, x.dtype)
    table = cuda.shared.array(AFFINE, x.dtype)
    staged = cuda.shared.array(0, x.dtype)
    t, block = i32(cuda.threadIdx.x), i32(cuda.blockIdx.x)
    mine, member, channel, row, column, c, row_step, column_step, width, count = planes(block, i32(0), t, shape)
    pivot = pivot_of(x, at_x, channel, shape)
    n, mean, m2 = team_moments(x, at_x, block, i32(0), t, shape, pivot, shared, staged, True)
    if member == i32(0) and channel < shape[1]:
        first, second = moment_sums(n, mean, m2, 0)
        about, w, b = np.float64(lane(pivot, 0)), np.float64(weight[channel]), np.float64(bias[channel])
        m, r = settle_moments(channel, first, second, about, running_mean, running_var, stats, numbers)
        put_affine(table, mine, TEAMS, m, r, w, b)
    cuda.syncthreads()
    offset, (step, wrap) = offset_of(at_y, row, channel, column), steps_of(at_y, row_step, column_step, width)
    high, a = splat(pivot, table[mine]), splat(pivot, table[mine + TEAMS])
    b, place = splat(pivot, table[mine + 2 * TEAMS]), t
    while count > i32(0):
        v, place = staged_packet(staged, place, pivot)
        store(y, offset, (v - high) * a + b)
        offset, c = ahead(offset, c, step, column_step, width, wrap)
        count = i32(count - i32(1))


@kernel
def backward_channels_first(
    dy, x, dx, mean, invstd, weight, sums, shape, at_dy, at_x,
    at_dx, elements,
):  # fmt: skip
    """dx (N, C, S) and sums (3, C) of dy and x; moves 3 elements' bytes an element."""
    shared = cuda.shared.array(PAIRS, x.dtype)
    table = cuda.shared.array(GRADIENT, x.dtype)
    staged = cuda.shared.array(0, x.dtype)
    t, block = i32(cuda.threadIdx.x), i32(cuda.blockIdx.x)
    mine, member, channel, row, column, c, row_step, column_step, width, count = planes(block, i32(0), t, shape)
    about = x.dtype.type(mean[np.uint32(min(channel, i32(shape[1] - i32(1))))])
    sum_dy, dots = team_dots(dy, x, at_dy, at_x, block, i32(0), t, shape, about, shared, staged, True)
    if member == i32(0) and channel < shape[1]:
        m, r, w = np.float64(mean[channel]), np.float64(invstd[channel]), np.float64(weight[channel])
        first, second = np.float64(sum_dy), np.float64(dots)
        first, second = settle_dots(channel, first, second, np.float64(about), m, r, sums)
        put_gradient(table, mine, TEAMS, m, r, w, first, second, elements)
    cuda.syncthreads()
    offset, (step, wrap) = offset_of(at_dx, row, channel, column), steps_of(at_dx, row_step, column_step, width)
    like, place = load(x, at_x[0]), t
    high, g_high, r = splat(like, table[mine]), splat(like, table[mine + TEAMS]), splat(like, table[mine + 2 * TEAMS])
    a, b = splat(like, table[mine + 3 * TEAMS]), splat(like, table[mine + 4 * TEAMS])
    d = splat(like, table[mine + 5 * TEAMS])
    while count > i32(0):
        g, place = staged_packet(staged, place, like)
        v, place = staged_packet(staged, place, like)
        store(dx, offset, slope(g, v, high, g_high, r, a, b, d))
        offset, c = ahead(offset, c, step, column_step, width, wrap)
        count = i32(count - i32(1))
