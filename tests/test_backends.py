"""One body over shape x layout x dtype x mode: results against the oracle, serial and parallel builds bit for bit."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from itertools import product
from typing import Any, NamedTuple

import naive
import numpy as np
import pytest
from cases import BAR, DTYPES, LAYOUTS, Array, assert_bits, assert_within, frozen, gradient_bars, normal, uniform, y_bar

import numbabn as nb
from numbabn import _cpu

# Each shape takes the kernels somewhere else; in channels-last memory (N, C, S...) has N * S rows of C.
SHAPES = {
    "one-vector": (2, 3, 2, 2),
    "tails": (3, 5, 7, 11),
    "rows": (37, 9),
    "rank-5": (2, 3, 2, 3, 5),
    "planes-across-chunks": (3, 2, 61, 71),
    "parts-and-cut-planes": (2, 3, 186, 187),
    "channels-shared-whole": (2, 17, 9, 13),
    "chunks-of-rows": (70, 300),
    "panels": (66, 1100),
    "narrow-panels": (127, 259),
    "wide-rows": (11, 1376),
    "parts-of-rows": (1100, 61),
    "uneven-parts-of-rows": (2500, 43),
    "rows-abreast": (40011, 3),
    "strips-of-short-planes": (150, 9, 2, 2),
}
SMALL = ("one-vector", "tails", "rows")
every_shape = pytest.mark.parametrize(
    "shape", [pytest.param(s, id=k, marks=[pytest.mark.small] * (k in SMALL)) for k, s in SHAPES.items()]
)


class Mode(NamedTuple):
    """How a call is made: forward in training or not, with parameters or without, results in new arrays or in place."""

    training: bool
    affine: bool
    in_place: bool


MODES = {
    "training": Mode(training=True, affine=True, in_place=False),
    "training-plain": Mode(training=True, affine=False, in_place=False),
    "training-in-place": Mode(training=True, affine=True, in_place=True),
    "eval": Mode(training=False, affine=True, in_place=False),
    "eval-plain": Mode(training=False, affine=False, in_place=False),
    "eval-in-place": Mode(training=False, affine=True, in_place=True),
}


class Problem(NamedTuple):
    """Inputs of a forward and its backward."""

    x: Array
    dy: Array
    weight: Array | None
    bias: Array | None
    running_mean: Array
    running_var: Array


@lru_cache(maxsize=8)
def problem(shape: tuple[int, ...], dtype: Any, affine: bool) -> Problem:
    n = shape[1]
    means = uniform(n, np.float64, 1, -50.0, 50.0).reshape(-1, *[1] * (len(shape) - 2))
    stds = uniform(n, np.float64, 2, 0.5, 2.0).reshape(means.shape)
    x = frozen((normal(shape, np.float64, 3) * stds + means).astype(dtype))
    weight, bias = (uniform(n, dtype, 4), uniform(n, dtype, 5)) if affine else (None, None)
    running_mean = frozen((means.reshape(-1) + 0.25).astype(dtype))
    return Problem(x, normal(shape, dtype, 6, 0.5), weight, bias, running_mean, uniform(n, dtype, 7, 0.5, 2.0))


@lru_cache(maxsize=8)
def expected(shape: tuple[int, ...], dtype: Any, mode: Mode) -> dict[str, tuple[Any, Any]]:
    """What the oracle says about each result, and how far from it a result may be."""
    p = problem(shape, dtype, mode.affine)
    mean, var = p.running_mean.astype(np.longdouble), p.running_var.astype(np.longdouble)
    scale = naive.invstd(var, 1e-5)
    if mode.training:
        _, mean, scale = naive.forward(p.x)
        running = naive.running(p.running_mean, p.running_var, p.x, 0.3)
    else:
        running = mean, var
    y = naive.normalize(p.x, mean, scale, p.weight, p.bias)
    grads = naive.backward(p.dy, p.x, p.weight, mean, scale, mode.training)
    bars = gradient_bars(p.dy, p.x, p.weight, mean, scale)
    bar = BAR[np.dtype(dtype).char]
    # An invstd far below 1 / std of the batch, as eval may have, makes y and its rounding large.
    values = {
        "y": (y, y_bar(y, dtype)),
        "save_mean": (mean, bar / scale),
        "save_invstd": (scale, bar * scale),
        "running_mean": (running[0], bar * np.maximum(1.0, np.abs(running[0]))),
        "running_var": (running[1], bar * running[1]),
    }
    return values | dict(zip(("dx", "dweight", "dbias"), zip(grads, bars, strict=True), strict=True))


def run(p: Problem, mode: Mode, layout: str, to: Callable[[Any], Any] = lambda a: a) -> dict[str, Any]:
    """All results of a forward and its backward, on arrays of one layout, moved `to` the device that they are for."""
    place = LAYOUTS[layout]
    x, dy = to(frozen(place(p.x))), to(frozen(place(p.dy)))
    running_mean, running_var = to(p.running_mean.copy()), to(p.running_var.copy())
    weight, bias = (None if a is None else to(a) for a in (p.weight, p.bias))
    y_out, dx_out = (to(place(p.x)), to(place(p.dy))) if mode.in_place else (None, None)
    y, mean, invstd = nb.batch_norm_forward(
        x if y_out is None else y_out,
        running_mean,
        running_var,
        weight,
        bias,
        mode.training,
        0.3,
        out=y_out,
    )
    grads = nb.batch_norm_backward(
        dy if dx_out is None else dx_out, x, weight, mean, invstd, training=mode.training, out=dx_out
    )
    assert grads.x is not None and grads.weight is not None and grads.bias is not None
    for result, source, out in ((y, x, y_out), (grads.x, dy, dx_out)):
        assert result.dtype == source.dtype and (out is None or result is out)
        if out is None and isinstance(source, np.ndarray):
            assert result.strides == np.empty_like(source, order="K").strides
    return {
        "y": y,
        "save_mean": mean,
        "save_invstd": invstd,
        "running_mean": running_mean,
        "running_var": running_var,
        "dx": grads.x,
        "dweight": grads.weight,
        "dbias": grads.bias,
    }


@every_shape
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_results(shape: tuple[int, ...], dtype: Any, mode: Mode, layout: str) -> None:
    p = problem(shape, dtype, mode.affine)
    results = []
    for threads in (1, 2):
        with nb.config.using(threads=threads, parallel_threshold=0):
            results.append(run(p, mode, layout))
    for name, (value, bar) in expected(shape, dtype, mode).items():
        assert_bits(results[1][name], results[0][name], name)
        assert_within(results[0][name], value, bar, name)


@every_shape
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", ["channels-first", "channels-last", "outer-gaps", "reversed"])
def test_steps_give_the_bits_of_the_whole(shape: tuple[int, ...], dtype: Any, layout: str, twin: str) -> None:
    p = problem(shape, dtype, True)
    whole = run(p, MODES["training"], layout)
    x, dy = frozen(LAYOUTS[layout](p.x)), frozen(LAYOUTS[layout](p.dy))
    m = nb.moments(x)
    scale = m.invstd()
    running_mean, running_var = p.running_mean.copy(), p.running_var.copy()
    nb.update_running(running_mean, running_var, m, 0.3)
    sum_dy, sum_dy_xmu = nb.backward_reduce(dy, x, m.mean, scale)
    assert_bits(m.mean, whole["save_mean"])
    assert_bits(scale, whole["save_invstd"])
    assert_bits(nb.normalize(x, m.mean, scale, p.weight, p.bias), whole["y"])
    assert_bits(running_mean, whole["running_mean"])
    assert_bits(running_var, whole["running_var"])
    assert_bits(sum_dy, whole["dbias"])
    assert_bits(scale * sum_dy_xmu, whole["dweight"])
    dx = nb.backward_elemt(dy, x, m.mean, scale, p.weight, sum_dy, sum_dy_xmu, m.count)
    assert_bits(dx, whole["dx"])


# More elements than one slab of scratch holds, cut along the batch, rows, channels and inside the kept axes.
SLABS: dict[str, tuple[tuple[int, ...], naive.Axis]] = {
    "samples": ((3, 2, 300, 301), 1),
    "rows": ((300000, 2), 1),
    "channels": ((2, 80, 42, 43), 1),
    "one-row": ((2, 270000), 1),
    "two-axes": ((2, 3, 150000), (0, 2)),
}


@pytest.mark.parametrize(("shape", "axis"), SLABS.values(), ids=SLABS)
def test_slab_after_slab(shape: tuple[int, ...], axis: naive.Axis, twin: str) -> None:
    p = normal(shape, np.float32, 1, 10.0)
    x, dy = frozen(LAYOUTS["backwards"](p)), frozen(LAYOUTS["inner-gaps"](normal(shape, np.float32, 2, 0.5)))
    y, mean, scale = nb.batch_norm_forward(x, training=True, axis=axis)
    expected_y, expected_mean, expected_scale = naive.forward(x, axis=axis)
    assert_within(y, expected_y, y_bar(expected_y, np.float32), "y")
    assert_within(mean, expected_mean, BAR["f"] / expected_scale, "save_mean")
    assert_within(scale, expected_scale, BAR["f"] * expected_scale, "save_invstd")
    grads = nb.batch_norm_backward(dy, x, None, mean, scale, axis=axis)
    wanted = naive.backward(dy, x, None, mean, scale, axis=axis)
    bars = gradient_bars(dy, x, None, expected_mean, expected_scale, axis)
    for name, value, result, bar in zip(grads._fields, wanted, grads, bars, strict=True):
        assert_within(result, value, bar, f"d{name}")


@pytest.mark.parametrize("threads", [1, 2])
def test_the_most_parts(threads: int) -> None:
    """Long enough a channel for every part that there may be, and a single channel for all threads."""
    x = normal((3, 1, 733, 1009), np.float32, 1, 1000.0)
    with nb.config.using(threads=threads):
        y = nb.batch_norm(x, training=True)
    expected_y = naive.forward(x)[0]
    assert_within(y, expected_y, y_bar(expected_y, np.float32))


# Results of 17 MB, which go past the caches; planes and rows that end within a cache line.
STREAMED: dict[str, tuple[tuple[int, ...], str]] = {
    "planes": ((17, 5, 213, 239), "channels-first"),
    "short-planes": ((17, 1021, 5, 50), "channels-first"),
    "rows": ((4099, 1061), "channels-first"),
    "wide-rows": ((2051, 2064), "channels-first"),
    "narrow-rows": ((210011, 21), "channels-first"),
    "channels-last": ((17, 5, 213, 239), "channels-last"),
    "gaps": ((17, 5, 213, 239), "outer-gaps"),
}


@pytest.mark.parametrize("shift", [0, 1])
@pytest.mark.parametrize(("shape", "layout"), STREAMED.values(), ids=STREAMED)
def test_large_results_have_the_bits_of_small_ones(shape: tuple[int, ...], layout: str, shift: int, twin: str) -> None:
    x = frozen(LAYOUTS[layout](normal(shape, np.float32, 1, 3.0)))
    weight, bias = uniform(shape[1], np.float32, 2), uniform(shape[1], np.float32, 3)
    memory = np.full(x.size + 1, np.nan, np.float32)
    out = memory[shift : x.size + shift].reshape(shape)
    if layout == "channels-last":
        out = np.moveaxis(out.reshape(shape[0], *shape[2:], shape[1]), -1, 1)
    y, mean, scale = nb.batch_norm_forward(x, None, None, weight, bias, True, out=out)
    sums = nb.backward_reduce(y, x, mean, scale)
    dx = nb.batch_norm_backward(y, x, weight, mean, scale, out=np.empty_like(y)).x
    for first in range(0, shape[0], math.ceil(shape[0] / 3)):
        part = slice(first, first + math.ceil(shape[0] / 3))
        assert_bits(y[part], nb.normalize(x[part], mean, scale, weight, bias), "y")
        some = nb.backward_elemt(y[part], x[part], mean, scale, weight, *sums, x.size // shape[1])
        assert dx is not None
        assert_bits(dx[part], some, "dx")
    assert np.isnan(memory[-1 if shift == 0 else 0])
    assert_bits(nb.batch_norm_backward(y, x, weight, mean, scale, out=y).x, dx, "dx in place")


@pytest.mark.small
@pytest.mark.parametrize("shape", [(3, 5, 2, 2), (41, 35, 3), (33, 13, 15)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
def test_planes_in_rows_have_the_bits_of_planes_apart(
    shape: tuple[int, ...], dtype: Any, mode: Mode, twin: str
) -> None:
    p = problem(shape, dtype, mode.affine)
    rows, apart = (run(p, mode, layout) for layout in ("channels-first", "channel-gaps"))
    for name, result in rows.items():
        assert_bits(result, apart[name], name)


@pytest.mark.small
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", ["channels-first", "channels-last", "outer-gaps", "reversed"])
@pytest.mark.parametrize(
    "shape",
    [(2, 3, 5, 73), (2, 9, 3), (5, 20, 7, 7), (33, 5, 7, 7), (3, 5, 14, 14), (5, 203), (70, 300), (6, 1376)],
    ids=str,
)
def test_streaming_changes_no_bit(
    shape: tuple[int, ...], layout: str, dtype: Any, twin: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if no result fitted in a cache; results begin at any place within a cache line."""
    p = problem(shape, dtype, True)
    whole = run(p, MODES["training"], layout)
    monkeypatch.setattr(_cpu, "_STREAM", 0)
    monkeypatch.setattr(_cpu, "_STREAM_SHORT", 0)
    for name, result in run(p, MODES["training"], layout).items():
        assert_bits(result, whole[name], name)
    x, dy, memory = frozen(LAYOUTS[layout](p.x)), frozen(LAYOUTS[layout](p.dy)), np.empty(p.x.size + 16, dtype)
    saved = whole["save_mean"], whole["save_invstd"]
    calls: dict[str, Callable[[Array], Any]] = {
        "y": lambda out: nb.normalize(x, *saved, p.weight, p.bias, out=out),
        "y of training": lambda out: nb.batch_norm(x, None, None, p.weight, p.bias, True, out=out),
        "dx": lambda out: nb.batch_norm_backward(dy, x, p.weight, *saved, out=out),
    }
    for shift, (name, call) in product((1, 7, 15), calls.items()):
        memory.fill(np.nan)
        out = memory[shift : shift + p.x.size].reshape(shape)
        call(out)
        assert np.isnan(memory[:shift]).all()
        assert np.isnan(memory[shift + p.x.size :]).all()
        wanted = whole[name.split()[0]].astype(np.longdouble)
        assert_within(out, wanted, BAR[np.dtype(dtype).char] * np.maximum(4.0, np.abs(wanted)), name)


@pytest.mark.small
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_operands_of_different_layouts(dtype: Any, layout: str, twin: str) -> None:
    shape = SHAPES["tails"]
    p = problem(shape, dtype, True)
    wanted = expected(shape, dtype, MODES["training"])
    x, out = frozen(LAYOUTS["channels-last"](p.x)), LAYOUTS[layout](np.zeros(shape, dtype))
    if out.dtype == x.dtype:
        y, mean, scale = nb.batch_norm_forward(x, None, None, p.weight, p.bias, True, out=out)
        assert y is out
        assert_within(y, *wanted["y"], "y")
    else:
        mean, scale = wanted["save_mean"][0].astype(float), wanted["save_invstd"][0].astype(float)
    grads = nb.batch_norm_backward(frozen(LAYOUTS[layout](p.dy)), x, p.weight, mean, scale)
    for name, result in zip(("dx", "dweight", "dbias"), grads, strict=True):
        assert_within(result, *wanted[name], name)
