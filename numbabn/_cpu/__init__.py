"""CPU backend: per-channel loops over flat NumPy arrays.

Every function takes flat operands, a pack whose rows `numbabn._geometry` names, and the geometry that they share.
"""

from __future__ import annotations

from .._compile import In, Out, Pack, threads_for
from .._geometry import Geometry
from . import fused, pointwise, reduce_first, reduce_last

_STREAM = 1 << 24  # bytes of a result that no cache keeps for its reader
_SMALL = 1 << 15  # elements up to which a launch saved counts for more than the order of memory


def moments(x: In, pack: Pack, geometry: Geometry) -> None:
    """MEAN and M2 from x."""
    last = geometry.channels_last
    kernel = reduce_last.moments_channels_last if last else reduce_first.moments_channels_first
    kernel(threads_for(geometry.size), x, pack, geometry.grid)


def normalize(x: In, y: Out, pack: Pack, geometry: Geometry) -> None:
    """y from x and MEAN, INVSTD, WEIGHT, BIAS."""
    kernel = pointwise.normalize_channels_last if geometry.channels_last else pointwise.normalize_channels_first
    kernel(threads_for(geometry.size), x, y, pack, geometry.grid, _streamed(y, x))


def backward_reduce(dy: In, x: In, pack: Pack, geometry: Geometry) -> None:
    """SUM_DY and SUM_DY_XMU from dy, x and MEAN."""
    last = geometry.channels_last
    kernel = reduce_last.backward_reduce_channels_last if last else reduce_first.backward_reduce_channels_first
    kernel(threads_for(geometry.size), dy, x, pack, geometry.grid)


def backward_elemt(dy: In, x: In, dx: Out, pack: Pack, geometry: Geometry, count: float) -> None:
    """dx from dy, x, MEAN, INVSTD, WEIGHT and the two sums over `count` elements a channel."""
    last = geometry.channels_last
    kernel = pointwise.backward_elemt_channels_last if last else pointwise.backward_elemt_channels_first
    kernel(threads_for(geometry.size), dy, x, dx, pack, geometry.grid, count, _streamed(dx, dy, x))


def forward(x: In, y: Out, pack: Pack, geometry: Geometry, eps: float, momentum: float, ddof: float) -> None:
    """y, MEAN, M2, INVSTD and the new RUNNING_MEAN and RUNNING_VAR from x, WEIGHT, BIAS and the old ones."""
    threads = threads_for(geometry.size)
    if _fuse(geometry, threads):
        kernel = fused.forward_channels_last if geometry.channels_last else fused.forward_channels_first
        kernel(threads, x, y, pack, geometry.grid, eps, momentum, ddof, _streamed(y, x))
    else:
        moments(x, pack, geometry)
        finish(pack, float(geometry.per_channel), eps, momentum, ddof)
        normalize(x, y, pack, geometry)


def finish(pack: Pack, count: float, eps: float, momentum: float, ddof: float) -> None:
    """INVSTD and the new RUNNING_MEAN and RUNNING_VAR from MEAN, M2 and the old ones."""
    fused.finish(1, pack, count, eps, momentum, ddof)


def invert(pack: Pack, eps: float) -> None:
    """INVSTD from the variance that stands in its place."""
    fused.invert(1, pack, eps)


def backward(dy: In, x: In, dx: Out, pack: Pack, geometry: Geometry) -> None:
    """dx, SUM_DY and SUM_DY_XMU from dy, x, MEAN, INVSTD and WEIGHT."""
    threads = threads_for(geometry.size)
    if _fuse(geometry, threads):
        kernel = fused.backward_channels_last if geometry.channels_last else fused.backward_channels_first
        kernel(threads, dy, x, dx, pack, geometry.grid, _streamed(dx, dy, x))
    else:
        backward_reduce(dy, x, pack, geometry)
        backward_elemt(dy, x, dx, pack, geometry, float(geometry.per_channel))


def _streamed(result: Out, *inputs: In) -> bool:
    """Whether to write past the caches: a large result, none of whose lines an input has just brought in."""
    return result.nbytes >= _STREAM and all(result is not x for x in inputs)


def _fuse(geometry: Geometry, threads: int) -> bool:
    """Whether one pass channel by channel beats two over the array: enough channels to share out or a small array."""
    if geometry.channels_last:
        return threads == 1 and geometry.size <= _SMALL
    return threads == 1 or geometry.n_channels >= 4 * threads
