"""From shapes and strides to the one frame that kernels walk, and to bounded copies where there is none."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numpy.exceptions import AxisError

from ._arrays import require_supported
from ._geometry import Geometry, Strides

Array = npt.NDArray[Any]

CACHE_LINE = 64  # bytes, and those of a vector
CHANNEL = 64  # elements that take as long to sum as what is done once a channel
SLAB = 1 << 18  # elements copied at a time where strides fit no frame: 1 MB of float32


class Layout(NamedTuple):
    """How an array lies, and which of its axes keep their statistics apart: all that a call needs to know of it."""

    kept: tuple[int, ...]
    kept_shape: tuple[int, ...]
    row_shape: tuple[int, ...] | None  # the same if a flat row has it
    n_channels: int
    per_channel: int  # elements of one channel
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: np.dtype[Any]
    frames: tuple[_Frame | None, ...]  # by the number of operands, if all lie like this one
    order: tuple[int, ...] | None  # axes as they lie in memory, without gaps, if a frame fits; none of them for C order


class Piece(NamedTuple):
    """Operands of one frame, in C order, and the channels that they hold."""

    operands: Sequence[Array]
    geometry: Geometry
    channels: slice


class _Frame(NamedTuple):
    """Geometry of operands, and the run of each; no runs if all lie in C order without gaps."""

    geometry: Geometry
    runs: tuple[_Run, ...] | None


MOST_OPERANDS = 3  # dy, x and dx


def layout(
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    dtype: np.dtype[Any],
    axis: int | tuple[int, ...],
    name: str = "x",
) -> Layout:
    """Layout of array `name`, whose statistics `axis`, an axis or several, keeps apart.

    Raises
    ------
    TypeError
        If the dtype is not supported or `axis` holds anything but integers.
    AxisError
        If an axis is out of range.
    ValueError
        If an axis is repeated or there are not two dimensions.
    """
    return _layout(shape, strides, dtype, axis if type(axis) is int else integers("axis", axis), name)


def integers(name: str, value: Any) -> int | tuple[int, ...]:
    """An axis or a number of channels, or a tuple of them, as Python's integers; TypeError for anything else."""
    try:
        return tuple(map(operator.index, value)) if isinstance(value, tuple) else operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an int or a tuple of ints, got {value!r}") from None


@lru_cache(maxsize=4096)
def _layout(
    shape: tuple[int, ...], strides: tuple[int, ...], dtype: np.dtype[Any], axis: int | tuple[int, ...], name: str
) -> Layout:
    require_supported(name, dtype)
    kept = kept_axes(shape, axis, name)
    kept_shape = tuple(shape[a] for a in kept)
    count = math.prod(n for a, n in enumerate(shape) if a not in kept)
    alike = tuple(_canonical(kept, shape, *(dtype, strides) * n) for n in range(1, MOST_OPERANDS + 1))
    return Layout(
        kept,
        kept_shape,
        kept_shape if len(kept_shape) == 1 else None,
        math.prod(kept_shape),
        count,
        shape,
        strides,
        dtype,
        (None, *alike),
        _order(alike[0]),
    )


def _order(found: _Frame | None) -> tuple[int, ...] | None:
    """Order of the one operand of a frame, as `Layout` has it."""
    if found is None:
        return None
    return () if found.runs is None else found.runs[0].order


@lru_cache(maxsize=4096)
def kept_axes(shape: tuple[int, ...], axis: int | tuple[int, ...], name: str = "x") -> tuple[int, ...]:
    """The axes of array `name` that keep their statistics apart, in their order; errors as in `layout`."""
    ndim = len(shape)
    if ndim < 2:
        raise ValueError(f"{name} has shape {shape}, expected at least 2 dimensions")
    axes = axis if isinstance(axis, tuple) else (axis,)
    for a in axes:
        if not -ndim <= a < ndim:
            raise AxisError(a, ndim, "axis")
    kept = tuple(sorted(a % ndim for a in axes))
    if len(set(kept)) != len(kept):
        raise ValueError(f"axis must not repeat an axis, got {axis} for {ndim} dimensions")
    return kept


def frame(layout: Layout, *operands: Array) -> tuple[Sequence[Array], Geometry] | None:
    """All operands in C order, as they lie in memory, and their geometry; None if empty or no frame fits them.

    `layout` is that of an array of their shape; where they all lie like it, everything is known already.
    """
    strides, dtype = layout.strides, layout.dtype
    found = layout.frames[len(operands)]
    for a in operands:
        if not (a.strides == strides and a.dtype is dtype and a.flags.aligned):
            found = _frame_of_others(layout, operands)
            break
    if found is None:
        return None
    geometry, runs = found
    if runs is None:
        return operands, geometry
    return [_flat(a, run) for a, run in zip(operands, runs, strict=True)], geometry


