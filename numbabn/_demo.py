"""The demo: train, evaluate and differentiate a batch, check each against NumPy, and time it."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TextIO

import numpy as np
import numpy.typing as npt

from .functional import batch_norm, batch_norm_backward, batch_norm_forward
from .layers import BatchNorm2d

Array = npt.NDArray[Any]

SHAPE = (32, 64, 56, 56)  # 26 MB of float32: a ResNet-50 layer
STEPS = 3
EPS, MOMENTUM = 1e-5, 0.1
OFFSETS = (0.0, 1e3)  # means of the data in standard deviations
BAR = 1e-6  # largest error allowed, times max(1, |reference| / 4)

Row = tuple[str, float, float]  # what was checked, its error and the error allowed


def images(shape: tuple[int, ...], offset: float, seed: int) -> Array:
    """A seeded batch that looks like feature maps: smooth in space, a scale of its own for each channel."""
    rng = np.random.default_rng(seed)
    n, c, h, w = shape
    x = rng.standard_normal(shape, dtype=np.float32)
    ramp = np.linspace(-1, 1, h, dtype=np.float32)[:, None] + np.linspace(-1, 1, w, dtype=np.float32)
    scale = rng.uniform(0.5, 2.0, (1, c, 1, 1)).astype(np.float32)
    x += ramp * rng.standard_normal((n, c, 1, 1), dtype=np.float32)
    x *= scale
    x += np.float32(offset) * scale
    return x


def main(file: TextIO | None = None) -> int:
    """Run every check and timing; 0 if all is as accurate as it must be, else 1."""
    out = file or sys.stdout
    rows = [row for offset in OFFSETS for row in check(offset)]
    print(f"Accuracy, batch {SHAPE} float32, against float64 NumPy", file=out)
    failures = 0
    for name, error, allowed in rows:
        failures += not error <= allowed
        print(f"  {name:58} {error:9.2e}   allowed {allowed:7.1e}   {'ok' if error <= allowed else 'OFF'}", file=out)
    timings(out)
    print("All checks passed." if not failures else f"{failures} of {len(rows)} checks are off.", file=out)
    return min(failures, 1)


def check(offset: float) -> list[Row]:
    """Errors of training steps, eval and backward at this mean."""
    layer = BatchNorm2d(SHAPE[1], eps=EPS, momentum=MOMENTUM)
    rng = np.random.default_rng(7)
    assert layer.weight is not None and layer.bias is not None
    layer.weight[:] = rng.uniform(0.5, 1.5, SHAPE[1])
    layer.bias[:] = rng.uniform(-0.5, 0.5, SHAPE[1])
    mean, var = np.zeros(SHAPE[1]), np.ones(SHAPE[1])
    for step in range(STEPS):
        x = images(SHAPE, offset, step)
        y = layer(x)
        batch_mean, batch_var = statistics(x)
        mean += MOMENTUM * (batch_mean - mean)
        var += MOMENTUM * (batch_var * (x.size / SHAPE[1]) / (x.size / SHAPE[1] - 1) - var)
    dy = images(SHAPE, 0.0, STEPS)
    dx = layer.backward(dy)
    forward_error = max(error(y[:, c], affine(x[:, c], batch_mean[c], batch_var[c], layer, c)) for c in channels())
    d = [gradient(dy[:, c], x[:, c], batch_mean[c], batch_var[c], layer.weight[c]) for c in channels()]
    backward_error = max(error(dx[:, c], d[c][0]) for c in channels())
    # Where products cancel, the sum is known to a share of its spread, the root of the sum of their squares.
    weight_error = max(
        abs(layer.grads["weight"][c] - d[c][1]) / max(np.linalg.norm(dy[:, c]), abs(d[c][1])) for c in channels()
    )
    layer.eval()
    y = layer(x)
    assert layer.running_mean is not None and layer.running_var is not None
    stored_mean, stored_var = layer.running_mean.astype(np.float64), layer.running_var.astype(np.float64)
    eval_error = max(error(y[:, c], affine(x[:, c], stored_mean[c], stored_var[c], layer, c)) for c in channels())
    where = f"data {offset:g} std from zero"
    spread = np.sqrt(var)
    mean_allowed = 2 * float(np.spacing(np.abs(mean).astype(np.float32) / spread.astype(np.float32)).max()) + 1e-7
    return [
        (f"training forward, {where}", forward_error, BAR),
        (f"backward dx, {where}", backward_error, BAR),
        (f"backward dweight (relative), {where}", weight_error, BAR),
        (f"running mean (in std), {where}", float((np.abs(stored_mean - mean) / spread).max()), STEPS * mean_allowed),
        (f"running var (relative), {where}", float(np.abs(stored_var / var - 1).max()), BAR),
        (f"eval forward, {where}", eval_error, BAR),
    ]


def channels() -> range:
    """Index of every channel."""
    return range(SHAPE[1])


def statistics(x: Array) -> tuple[Array, Array]:
    """Mean and biased variance of each channel, two passes in float64."""
    means, variances = np.empty(x.shape[1]), np.empty(x.shape[1])
    for c in range(x.shape[1]):
        plane = x[:, c].astype(np.float64)
        means[c] = plane.mean()
        variances[c] = ((plane - means[c]) ** 2).mean()
    return means, variances


def affine(x: Array, mean: float, var: float, layer: BatchNorm2d, c: int) -> Array:
    """One channel's reference output."""
    assert layer.weight is not None and layer.bias is not None
    scale = float(layer.weight[c]) / np.sqrt(var + EPS)
    result: Array = (x.astype(np.float64) - mean) * scale + float(layer.bias[c])
    return result


