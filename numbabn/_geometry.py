"""What the layout finds and the loops walk: a frame of flat arrays, and the rows of a pack."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy.typing as npt

# Rows of a pack, the float64 (rows, C) array that carries every per-channel number to and from a kernel.
MEAN, INVSTD, WEIGHT, BIAS, M2, RUNNING_MEAN, RUNNING_VAR = range(7)
SUM_DY, SUM_DY_XMU = BIAS, M2  # a backward has no use for the bias and M2


class Geometry(NamedTuple):
    """Extents and strides, in elements, of flat operands that share one walk."""

    n_outer: int
    n_channels: int
    n_inner: int
    channels_last: bool  # channels are contiguous and n_inner is 1; else the inner run is contiguous
    grid: npt.NDArray[Any]  # the same for kernels: extents, then (offset, outer stride, channel stride) per operand
    per_channel: int  # elements of one channel
    size: int  # elements of one operand
