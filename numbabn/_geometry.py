"""What the layout finds and the loops walk: a frame of flat arrays; and the rows of what loops find out."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy.typing as npt

MEAN, INVSTD, M2 = range(3)  # rows of the statistics, float64 (3, C), that kernels write
SUM_DY, SUM_DY_XMU, GRAD_WEIGHT = range(3)  # rows of the sums, float64 (3, C), of a backward


class Geometry(NamedTuple):
    """Extents and strides, in elements, of flat operands that share one walk."""

    n_outer: int
    n_channels: int
    n_inner: int
    channels_last: bool  # channels are contiguous and n_inner is 1; else the inner run is contiguous
    side_by_side: bool  # the inner runs of neighbouring channels make a row without gaps, in every operand
    tiny: bool  # and they are shorter than a cache line; asked anew in each call it took 0.3 us of an eval's 7.6
    grid: npt.NDArray[Any]  # the same for kernels: extents, then (offset, outer stride, channel stride) per operand
    per_channel: int  # elements of one channel
    size: int  # elements of one operand
    work: int  # and as many as take as long to sum as what is done once a channel; known beforehand, as `tiny` is


class Strides(NamedTuple):
    """Axes of operands that fit no frame, counted from the fastest one on, for loops that walk any strides."""

    n_channels: int
    kept: tuple[int, ...]  # extents of the axes that are the channels
    reduced: tuple[int, ...]  # and of the others
    places: tuple[tuple[int, tuple[int, ...], tuple[int, ...]], ...]  # offset and strides of both, for each operand
    per_channel: int
    size: int