def _frame_of_others(layout: Layout, operands: tuple[Array, ...]) -> _Frame | None:
    if not all(a.flags.aligned for a in operands):
        return None
    return _canonical(layout.kept, layout.shape, *(key for a in operands for key in (a.dtype, a.strides)))


def pieces(layout: Layout, inputs: tuple[Array, ...], output: Array | None = None) -> Iterable[Piece]:
    """All of the operands, as they lie in memory where one frame fits them, else slab by slab through scratch.

    Operands have one shape. The consumer fills the last operand of a piece where an `output` is given.
    """
    whole = frame(layout, *inputs) if output is None else frame(layout, *inputs, output)
    if whole is not None:
        return (Piece(*whole, slice(0, layout.n_channels)),)
    return _slab_pieces(layout, inputs, output) if inputs[0].size else ()


def _slab_pieces(layout: Layout, inputs: tuple[Array, ...], output: Array | None) -> Iterator[Piece]:
    operands = inputs if output is None else (*inputs, output)
    order = _slab_order(layout.kept, operands[0].ndim)
    views = [a.transpose(order) for a in operands]
    for index, channels in _slabs(views[0].shape, layout, order):
        blocks = [view[index] for view in views]
        scratch = [_native(block) for block in blocks[: len(inputs)]]
        if output is not None:
            scratch.append(np.empty_like(scratch[0]))
        n = channels.stop - channels.start
        last = order[-1] in layout.kept
        rest = scratch[0].size // n
        geometry = _geometry(rest if last else 1, n, 1 if last else rest, last, len(operands), scratch[0].itemsize)
        yield Piece(scratch, geometry, channels)
        if output is not None:
            np.copyto(blocks[-1], scratch[-1])


