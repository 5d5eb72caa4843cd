"""How far ahead of what is read memory is asked for. The processor's own prefetchers begin anew with each run.

Over arrays beyond the caches nothing else counts as much: sums over 26 MB in rows of 64 channels took 2.1 times as
long without a line asked for, 1.4 times as long with only the next four rows.
"""

from __future__ import annotations

from .._caches import second_level
from .._compile import inner
from .partition import row
from .vectors import lanes, prefetch, prefetch_far

SECOND_LEVEL = second_level() or 1 << 20  # bytes of a channel that may stay in cache; the same for all of a processor's
# name, by which compiled code is kept
HALF_A_MEGABYTE, MEGABYTE = 1 << 19, 1 << 20
NEAR = 1024  # elements, 4 KB of float32, from what is read of planes to what is asked for
# Elements of the longest plane in which lines are asked for. Zen 4, with a megabyte of L2, follows longer ones best by
# itself: sums over 112x112 and 224x224 took 1.2 to 1.5 times as long with the next plane under way, up to 1.1 times
# with 1 KB. An Intel Xeon, with two, takes 0.5 to 0.9 of the time with 4 KB, training and the backward 0.75 to 0.95.
FAR = 8192 if SECOND_LEVEL <= MEGABYTE else 1 << 62
UNDER_WAY = 4096  # bytes of rows from what is read to what is asked for
PAGE = 4096  # bytes apart, lines have the same place in L1
LAST_LEVEL = 1 << 24  # bytes of inputs that a last-level cache may still hold


@inner
def prefetch_two(x, k):
    """The lines of two vectors."""
    prefetch(x, k)
    prefetch(x, k + lanes(x))


@inner
def far_two(x, k):
    """The lines of two vectors that are read much later."""
    prefetch_far(x, k)
    prefetch_far(x, k + lanes(x))


@inner
def far_four(x, k):
    """The lines of four vectors that are read much later."""
    far_two(x, k)
    far_two(x, k + 2 * lanes(x))


@inner
def far_last(x, stop):
    """The last lines before x[stop], which whoever asks for four at a time leaves."""
    far_four(x, stop - 1 - 4 * lanes(x))
    prefetch_far(x, stop - 1)


@inner
def planes_ahead(n, o, i, n_outer, n_inner):
    """What is asked for while n elements from i on are read in plane o of a channel.

    It lies some planes and some elements ahead, NEAR in the order of reading, or several short planes, of which these
    are the first n elements. This brings sums over 205 MB in planes of 28x28 from 36 to 48 GB/s. Nothing but what is
    read anyway is asked for, which costs less than another loop, where no plane is left: behind the array memory may
    not be mapped, and moments of eight planes of 28x28 a channel took 4 to 6 times as long.
    """
    if n_inner > FAR:
        return n, 0, 0
    if i + NEAR < n_inner:
        return min(n, n_inner - NEAR - i), 0, NEAR
    planes = 1 + NEAR // n_inner
    return (n, planes, min(0, NEAR - n_inner)) if o + planes < n_outer else (n, 0, 0)


@inner
def rows_ahead(x, width, stride, taken):
    """What `prefetch_rows` asks for while rows of `width` columns are summed, `taken` at a time, vector by vector.

    How far ahead its first element is, how many it moves on for each column, and how far apart its vectors are.
    Rows without gaps are asked for line after line, which the processor's prefetchers follow: column by column, as they
    are summed, sums over 26 MB took 1.25 to 1.4 times as long. Nothing is asked for in panels of rows that lie a
    multiple of 4 KB apart: all have their lines in one place of L1, which holds eight. With the next rows asked for,
    sums over 4,096 channels in cache took 1.6 times as long.
    """
    rows = max(taken, UNDER_WAY // (width * x.itemsize))
    if width == stride:
        return rows * stride, taken, lanes(x)
    return 0 if stride * x.itemsize % PAGE == 0 else rows * stride, 1, stride


@inner
def prefetch_rows(x, k, c, taken, ahead):
    """Ask for as many vectors as are `taken` at column c of the rows from x[k:] on."""
    first, pace, apart = ahead
    for i in range(taken):
        prefetch(x, k + first + c * pace + i * apart)


@inner
def planes_asked(x, grid, inputs):
    """Of how many planes, the first of a channel, the next channels' are asked for while results are written.

    Training passes over 50 MB and more then took 0.8 to 0.95 of the time. Long planes of channels that stay in cache
    took 1.06 to 1.2 times as long on Zen 4, arrays that the last-level cache holds 1.06 times. With half a megabyte of
    cache (Zen 1, which reads no faster than it copies) all of them took 1.0 to 1.35 times as long. To be asked where
    lines are asked for, not handed on: what is never done there has no code then, 0.9 of the time of a backward in
    cache.

    Planes come last first, and what is asked for takes the place of what has lain in cache longest: planes that are
    still to be written. With two megabytes (an Intel Xeon) as many as fit beside the channel, or none, took 0.9 to 0.95
    of the time of all in channels of 1.6 to 6.4 MB.
    """
    n_outer, n_channels, n_inner = row(grid, 0)
    plane = n_inner * x.itemsize * inputs
    channel = n_outer * plane
    if SECOND_LEVEL <= HALF_A_MEGABYTE or channel * n_channels <= LAST_LEVEL:
        return 0
    if SECOND_LEVEL > MEGABYTE:
        return SECOND_LEVEL * 7 // 8 // plane - n_outer
    return n_outer if n_inner <= FAR or channel > SECOND_LEVEL else 0
