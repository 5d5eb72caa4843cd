"""Sums over the planes of channels: channels first, the inner run contiguous.

Block (i, k) takes the k-th cut of a few channels' rows and columns.
"""

from __future__ import annotations

import numpy as np

from .._compile_cuda import cuda, i32, inner, kernel
from .channels import moment_sums, settle_dots, settle_moments
from .packets import lane, lane_sum, load, median, splat
from .sums import WARPS, across_team, dots_of, is_last, lane_moments, moments_across_team, moments_of, put_pair, total
from .walk import offset_of, planes, steps_of

PAIRS = 2 * WARPS  # elements of shared memory


@inner
def pivot_of(x, at, channel, shape):
    """The median of three elements of a channel that lie far apart: no outlier, and no zero pad, chooses it."""
    n_outer, n_channels, n_inner = shape[0], shape[1], shape[2]
    c = i32(min(channel, i32(n_channels - i32(1))))
    first = load(x, offset_of(at, i32(0), c, i32(0)))
    middle = load(x, offset_of(at, i32(n_outer >> i32(1)), c, i32(n_inner >> i32(1))))
    last = load(x, offset_of(at, i32(n_outer - i32(1)), c, i32(n_inner - i32(1))))
    return splat(first, lane(median(first, middle, last), 0))


@inner
def team_moments(x, at, block, cut, t, shape, pivot, shared, staged, keep):
    """Moments of a team's part of its channel, in its first member."""
    mine, member, channel, row, column, c, row_step, column_step, width, count = planes(block, cut, t, shape)
    offset = offset_of(at, row, channel, column)
    step, wrap = steps_of(at, row_step, column_step, width)
    n, mean, m2 = moments_of(x, offset, c, count, step, column_step, width, wrap, pivot, staged, keep, t)
    n, mean, m2 = lane_moments(n, mean, m2)
    return moments_across_team(n, mean, m2, shared, t, shape[3])


@inner
def team_dots(
    dy, x, at_dy, at_x, block, cut, t, shape, high, shared,
    staged, keep,
):  # fmt: skip
    """Sums of a team's part of its channel, in its first member."""
    mine, member, channel, row, column, c, row_step, column_step, width, count = planes(block, cut, t, shape)
    of_dy, of_x = offset_of(at_dy, row, channel, column), offset_of(at_x, row, channel, column)
    step_dy, wrap_dy = steps_of(at_dy, row_step, column_step, width)
    step_x, wrap_x = steps_of(at_x, row_step, column_step, width)
    about = splat(load(x, at_x[0]), high)
    a, b = dots_of(
        dy, x, of_dy, of_x, c, count, step_dy, step_x, column_step, width, wrap_dy, wrap_x, about, staged, keep, t
    )
    return across_team(lane_sum(a), lane_sum(b), shared, t, shape[3])


@kernel
def moments_channels_first(
    x, running_mean, running_var, stats, partial, tickets, shape, at_x,
    numbers,
):  # fmt: skip
    """Statistics (3, C) and running statistics (C) of x (N, C, S); reads 1 element's bytes an element."""
    shared = cuda.shared.array(PAIRS, x.dtype)
    wide = cuda.shared.array(PAIRS, np.float64)
    flag = cuda.shared.array(1, np.int32)
    t, block, cut = i32(cuda.threadIdx.x), i32(cuda.blockIdx.x), i32(cuda.blockIdx.y)
    cuts, n_channels, team = i32(cuda.gridDim.y), shape[1], shape[3]
    member, channel = planes(block, cut, t, shape)[1:3]
    pivot = pivot_of(x, at_x, channel, shape)
    n, mean, m2 = team_moments(x, at_x, block, cut, t, shape, pivot, shared, shared, False)
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
def backward_reduce_channels_first(dy, x, mean, invstd, sums, partial, tickets, shape, at_dy, at_x):
    """Sums (3, C) of dy and x (N, C, S); reads 2 elements' bytes an element."""
    shared = cuda.shared.array(PAIRS, x.dtype)
    wide = cuda.shared.array(PAIRS, np.float64)
    flag = cuda.shared.array(1, np.int32)
    t, block, cut = i32(cuda.threadIdx.x), i32(cuda.blockIdx.x), i32(cuda.blockIdx.y)
    cuts, n_channels, team = i32(cuda.gridDim.y), shape[1], shape[3]
    member, channel = planes(block, cut, t, shape)[1:3]
    high = x.dtype.type(mean[np.uint32(min(channel, i32(n_channels - i32(1))))])
    a, b = team_dots(dy, x, at_dy, at_x, block, cut, t, shape, high, shared, shared, False)
    is_first = member == i32(0) and channel < n_channels
    if is_first:
        put_pair(partial, cut, channel, n_channels, a, b)
    if is_last(tickets, block, cuts, flag, t):
        a, b = total(partial, channel, n_channels, cuts if channel < n_channels else i32(0), member, team)
        a, b = across_team(lane(a, 0), lane(b, 0), wide, t, team)
        if is_first:
            rows = np.float64(mean[channel]), np.float64(invstd[channel])
            settle_dots(channel, a, b, np.float64(high), *rows, sums)
