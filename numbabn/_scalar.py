"""Per-channel arithmetic in plain Python: kernels compile it, NumPy code calls it on arrays."""

from __future__ import annotations

from typing import Any


def merge(count_a: Any, mean_a: Any, m2_a: Any, count_b: Any, mean_b: Any, m2_b: Any) -> tuple[Any, Any]:
    """Mean and M2 of two samples together (Chan, Golub and LeVeque 1983); the second must not be empty."""
    share = count_b / (count_a + count_b)
    delta = mean_b - mean_a
    return mean_a + delta * share, m2_a + m2_b + delta * delta * (count_a * share)


def blend(old: Any, new: Any, momentum: Any) -> Any:
    """Exponential moving average, `momentum` being the weight of the new value (PyTorch's convention)."""
    return momentum * new + (1.0 - momentum) * old
