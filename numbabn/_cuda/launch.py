"""From a call to a launch: the stream that x's work is ordered on, its device, and the grid."""

from __future__ import annotations

from contextlib import nullcontext
from functools import cache
from typing import Any

from .._compile_cuda import SIMULATED, cuda, kernel


@cache
def stream_of(handle: int) -> Any:
    """Numba's object for a stream's handle; 0 is the default stream."""
    return 0 if handle == 0 or SIMULATED else cuda.external_stream(handle)


def on_device(number: int | None) -> Any:
    """Context in which that device is the current one; None leaves it as it is."""
    if number is None or SIMULATED or cuda.get_current_device().id == number:
        return nullcontext()
    return cuda.gpus[number]


def launch(which: kernel, x: Any, grid: tuple[int, int], *args: Any, shared: int = 0) -> None:
    """Run a kernel where x is, after all that its stream has been given so far."""
    with on_device(x.device):
        which.on(grid, stream_of(x.stream), shared)(*args)


def order(earlier: int, later: int) -> None:
    """Let one stream wait for what another has been given so far; the host does not wait."""
    if earlier != later:
        event = cuda.event(timing=False)
        event.record(stream_of(earlier))
        event.wait(stream_of(later))
