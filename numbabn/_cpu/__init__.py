"""CPU backend: per-channel loops over flat NumPy arrays.

Every function takes flat operands, a pack whose rows `numbabn._geometry` names, and the geometry that they share.
"""

from __future__ import annotations

import numpy as np

from .._compile import In, Out, Pack, threads_for
from .._geometry import Geometry
from . import fused, pointwise, pointwise_first, pointwise_last, reduce_first, reduce_last

# Bytes of all operands from which on no cache keeps a result for its reader, which is then written past them, unless an
# input has just brought in its lines. On a machine that keeps about 64 MB, streamed stores took 1.1 times as long as
# plain ones at 50 MB and 0.65 times at 92 MB.
_STREAM = 60_000_000


def moments(x: In, pack: Pack, geometry: Geometry) -> None:
    """MEAN and M2 from x."""
    last = geometry.channels_last
    kernel = reduce_last.moments_channels_last if last else reduce_first.moments_channels_first
    kernel(threads_for(geometry.size), x, pack, geometry.grid)


def normalize(x: In, y: Out, pack: Pack, geometry: Geometry) -> None:
    """y from x and MEAN, INVSTD, WEIGHT, BIAS."""
    infer(x, y, pack, geometry, pointwise.INVERTED)


def infer(x: In, y: Out, pack: Pack, geometry: Geometry, eps: float) -> None:
    """y from x, MEAN, WEIGHT, BIAS and the variance that stands in the place of INVSTD, which is written over it."""
    streamed = 2 * y.nbytes >= _STREAM and not np.may_share_memory(y, x)
    kernel = (
        pointwise_last.normalize_channels_last if geometry.channels_last else pointwise_first.normalize_channels_first
    )
    kernel(threads_for(geometry.size), x, y, pack, geometry.grid, eps, streamed)


def backward_reduce(dy: In, x: In, pack: Pack, geometry: Geometry) -> None:
    """SUM_DY and SUM_DY_XMU from dy, x and MEAN."""
    last = geometry.channels_last
    kernel = reduce_last.backward_reduce_channels_last if last else reduce_first.backward_reduce_channels_first
    kernel(threads_for(geometry.size), dy, x, pack, geometry.grid)


def backward_elemt(dy: In, x: In, dx: Out, pack: Pack, geometry: Geometry, count: float) -> None:
    """dx from dy, x, MEAN, INVSTD, WEIGHT and the two sums over `count` elements a channel."""
    last = geometry.channels_last
    streamed = 3 * dx.nbytes >= _STREAM and not (np.may_share_memory(dx, dy) or np.may_share_memory(dx, x))
    kernel = pointwise_last.backward_elemt_channels_last if last else pointwise_first.backward_elemt_channels_first
    kernel(threads_for(geometry.size), dy, x, dx, pack, geometry.grid, count, streamed)


def forward(x: In, y: Out, pack: Pack, geometry: Geometry, eps: float, momentum: float, ddof: float) -> None:
    """y, MEAN, M2, INVSTD and the new RUNNING_MEAN and RUNNING_VAR from x, WEIGHT, BIAS and the old ones."""
    threads = threads_for(geometry.size)
    streamed = 2 * y.nbytes >= _STREAM and not np.may_share_memory(y, x)
    if geometry.channels_last:
        fused.forward_channels_last(threads, x, y, pack, geometry.grid, eps, momentum, ddof, streamed, threads)
    elif _enough(geometry, threads):
        fused.forward_channels_first(threads, x, y, pack, geometry.grid, eps, momentum, ddof, streamed)
    else:
        moments(x, pack, geometry)
        finish(pack, float(geometry.per_channel), eps, momentum, ddof)
        normalize(x, y, pack, geometry)


def finish(pack: Pack, count: float, eps: float, momentum: float, ddof: float) -> None:
    """INVSTD and the new RUNNING_MEAN and RUNNING_VAR from MEAN, M2 and the old ones."""
    fused.finish(1, pack, count, eps, momentum, ddof)


def invert(pack: Pack, eps: float) -> None:
    """INVSTD from the variance that stands in its place."""
    pointwise.invert(1, pack, eps)


def backward(dy: In, x: In, dx: Out, pack: Pack, geometry: Geometry) -> None:
    """dx, SUM_DY and SUM_DY_XMU from dy, x, MEAN, INVSTD and WEIGHT."""
    threads = threads_for(geometry.size)
    streamed = 3 * dx.nbytes >= _STREAM and not (np.may_share_memory(dx, dy) or np.may_share_memory(dx, x))
    if geometry.channels_last:
        fused.backward_channels_last(threads, dy, x, dx, pack, geometry.grid, streamed, threads)
    elif _enough(geometry, threads):
        fused.backward_channels_first(threads, dy, x, dx, pack, geometry.grid, streamed)
    else:
        backward_reduce(dy, x, pack, geometry)
        backward_elemt(dy, x, dx, pack, geometry, float(geometry.per_channel))


def _enough(geometry: Geometry, threads: int) -> bool:
    """Whether there are channels enough to share out: one pass channel by channel then beats two over the array."""
    return threads == 1 or geometry.n_channels >= 4 * threads
