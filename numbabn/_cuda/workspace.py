"""Scratch memory of launches. It belongs to a device and a stream, whose launches run one after another."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from .._compile_cuda import cuda
from .launch import on_device, stream_of

_lock = threading.Lock()
_workspaces: dict[tuple[int | None, int], Workspace] = {}
_tables = threading.local()


class Workspace:
    """What one launch leaves behind for none: grown, never shrunk.

    Attributes
    ----------
    partial : device array of float64
        Sums that blocks leave to the last one.
    tickets : device array of int32
        By which a block knows that it is the last one, who sets them back to zero.
    row : device array of float64
        Running statistics that nobody keeps.
    """

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        self.partial: Any = None
        self.tickets: Any = None
        self.row: Any = None

    def grow(self, sums: int, tickets: int, channels: int) -> None:
        """Make room; nothing is allocated where there is enough, so that a graph can be captured after a first call."""
        self.partial = _grown(self.partial, sums, np.float64, self.stream)
        self.tickets = _grown(self.tickets, tickets, np.int32, self.stream)
        self.row = _grown(self.row, channels, np.float64, self.stream)


def room_for(x: Any, sums: int, tickets: int, channels: int) -> Workspace:
    """Scratch of x's device and stream with room for so many sums, tickets and a row of channels."""
    key = x.device, x.stream
    with _lock, on_device(x.device):
        found = _workspaces.get(key)
        if found is None:
            found = _workspaces[key] = Workspace(stream_of(x.stream))
        found.grow(sums, tickets, channels)
        return found


def table(x: Any, channels: int) -> Any:
    """Three float64 rows that nobody keeps, of x's device and stream, and of this thread.

    One launch writes them and another one reads them: a second thread's may come between.
    """
    mine: dict[Any, Any] = _tables.__dict__.setdefault("mine", {})
    key = x.device, x.stream
    with on_device(x.device):
        mine[key] = _grown(mine.get(key), 3 * channels, np.float64, stream_of(x.stream))
    return mine[key]


def _grown(array: Any, size: int, dtype: Any, stream: Any) -> Any:
    """An array of zeros at least this long: the given one, if it is."""
    if array is not None and array.shape[0] >= size:
        return array
    return cuda.to_device(np.zeros(1 << max(1023, size - 1).bit_length(), dtype), stream=stream)
