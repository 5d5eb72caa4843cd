"""How a call is cut into blocks and threads: functions of the shape alone, so that no card changes a bit.

All extents are in packets. Figures are for cards of the size of an H100, 132 multiprocessors with eight blocks each.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from .._compile_cuda import BLOCK, i32
from .._geometry import Geometry

PACKET = 16  # bytes of one access
BLOCKS = 2048  # of a grid that has enough of them: two rounds on the largest cards
LEAST = 32  # elements of a thread that are worth a block of their own
MOST = 1024  # packets that a thread adds in the array's own dtype
TEAMS = 8  # most channels of a block, channels first
WARP = 32  # threads that every team is a multiple of
# Elements of a row that a block takes at most: a cache line of float32. With four lines it would take a fourth of the
# rows, and the sums that blocks over (4096, 256) leave each other would be 12% of the bytes that they read, not 3%.
RUN = 32
SHARED = 48 * 1024  # bytes that a block may have without asking the driver; how many more, differs from card to card


class Plan(NamedTuple):
    """Grid of a launch, and the extents that its kernel takes."""

    grid: tuple[int, int]
    shape: tuple[np.int32, ...]
    packets: int  # that a thread visits at most


def width_of(geometry: Geometry, itemsize: int) -> int:
    """Elements of a packet: as many as 16 bytes hold where extents and strides of all operands are multiples."""
    width = PACKET // itemsize
    extents = geometry.grid[1:] if geometry.n_outer > 1 else geometry.grid[1:, ::2]
    if geometry.channels_last:
        along, apart = geometry.n_channels, extents[:, : 1 + (geometry.n_outer > 1)]
    else:
        along, apart = geometry.n_inner, extents
    return width if along % width == 0 and not (apart % width).any() else 1


@lru_cache(maxsize=4096)
def reduction(n_outer: int, n_channels: int, n_inner: int, last: bool, width: int) -> Plan:
    """Of a pass that sums."""
    return (_rows if last else _planes)(n_outer, n_channels, n_inner, width, LEAST // width, MOST)


@lru_cache(maxsize=4096)
def pointwise(n_outer: int, n_channels: int, n_inner: int, last: bool, width: int) -> Plan:
    """Of a pass that writes: nothing is shared by blocks, so they may be short."""
    return (_rows if last else _planes)(n_outer, n_channels, n_inner, width, LEAST // width, LEAST // width)


def is_staged(plan: Plan, width: int, itemsize: int, operands: int) -> bool:
    """Whether a block's packets stay in shared memory between two passes: one launch, each element read once."""
    own = 1024  # for sums and coefficients
    return plan.grid[1] == 1 and staged_bytes(plan, width, itemsize, operands) <= SHARED - own


def staged_bytes(plan: Plan, width: int, itemsize: int, operands: int) -> int:
    """Shared memory of a block's packets."""
    return plan.packets * BLOCK * width * itemsize * operands


def _planes(n_outer: int, n_channels: int, n_inner: int, width: int, least: int, most: int) -> Plan:
    """Channels first."""
    columns = n_inner // width
    size = n_outer * columns
    team = _team(size, n_channels, width)
    teams = BLOCK // team
    cuts = _cuts(size, team, -(-n_channels // teams), least, most)
    down = min(cuts, n_outer)
    row_cut = -(-n_outer // down)
    column_cut = -(-columns // -(-cuts // down))
    grid = -(-n_channels // teams), -(-n_outer // row_cut) * -(-columns // column_cut)
    shape = tuple(map(i32, (n_outer, n_channels, columns, team, row_cut, column_cut)))
    return Plan(grid, shape, -(-row_cut * column_cut // team))


def _team(size: int, n_channels: int, width: int) -> int:
    """Threads of a channel: `LEAST` elements each, unless so few channels leave cards idle."""
    team = BLOCK
    while team > max(WARP, BLOCK // TEAMS) and size * width < team * LEAST and n_channels * team >= 2 * BLOCK * BLOCK:
        team //= 2
    return team


def _rows(n_outer: int, n_channels: int, n_inner: int, width: int, least: int, most: int) -> Plan:
    """Channels last."""
    packets = n_channels // width
    panels = -(-n_channels // RUN)
    across = -(-packets // panels)
    high = BLOCK // across
    cuts = _cuts(n_outer, high, panels, least, most)
    row_cut = -(-n_outer // cuts)
    shape = tuple(map(i32, (n_outer, packets, across, high, row_cut)))
    return Plan((-(-packets // across), -(-n_outer // row_cut)), shape, -(-row_cut // high))


def _cuts(size: int, threads: int, neighbours: int, least: int, most: int) -> int:
    """Blocks that share `size` packets of a channel, `threads` at a time, beside those of other channels."""
    enough = max(1, -(-BLOCKS // neighbours), -(-size // (threads * most)))
    return max(1, min(size // (threads * least), enough, 65535))
