"""PyTorch's calls on the CPU: into preallocated results, and as users write them; without a graph of gradients."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from .batch import EPS, MOMENTUM, Batch, Call, Calls


def calls(b: Batch) -> Calls:
    """All but `normalize`, which PyTorch does not have. NHWC arrays are what it calls channels_last."""
    torch: Any = import_module("torch")
    x = torch.from_numpy(b.x)
    rank = 1 if x.ndim == 2 else x.ndim - 2
    kind = getattr(torch.nn, f"BatchNorm{rank}d")
    learning, fixed = (
        kind(b.channels, eps=EPS, momentum=MOMENTUM, dtype=x.dtype).requires_grad_(False) for _ in range(2)
    )
    fixed.eval()
    return {
        "training": _forward(torch, b, True),
        "eval": _forward(torch, b, False),
        "backward": _backward(torch, b),
        "moments": {"functional": lambda: torch.var_mean(x, b.axes, correction=0)[::-1]},
        "layer-training": {"layer": lambda: learning(x)},
        "layer-eval": {"layer": lambda: fixed(x)},
    }


def _forward(torch: Any, b: Batch, training: bool) -> dict[str, Call]:
    statistics = (b.running_mean, b.running_var) if training else (b.mean, b.var)
    x, out, weight, bias, mean, var = map(torch.from_numpy, (b.x, b.out, b.weight, b.bias, *statistics))
    saves = [torch.empty(b.channels if training else 0, dtype=x.dtype) for _ in range(2)]
    norm = torch.ops.aten.native_batch_norm.out
    args = (x, weight, bias, mean, var, training, MOMENTUM, EPS)
    batch_norm = torch.nn.functional.batch_norm
    return {
        "out": lambda: norm(*args, out=out, save_mean=saves[0], save_invstd=saves[1]),
        "functional": lambda: batch_norm(x, mean, var, weight, bias, training, MOMENTUM, EPS),
    }


def _backward(torch: Any, b: Batch) -> dict[str, Call]:
    x, dy, out, weight, mean, var = map(torch.from_numpy, (b.x, b.dy, b.out, b.weight, b.mean, b.var))
    d_weight, d_bias = torch.empty_like(weight), torch.empty_like(weight)
    forward, gradient = torch.ops.aten.native_batch_norm, torch.ops.aten.native_batch_norm_backward
    saved = forward(x, weight, None, None, None, True, MOMENTUM, EPS)[1:]
    args = (dy, x, weight, mean, var, *saved, True, EPS, [True] * 3)
    return {
        "out": lambda: gradient.out(*args, out0=out, out1=d_weight, out2=d_bias),
        "functional": lambda: gradient(*args),
    }
