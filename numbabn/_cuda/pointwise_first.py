"""y from x, dx from dy and x, plane by plane: channels first, the inner run contiguous."""

from __future__ import annotations

import numpy as np

from .._compile_cuda import cuda, i32, kernel
from .._geometry import SUM_DY, SUM_DY_XMU
from .._scalar import INVERTED
from .channels import invstd, put_affine, put_gradient
from .packets import load, splat
from .plan import TEAMS
from .pointwise import gradient_packets, normalize_packets
from .walk import backwards, offset_of, planes, steps_of

AFFINE, GRADIENT = 3 * TEAMS, 6 * TEAMS  # elements of shared memory


@kernel
def normalize_channels_first(x, y, mean, var, weight, bias, shape, at_x, at_y, eps):
    """y (N, C, S) from x and rows (C); without eps, var is invstd. Moves 2 elements' bytes an element."""
    table = cuda.shared.array(AFFINE, x.dtype)
    t, (block, cut) = i32(cuda.threadIdx.x), backwards()
    mine, member, channel, row, column, c, row_step, column_step, width, count = planes(block, cut, t, shape)
    if member == i32(0) and channel < shape[1]:
        v = np.float64(var[channel])
        r = v if eps == INVERTED else invstd(v, eps)
        rows = np.float64(mean[channel]), r, np.float64(weight[channel]), np.float64(bias[channel])
        put_affine(table, mine, TEAMS, *rows)
    cuda.syncthreads()
    of_x, of_y = offset_of(at_x, row, channel, column), offset_of(at_y, row, channel, column)
    step_x, wrap_x = steps_of(at_x, row_step, column_step, width)
    step_y, wrap_y = steps_of(at_y, row_step, column_step, width)
    v = load(x, at_x[0])
    high, a, b = splat(v, table[mine]), splat(v, table[mine + TEAMS]), splat(v, table[mine + 2 * TEAMS])
    normalize_packets(x, y, of_x, of_y, c, count, step_x, step_y, column_step, width, wrap_x, wrap_y, high, a, b)


@kernel
def backward_elemt_channels_first(
    dy, x, dx, mean, invstd, weight, sums, shape, at_dy, at_x,
    at_dx, n,
):  # fmt: skip
    """dx (N, C, S) from dy, x, rows (C) and sums over n elements; moves 3 elements' bytes an element."""
    table = cuda.shared.array(GRADIENT, x.dtype)
    t, (block, cut) = i32(cuda.threadIdx.x), backwards()
    mine, member, channel, row, column, c, row_step, column_step, width, count = planes(block, cut, t, shape)
    if member == i32(0) and channel < shape[1]:
        both = sums[SUM_DY * shape[1] + channel], sums[SUM_DY_XMU * shape[1] + channel]
        rows = np.float64(mean[channel]), np.float64(invstd[channel]), np.float64(weight[channel])
        put_gradient(table, mine, TEAMS, *rows, *both, n)
    cuda.syncthreads()
    of_dy, of_x, of_dx = (
        offset_of(at_dy, row, channel, column), offset_of(at_x, row, channel, column),
        offset_of(at_dx, row, channel, column),
    )  # fmt: skip
    step_dy, wrap_dy = steps_of(at_dy, row_step, column_step, width)
    step_x, wrap_x = steps_of(at_x, row_step, column_step, width)
    step_dx, wrap_dx = steps_of(at_dx, row_step, column_step, width)
    v = load(x, at_x[0])
    gradient_packets(
        dy, x, dx, of_dy, of_x, of_dx, c, count, step_dy, step_x, step_dx, column_step, width, wrap_dy, wrap_x, wrap_dx,
        splat(v, table[mine]), splat(v, table[mine + TEAMS]), splat(v, table[mine + 2 * TEAMS]),
        splat(v, table[mine + 3 * TEAMS]), splat(v, table[mine + 4 * TEAMS]), splat(v, table[mine + 5 * TEAMS]),
    )  # fmt: skip
