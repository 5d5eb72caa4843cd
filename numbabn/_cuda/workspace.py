"""Scratch memory of launches. It belongs to a device and a stream, whose launches run one after another."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from .._compile_cuda import cuda
from .launch import on_device, stream_of

_lock = threading.Lock()
_workspaces: dict[tuple[int | None, int], Workspace] = {}


class Workspace:
    """Sums that blocks leave to the last one, and the tickets by which it knows that it is; grown, never shrunk."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        self.partial: Any = None
        self.tickets: Any = None
        self.table: Any = None  # statistics that nobody asked for
        self.row: Any = None  # running statistics that nobody keeps
        self._sizes: tuple[int, ...] = (0, 0, 0)

    def grow(self, sums: int, tickets: int, channels: int) -> None:
        """Make room; nothing is allocated where there is enough, so that a graph can be captured after a first call."""
        wanted = sums, tickets, channels
        if any(n > size for n, size in zip(wanted, self._sizes, strict=True)):
            sizes = tuple(1 << max(1023, n - 1).bit_length() for n in map(max, wanted, self._sizes))
            self.partial = cuda.to_device(np.zeros(sizes[0]), stream=self.stream)
            # the last block sets its ticket back to zero
            self.tickets = cuda.to_device(np.zeros(sizes[1], np.int32), stream=self.stream)
            self.table = cuda.to_device(np.zeros(3 * sizes[2]), stream=self.stream)
            self.row = cuda.to_device(np.zeros(sizes[2]), stream=self.stream)
            self._sizes = sizes


def table(x: Any, channels: int) -> Any:
    """Three float64 rows that nobody keeps, of x's device and stream."""
    return room_for(x, 0, 0, channels).table


def room_for(x: Any, sums: int, tickets: int, channels: int) -> Workspace:
    """Scratch of x's device and stream with room for so many sums, tickets and a row of channels."""
    key = x.device, x.stream
    with _lock:
        found = _workspaces.get(key)
        if found is None:
            found = _workspaces[key] = Workspace(stream_of(x.stream))
        with on_device(x.device):
            found.grow(sums, tickets, channels)
        return found
