"""What memory allows: the best of several copies of the same array, measured in the same run."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np

from .batch import Batch, Call
from .copies import copy
from .grid import MOVES


def copies(b: Batch) -> dict[str, Call]:
    """Ways to copy x to out."""
    x, out = b.flat(b.x), b.flat(b.out)
    ways: dict[str, Call] = {
        "numpy": lambda: np.copyto(out, x),
        "stores": lambda: copy(x, out, False),
        "streamed": lambda: copy(x, out, True),
    }
    if find_spec("torch"):
        torch: Any = import_module("torch")
        source, target = torch.from_numpy(x), torch.from_numpy(out)
        ways["torch"] = lambda: target.copy_(source)
    return ways


def seconds(operation: str, best_copy: float) -> float | None:
    """Least time of an operation, whose copy moves the array twice; None for one that has no such limit."""
    return best_copy * MOVES[operation] / 2 if operation in MOVES else None
