"""Sums over the rows of channels: channels last, (N, C) and NHWC.

Block (i, k) takes the k-th cut of rows of the i-th panel of channels, a packet of neighbouring channels each thread.
"""

from __future__ import annotations

import numpy as np

from .._compile_cuda import BLOCK, cuda, i32, inner, kernel
from .channels import moment_sums, settle_dots, settle_moments
from .packets import gather, lane, lanes, load, median, quotient
from .sums import add_team, dots_of, is_last, merge_team, moments_of, put_pair, total
from .walk import lanes_of_rows, offset_of

TRIPLES, PAIRS, WIDE = 9 * BLOCK, 8 * BLOCK, 2 * BLOCK  # elements of shared memory


@inner
def pivots_of(x, at, packet, shape):
    """Lane by lane, the median of three elements of a channel that lie far apart."""
    n_outer, n_packets = shape[0], shape[1]
    p = i32(min(packet, i32(n_packets - i32(1))))
    first = load(x, offset_of(at, i32(0), i32(0), p))
    middle = load(x, offset_of(at, i32(n_outer >> i32(1)), i32(0), p))
    return median(first, middle, load(x, offset_of(at, i32(n_outer - i32(1)), i32(0), p)))


@inner
def lane_triples(x, at, block, cut, t, shape, pivot, shared, staged, keep):
    """Moments of a packet of channels over a block's rows, in the thread of the first."""
    of_lane, mine, packet, row, count = lanes_of_rows(block, cut, t, shape)
    offset, step = offset_of(at, row, i32(0), packet), at[2]
    n, mean, m2 = moments_of(x, offset, i32(0), count, step, i32(0), i32(1), np.int64(0), pivot, staged, keep, t)
    return merge_team(n, mean, m2, shared, t, mine, shape[3], shape[2])


@inner
def lane_dots(
    dy, x, at_dy, at_x, block, cut, t, shape, high, shared,
    staged, keep,
):  # fmt: skip
    """Sums of a packet of channels over a block's rows, in the thread of the first."""
    of_lane, mine, packet, row, count = lanes_of_rows(block, cut, t, shape)
    of_dy, of_x = offset_of(at_dy, row, i32(0), packet), offset_of(at_x, row, i32(0), packet)
    step_dy, step_x = at_dy[2], at_x[2]
    none = np.int64(0)
    a, b = dots_of(
        dy, x, of_dy, of_x, i32(0), count, step_dy, step_x, i32(0), i32(1), none, none, high, staged, keep, t
    )
    return add_team(a, b, shared, t, mine, shape[3], shape[2])


@inner
def shares_of(block, t, shape, width):
    """For the last block: a thread's channel, share, and the number of shares; channel -1 for those left over."""
    n_packets, packets = shape[1], shape[2]
    here = i32(min(packets, i32(n_packets - block * packets)) * width)
    shares = quotient(i32(BLOCK), here)
    share = quotient(t, here)
    channel = i32(i32(block * packets) * width + i32(t - share * here))
    return channel, share, shares, here


@kernel
def moments_channels_last(
    x, running_mean, running_var, stats, partial, tickets, shape, at_x,
    numbers,
):  # fmt: skip
    """Statistics (3, C) and running statistics (C) of x (N, C); reads 1 element's bytes an element."""
    shared = cuda.shared.array(TRIPLES, x.dtype)
    wide = cuda.shared.array(WIDE, np.float64)
    flag = cuda.shared.array(1, np.int32)
    t, block, cut = i32(cuda.threadIdx.x), i32(cuda.blockIdx.x), i32(cuda.blockIdx.y)
    cuts = i32(cuda.gridDim.y)
    of_lane, mine, packet = lanes_of_rows(block, cut, t, shape)[:3]
    pivot = pivots_of(x, at_x, packet, shape)
    n, mean, m2 = lane_triples(x, at_x, block, cut, t, shape, pivot, shared, shared, False)
    n_channels = i32(shape[1] * lanes(pivot))
    if mine == i32(0) and packet < shape[1]:
        for k in range(lanes(pivot)):
            first, second = moment_sums(n, mean, m2, k)
            put_pair(partial, cut, i32(packet * lanes(pivot) + k), n_channels, first, second)
    if is_last(tickets, block, cuts, flag, t):
        channel, share, shares, here = shares_of(block, t, shape, lanes(pivot))
        a, b = total(partial, channel, n_channels, cuts if share < shares else i32(0), share, shares)
        a, b = add_team(a, b, wide, t, share, i32(min(shares, cuts)), here)
        if share == i32(0):
            p = quotient(channel, lanes(pivot))
            about = np.float64(lane(pivots_of(x, at_x, p, shape), i32(channel - p * lanes(pivot))))
            settle_moments(channel, lane(a, 0), lane(b, 0), about, running_mean, running_var, stats, numbers)


@kernel
def backward_reduce_channels_last(dy, x, mean, invstd, sums, partial, tickets, shape, at_dy, at_x):
    """Sums (3, C) of dy and x (N, C); reads 2 elements' bytes an element."""
    shared = cuda.shared.array(PAIRS, x.dtype)
    wide = cuda.shared.array(WIDE, np.float64)
    flag = cuda.shared.array(1, np.int32)
    t, block, cut = i32(cuda.threadIdx.x), i32(cuda.blockIdx.x), i32(cuda.blockIdx.y)
    cuts = i32(cuda.gridDim.y)
    of_lane, mine, packet = lanes_of_rows(block, cut, t, shape)[:3]
    like = load(x, at_x[0])
    width = lanes(like)
    high = gather(mean, i32(i32(min(packet, i32(shape[1] - i32(1)))) * width), like)
    a, b = lane_dots(dy, x, at_dy, at_x, block, cut, t, shape, high, shared, shared, False)
    n_channels = i32(shape[1] * width)
    if mine == i32(0) and packet < shape[1]:
        for k in range(width):
            put_pair(partial, cut, i32(packet * width + k), n_channels, lane(a, k), lane(b, k))
    if is_last(tickets, block, cuts, flag, t):
        channel, share, shares, here = shares_of(block, t, shape, width)
        a, b = total(partial, channel, n_channels, cuts if share < shares else i32(0), share, shares)
        a, b = add_team(a, b, wide, t, share, i32(min(shares, cuts)), here)
        if share == i32(0):
            m = np.float64(mean[channel])
            about = np.float64(x.dtype.type(m))
            settle_dots(channel, lane(a, 0), lane(b, 0), about, m, np.float64(invstd[channel]), sums)
