"""Arithmetic on rows of a number for each channel, a thread each: what NumPy does with them on the host."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .._compile_cuda import BLOCK, cuda, i32, inner, kernel
from .._scalar import merge as _merge
from .channels import blend, invstd
from .launch import launch
from .operands import packets

merge = inner(_merge)


@kernel
def copy_row(source, target):
    """target (C) from source (C), in target's dtype."""
    c = i32(cuda.blockIdx.x * BLOCK + cuda.threadIdx.x)
    if c < target.size:
        target[c] = source[c]


@kernel
def fill_row(target, value):
    """One value to all of target (C)."""
    c = i32(cuda.blockIdx.x * BLOCK + cuda.threadIdx.x)
    if c < target.size:
        target[c] = value


@kernel
def add_row(source, target):
    """source (C) added to target (C)."""
    c = i32(cuda.blockIdx.x * BLOCK + cuda.threadIdx.x)
    if c < target.size:
        target[c] += source[c]


@kernel
def save_row(mean, var, save_mean, save_invstd, eps):
    """Mean and 1 / sqrt(var + eps) in float64 from rows (C)."""
    c = i32(cuda.blockIdx.x * BLOCK + cuda.threadIdx.x)
    if c < save_mean.size:
        save_mean[c] = mean[c]
        save_invstd[c] = invstd(np.float64(var[c]), eps)


@kernel
def finish_row(mean, m2, running_mean, running_var, scale, numbers):
    """invstd and running statistics from mean and M2 (C)."""
    count, eps, momentum, ddof = numbers
    c = i32(cuda.blockIdx.x * BLOCK + cuda.threadIdx.x)
    if c < mean.size:
        scale[c] = invstd(m2[c] / count, eps)
        running_mean[c] = blend(np.float64(running_mean[c]), mean[c], momentum)
        running_var[c] = blend(np.float64(running_var[c]), m2[c] / (count - ddof), momentum)


@kernel
def merge_row(mean_a, m2_a, mean_b, m2_b, mean, m2, counts):
    """Mean and M2 (C) of two samples together."""
    c = i32(cuda.blockIdx.x * BLOCK + cuda.threadIdx.x)
    if c < mean.size:
        both = merge(counts[0], mean_a[c], m2_a[c], counts[1], mean_b[c], m2_b[c])
        mean[c] = both[0] if both[0] == both[0] else mean_a[c] + mean_b[c]  # infinities of one sign stay what they are
        m2[c] = both[1]


@kernel
def spread_row(m2, result, free, eps, power):
    """m2 / free (C), its square root, or 1 / sqrt(m2 / free + eps), by the power 1, 0.5 or -0.5."""
    c = i32(cuda.blockIdx.x * BLOCK + cuda.threadIdx.x)
    if c < result.size:
        var = m2[c] / free
        result[c] = var if power == 1.0 else invstd(var, eps) if power < 0.0 else math.sqrt(var)


def each(which: kernel, x: Any, inputs: tuple[Any, ...], outputs: tuple[Any, ...], *numbers: Any) -> None:
    """Launch one of these over all channels, on x's stream; arguments that are read come before those written."""
    given = [packets(a, 1) for a in inputs] + [packets(a, 1, True) for a in outputs]
    if outputs[0].extent:
        launch(which, x, (-(-outputs[0].extent // BLOCK), 1), *given, *numbers)
