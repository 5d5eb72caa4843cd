"""numbabn's calls: into a reused output, with a new one as users call it by default, and in place."""

from __future__ import annotations

from typing import Any

import numbabn as nb

from .batch import EPS, MOMENTUM, Array, Batch, Call, Calls

MAIN = "out"  # the way that is compared, where an operation has an output


def calls(b: Batch) -> Calls:
    """Every operation; layers only in the ways that they have."""
    batch = nb.moments(b.x)
    mean, invstd = batch.mean, batch.invstd(EPS)
    learning, fixed = layers(b)
    given = (mean, invstd, b.weight, b.bias)
    saved = (b.x, b.weight, mean, invstd)
    return {
        "training": _forward(b, (b.running_mean, b.running_var), True),
        "eval": _forward(b, (b.mean, b.var), False),
        "backward": {
            MAIN: lambda: nb.batch_norm_backward(b.dy, *saved, out=b.out),
            "default": lambda: nb.batch_norm_backward(b.dy, *saved),
            "in place": lambda: nb.batch_norm_backward(b.dy, *saved, out=b.dy),
        },
        "moments": {MAIN: lambda: nb.moments(b.x)},
        "normalize": {
            MAIN: lambda: nb.normalize(b.x, *given, out=b.out),
            "default": lambda: nb.normalize(b.x, *given),
            "in place": lambda: nb.normalize(b.x, *given, out=b.x),
        },
        "layer-training": {"default": lambda: learning(b.x)},
        "layer-eval": {"default": lambda: fixed(b.x)},
    }


def layers(b: Batch) -> tuple[Any, Any]:
    """A layer in training and one in eval mode."""
    learning, fixed = (nb.BatchNorm(b.channels, eps=EPS, momentum=MOMENTUM, dtype=b.dtype) for _ in range(2))
    fixed.eval()
    return learning, fixed


def _forward(b: Batch, statistics: tuple[Array, Array], training: bool) -> dict[str, Call]:
    args = (*statistics, b.weight, b.bias, training, MOMENTUM, EPS)
    return {
        MAIN: lambda: nb.batch_norm(b.x, *args, out=b.out),
        "default": lambda: nb.batch_norm(b.x, *args),
        "in place": lambda: nb.batch_norm(b.x, *args, out=b.x),
    }