def gradient(dy: Array, x: Array, mean: float, var: float, weight: float) -> tuple[Array, float]:
    """One channel's reference dx and dweight."""
    g, invstd = dy.astype(np.float64), 1 / np.sqrt(var + EPS)
    normalized = (x.astype(np.float64) - mean) * invstd
    d_weight = float((g * normalized).sum())
    return float(weight) * invstd * (g - g.mean() - normalized * (d_weight / g.size)), d_weight


def error(result: Array, reference: Array) -> float:
    """Largest error, relative to a quarter of the reference where that exceeds 1."""
    return float((np.abs(result - reference) / np.maximum(1.0, np.abs(reference) / 4)).max())


def timings(out: TextIO) -> None:
    """Table of times and bandwidths: numbabn, plain NumPy, and a copy by all processors."""
    x, dy = images(SHAPE, 0.0, 0), images(SHAPE, 0.0, 1)
    y, c = np.empty_like(x), SHAPE[1]
    mean, var, weight, bias = (np.full(c, value, np.float32) for value in (0, 1, 1, 0))
    _, save_mean, save_invstd = batch_norm_forward(x, training=True)
    saved = save_mean.astype(np.float32), save_invstd.astype(np.float32)
    calls: list[tuple[str, int, Callable[[], object], Callable[[], object]]] = [
        (
            "training forward",
            2,
            lambda: batch_norm(x, mean, var, weight, bias, training=True, out=y),
            lambda: numpy_forward(x, weight, bias, y),
        ),
        (
            "eval forward",
            2,
            lambda: batch_norm(x, mean, var, weight, bias, out=y),
            lambda: numpy_eval(x, mean, var, weight, bias, y),
        ),
        (
            "backward",
            3,
            lambda: batch_norm_backward(dy, x, weight, save_mean, save_invstd, out=y),
            lambda: numpy_backward(dy, x, weight, *saved, y),
        ),
    ]
    copy = copy_time(x, y)
    print(f"\nSpeed, batch {SHAPE} float32, outputs reused; copy by all processors {rate(x, 2, copy)}", file=out)
    print(f"  {'':18}{'numbabn':>22}{'NumPy':>25}{'ratio':>9}{'of copy':>9}", file=out)
    for name, arrays, ours, numpys in calls:
        mine, theirs = best(ours), best(numpys, repeats=3)
        print(
            f"  {name:18}{mine * 1e3:9.2f} ms{rate(x, arrays, mine)}{theirs * 1e3:12.2f} ms{rate(x, arrays, theirs)}"
            f"{theirs / mine:7.1f} x{arrays / 2 * copy / mine:8.0%}",
            file=out,
        )
    print("  GB/s: each array counted once, read or written.\n", file=out)


def rate(x: Array, arrays: int, seconds: float) -> str:
    """Bandwidth of that many arrays moved in that time."""
    return f"{arrays * x.nbytes / seconds / 1e9:6.1f} GB/s"


def best(call: Callable[[], object], repeats: int = 9) -> float:
    """Shortest of several times, in seconds, after one untimed call."""
    call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def copy_time(x: Array, to: Array) -> float:
    """Time of NumPy's copy by as many threads as there are processors: what memory gives without arithmetic."""
    parts = os.cpu_count() or 1
    with ThreadPoolExecutor(parts) as pool:
        pairs = list(zip(np.array_split(to, parts), np.array_split(x, parts), strict=True))
        return best(lambda: list(pool.map(lambda pair: np.copyto(*pair), pairs)))


def numpy_forward(x: Array, weight: Array, bias: Array, y: Array) -> None:
    """Training forward in plain NumPy, as one would write it."""
    numpy_eval(x, x.mean((0, 2, 3)), x.var((0, 2, 3)), weight, bias, y)


def numpy_eval(x: Array, mean: Array, var: Array, weight: Array, bias: Array, y: Array) -> None:
    """Eval forward in plain NumPy."""
    scale = weight / np.sqrt(var + np.float32(EPS))
    np.subtract(x, mean[:, None, None], out=y)
    np.multiply(y, scale[:, None, None], out=y)
    np.add(y, bias[:, None, None], out=y)


def numpy_backward(dy: Array, x: Array, weight: Array, mean: Array, invstd: Array, dx: Array) -> None:
    """Training backward in plain NumPy."""
    axes, n = (0, 2, 3), np.float32(x.size // x.shape[1])
    mean, invstd = mean[:, None, None], invstd[:, None, None]
    normalized = (x - mean) * invstd
    sums = dy.sum(axes, keepdims=True), (dy * normalized).sum(axes, keepdims=True)
    np.multiply(dy - sums[0] / n - normalized * (sums[1] / n), weight[:, None, None] * invstd, out=dx)
