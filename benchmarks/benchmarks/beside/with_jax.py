"""JAX's calls on the CPU: jitted functions, waited for. What the backward keeps of the forward is not timed."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from .batch import EPS, MOMENTUM, Batch, Calls


def calls(b: Batch) -> Calls:
    """The three passes, on arrays in the order of memory."""
    jax: Any = import_module("jax")
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_enable_x64", True)  # or float64 arrays would be rounded
    x, dy = (jax.numpy.array(b.natural(a)) for a in (b.x, b.dy))
    shape = tuple(b.channels if a == b.axis % x.ndim else 1 for a in range(x.ndim))
    weight, bias, mean, var = (jax.numpy.array(a).reshape(shape) for a in (b.weight, b.bias, b.mean, b.var))
    axes = tuple(a for a in range(x.ndim) if shape[a] == 1 and a != b.axis % x.ndim)

    def normalize(x: Any, weight: Any, bias: Any) -> tuple[Any, Any, Any]:
        mean, var = x.mean(axes, keepdims=True), x.var(axes, keepdims=True)
        return (x - mean) * (weight * jax.lax.rsqrt(var + EPS)) + bias, mean, var

    def train(x: Any, weight: Any, bias: Any, *running: Any) -> tuple[Any, ...]:
        y, *batch = normalize(x, weight, bias)
        return y, *((1 - MOMENTUM) * old + MOMENTUM * new for old, new in zip(running, batch, strict=True))

    def infer(x: Any, weight: Any, bias: Any, mean: Any, var: Any) -> Any:
        return (x - mean) * (weight * jax.lax.rsqrt(var + EPS)) + bias

    train_jit, infer_jit = jax.jit(train), jax.jit(infer)
    pull = jax.vjp(lambda *args: normalize(*args)[0], x, weight, bias)[1]
    gradient = jax.jit(lambda pull, dy: pull(dy))
    wait = jax.block_until_ready
    return {
        "training": {"jit": lambda: wait(train_jit(x, weight, bias, mean, var))},
        "eval": {"jit": lambda: wait(infer_jit(x, weight, bias, mean, var))},
        "backward": {"jit": lambda: wait(gradient(pull, dy))},
    }
