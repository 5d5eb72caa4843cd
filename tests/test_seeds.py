"""The examples that the package was asked for with, each with its numbers."""

from __future__ import annotations

import inspect
import json
import os
from pathlib import Path
from typing import Any

import fresh
import numpy as np
import pytest
from cases import DTYPES, Array, frozen, normal

import numbabn as nb

EPS = 1e-5


def assert_normalised(y: Array, x: Array) -> None:
    """Mean 0 and biased variance var / (var + eps) in each channel, to float32's last place or so."""
    reduced = tuple(axis for axis in range(x.ndim) if axis != 1)
    var = x.var(reduced, dtype=np.float64)
    assert y.shape == x.shape
    assert y.dtype == x.dtype
    np.testing.assert_allclose(y.mean(reduced, dtype=np.float64), 0.0, atol=1e-7)
    np.testing.assert_allclose(y.std(reduced, dtype=np.float64), np.sqrt(var / (var + EPS)), rtol=3e-7)
    np.testing.assert_allclose(y.std(reduced, dtype=np.float64), 1.0, atol=2e-5)


@pytest.mark.parametrize(("n", "features", "affine"), [(22, 102, False), (40, 120, True), (40, 120, False)])
def test_s1_features(n: int, features: int, affine: bool) -> None:
    x = normal((n, features), np.float32, 1)
    assert_normalised(nb.BatchNorm1d(features, affine=affine)(x), x)


@pytest.mark.parametrize("affine", [True, False])
def test_s2_images(affine: bool) -> None:
    x = np.empty((20, 120, 55, 65), np.float32)
    np.random.default_rng(2).standard_normal(out=x, dtype=np.float32)
    assert_normalised(nb.BatchNorm2d(120, affine=affine)(frozen(x)), x)


# Every kernel has run, on a part of x, before memory is watched; x itself is in the first peak.
VOLUMES = """
import json
import numpy as np
import numbabn as nb
from memory import grown

def error(x, y):
    x = x.astype(np.float64)
    return float(abs(y - (x - x.mean()) / np.sqrt(x.var() + 1e-5)).max())

x, layer = np.zeros((10, 130, 65, 75, 40), np.float32), nb.BatchNorm3d(130)
for out in (x[:2], np.empty_like(x[:2])):  # the latter is gone before anything is measured
    nb.BatchNorm3d(130)(x[:2], out=out)
np.random.default_rng(3).standard_normal(out=x[0], dtype=np.float32)
for n in range(1, 10):
    np.multiply(x[0], np.float32(1 + n / 10), out=x[n])
channels = 0, 77, 129
samples = [x[:, c].copy() for c in channels]
y, in_place = grown(lambda: layer(x, out=x))
errors = [error(sample, y[:, c]) for c, sample in zip(channels, samples)]
same = y is x
y, new = grown(lambda: layer(x))
errors += [error(x[:, c], y[:, c]) for c in channels]
print(json.dumps([x.nbytes, same, in_place / x.nbytes, new / x.nbytes, max(errors), int(layer.num_batches_tracked)]))
"""


def test_s3_volumes(tmp_path: Path) -> None:
    cache = Path(os.environ.get("NUMBA_CACHE_DIR") or tmp_path)
    nbytes, same, in_place, new, error, batches = json.loads(fresh.run(VOLUMES, cache))
    assert nbytes == 1_014_000_000
    assert same
    assert in_place < 0.04
    assert 0.9 < new < 1.04
    assert error < 2e-6
    assert batches == 2


@pytest.mark.parametrize("name", ["BatchNorm1d", "BatchNorm2d", "BatchNorm3d"])
def test_s4_constructor_syntax(name: str) -> None:
    kind = getattr(nb, name)
    given = inspect.signature(kind).parameters
    syntax = {n: p.default for n, p in given.items() if p.kind is p.POSITIONAL_OR_KEYWORD}
    defaults = {
        "eps": 1e-5,
        "momentum": 0.1,
        "affine": True,
        "track_running_stats": True,
        "device": None,
        "dtype": None,
    }
    assert list(syntax.items()) == [("num_features", inspect.Parameter.empty), *defaults.items()]
    everything = {"eps": 1e-3, "momentum": None, "affine": False, "track_running_stats": False, "device": "cpu"}
    layers = kind(7, **everything, dtype=np.float64), kind(7, *everything.values(), np.float64)
    text = f"{name}(7, eps=0.001, momentum=None, affine=False, bias=False, track_running_stats=False)"
    assert [repr(layer) for layer in layers] == [text] * 2
    assert kind(7, dtype=np.float64).weight.dtype == np.float64


