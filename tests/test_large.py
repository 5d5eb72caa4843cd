"""Gigabytes in one array, and more elements than 32 bits count, each in a process of its own: `pytest -m large`.

From element 2**31 on (or 2**29, if it counts bytes) an offset of 32 bits is negative: it crashes the process, or leaves
alone what should be read or written. A count of 32 bits begins anew at 2**32.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import fresh
import memory
import naive
import numpy as np
import pytest
from cases import Array, gradient_bars, normal, y_bar

import numbabn as nb

pytestmark = pytest.mark.large

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
VOLUME = (130, 65, 75, 40)
S3, MORE = 50, 85  # volumes: the example's, 5.07 GB, and 2**31 + 7,266,352 elements
Run = Callable[[int, str], Any]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Call something of this module in a process of its own, if memory holds so many bytes and a quarter."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    available = import_module("benchmarks.beside.machine").available_memory()
    cache = Path(os.environ.get("NUMBA_CACHE_DIR") or tmp_path)

    def call(nbytes: int, code: str) -> Any:
        needed = 1.25 * nbytes
        if available < needed:
            pytest.skip(f"needs {needed / 2**30:.1f} GiB of memory, {available / 2**30:.1f} GiB are available")
        return json.loads(fresh.run(f"import json, test_large as t; print(json.dumps(t.{code}))", cache, timeout=900.0))

    return call


def off(found: Any, expected: Array) -> float:
    """Largest error, relative to the largest of all."""
    return float(np.abs(found - expected).max() / np.abs(expected).max())


# -- volumes, no two of them alike -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "axis", "in_place"),
    [(S3, 1, True), (S3, 1, False), (MORE, 1, True), (MORE, -1, True)],
    ids=["s3-in-place", "s3-new-output", "more-than-2**31", "more-than-2**31-channels-last"],
)
def test_volumes(run: Run, n: int, axis: int, in_place: bool) -> None:
    nbytes = 4 * n * math.prod(VOLUME)
    found = run(nbytes if in_place else 2 * nbytes, f"volumes({n}, {axis}, {in_place})")
    assert found["nbytes"] == nbytes
    assert found["same"] == in_place
    assert found["y"] < 1.0
    assert found["mean"] < 1e-6
    assert found["var"] < 1e-6
    assert (found["growth"] < 0.04) if in_place else (0.9 < found["growth"] < 1.04)


def volumes(n: int, axis: int, in_place: bool) -> dict[str, float]:
    """A training step: growth of memory beside x, and errors of all elements, in bars, and of the statistics."""
    channels, *rest = VOLUME
    kept = np.zeros((n, channels, *rest) if axis == 1 else (n, *rest, channels), np.float32)
    x, layer = np.moveaxis(kept, axis, 1), nb.BatchNorm3d(channels, momentum=1.0)
    nb.BatchNorm3d(channels)(x[:2], out=x[:2])  # every kernel has run before memory is watched
    np.random.default_rng(0).standard_normal(out=kept[0], dtype=np.float32)
    x[0] += np.linspace(-3.0, 3.0, channels, dtype=np.float32)[:, None, None, None]
    first, factors = x[0].copy("K"), np.linspace(1.0, 2.0, n, dtype=np.float32)
    for each, factor in zip(x[1:], factors[1:], strict=True):
        np.multiply(first, factor, out=each)
    mean, var = np.array([(c.mean(dtype=np.float64), c.var(dtype=np.float64)) for c in first]).T
    wide = factors.astype(np.float64)
    squares = (var + mean**2) * (wide**2).mean()
    mean = mean * wide.mean()
    var = squares - mean**2
    y, growth = memory.grown(lambda: layer(x, out=x if in_place else None))
    errors = list(_errors(first, factors, y, mean, 1.0 / np.sqrt(var + layer.eps)))
    count = x.size // channels
    return {
        "nbytes": x.nbytes,
        "same": y is x,
        "growth": growth / x.nbytes,
        "y": float(np.max(errors)),
        "mean": off(layer.running_mean, mean),
        "var": float(np.abs(layer.running_var / (var * (count / (count - 1))) - 1.0).max()),
    }


def _errors(first: Array, factors: Array, y: Array, mean: Array, scale: Array) -> Iterator[float]:
    """Errors of y in bars, piece by piece: a cache holds what they take."""
    mean, scale = mean[:, None, None], scale[:, None, None]
    for factor, each in zip(factors, y, strict=True):
        for piece, result in zip(first.swapaxes(0, 1), each.swapaxes(0, 1), strict=True):
            expected = (piece * factor - mean) * scale
            yield (np.abs(result - expected) / y_bar(expected, np.float32)).max()


# -- statistics of more elements than there is memory for --------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "axis"),
    [((2**19, 2, 60, 70), 1), ((2**26, 2, 7, 7), 1), ((2**13 + 1, 64, 64, 64), -1)],
    ids=["channels-first", "short-planes", "channels-last"],
)
def test_moments_of_a_broadcast(run: Run, shape: tuple[int, ...], axis: int) -> None:
    count, mean, var = run(1 << 30, f"broadcast({shape}, {axis})")
    assert count * shape[axis] == math.prod(shape) > 2**31
    assert mean < 1e-6
    assert var < 1e-6


def broadcast(shape: tuple[int, ...], axis: int) -> tuple[int, float, float]:
    """Count, and errors of mean and variance, of a block over and over: they are the block's."""
    block = normal((1, *shape[1:]), np.float32, mean=1.0)
    found = nb.moments(np.broadcast_to(block, shape), axis=axis)
    count, mean, m2 = naive.moments(block, axis)
    return found.count, off(found.mean, mean), off(found.var(), m2 / count)


