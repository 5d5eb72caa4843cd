"""Sums of one thread, of a team of threads, and of all blocks that share a channel, always in the same order.

A thread's moments are a count for each lane, a mean and a sum of squared deviations (M2) relative to a pivot of the
channel: tiles of four packets, combined by Chan's formula. The pivot keeps float32 exact far from zero, the tiles where
the pivot is an outlier: on data at 1e5 standard deviations either alone loses 1,000 times as much.
"""

from __future__ import annotations

import numpy as np

from .._compile_cuda import BLOCK, cuda, i32, inner
from .packets import lane, lane_sum, lanes, load, number, put, reciprocal, single, splat, take
from .walk import ahead

WHOLE, WARP, WARPS = 0xFFFFFFFF, 32, BLOCK // 32 or 1  # mask and threads of a warp, warps of a block


@inner
def merged(n_a, mean_a, m2_a, n_b, mean_b, m2_b):
    """Count, mean and M2 of two samples together, lane by lane, by Chan's formula; the second is not empty."""
    n = n_a + n_b
    share = n_b * reciprocal(n)
    delta = mean_b - mean_a
    return n, mean_a + delta * splat(mean_a, share), m2_a + m2_b + delta * delta * splat(mean_a, n_a * share)


@inner
def tile(a, b, c, d):
    """Mean and M2 of four packets, lane by lane."""
    mean = ((a + b) + (c + d)) * splat(a, 0.25)
    a, b, c, d = a - mean, b - mean, c - mean, d - mean
    return mean, (a * a + b * b) + (c * c + d * d)


@inner
def moments_of(
    x, offset, column, count, step, column_step, width, wrap, pivot,
    staged, keep, t,
):  # fmt: skip
    """Count, mean and M2 of a thread's packets of x, less the pivot; with `keep`, packets stay in shared memory."""
    zero = splat(pivot, 0.0)
    n, mean, m2 = number(pivot, 0.0), zero, zero
    place = t
    while count >= i32(4):
        first = offset
        offset, column = ahead(offset, column, step, column_step, width, wrap)
        second = offset
        offset, column = ahead(offset, column, step, column_step, width, wrap)
        third = offset
        offset, column = ahead(offset, column, step, column_step, width, wrap)
        fourth = offset
        offset, column = ahead(offset, column, step, column_step, width, wrap)
        a, b, c, d = load(x, first), load(x, second), load(x, third), load(x, fourth)
        if keep:
            place = stage(staged, stage(staged, stage(staged, stage(staged, place, a), b), c), d)
        mean_b, m2_b = tile(a - pivot, b - pivot, c - pivot, d - pivot)
        n, mean, m2 = merged(n, mean, m2, number(pivot, 4.0), mean_b, m2_b)
        count = i32(count - i32(4))
    while count > i32(0):
        a = load(x, offset)
        offset, column = ahead(offset, column, step, column_step, width, wrap)
        if keep:
            place = stage(staged, place, a)
        n, mean, m2 = merged(n, mean, m2, number(pivot, 1.0), a - pivot, zero)
        count = i32(count - i32(1))
    return n, mean, m2


@inner
def dots_of(
    dy, x, at_dy, at_x, column, count, step_dy, step_x, column_step,
    width, wrap_dy, wrap_x, high, staged, keep, t,
):  # fmt: skip
    """Sums of dy and of dy * (x - high) of a thread's packets; with `keep`, packets stay in shared memory."""
    sums, dots = splat(high, 0.0), splat(high, 0.0)
    place = t
    while count >= i32(2):
        g0, x0, before = at_dy, at_x, column
        at_dy, column = ahead(at_dy, before, step_dy, column_step, width, wrap_dy)
        at_x, column = ahead(at_x, before, step_x, column_step, width, wrap_x)
        g1, x1, before = at_dy, at_x, column
        at_dy, column = ahead(at_dy, before, step_dy, column_step, width, wrap_dy)
        at_x, column = ahead(at_x, before, step_x, column_step, width, wrap_x)
        a, b, c, d = load(dy, g0), load(x, x0), load(dy, g1), load(x, x1)
        if keep:
            place = stage(staged, stage(staged, stage(staged, stage(staged, place, a), b), c), d)
        sums = sums + (a + c)
        dots = dots + (a * (b - high) + c * (d - high))
        count = i32(count - i32(2))
    if count > i32(0):
        a, b = load(dy, at_dy), load(x, at_x)
        if keep:
            place = stage(staged, stage(staged, place, a), b)
        sums = sums + a
        dots = dots + a * (b - high)
    return sums, dots


@inner
def lane_moments(n, mean, m2):
    """Moments of all lanes, which are as many values each, together: packets of one lane."""
    k = number(mean, lanes(mean))
    average = lane_sum(mean) * (number(mean, 1.0) / k)
    delta = mean - splat(mean, average)
    return n * k, single(average), single(lane_sum(m2 + delta * delta * splat(mean, n)))


@inner
def stage(staged, place, v):
    """Keep a packet in shared memory; where the thread's next one goes."""
    put(staged, place, v)
    return i32(place + i32(BLOCK) * lanes(v))