@pytest.mark.parametrize("name", ["BatchNorm1d", "BatchNorm2d", "BatchNorm3d"])
def test_s4_signature_beside_torch(name: str) -> None:
    torch = pytest.importorskip("torch", "2.13", reason="PyTorch 2.13 is not installed")
    ours, theirs = (inspect.signature(getattr(module, name)).parameters for module in (nb, torch.nn))
    described = [[(n, p.kind, p.default) for n, p in each.items()] for each in (ours, theirs)]
    assert described[0][: len(theirs)] == described[1]
    assert all(p.kind is p.KEYWORD_ONLY for p in list(ours.values())[len(theirs) :])


def simple_batch_norm_1d(x: Array, gamma: Any, beta: Any, eps: float = EPS) -> Any:
    """As tutorials write it."""
    mean = x.mean(axis=0)
    var = ((x - mean) ** 2).mean(axis=0)
    return gamma * (x - mean) / np.sqrt(var + eps) + beta


@pytest.mark.small
@pytest.mark.parametrize("dtype", DTYPES)
def test_s5_simple_batch_norm_1d(dtype: Any) -> None:
    x = frozen(np.arange(15, dtype=dtype).reshape(5, 3))
    y = nb.batch_norm(x, weight=np.ones(3), bias=np.zeros(3), training=True, eps=EPS)
    column = [-1.4142, -0.7071, 0.0, 0.7071, 1.4142]
    np.testing.assert_array_equal(y.round(4), np.array([column] * 3, dtype).T)
    np.testing.assert_allclose(y, simple_batch_norm_1d(x.astype(np.float64), 1.0, 0.0), rtol=1e-6)


def batch_norm_1d(
    x: Array, gamma: Any, beta: Any, moving_mean: Any, moving_var: Any, momentum: float, training: bool = True
) -> tuple[Any, Any, Any]:
    """As tutorials write it: momentum is the old value's weight, and the moving variance is biased."""
    if not training:
        return gamma * (x - moving_mean) / np.sqrt(moving_var + EPS) + beta, moving_mean, moving_var
    mean, var = x.mean(axis=0), x.var(axis=0)
    moving_mean = momentum * moving_mean + (1.0 - momentum) * mean
    moving_var = momentum * moving_var + (1.0 - momentum) * var
    return gamma * (x - mean) / np.sqrt(var + EPS) + beta, moving_mean, moving_var


@pytest.mark.small
@pytest.mark.parametrize("theirs", [0.1, 0.9])
@pytest.mark.parametrize("form", ["function", "layer"])
def test_s6_the_other_momentum(theirs: float, form: str) -> None:
    gamma, beta = frozen(np.array([0.5, 1.0, 2.0])), frozen(np.array([1.0, 0.0, -1.0]))
    layer = nb.BatchNorm1d(3, momentum=1.0 - theirs, running_ddof=0, dtype=np.float64)
    assert layer.weight is not None
    assert layer.bias is not None
    layer.weight[...], layer.bias[...] = gamma, beta
    mean, var = np.zeros(3), np.ones(3)
    moving: tuple[Any, Any] = np.zeros(3), np.ones(3)
    for step in range(6):
        training = step not in (2, 5)
        layer.train(training)
        x = normal((6, 3), np.float64, step, mean=step)
        if form == "layer":
            y = layer(x)
        else:
            y = nb.batch_norm(x, mean, var, gamma, beta, training, momentum=1.0 - theirs, running_ddof=0)
        expected, *moving = batch_norm_1d(x, gamma, beta, *moving, theirs, training)  # type: ignore[assignment]
        np.testing.assert_allclose(y, expected, rtol=1e-12, atol=1e-12)
        running: Any = (layer.running_mean, layer.running_var) if form == "layer" else (mean, var)
        np.testing.assert_allclose(running, moving, rtol=1e-12, atol=1e-12)