# The whole as one plane, and as rows and planes of both kinds; channels at the end.
VIEWS = {
    "one-plane": ((1, 1, -1), 1),
    "long-planes": ((-1, 4, 128, 128), 1),
    "short-planes": ((-1, 4, 8, 8), 1),
    "rows": ((-1, 4), 1),
    "channels-last": ((-1, 16, 16, 1024), -1),
}


def test_moments_of_a_file(run: Run, tmp_path: Path) -> None:
    found = run(1 << 30, f"sparse_file({str(tmp_path / 'x')!r})")
    assert found.keys() == VIEWS.keys()
    for errors in found.values():
        assert max(errors) < 1e-12, found


def sparse_file(path: str) -> dict[str, list[float]]:
    """Errors of mean and M2 of zeros but for powers of two, each missed by an offset that wraps before its place."""
    flat = np.memmap(path, np.float32, "w+", shape=2**31 + 2**18)
    places = np.array([2**29 - 1, 2**29, 2**30 - 1, 2**30, 2**31 - 1, 2**31, flat.size - 1])
    values = 2.0 ** np.arange(len(places))
    flat[places] = values
    found = {}
    for name, (shape, axis) in VIEWS.items():
        x = flat.reshape(shape)
        channels = x.shape[axis]
        at = places // (x.strides[axis] // x.itemsize) % channels
        sums, squares = (np.bincount(at, v, channels) for v in (values, values**2))
        got, count = nb.moments(x, axis=axis), x.size // channels
        found[name] = [off(got.mean, sums / count), off(got.m2, squares - sums * sums / count)]
    return found


# -- results of more than 2**31 elements, of one block over and over ---------------------------------------------------

RESULT = 2**31 + 2**24  # elements: whole work items lie behind the boundary


@pytest.mark.parametrize(("shape", "axis"), [((64, 64, 64), 1), ((64,), -1)], ids=["channels-first", "channels-last"])
def test_results_of_a_broadcast(run: Run, shape: tuple[int, ...], axis: int) -> None:
    found = run(4 * RESULT, f"results({shape}, {axis})")
    assert found == {name: [True, True] for name in ("eval", "training", "backward", "elemt")}


def results(shape: tuple[int, ...], axis: int) -> dict[str, list[bool]]:
    """Whether the first row of each result is right, and all rows are like it.

    Values are quarters, whose sums are exact: equal terms are rounded alike, and their errors would add up.
    """
    block = np.round(4.0 * normal((1, *shape), np.float32)) / np.float32(4.0)
    mean, scale = np.full(64, 2.25), normal((64,), np.float64, 1, 2.0, 0.1)
    x = np.broadcast_to(block, (RESULT // block.size, *shape))
    out = np.empty(x.shape, np.float32)
    to: dict[str, Any] = {"axis": axis, "out": out}
    sum_dy, sum_dy_xmu = (a.astype(np.float64) for a in naive.backward_reduce(block, block, mean, axis))
    y, fixed = naive.forward(block, axis=axis)[0], naive.normalize(block, mean, scale, axis=axis)
    dx = naive.backward(block, block, None, mean, scale, axis=axis)[0]
    bar = gradient_bars(block, block, None, mean, scale, axis)[0]
    calls: dict[str, tuple[Callable[[], Any], Array, Array]] = {
        "eval": (lambda: nb.batch_norm(x, mean, scale**-2.0, eps=0.0, **to), fixed, y_bar(fixed, np.float32)),
        "training": (lambda: nb.batch_norm(x, training=True, **to), y, y_bar(y, np.float32)),
        "backward": (lambda: nb.batch_norm_backward(x, x, None, mean, scale, **to), dx, bar),
        "elemt": (
            lambda: nb.backward_elemt(x, x, mean, scale, None, sum_dy, sum_dy_xmu, block.size // 64, **to),
            dx,
            bar,
        ),
    }
    step = max(1, 2**22 // block.size)
    found = {}
    for name, (call, expected, bar) in calls.items():
        out.fill(np.nan)
        call()
        alike = all((out[k : k + step] == out[0]).all() for k in range(0, len(out), step))
        found[name] = [bool((np.abs(out[:1] - expected) <= bar).all()), alike]
    return found