@lru_cache(maxsize=4096)
def _canonical(kept: tuple[int, ...], shape: tuple[int, ...], *layouts: Any) -> _Frame | None:
    """Frame of operands with these dtypes and strides: at most (outer, channel, inner), unit inner stride."""
    dtypes, strides = layouts[::2], layouts[1::2]
    itemsize = dtypes[0].itemsize
    if 0 in shape or not all(d.isnative for d in dtypes) or any(s % itemsize for operand in strides for s in operand):
        return None
    steps = [tuple(s // itemsize for s in operand) for operand in strides]
    channels = [a for a in kept if shape[a] > 1]
    reduced = [a for a in range(len(shape)) if a not in kept and shape[a] > 1]
    reduced.sort(key=lambda a: (steps[0][a] != 0, -abs(steps[0][a])))  # broadcast axes outermost
    channel = _merged(channels, shape, steps)
    rest = _merged(reduced, shape, steps)
    if len(channel) > 1 or len(rest) > 2:
        return None
    units = (1,) * len(steps)
    n_channels, channel_steps = channel[0] if channel else (1, units)
    none = (1, (0,) * len(steps))
    if rest and rest[-1][1] == units:
        outer, inner, last = (rest[0] if len(rest) == 2 else none), rest[-1], False
    elif len(rest) <= 1 and channel_steps == units and (n_channels > 1 or not rest):
        outer, inner, last = (rest[0] if rest else none), none, True
    else:
        return None
    side_by_side = channel_steps == (inner[0],) * len(steps)
    geometry = _geometry(outer[0], n_channels, inner[0], last, len(steps), itemsize, side_by_side)
    for k, operand in enumerate(steps):
        offset = -sum((n - 1) * s for n, s in zip(shape, operand, strict=True) if s < 0)
        geometry.grid[k + 1] = offset, outer[1][k], channel_steps[k]
    runs = tuple(_run(shape, s) for s in steps)
    return _Frame(geometry, None if all(run.is_c for run in runs) else runs)


@lru_cache(maxsize=4096)
def device_frame(kept: tuple[int, ...], shape: tuple[int, ...], *layouts: Any) -> Geometry | Strides | None:
    """How operands with these dtypes and strides are walked without a copy; None if they are empty."""
    if 0 in shape:
        return None
    framed = _canonical(kept, shape, *layouts)
    if framed is not None:
        return framed.geometry
    itemsize = layouts[0].itemsize
    steps = [tuple(s // itemsize for s in operand) for operand in layouts[1::2]]
    reduced = tuple(a for a in range(len(shape)) if a not in kept)
    none = [(1, (0,) * len(steps))]
    parts = [(_merged([a for a in axes if shape[a] > 1], shape, steps) or none)[::-1] for axes in (kept, reduced)]
    starts = [-sum((n - 1) * s for n, s in zip(shape, operand, strict=True) if s < 0) for operand in steps]
    along = [[tuple(strides[k] for _, strides in part) for part in parts] for k in range(len(steps))]
    places = tuple((start, *strides) for start, strides in zip(starts, along, strict=True))
    channels, others = (tuple(n for n, _ in part) for part in parts)
    n_channels, count = math.prod(channels), math.prod(others)
    return Strides(n_channels, channels, others, places, count, n_channels * count)


def _merged(axes: list[int], shape: tuple[int, ...], steps: list[tuple[int, ...]]) -> list[tuple[int, tuple[int, ...]]]:
    """Extents and strides of axes, neighbours joined where every operand lets them be walked as one."""
    joined: list[tuple[int, tuple[int, ...]]] = []
    for a in axes:
        here = tuple(s[a] for s in steps)
        if joined and all(above == shape[a] * step for above, step in zip(joined[-1][1], here, strict=True)):
            joined[-1] = (joined[-1][0] * shape[a], here)
        else:
            joined.append((shape[a], here))
    return joined


class _Run(NamedTuple):
    """The 1-D run of memory that an array spans, lowest address first."""

    extent: int
    order: tuple[int, ...] | None  # axes from the largest stride to the smallest; None where the run has gaps
    is_c: bool  # the order is the array's own
    forward: tuple[slice, ...]  # turns negative strides round


def _run(shape: tuple[int, ...], steps: tuple[int, ...]) -> _Run:
    extent = 1 + sum((n - 1) * abs(s) for n, s in zip(shape, steps, strict=True))
    forward = tuple(slice(None, None, -1 if s < 0 else 1) for s in steps)
    order = tuple(sorted(range(len(shape)), key=lambda a: (-steps[a], a)))
    expected = 1
    for a in reversed(order):
        if shape[a] > 1 and steps[a] != expected:
            return _Run(extent, None, False, forward)
        expected *= shape[a]
    return _Run(extent, order, order == tuple(range(len(shape))), forward)


def _flat(array: Array, run: _Run) -> Array:
    """View an array as its run."""
    if run.is_c:
        return array
    if run.order is not None:
        return array.transpose(run.order)
    ahead, step = array[run.forward], (array.itemsize,)
    return np.lib.stride_tricks.as_strided(ahead, (run.extent,), step, writeable=array.flags.writeable)


def _geometry(
    n_outer: int, n_channels: int, n_inner: int, last: bool, operands: int, itemsize: int, side_by_side: bool = True
) -> Geometry:
    """Geometry of operands that are contiguous in this order."""
    grid = np.empty((operands + 1, 3), np.int64)
    grid[0] = n_outer, n_channels, n_inner
    grid[1:] = 0, n_channels * n_inner, n_inner
    count = n_outer * n_inner
    tiny = side_by_side and not last and n_inner * itemsize < CACHE_LINE
    size = count * n_channels
    work = size if last else size + CHANNEL * n_channels
    return Geometry(n_outer, n_channels, n_inner, last, side_by_side, tiny, grid, count, size, work)


def _slab_order(kept: tuple[int, ...], ndim: int) -> tuple[int, ...]:
    """Kept axes last if the last axis is one, else first: scratch is then channels-last or channels-first."""
    reduced = tuple(a for a in range(ndim) if a not in kept)
    return reduced + kept if ndim - 1 in kept else kept + reduced


def _slabs(shape: tuple[int, ...], layout: Layout, order: tuple[int, ...]) -> Iterator[tuple[Any, slice]]:
    """Blocks of at most SLAB elements, each contiguous in the given order, with the channels they hold."""
    tails = [math.prod(shape[k:]) for k in range(len(shape) + 1)]
    cut = next(k for k in range(len(shape) + 1) if tails[k] <= SLAB) - 1
    if cut < 0:
        yield (), slice(0, layout.n_channels)
        return
    step = SLAB // tails[cut + 1]
    first = 0 if order[0] in layout.kept else len(order) - len(layout.kept)
    channel_tails = {
        k: math.prod(shape[k + 1 : first + len(layout.kept)]) for k in range(first, first + len(layout.kept))
    }
    for lead in np.ndindex(*shape[:cut]):
        for begin in range(0, shape[cut], step):
            end = min(begin + step, shape[cut])
            c = sum(i * channel_tails[k] for k, i in enumerate(lead) if k in channel_tails)
            if cut in channel_tails:
                channels = slice(c + begin * channel_tails[cut], c + end * channel_tails[cut])
            else:
                inside = [k for k in channel_tails if k > cut]
                channels = slice(c, c + math.prod(shape[k] for k in inside))
            yield (*lead, slice(begin, end)), channels


def _native(block: Array) -> Array:
    """C-contiguous copy in native byte order."""
    return np.array(block, dtype=block.dtype.newbyteorder("="), order="C", copy=True)
