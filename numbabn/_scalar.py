"""Per-channel arithmetic in plain Python: kernels compile it, NumPy code calls it on arrays."""

from __future__ import annotations

import math
from typing import Any

INVERTED = -1.0  # in the place of eps: invstd has been given, not the variance


def merge(count_a: Any, mean_a: Any, m2_a: Any, count_b: Any, mean_b: Any, m2_b: Any) -> tuple[Any, Any]:
    """Mean and M2 of two samples together (Chan, Golub and LeVeque 1983); the second must not be empty."""
    share = count_b / (count_a + count_b)
    delta = mean_b - mean_a
    return mean_a + delta * share, m2_a + m2_b + delta * delta * (count_a * share)


def blend(old: Any, new: Any, momentum: Any) -> Any:
    """Exponential moving average, `momentum` being the weight of the new value (PyTorch's convention)."""
    return momentum * new + (1.0 - momentum) * old


def invstd(var: Any, eps: Any) -> Any:
    """1 / sqrt(var + eps), and 0 where that sum is 0."""
    return 0.0 if var + eps == 0.0 else 1.0 / math.sqrt(var + eps)


def affine(high: Any, mean: Any, r: Any, weight: Any, bias: Any) -> tuple[Any, Any]:
    """A and b of a channel, so that y = (x - high) * a + b; `high` is the part of the mean that x's dtype holds."""
    a = weight * r
    return a, bias - (mean - high) * a


def gradient(
    x_high: Any, g_high: Any, mean: Any, g_mean: Any, r: Any, weight: Any, sum_dy_xmu: Any, count: Any
) -> tuple[Any, Any, Any]:
    """A, b and d of a channel, so that dx = (dy - g_high) * a + ((x - x_high) * r * b + d).

    r stays apart from b, so that no factor leaves float32's range before x and dy do.
    """
    a = weight * r
    b = -a * (r * sum_dy_xmu / count)
    return a, b, -a * (g_mean - g_high) - b * ((mean - x_high) * r)
