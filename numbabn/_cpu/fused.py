"""Whole training passes: a channel, or a block of neighbouring ones, is reduced and then written while it is in cache.

They call the pieces of the other modules in the same order as these modules' kernels do, so that fused or in
steps makes no difference to a bit.
"""

from __future__ import annotations

import math

import numpy as np

from .._compile import Grid, In, Out, Pack, inner, kernel, prange, row
from .._geometry import INVSTD, M2, MEAN, RUNNING_MEAN, RUNNING_VAR, SUM_DY, SUM_DY_XMU
from .._scalar import blend as _blend
from .intrinsics import fence
from .partition import row_parts
from .pointwise import (
    gradient_coefficients,
    gradient_planes,
    gradient_rows,
    normalize_coefficients,
    normalize_planes,
    normalize_rows,
    row_size,
)
from .reduce_first import channel_dots, channel_moments
from .reduce_last import block_dots, block_moments

GROUP = 1 << 16  # bytes of neighbouring channels that one work item takes
BLOCK = 256  # bytes of a row that one work item takes

blend = inner(_blend)


@inner
def invstd(var, eps):
    """1 / sqrt(var + eps), and 0 where that sum is 0."""
    return 0.0 if var + eps == 0.0 else 1.0 / math.sqrt(var + eps)


@kernel
def invert(pack: Pack, eps: float) -> None:
    """invstd of all channels from their variance, in its place; C numbers."""
    for c in range(pack.shape[1]):
        pack[INVSTD, c] = invstd(pack[INVSTD, c], eps)


@inner
def finish_channel(pack, c, count, eps, momentum, ddof):
    """invstd and the running statistics of channel c from its mean and M2."""
    pack[INVSTD, c] = invstd(pack[M2, c] / count, eps)
    pack[RUNNING_MEAN, c] = blend(pack[RUNNING_MEAN, c], pack[MEAN, c], momentum)
    pack[RUNNING_VAR, c] = blend(pack[RUNNING_VAR, c], pack[M2, c] / (count - ddof), momentum)


@kernel
def finish(pack: Pack, count: float, eps: float, momentum: float, ddof: float) -> None:
    """invstd and the running statistics of all channels; C numbers."""
    for c in range(pack.shape[1]):
        finish_channel(pack, c, count, eps, momentum, ddof)


@inner
def group_size(count, itemsize):
    """Neighbouring channels that one work item takes: as many as stay in L2, so that short planes share cache lines."""
    return max(1, GROUP // (count * itemsize))


@kernel
def forward_channels_first(
    x: In, y: Out, pack: Pack, grid: Grid, eps: float, momentum: float, ddof: float, streamed: bool
) -> None:
    """Training forward; moves 2 elements' bytes an element where a channel fits in cache, else 3."""
    n_outer, n_channels, n_inner = row(grid, 0)
    x0, xo, xc = row(grid, 1)
    y0, yo, yc = row(grid, 2)
    group = group_size(n_outer * n_inner, x.itemsize)
    for index in prange((n_channels + group - 1) // group):
        first = np.int64(index) * group
        last = min(first + group, n_channels)
        for c in range(first, last):
            mean, m2 = channel_moments(x, x0 + c * xc, xo, n_outer, n_inner)
            pack[MEAN, c] = mean
            pack[M2, c] = m2
            finish_channel(pack, c, float(n_outer * n_inner), eps, momentum, ddof)
        table = np.empty(3 * row_size(x, last - first), x.dtype)
        normalize_coefficients(x, pack, first, last - first, table)
        normalize_planes(
            x, y, table, n_outer, last - first, n_inner, x0 + first * xc, xo, xc, y0 + first * yc, yo, yc, streamed
        )


@kernel
def forward_channels_last(
    x: In, y: Out, pack: Pack, grid: Grid, eps: float, momentum: float, ddof: float, streamed: bool
) -> None:
    """Training forward; moves 2 elements' bytes an element where a block of columns fits in cache, else 3."""
    n_outer, n_channels, n_inner = row(grid, 0)
    x0, xo, xc = row(grid, 1)
    y0, yo, yc = row(grid, 2)
    block = BLOCK // x.itemsize
    parts = row_parts(n_outer, n_channels)
    for index in prange((n_channels + block - 1) // block):
        c0 = np.int64(index) * block
        width = min(block, n_channels - c0)
        total, partial, table = (
            np.empty(width, x.dtype),
            np.empty(parts * 2 * width),
            np.empty(3 * row_size(x, width), x.dtype),
        )
        block_moments(x, x0 + c0, xo, n_outer, parts, c0, width, total, partial, pack)
        for c in range(c0, c0 + width):
            finish_channel(pack, c, float(n_outer * n_inner), eps, momentum, ddof)
        normalize_coefficients(x, pack, c0, width, table)
        normalize_rows(x, y, table, x0 + c0, xo, y0 + c0, yo, n_outer, width, streamed)
        if streamed:
            fence()


@kernel
def backward_channels_first(dy: In, x: In, dx: Out, pack: Pack, grid: Grid, streamed: bool) -> None:
    """Training backward; moves 3 elements' bytes an element where a channel fits in cache, else 5."""
    n_outer, n_channels, n_inner = row(grid, 0)
    g0, go, gc = row(grid, 1)
    x0, xo, xc = row(grid, 2)
    d0, do, dc = row(grid, 3)
    group = group_size(n_outer * n_inner, 2 * x.itemsize)
    for index in prange((n_channels + group - 1) // group):
        first = np.int64(index) * group
        last = min(first + group, n_channels)
        for c in range(first, last):
            s, t = channel_dots(dy, x, pack[MEAN, c], g0 + c * gc, go, x0 + c * xc, xo, n_outer, n_inner)
            pack[SUM_DY, c] = s
            pack[SUM_DY_XMU, c] = t
        table = np.empty(6 * row_size(x, last - first), x.dtype)
        gradient_coefficients(x, pack, first, last - first, float(n_outer * n_inner), table)
        gradient_planes(
            dy,
            x,
            dx,
            table,
            n_outer,
            last - first,
            n_inner,
            g0 + first * gc,
            go,
            gc,
            x0 + first * xc,
            xo,
            xc,
            d0 + first * dc,
            do,
            dc,
            streamed,
        )


@kernel
def backward_channels_last(dy: In, x: In, dx: Out, pack: Pack, grid: Grid, streamed: bool) -> None:
    """Training backward; moves 3 elements' bytes an element where a block of columns fits in cache, else 5."""
    n_outer, n_channels, n_inner = row(grid, 0)
    g0, go, gc = row(grid, 1)
    x0, xo, xc = row(grid, 2)
    d0, do, dc = row(grid, 3)
    block = BLOCK // x.itemsize
    parts = row_parts(n_outer, n_channels)
    for index in prange((n_channels + block - 1) // block):
        c0 = np.int64(index) * block
        width = min(block, n_channels - c0)
        high, dots, partial = np.empty(width, x.dtype), np.empty(width, x.dtype), np.empty(parts * 2 * width)
        block_dots(dy, x, pack, n_outer, parts, c0, width, g0, go, x0, xo, high, dots, partial)
        table = np.empty(6 * row_size(x, width), x.dtype)
        gradient_coefficients(x, pack, c0, width, float(n_outer * n_inner), table)
        gradient_rows(dy, x, dx, table, g0 + c0, go, x0 + c0, xo, d0 + c0, do, n_outer, width, streamed)
        if streamed:
            fence()
