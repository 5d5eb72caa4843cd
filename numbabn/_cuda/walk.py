"""Where a thread's packets are: from row to row and column to column, without a division on the way.

Extents, strides and offsets count packets. A walk has an offset for each operand, to which steps are added: 64-bit, so
that arrays may have more than 2^31 elements; all else is 32-bit.
"""

from __future__ import annotations

import numpy as np

from .._compile_cuda import BLOCK, cuda, i32, inner
from .packets import quotient


@inner
def ahead(offset, column, step, column_step, width, wrap):
    """Offset and column of the next packet: so many rows and columns on, and a row more past the end of one."""
    offset += step
    column = i32(column + column_step)
    if column >= width:
        return offset + wrap, i32(column - width)
    return offset, column


@inner
def offset_of(at, row, channel, column):
    """Offset of a packet in an operand that lies `at` (start, row stride, channel stride)."""
    return at[0] + np.int64(row) * at[1] + np.int64(channel) * at[2] + np.int64(column)


@inner
def steps_of(at, row_step, column_step, width):
    """What `ahead` adds to an operand's offset: each time, and past the end of a row."""
    return np.int64(row_step) * at[1] + np.int64(column_step), at[1] - np.int64(width)


@inner
def backwards():
    """Column and row of the grid that a block takes, from the last to the first.

    What the pass before has read last is still in L2.
    """
    block = i32(i32(cuda.gridDim.x) - i32(cuda.blockIdx.x) - i32(1))
    return block, i32(i32(cuda.gridDim.y) - i32(cuda.blockIdx.y) - i32(1))


@inner
def planes(block, cut, t, shape):
    """Channels first: a team of threads takes a rectangle of one channel's rows and columns, packet after packet.

    Returns the team, the thread's number in it, its channel, first row and column, and that column counted from the
    rectangle's; row and column steps, the rectangle's width and the number of packets, 0 for channels that are none.
    """
    n_outer, n_channels, n_inner, team, row_cut, column_cut = shape
    mine = quotient(t, team)
    member = i32(t - mine * team)
    channel = i32(i32(block * quotient(i32(BLOCK), team)) + mine)
    across = quotient(i32(n_inner + column_cut - i32(1)), column_cut)
    down = quotient(cut, across)
    row, column = i32(down * row_cut), i32(i32(cut - down * across) * column_cut)
    width = i32(min(column_cut, i32(n_inner - column)))
    size = i32(min(row_cut, i32(n_outer - row)) * width)
    count = quotient(i32(size - member + team - i32(1)), team) if member < size and channel < n_channels else i32(0)
    r = quotient(member, width)
    c = i32(member - r * width)
    row_step = quotient(team, width)
    return (
        mine, member, channel, i32(row + r), i32(column + c), c,
        row_step, i32(team - row_step * width), width, count,
    )  # fmt: skip


@inner
def lanes_of_rows(block, cut, t, shape):
    """Channels last: a thread takes one packet of neighbouring channels in every so many rows.

    Returns the thread's column in its block and row in the block, the packet of channels, the first row, the row step
    and the number of packets, 0 for threads that are left over.
    """
    n_outer, n_packets, width, high, row_cut = shape
    mine = quotient(t, width)
    lane = i32(t - mine * width)
    packet = i32(block * width + lane)
    rows = i32(min(row_cut, i32(n_outer - cut * row_cut)))
    inside = mine < high and mine < rows and packet < n_packets
    count = quotient(i32(rows - mine + high - i32(1)), high) if inside else i32(0)
    return lane, mine, packet, i32(cut * row_cut + mine), count
