"""How elements are cut, by the shape alone, so that any number of threads gives the same bits.

Inside a chunk, which stays in L1 or L2, sums run in the array's own dtype over a fixed number of lanes. Between chunks
they are float64. A part is a run of chunks, the last of which may be shorter; parts are worked on in any order and
merged in theirs.
"""

from __future__ import annotations

from .._compile import inner
from .._scalar import merge as _merge

CHUNK = 4096  # elements of a channel: 16 KB of float32, which L1 holds where they have to be read again
STRIP = 256  # elements whose squares are added before they go to float64, 8 in a lane. Those of equal values, and of
# values far from zero, which are multiples of their last place, all round alike: with 64 in a lane, the variance of
# data at 10,000 standard deviations is off by 4e-7, with 16 that of zeros and a few others by 8e-7
ROWS = 128  # rows of a channels-last chunk
LEAST = 8 * CHUNK  # elements of a part, so that there is something to sum for what it costs to merge
PARTS = 64  # most parts that a channel, or all rows, are cut into
MOST_SQUARES = 1.5  # times M2 that squares around a pivot may add up to: it is 0.7 standard deviations off then
LOW, HIGH = 1e-30, 1e36  # M2 per element, and M2, that float32 squares hold with all digits

merge = inner(_merge)


@inner
def row(grid, k):
    """The three numbers in row k of a grid."""
    return grid[k, 0], grid[k, 1], grid[k, 2]


@inner
def n_parts(n_elements, n_chunks):
    """Parts of at least 32,768 elements, and of four chunks where that leaves four parts: all have sums to merge."""
    return max(1, min(PARTS, n_elements // LEAST, max(n_chunks // 4, min(n_chunks, 4))))


@inner
def channel_parts(n_outer, n_inner):
    size = n_outer * n_inner
    return n_parts(size, (size + CHUNK - 1) // CHUNK)


@inner
def row_parts(n_rows, n_channels):
    return n_parts(n_rows * n_channels, (n_rows + ROWS - 1) // ROWS)


@inner
def n_groups(n_channels, most, threads):
    """Groups that channels are taken in, of at most so many neighbours, as `part_range` cuts them.

    Each of several threads has as many, two at least: two never take neighbours at the same time, whose results share
    cache lines. Seven groups of 64 planes of 14x14 took two threads 1.15 times as long as eight, two groups 0.8 to 1.4
    times as long as four. A group costs a small array 0.3 us. What is in it makes no difference to a bit.
    """
    share = 2 * threads if threads > 1 else 1
    return min(n_channels, (n_channels + share * most - 1) // (share * most) * share)


@inner
def part_range(size, chunk, part, parts):
    """First and last of `size` elements, rows or channels that a part takes: whole chunks."""
    n_chunks = (size + chunk - 1) // chunk
    return n_chunks * part // parts * chunk, min(size, n_chunks * (part + 1) // parts * chunk)


@inner
def rows_range(n_rows, part, parts):
    """First and last row of a part: to 32 rows as many as in the others.

    Of 196 rows, whole chunks gave one thread 128 and the other 68: passes over them took 1.1 to 1.4 times as long. Of
    3,136 rows, parts to 32 or to eight rows end with short chunks: moments in cache take 1.07 and 1.1 times as long.
    """
    return part_range(n_rows, ROWS // 4, part, parts)


@inner
def in_range(m2, count):
    """False where squares may have left float32's range (or are NaN): the chunk is then taken again in float64."""
    return LOW * count < m2 < HIGH
