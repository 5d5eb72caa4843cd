"""Shapes that compare.py measures unless told otherwise, and what can be measured of each."""

from __future__ import annotations

from .batch import SMALL, Case

Shape = tuple[int, ...]

OPERATIONS = ("training", "eval", "backward", "moments", "normalize", "layer-training", "layer-eval")
# How often the array is moved between memory and the processor, if once is enough for each operand.
MOVES = {"training": 2, "eval": 2, "backward": 3, "moments": 1, "normalize": 2}

_PLANES: list[Shape] = [
    (32, 64, 56, 56),
    (32, 256, 14, 14),
    (128, 64, 32, 32),
    (20, 120, 55, 65),
    (8, 64, 112, 112),
    (32, 512, 7, 7),
    (64, 3, 224, 224),
    (256, 256, 28, 28),
    (16, 24, 224, 224),
    (4, 4096, 7, 7),
    (1, 64, 160, 160),
    (2, 1024, 14, 14),
]
SHAPES: dict[str, list[Shape]] = {
    "nchw": [*_PLANES, (4, 32, 16, 56, 56)],
    "nhwc": _PLANES,
    "nc": [(4096, 1024), (256, 1024), (8192, 128), (100_000, 16), (512, 4096), (64, 1280)],
    "small": [(32, 64), (8, 16, 4, 4)],
}


def fits(layout: str, shape: Shape) -> bool:
    """Whether a shape can have this layout; small is any array of a few thousand elements."""
    if layout == "small":
        return Case(layout, shape).size <= SMALL
    return len(shape) == 2 if layout == "nc" else len(shape) > 2


def cases(layouts: list[str], shapes: list[Shape], dtype: str) -> list[Case]:
    """The grid, or the given shapes in every layout that they fit."""
    return [
        Case(layout, shape, dtype) for layout in layouts for shape in (shapes or SHAPES[layout]) if fits(layout, shape)
    ]