@inner
def half_of(members):
    """The largest power of two below a number, 0 for 1."""
    half = i32(0) if members < i32(2) else i32(1)
    while i32(half + half) < members and half > i32(0):
        half = i32(half + half)
    return half


@inner
def merge_team(n, mean, m2, shared, t, member, members, pitch):
    """Moments of a team in its first member; members are `pitch` threads apart. All threads of the block call it.

    Shared memory has a row of counts and two of packets' lanes.
    """
    at_m2 = i32(i32(BLOCK) + i32(BLOCK) * lanes(mean))
    shared[np.uint32(t)] = n
    put(shared, i32(t + i32(BLOCK)), mean)
    put(shared, i32(t + at_m2), m2)
    half = half_of(members)
    cuda.syncthreads()
    while half > i32(0):
        if member < half and i32(member + half) < members:
            other = i32(t + half * pitch)
            n_b = shared[np.uint32(other)]
            if n_b > number(mean, 0.0):
                mean_b, m2_b = take(shared, i32(other + i32(BLOCK)), mean), take(shared, i32(other + at_m2), m2)
                n, mean, m2 = merged(n, mean, m2, n_b, mean_b, m2_b)
                shared[np.uint32(t)] = n
                put(shared, i32(t + i32(BLOCK)), mean)
                put(shared, i32(t + at_m2), m2)
        cuda.syncthreads()
        half = i32(half >> i32(1))
    return n, mean, m2


@inner
def across_warp(value):
    """Sum over the 32 threads of a warp, in each of them."""
    value = value + cuda.shfl_xor_sync(WHOLE, value, 16)
    value = value + cuda.shfl_xor_sync(WHOLE, value, 8)
    value = value + cuda.shfl_xor_sync(WHOLE, value, 4)
    value = value + cuda.shfl_xor_sync(WHOLE, value, 2)
    return value + cuda.shfl_xor_sync(WHOLE, value, 1)


@inner
def across_team(a, b, shared, t, team):
    """Two sums over a team of neighbouring warps, in each of its threads. All threads of the block call it."""
    a, b = across_warp(a), across_warp(b)
    if team > i32(WARP):
        warp, warps = i32(t >> i32(5)), i32(team >> i32(5))
        if t & i32(31) == 0:
            shared[np.uint32(warp)] = a
            shared[np.uint32(i32(warp + i32(WARPS)))] = b
        cuda.syncthreads()
        k = i32(warp - i32(warp & i32(warps - i32(1))))
        end = i32(k + warps)
        a, b = shared[np.uint32(k)], shared[np.uint32(i32(k + i32(WARPS)))]
        k = i32(k + i32(1))
        while k < end:
            a, b = a + shared[np.uint32(k)], b + shared[np.uint32(i32(k + i32(WARPS)))]
            k = i32(k + i32(1))
        cuda.syncthreads()
    return a, b


@inner
def moments_across_team(n, mean, m2, shared, t, team):
    """Moments of a team from those of its threads: the mean first, then the squares about it."""
    own = lane(mean, 0)
    total, count = across_team(n * own, n, shared, t, team)
    middle = total * reciprocal(count)
    apart = own - middle
    squares, count = across_team(lane(m2, 0) + n * apart * apart, n, shared, t, team)
    return count, single(middle), single(squares)


@inner
def add_team(a, b, shared, t, member, members, pitch):
    """Two sums of a team in its first member, as in `merge_team`; shared memory has two rows of packets' lanes."""
    at_b = i32(i32(BLOCK) * lanes(a))
    put(shared, t, a)
    put(shared, i32(t + at_b), b)
    half = half_of(members)
    cuda.syncthreads()
    while half > i32(0):
        if member < half and i32(member + half) < members:
            other = i32(t + half * pitch)
            a = a + take(shared, other, a)
            b = b + take(shared, i32(other + at_b), b)
            put(shared, t, a)
            put(shared, i32(t + at_b), b)
        cuda.syncthreads()
        half = i32(half >> i32(1))
    return a, b


@inner
def is_last(tickets, block, blocks, flag, t):
    """Whether this block is the last of `blocks` to come here; it sees what the others wrote before."""
    cuda.threadfence()
    cuda.syncthreads()
    if t == i32(0):
        last = cuda.atomic.add(tickets, block, i32(1)) == i32(blocks - i32(1))
        if last:
            tickets[np.uint32(block)] = i32(0)
        flag[0] = i32(1) if last else i32(0)
    cuda.syncthreads()
    cuda.threadfence()
    return flag[0] == i32(1)


@inner
def put_pair(partial, cut, channel, n_channels, first, second):
    """Leave two sums of a cut of a channel to the last block, in a table (cuts, 2, C)."""
    place = np.int64(cut) * np.int64(2 * n_channels) + np.int64(channel)
    partial[place] = first
    partial[place + np.int64(n_channels)] = second


@inner
def total(partial, channel, n_channels, cuts, share, shares):
    """Two sums of a channel over every `shares`-th cut from `share` on."""
    first, second = single(0.0), single(0.0)
    place = np.int64(share) * np.int64(2 * n_channels) + np.int64(channel)
    while share < cuts:
        first = first + load(partial, place)
        second = second + load(partial, place + np.int64(n_channels))
        place += np.int64(shares) * np.int64(2 * n_channels)
        share = i32(share + shares)
    return first, second
