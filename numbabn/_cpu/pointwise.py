"""What each element meets: y from x, dx from dy and x, by coefficients of its channel.

In place is as good as out of place: a vector is read, then written. Numba tells LLVM that the arrays of a parallel loop
are apart, so a vector that is to be read early may then be read after it is written: vectors overlap only where
`in_order` keeps them from that. The first and the last two vectors of a plane do, with the same results in the lanes
that they share: parts of vectors took up to 1.9 times as long over planes of 7x7 where the processor has no masks
(AVX2). What is streamed is written once, in parts at both ends.

Along rows the next vectors are read before these are written. A processor that first compares the last 12 bits of two
addresses takes a read for one of what has just been written where y lies 64 bytes behind x modulo 4096, and waits: one
row at a time took 1.25 times as long so, four rows of whole pages 1.4 times from 16 bytes on. The last vectors are read
twice, the second time for nothing.
"""

from __future__ import annotations

from .._compile import inline, inner
from .vectors import fma, splat, store, store_part, stream

SPAN = 16384  # elements of one work item, 64 KB of float32
LONG = 8  # vectors from which on a run is worth bringing onto cache lines, and may be streamed


@inner
def shared(items):
    """Work items, more than one being as many for each of up to eight threads.

    Of seven, one of two threads had four: evals of planes of 7x7 and 14x14 took 1.12 to 1.17 times as long.
    """
    return items if items <= 1 else (items + 7) // 8 * 8


@inline
def put(y, m, v, streamed):
    if streamed:
        stream(y, m, v)
    else:
        store(y, m, v)


@inline
def finish(y, late):
    """Write a run's last vector: (lanes, where, how many). It waits until the next run's first vector is read.

    In place, where runs lie next to each other, that read would wait for this write if it is a part: to some processors
    a masked write covers all lanes. Planes of 7x7 took 1.6 times as long as with another output.
    """
    v, m, n = late
    if n > 0:
        store_part(y, m, v, n)


@inner
def nothing(x, m):
    """What `finish` has nothing to do for."""
    return splat(x, 0.0), m, 0


@inline
def slope(g, v, x_high, g_high, r, a, b, d):
    """dx of one vector of dy and x."""
    return fma(g - g_high, a, fma((v - x_high) * r, b, d))
