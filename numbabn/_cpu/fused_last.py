"""Whole training passes over rows in one launch: a thread writes those first that it has read last.

They call the pieces of the other modules in the same order as these modules' kernels do, so that fused or in
steps makes no difference to a bit.
"""

from __future__ import annotations

import numpy as np

from .._compile import Grid, In, Out, OutRow, Row, Table, inner, kernel, linked, prange, read_rows
from .._geometry import INVSTD, M2, MEAN
from .._scalar import INVERTED
from .channels import put_affines, put_gradients, put_invstds, repeat, row_size, table_start, update_running
from .partition import row
from .pointwise_last import gradient_cut, normalize_cut, row_cuts
from .reduce_last import channels_of_panel, dots_item, dots_panel, moments_item, moments_panel, rows_plan
from .vectors import lanes


@inner
def backwards(thread, threads, cuts):
    """First and last cut, exclusive, that a thread takes of a second pass: what it has read last comes first."""
    return cuts * (thread + 1) // threads - 1, cuts * thread // threads - 1


@linked
def forward_panel(x, grid, plan, panel, partial, stats, weight, bias, eps, table):
    """Statistics of a panel's channels from its parts, and the coefficients of y.

    By the thread that has summed the panel, if that is in one part: 8 rows of 4,096 channels then took two threads 0.8
    of the time, 64 rows of 1,280 channels 0.92.
    """
    n_outer, n_channels, _ = row(grid, 0)
    moments_panel(x, grid, plan, panel, partial, stats)
    first, channels = channels_of_panel(panel, plan)
    put_invstds(stats, first, channels, float(n_outer), eps)
    size = row_size(x, n_channels)
    put_affines(x, stats[MEAN], stats[INVSTD], weight, bias, INVERTED, first, channels, table, first, size)


@kernel
def forward_channels_last(
    x: In,
    y: Out,
    weight: Row,
    bias: Row,
    running_mean: OutRow,
    running_var: OutRow,
    stats: Table,
    grid: Grid,
    eps: float,
    momentum: float,
    ddof: float,
    streamed: bool,
    threads: int,
) -> None:
    """Training forward; moves 3 elements' bytes an element, less what a thread's second pass finds in its cache."""
    n_outer, n_channels, n_inner = row(grid, 0)
    x0, xo, xc = row(grid, 1)
    y0, yo, yc = row(grid, 2)
    plan = rows_plan(x, n_outer, n_channels, xo != n_channels, threads)
    _, _, _, parts, width, panels = plan
    partial = np.empty(panels * parts * 2 * width)
    given = np.empty((2, n_channels))
    read_rows(given, (weight, bias))
    weights, biases = given[0], given[1]
    size = row_size(x, n_channels)
    memory = np.empty(3 * size + lanes(x), x.dtype)
    table = memory[table_start(memory, y, y0, yo) :]
    for index in prange(panels * parts):
        sums, wide, item = np.empty(4 * width, x.dtype), np.empty(2 * width), np.int64(index)
        moments_item(x, grid, plan, item, sums, wide, partial)
        if parts == 1:
            forward_panel(x, grid, plan, item, partial, stats, weights, biases, eps, table)
    if parts > 1:
        for panel in range(panels):
            forward_panel(x, grid, plan, panel, partial, stats, weights, biases, eps, table)
    repeat(table, n_channels, size, 3)
    cuts = row_cuts(n_outer, n_channels)
    for index in prange(threads):
        first, last = backwards(np.int64(index), threads, cuts)
        for cut in range(first, last, -1):
            normalize_cut(x, y, table, x0, xo, y0, yo, n_outer, n_channels, cut, cuts, streamed)
    update_running(running_mean, running_var, stats[MEAN], stats[M2], float(n_outer), momentum, ddof, given)


@linked
def backward_panel(dy, x, mean, invstd, weight, grid, plan, panel, partial, sums, table):
    """All sums of a panel's channels from its parts, and the coefficients of dx; when as in `forward_panel`."""
    n_outer, n_channels, _ = row(grid, 0)
    dots_panel(dy, x, mean, invstd, grid, plan, panel, partial, sums)
    first, channels = channels_of_panel(panel, plan)
    size = row_size(x, n_channels)
    put_gradients(x, mean, invstd, weight, sums, first, channels, float(n_outer), table, first, size)


@kernel
def backward_channels_last(
    dy: In,
    x: In,
    dx: Out,
    mean: Row,
    invstd: Row,
    weight: Row,
    sums: Table,
    grid: Grid,
    streamed: bool,
    threads: int,
) -> None:
    """dx and the three sums; moves 5 elements' bytes an element, less what a second pass finds in a thread's cache."""
    n_outer, n_channels, n_inner = row(grid, 0)
    g0, go, gc = row(grid, 1)
    x0, xo, xc = row(grid, 2)
    d0, do, dc = row(grid, 3)
    plan = rows_plan(x, n_outer, n_channels, go != n_channels or xo != n_channels, threads)
    _, _, _, parts, width, panels = plan
    partial = np.empty(panels * parts * 2 * width)
    given = np.empty((3, n_channels))
    read_rows(given, (mean, invstd, weight))
    means, invstds, weights = given[0], given[1], given[2]
    size = row_size(x, n_channels)
    memory = np.empty(6 * size + lanes(x), x.dtype)
    table = memory[table_start(memory, dx, d0, do) :]
    for index in prange(panels * parts):
        scratch, item = np.empty(2 * width, x.dtype), np.int64(index)
        dots_item(dy, x, means, grid, plan, item, scratch, partial)
        if parts == 1:
            backward_panel(dy, x, means, invstds, weights, grid, plan, item, partial, sums, table)
    if parts > 1:
        for panel in range(panels):
            backward_panel(dy, x, means, invstds, weights, grid, plan, panel, partial, sums, table)
    repeat(table, n_channels, size, 6)
    cuts = row_cuts(n_outer, n_channels)
    for index in prange(threads):
        first, last = backwards(np.int64(index), threads, cuts)
        for cut in range(first, last, -1):
            gradient_cut(dy, x, dx, table, g0, go, x0, xo, d0, do, n_outer, n_channels, cut, cuts, streamed)
