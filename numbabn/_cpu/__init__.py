"""CPU backend: per-channel loops over NumPy arrays in C order, of any rank.

Every function takes operands, rows with a number for each channel, float32 or float64, and the geometry that the
operands share. Statistics and sums, whose rows `numbabn._geometry` names, are written.
"""

from __future__ import annotations

import numpy as np

from .._caches import last_level, second_level
from .._compile import In, Out, OutRow, Row, Table, threads_for
from .._geometry import INVSTD, MEAN, Geometry
from .._scalar import INVERTED
from . import (
    channels,
    fused_first,
    fused_last,
    pointwise_first,
    pointwise_last,
    reduce_first,
    reduce_last,
    reduce_short,
)
from . import intrinsics as intrinsics  # what vectors compile to
from . import objects as objects

# Bytes of all operands above which no cache keeps a result for its reader, which is then written past them, unless an
# input has just brought in its lines: the last-level cache, or less of one that many share. With 32 MiB of it, streamed
# stores took 1.2 times as long as plain ones at 32 MiB and 0.8 times at 38 MB. With 260 MB of it, among many other
# processors, they took 0.8 to 0.9 of the time from 35 MB on, and 0.85 together with a pass that read the result; short
# planes, for which results are written twice, 1.05 to 1.4 times at 35 MB and 0.7 to 0.9 at 75 MB. A whole pass reads
# its inputs twice and needs them in cache longer: it took 0.75 to 0.8 times as long with streamed stores from 25 MB of
# 32 on.
_STREAM = min(last_level() or 1 << 25, 1 << 25)
_STREAM_SHORT = min(last_level() or 1 << 25, 60_000_000)
_WHOLE = 4 / 3  # of its bytes count for a whole pass
_SHORT = 320  # elements of the longest plane that is short, 17x17
_SAMPLES = 32  # planes of a channel for which it pays to repeat its coefficients along a row
_COLUMNS = 1 << 16  # of a row of fewer tiny planes
_FEW = 4096  # elements of tiny planes that one launch takes no longer for than two
_GROUP = 2 * (second_level() or 1 << 20)  # bytes of the least group of channels with short planes that is read twice


def moments(x: In, stats: Table, geometry: Geometry) -> None:
    """MEAN and M2 of x."""
    threads = threads_for(geometry.work)
    if geometry.channels_last:
        reduce_last.moments_channels_last.on(threads, x)(x, stats, geometry.grid, threads)
    elif geometry.n_inner <= _SHORT:
        reduce_first.moments_short_channels_first.on(threads, x)(x, stats, geometry.grid, threads)
    else:
        reduce_first.moments_long_channels_first.on(threads, x)(x, stats, geometry.grid)


def normalize(x: In, y: Out, mean: Row, invstd: Row, weight: Row, bias: Row, geometry: Geometry) -> None:
    """y from x and given statistics."""
    infer(x, y, mean, invstd, weight, bias, geometry, INVERTED)


def infer(x: In, y: Out, mean: Row, var: Row, weight: Row, bias: Row, geometry: Geometry, eps: float) -> None:
    """y from x and given statistics, the variance among them."""
    streamed = _beyond_caches(2 * y.nbytes, geometry) and _apart(y, x)
    in_rows = geometry.channels_last or ((geometry.tiny or streamed) and _pays_along_rows(geometry))
    which = pointwise_last.normalize_channels_last if in_rows else pointwise_first.normalize_channels_first
    which.on(threads_for(geometry.size), x)(x, y, mean, var, weight, bias, geometry.grid, eps, streamed)


def backward_reduce(dy: In, x: In, mean: Row, invstd: Row, sums: Table, geometry: Geometry) -> None:
    """SUM_DY, SUM_DY_XMU and GRAD_WEIGHT of dy and x."""
    threads = threads_for(geometry.work)
    given = dy, x, mean, invstd, sums, geometry.grid
    if geometry.channels_last:
        reduce_last.backward_reduce_channels_last.on(threads, x)(*given, threads)
    elif geometry.n_inner <= _SHORT:
        reduce_first.backward_reduce_short_channels_first.on(threads, x)(*given, threads)
    else:
        reduce_first.backward_reduce_long_channels_first.on(threads, x)(*given)


def backward_elemt(
    dy: In,
    x: In,
    dx: Out,
    mean: Row,
    invstd: Row,
    weight: Row,
    sums: Table,
    geometry: Geometry,
    count: float,
) -> None:
    """dx from dy, x and the two sums over `count` elements a channel."""
    streamed = _beyond_caches(3 * dx.nbytes, geometry) and _apart(dx, dy, x)
    in_rows = geometry.channels_last or (geometry.tiny and _pays_along_rows(geometry))
    which = pointwise_last.backward_elemt_channels_last if in_rows else pointwise_first.backward_elemt_channels_first
    run = which.on(threads_for(geometry.size), x)
    run(dy, x, dx, mean, invstd, weight, sums, geometry.grid, count, streamed)


