"""Peak memory of the process that asks."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


def peak() -> int:
    """Most bytes that were ever resident."""
    status = Path("/proc/self/status")
    if status.exists():  # ru_maxrss is never below that of the process that started this one
        return 1024 * int(re.findall(r"VmHWM:\s+(\d+)", status.read_text())[0])
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def grown(function: Callable[[], T]) -> tuple[T, int]:
    """What a function returns, and by how much it raised the peak."""
    before = peak()
    result = function()
    return result, peak() - before
