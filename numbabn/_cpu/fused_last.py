"""Whole training passes over rows in one launch: a thread writes those first that it has read last.

They call the pieces of the other modules in the same order as these modules' kernels do, so that fused or in
steps makes no difference to a bit.
"""

from __future__ import annotations

import numpy as np

from .._compile import Grid, In, Out, OutRow, Row, Table, inner, kernel, prange, read_rows
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
    abreast, n_rows, n_columns, parts, width, panels = rows_plan(x, n_outer, n_channels, xo != n_channels, threads)
    partial = np.empty(panels * parts * 2 * width)
    for index in prange(panels * parts):
        sums = np.empty(4 * width, x.dtype)
        moments_item(x, x0, xo * abreast, n_rows, n_columns, parts, width, np.int64(index), sums, partial)
    given = np.empty((2, n_channels))
    read_rows(given, (weight, bias))
    means, invstds, weights, biases = stats[MEAN], stats[INVSTD], given[0], given[1]
    size = row_size(x, n_channels)
    memory = np.empty(3 * size + lanes(x), x.dtype)
    table = memory[table_start(memory, y, y0, yo) :]
    for panel in range(panels):
        moments_panel(x, x0, xo, n_outer, abreast, n_columns, parts, width, panel, partial, stats)
        first, channels = channels_of_panel(panel, n_columns, width, abreast)
        put_invstds(stats, first, channels, float(n_outer), eps)
        put_affines(x, means, invstds, weights, biases, INVERTED, first, channels, table, first, size)
    repeat(table, n_channels, size, 3)
    cuts = row_cuts(n_outer, n_channels)
    for index in prange(threads):
        first, last = backwards(np.int64(index), threads, cuts)
        for cut in range(first, last, -1):
            normalize_cut(x, y, table, x0, xo, y0, yo, n_outer, n_channels, cut, cuts, streamed)
    update_running(running_mean, running_var, means, stats[M2], float(n_outer), momentum, ddof, given)


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
    gaps = go != n_channels or xo != n_channels
    abreast, n_rows, n_columns, parts, width, panels = rows_plan(x, n_outer, n_channels, gaps, threads)
    partial = np.empty(panels * parts * 2 * width)
    given = np.empty((3, n_channels))
    read_rows(given, (mean, invstd, weight))
    means, invstds, weights = given[0], given[1], given[2]
    size = row_size(x, n_channels)
    memory = np.empty(6 * size + lanes(x), x.dtype)
    table = memory[table_start(memory, dx, d0, do) :]
    for index in prange(panels * parts):
        scratch, item = np.empty(2 * width, x.dtype), np.int64(index)
        g_step, x_step = go * abreast, xo * abreast
        dots_item(
            dy, x, means, g0, g_step, x0, x_step, abreast, n_rows, n_columns, parts, width, item, scratch, partial
        )
    for panel in range(panels):
        dots_panel(
            dy, x, means, invstds, g0, go, x0, xo, n_outer, abreast, n_columns, parts, width, panel, partial, sums
        )
        first, channels = channels_of_panel(panel, n_columns, width, abreast)
        put_gradients(x, means, invstds, weights, sums, first, channels, float(n_outer), table, first, size)
    repeat(table, n_channels, size, 6)
    cuts = row_cuts(n_outer, n_channels)
    for index in prange(threads):
        first, last = backwards(np.int64(index), threads, cuts)
        for cut in range(first, last, -1):
            gradient_cut(dy, x, dx, table, g0, go, x0, xo, d0, do, n_outer, n_channels, cut, cuts, streamed)