def forward(
    x: In,
    y: Out,
    running_mean: OutRow,
    running_var: OutRow,
    weight: Row,
    bias: Row,
    stats: Table,
    geometry: Geometry,
    eps: float,
    momentum: float,
    ddof: float,
) -> None:
    """y, MEAN, INVSTD, M2 and the new running statistics from x."""
    threads = threads_for(geometry.work)
    if not (geometry.channels_last or _in_one_pass(x, geometry, threads)):
        moments(x, stats, geometry)
        finish(running_mean, running_var, stats, float(geometry.per_channel), eps, momentum, ddof)
        normalize(x, y, stats[MEAN], stats[INVSTD], weight, bias, geometry)
        return
    streamed = _beyond_caches(_WHOLE * 2 * y.nbytes, geometry) and _apart(y, x)
    given = x, y, weight, bias, running_mean, running_var, stats, geometry.grid, eps, momentum, ddof, streamed, threads
    if geometry.channels_last:
        which = fused_last.forward_channels_last
    elif geometry.n_inner <= _SHORT:
        which = fused_first.forward_short_channels_first
    else:
        which = fused_first.forward_long_channels_first
    which.on(threads, x)(*given)


def finish(
    running_mean: OutRow, running_var: OutRow, stats: Table, count: float, eps: float, momentum: float, ddof: float
) -> None:
    """INVSTD and the new running statistics from MEAN and M2."""
    channels.finish.on(1, stats)(running_mean, running_var, stats, count, eps, momentum, ddof)


def backward(dy: In, x: In, dx: Out, mean: Row, invstd: Row, weight: Row, sums: Table, geometry: Geometry) -> None:
    """dx, SUM_DY, SUM_DY_XMU and GRAD_WEIGHT from dy and x."""
    threads = threads_for(geometry.work)
    if not (geometry.channels_last or _in_one_pass(x, geometry, threads)):
        backward_reduce(dy, x, mean, invstd, sums, geometry)
        backward_elemt(dy, x, dx, mean, invstd, weight, sums, geometry, float(geometry.per_channel))
        return
    streamed = _beyond_caches(_WHOLE * 3 * dx.nbytes, geometry) and _apart(dx, dy, x)
    given = dy, x, dx, mean, invstd, weight, sums, geometry.grid, streamed, threads
    if geometry.channels_last:
        which = fused_last.backward_channels_last
    elif geometry.n_inner <= _SHORT:
        which = fused_first.backward_short_channels_first
    else:
        which = fused_first.backward_long_channels_first
    which.on(threads, x)(*given)


def _beyond_caches(nbytes: float, geometry: Geometry) -> bool:
    """Whether no cache keeps the result of a pass over so many bytes."""
    if nbytes < _STREAM:
        return False
    return nbytes >= _STREAM_SHORT or geometry.channels_last or geometry.n_inner > _SHORT


def _apart(y: Out, *inputs: In) -> bool:
    """Whether none of the inputs has brought in lines of y."""
    return not any(np.may_share_memory(y, x) for x in inputs)


def _pays_along_rows(geometry: Geometry) -> bool:
    """Whether results of planes, tiny ones or streamed ones, are better written along rows of them.

    Coefficients are repeated for each column then. For tiny planes an eval of 2x2 took a ninth to a quarter of the
    time, of 3x3 a fifth to 0.6; both passes of a training forward or a backward a quarter to a half of the time of one,
    0.4 to 0.9 over 3x3. Streamed, a row has no line in part: over 17 to 103 MB in planes of 5x5 to 16x16 an eval took
    0.65 to 0.9 of the time for 32 samples and more; for 16 of them 0.8 to 1.5 times as long.

    The coefficients, three or six a column, are a fifth of the array at most for 32 samples, and 3 MB otherwise.
    """
    few = geometry.tiny and geometry.n_channels * geometry.n_inner <= _COLUMNS
    many = geometry.side_by_side and geometry.n_inner <= _SHORT and geometry.n_outer >= _SAMPLES
    return few or many


def _in_one_pass(x: In, geometry: Geometry, threads: int) -> bool:
    """Whether one pass channel by channel beats two over the array: there are enough channels for all threads.

    Short planes are taken in groups, which may be twice L2: with half a megabyte of it and 1.5 MB a group, a training
    forward over 77 MB in planes of 7x7 took 1.1 to 1.25 times as long in one pass as in two, a backward 1.15 times;
    with 1 MB, about as long.
    """
    if threads > 1 and geometry.n_channels < 4 * threads:
        return False
    if geometry.tiny and geometry.size > _FEW and _pays_along_rows(geometry):
        return False
    return geometry.n_inner > _SHORT or geometry.n_outer * x.itemsize * reduce_short.RUN <= _GROUP
