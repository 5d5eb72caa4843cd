"""Table of accuracy beside PyTorch: largest error of the training forward, data ever farther from zero."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import torch

import numbabn as nb

CASES = {"NCHW": (8, 16, 56, 56), "NHWC": (8, 16, 56, 56), "(N, C)": (25088, 16)}
LIBRARIES = ("torch", "numbabn")
MEANS = (0, 100, 1_000, 10_000, 100_000)


def batch(layout: str, mean: float) -> Any:
    """Seeded float32 data of standard deviation 1, channels on axis 1."""
    x = (np.random.default_rng(0).standard_normal(CASES[layout]) + mean).astype(np.float32)
    return np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2) if layout == "NHWC" else x


def reference(x: Any) -> Any:
    """Training forward in long double."""
    axes = tuple(a for a in range(x.ndim) if a != 1)
    d = x.astype(np.longdouble)
    d -= d.mean(axes, keepdims=True)
    return d / np.sqrt((d * d).mean(axes, keepdims=True) + np.longdouble(1e-5))


def forwards(x: Any) -> dict[str, Any]:
    """Training forward of each library."""
    theirs = torch.nn.functional.batch_norm(torch.from_numpy(x), None, None, training=True).numpy()
    return {"torch": theirs, "numbabn": nb.batch_norm(x, training=True)}


def measure() -> dict[tuple[str, str], list[float]]:
    """Largest error for each library and layout, one value for each mean."""
    errors: dict[tuple[str, str], list[float]] = {(who, layout): [] for who in LIBRARIES for layout in CASES}
    for mean in MEANS:
        for layout in CASES:
            x = batch(layout, mean)
            expected = reference(x)
            for who, y in forwards(x).items():
                errors[who, layout].append(float(np.abs(y - expected).max()))
    return errors


def main() -> int:
    """Print a Markdown table."""
    errors = measure()
    print("| mean / std |", " | ".join(f"{who}, {layout}" for who, layout in errors), "|")
    print("|---|" + "---|" * len(errors))
    for mean, row in zip(MEANS, zip(*errors.values(), strict=True), strict=True):
        print(f"| {mean:,} |", " | ".join(f"{error:.0e}" for error in row), "|")
    return 0


if __name__ == "__main__":
    sys.exit(main())
