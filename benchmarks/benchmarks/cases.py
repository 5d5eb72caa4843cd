"""The grid that users meet; NUMBABN_BENCH_SMALL=1 shrinks it for a quick pass that shows what no longer runs."""

from __future__ import annotations

import os
from typing import TypeVar

from .beside import ours
from .beside.batch import Batch, Call, Case

SMALL = os.environ.get("NUMBABN_BENCH_SMALL") == "1"

T = TypeVar("T")
Shape = tuple[int, ...]  # channels second, whatever the memory order

_PLANES: list[Shape] = [
    (32, 64, 112, 112),  # ResNet
    (32, 64, 56, 56),
    (32, 128, 28, 28),
    (32, 1024, 14, 14),
    (32, 512, 7, 7),
    (16, 96, 112, 112),  # EfficientNet
    (16, 1280, 7, 7),
    (1, 16, 112, 112),  # MobileNet, one image
    (1, 960, 7, 7),
    (4, 64, 224, 224),  # UNet
    (2, 512, 28, 28),
    (64, 3, 224, 224),  # images as they come
    (512, 1, 28, 28),
    (4, 4096, 7, 7),
]
_LINES_AND_VOLUMES: list[Shape] = [
    (32, 64, 1024),  # PointNet
    (32, 1024, 128),
    (4, 32, 16, 56, 56),
    (1, 16, 64, 64, 64),
]
_TABLES: list[Shape] = [(512, 4096), (4096, 1024), (100_000, 16), (256, 128)]
_WIDE: list[Shape] = [(32, 64, 56, 56), (32, 512, 7, 7)]

SHAPES: dict[tuple[str, str], list[Shape]]
if SMALL:
    SHAPES = {
        ("nchw", "float32"): [(4, 3, 9, 9)],
        ("nhwc", "float32"): [(4, 3, 9, 9)],
        ("nc", "float64"): [(32, 8)],
    }
else:
    SHAPES = {
        ("nchw", "float32"): [*_PLANES, *_LINES_AND_VOLUMES],
        ("nhwc", "float32"): _PLANES,
        ("nc", "float32"): _TABLES,
        ("nchw", "float64"): _WIDE,
        ("nhwc", "float64"): _WIDE,
        ("nc", "float64"): _TABLES[:1],
    }
CASES = {str(c): c for (layout, dtype), shapes in SHAPES.items() for c in (Case(layout, s, dtype) for s in shapes)}
SMALL_CALLS = {str(c): c for c in (Case("small", s) for s in ((32, 64), (8, 16, 4, 4), (2, 8, 4, 4)))}
OPERATIONS = ["training", "eval", "backward", "moments", "normalize"]


def few(values: list[T], n: int = 1) -> list[T]:
    """All values, or in the quick pass the first n: each combination is a process of its own."""
    return values[:n] if SMALL else values


def call_of(batch: Batch, name: str) -> Call:
    """One of our calls, such as "training" or "training, in place"; it has run once, so that its kernel is there."""
    operation, _, way = name.partition(", ")
    ways = ours.calls(batch)[operation]
    call = ways[way or next(iter(ways))]
    call()
    return call
