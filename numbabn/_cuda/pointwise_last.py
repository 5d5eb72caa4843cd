"""y from x, dx from dy and x, row by row: channels last, (N, C) and NHWC."""

from __future__ import annotations

import numpy as np

from .._compile_cuda import cuda, i32, kernel
from .._geometry import SUM_DY, SUM_DY_XMU
from .._scalar import INVERTED
from .channels import invstd, put_affine, put_gradient
from .packets import gather, lanes, load
from .plan import RUN
from .pointwise import gradient_packets, normalize_packets
from .walk import backwards, lanes_of_rows, offset_of

AFFINE, GRADIENT = 3 * RUN, 6 * RUN  # elements of shared memory


@kernel
def normalize_channels_last(x, y, mean, var, weight, bias, shape, at_x, at_y, eps):
    """y (N, C) from x and rows (C); without eps, var is invstd. Moves 2 elements' bytes an element."""
    table = cuda.shared.array(AFFINE, x.dtype)
    t, (block, cut) = i32(cuda.threadIdx.x), backwards()
    of_lane, mine, packet, row, count = lanes_of_rows(block, cut, t, shape)
    v = load(x, at_x[0])
    first = i32(i32(block * shape[2]) * lanes(v))
    if t < i32(shape[2] * lanes(v)) and i32(first + t) < i32(shape[1] * lanes(v)):
        channel = i32(first + t)
        given = np.float64(var[channel])
        r = given if eps == INVERTED else invstd(given, eps)
        rows = np.float64(mean[channel]), r, np.float64(weight[channel]), np.float64(bias[channel])
        put_affine(table, t, RUN, *rows)
    cuda.syncthreads()
    of_x, of_y, none = offset_of(at_x, row, i32(0), packet), offset_of(at_y, row, i32(0), packet), np.int64(0)
    step_x, step_y = at_x[2], at_y[2]
    at = i32(of_lane * lanes(v))
    if count > i32(0):
        high, a = gather(table, at, v), gather(table, i32(at + i32(RUN)), v)
        b = gather(table, i32(at + i32(2 * RUN)), v)
        normalize_packets(x, y, of_x, of_y, i32(0), count, step_x, step_y, i32(0), i32(1), none, none, high, a, b)


@kernel
def backward_elemt_channels_last(
    dy, x, dx, mean, invstd, weight, sums, shape, at_dy, at_x,
    at_dx, n,
):  # fmt: skip
    """dx (N, C) from dy, x, rows (C) and sums over n elements; moves 3 elements' bytes an element."""
    table = cuda.shared.array(GRADIENT, x.dtype)
    t, (block, cut) = i32(cuda.threadIdx.x), backwards()
    of_lane, mine, packet, row, count = lanes_of_rows(block, cut, t, shape)
    v = load(x, at_x[0])
    n_channels = i32(shape[1] * lanes(v))
    channel = i32(i32(i32(block * shape[2]) * lanes(v)) + t)
    if t < i32(shape[2] * lanes(v)) and channel < n_channels:
        both = sums[SUM_DY * n_channels + channel], sums[SUM_DY_XMU * n_channels + channel]
        rows = np.float64(mean[channel]), np.float64(invstd[channel]), np.float64(weight[channel])
        put_gradient(table, t, RUN, *rows, *both, n)
    cuda.syncthreads()
    of_dy, of_x, of_dx, none = (
        offset_of(at_dy, row, i32(0), packet), offset_of(at_x, row, i32(0), packet),
        offset_of(at_dx, row, i32(0), packet), np.int64(0),
    )  # fmt: skip
    at = i32(of_lane * lanes(v))
    if count > i32(0):
        gradient_packets(
            dy, x, dx, of_dy, of_x, of_dx, i32(0), count, at_dy[2], at_x[2],
            at_dx[2], i32(0), i32(1), none, none, none, gather(table, at, v),
            gather(table, i32(at + i32(RUN)), v), gather(table, i32(at + i32(2 * RUN)), v),
            gather(table, i32(at + i32(3 * RUN)), v), gather(table, i32(at + i32(4 * RUN)), v),
            gather(table, i32(at + i32(5 * RUN)), v),
        )  # fmt: skip