@pytest.mark.small
def test_s7_one_large_value() -> None:
    x = np.ones((2, 2, 3, 4), np.float32)
    x[0, 0, 0, 0] = 25.0
    running = np.zeros(2, np.float32), np.ones(2, np.float32)
    y, mean, scale = nb.batch_norm_forward(frozen(x), *running, training=True, momentum=0.0, eps=0.0)
    expected = np.full((2, 3, 4), -0.208514)
    expected[0, 0, 0] = 4.795832
    np.testing.assert_allclose(y[:, 0], expected, rtol=0, atol=1e-6)
    assert (y[:, 1] == 0.0).all()
    np.testing.assert_allclose([mean[0], scale[0] ** -2.0], [2.0, 23.0], rtol=1e-12)
    assert [v.tolist() for v in running] == [[0.0, 0.0], [1.0, 1.0]]
    layer = nb.BatchNorm2d(2, eps=0.0, momentum=0.0)
    np.testing.assert_array_equal(layer(x), y)
    assert layer.running_mean is not None
    assert layer.running_var is not None
    assert [layer.running_mean.tolist(), layer.running_var.tolist()] == [[0.0, 0.0], [1.0, 1.0]]


@pytest.mark.small
def test_s8_four_training_calls_on_ones() -> None:
    layer = nb.BatchNorm1d(4, eps=0.0, momentum=0.3)
    x = frozen(np.ones((2, 4, 1), np.float32))
    assert layer.running_mean is not None
    assert layer.running_var is not None
    for mean, var in ((0.3, 0.7), (0.51, 0.49), (0.657, 0.343), (0.7599, 0.2401)):
        assert (layer(x) == 0.0).all()
        np.testing.assert_allclose(layer.running_mean, [mean] * 4, rtol=1e-6)
        np.testing.assert_allclose(layer.running_var, [var] * 4, rtol=1e-6)
    layer.eval()
    for _ in range(2):
        np.testing.assert_allclose(layer(x), np.full((2, 4, 1), 0.49), rtol=1e-6)
    assert (layer.train()(x) == 0.0).all()


@pytest.mark.small
@pytest.mark.parametrize(("kind", "shape"), [(nb.BatchNorm2d, (5, 6, 4, 4)), (nb.BatchNorm3d, (3, 7, 3, 4, 4))])
def test_s9_shapes(kind: Any, shape: tuple[int, ...]) -> None:
    x = frozen(np.ones(shape, np.float32))
    layer = kind(shape[1])
    for each in (layer, layer.eval()):
        y = each(x)
        assert (y.shape, y.dtype) == (shape, np.float32)


@pytest.mark.small
@pytest.mark.parametrize("momentum", [None, 0.1])
@pytest.mark.parametrize(("kind", "shape"), [(nb.BatchNorm1d, (8, 3)), (nb.BatchNorm2d, (4, 3, 5, 6))])
def test_s10_running_statistics_by_hand(kind: Any, shape: tuple[int, ...], momentum: float | None) -> None:
    layer = kind(3, momentum=momentum)
    reduced = (0, *range(2, len(shape)))
    running_mean, running_var = np.zeros(3), np.ones(3)
    for batch in range(1, 8):
        x = normal(shape, np.float32, batch, mean=0.25 * batch)
        layer(x)
        m = x.size // 3
        mean, var = (getattr(x, f)(reduced, dtype=np.float64) for f in ("mean", "var"))
        factor = 1.0 / batch if momentum is None else momentum
        running_mean += factor * (mean - running_mean)
        running_var += factor * (var * m / (m - 1) - running_var)
        assert layer.num_batches_tracked == batch
        np.testing.assert_allclose(layer.running_mean, running_mean, rtol=0, atol=1e-6)
        np.testing.assert_allclose(layer.running_var, running_var, rtol=0, atol=1e-6)


@pytest.mark.parametrize("momentum", [None, 1.0])
def test_s11_eval_repeats_training(momentum: float | None) -> None:
    x = frozen(np.random.default_rng(11).random((200, 1, 200), np.float32))
    layer = nb.BatchNorm1d(1, momentum=momentum)
    y = layer(x)
    assert layer.running_var is not None
    layer.running_var *= 1.0 - 1.0 / (200 * 200)
    np.testing.assert_allclose(layer.eval()(x), y, rtol=0, atol=1e-6)
    assert abs(y.mean(dtype=np.float64)) < 1e-6
