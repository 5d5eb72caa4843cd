"""Whole training passes in one launch: what has been reduced is written while it is in cache.

They call the pieces of the other modules in the same order as these modules' kernels do, so that fused or in
steps makes no difference to a bit.
"""

from __future__ import annotations

import numpy as np

from .._compile import Grid, In, Out, Pack, inner, kernel, prange, row
from .._geometry import INVSTD, M2, MEAN, RUNNING_MEAN, RUNNING_VAR, SUM_DY, SUM_DY_XMU
from .._scalar import blend as _blend
from .partition import row_parts
from .pointwise import gradient_coefficients, invstd, normalize_coefficients, row_size
from .pointwise_first import gradient_planes, normalize_planes
from .pointwise_last import gradient_cut, normalize_cut, row_cuts
from .reduce_first import channel_dots, channel_moments
from .reduce_last import PANEL, add_panel, dots_item, merge_panel, moments_item, n_panels

GROUP = 1 << 16  # bytes of neighbouring channels that one work item takes

blend = inner(_blend)


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
def backwards(thread, threads, cuts):
    """First and last cut, exclusive, that a thread takes of a second pass: what it has read last comes first."""
    return cuts * (thread + 1) // threads - 1, cuts * thread // threads - 1


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
    x: In, y: Out, pack: Pack, grid: Grid, eps: float, momentum: float, ddof: float, streamed: bool, threads: int
) -> None:
    """Training forward; moves 3 elements' bytes an element, less what a thread's second pass finds in its cache."""
    n_outer, n_channels, n_inner = row(grid, 0)
    x0, xo, xc = row(grid, 1)
    y0, yo, yc = row(grid, 2)
    parts, panels = row_parts(n_outer, n_channels), n_panels(n_channels)
    width = min(PANEL, n_channels)
    partial = np.empty(panels * parts * 2 * width)
    for index in prange(panels * parts):
        sums = np.empty(4 * width, x.dtype)
        moments_item(x, x0, xo, n_outer, n_channels, parts, np.int64(index), sums, partial)
    for index in prange(panels):
        merge_panel(x, x0, xo, n_outer, n_channels, parts, np.int64(index), partial, pack)
    for c in range(n_channels):
        finish_channel(pack, c, float(n_outer), eps, momentum, ddof)
    table = np.empty(3 * row_size(x, n_channels), x.dtype)
    normalize_coefficients(x, pack, 0, n_channels, table)
    cuts = row_cuts(n_outer, n_channels)
    for index in prange(threads):
        first, last = backwards(np.int64(index), threads, cuts)
        for cut in range(first, last, -1):
            normalize_cut(x, y, table, x0, xo, y0, yo, n_outer, n_channels, cut, cuts, streamed)


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
def backward_channels_last(dy: In, x: In, dx: Out, pack: Pack, grid: Grid, streamed: bool, threads: int) -> None:
    """Training backward; moves 5 elements' bytes an element, less what a thread's second pass finds in its cache."""
    n_outer, n_channels, n_inner = row(grid, 0)
    g0, go, gc = row(grid, 1)
    x0, xo, xc = row(grid, 2)
    d0, do, dc = row(grid, 3)
    parts, panels = row_parts(n_outer, n_channels), n_panels(n_channels)
    width = min(PANEL, n_channels)
    partial = np.empty(panels * parts * 2 * width)
    for index in prange(panels * parts):
        high, dots = np.empty(width, x.dtype), np.empty(width, x.dtype)
        dots_item(dy, x, pack, g0, go, x0, xo, n_outer, n_channels, parts, np.int64(index), high, dots, partial)
    for index in prange(panels):
        add_panel(n_channels, parts, np.int64(index), partial, pack)
    table = np.empty(6 * row_size(x, n_channels), x.dtype)
    gradient_coefficients(x, pack, 0, n_channels, float(n_outer), table)
    cuts = row_cuts(n_outer, n_channels)
    for index in prange(threads):
        first, last = backwards(np.int64(index), threads, cuts)
        for cut in range(first, last, -1):
            gradient_cut(dy, x, dx, table, g0, go, x0, xo, d0, do, n_outer, n_channels, cut, cuts, streamed)
