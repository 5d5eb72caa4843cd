"""Table of accuracy beside PyTorch: largest error of the training forward, data ever farther from zero."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import torch

import numbabn as nb

CASES = {"NCHW": (8, 16, 56, 56), "NHWC": (8, 16, 56, 56), "(N, C)": (25088, 16)}
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


def main() -> int:
    """Print a Markdown table."""
    sides = [f"{who}, {layout}" for who in ("torch", "numbabn") for layout in CASES]
    print("| mean / std |", " | ".join(sides), "|")
    print("|---|" + "---|" * len(sides))
    for mean in MEANS:
        errors: dict[str, list[float]] = {"torch": [], "numbabn": []}
        for layout in CASES:
            x = batch(layout, mean)
            expected = reference(x)
            theirs = torch.nn.functional.batch_norm(torch.from_numpy(x), None, None, training=True).numpy()
            for who, y in (("torch", theirs), ("numbabn", nb.batch_norm(x, training=True))):
                errors[who].append(float(np.abs(y - expected).max()))
        print(f"| {mean:,} |", " | ".join(f"{e:.0e}" for who in errors for e in errors[who]), "|")
    return 0


if __name__ == "__main__":
    sys.exit(main())
