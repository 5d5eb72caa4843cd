"""The contract of the functions: which arrays they take, what the arguments do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import naive
import numpy as np
import pytest
from cases import (
    BAR,
    CALLS,
    DTYPES,
    LAYOUTS,
    MEAN,
    REDUCTIONS,
    SCALE,
    SHAPE,
    SUM,
    WEIGHT,
    Array,
    assert_bits,
    assert_within,
    frozen,
    gradient_bars,
    normal,
    uniform,
    y_bar,
)

import numbabn as nb

every_function = pytest.mark.parametrize("call", (CALLS | REDUCTIONS).values(), ids=CALLS | REDUCTIONS)


# -- arrays that are taken ---------------------------------------------------------------------------------------------


class Subclass(np.ndarray):
    """An ndarray subclass with nothing of its own."""


def memory_mapped(a: Array, folder: Path) -> Array:
    np.save(folder / "x.npy", a)
    return np.load(folder / "x.npy", mmap_mode="r")  # type: ignore[no-any-return]


@every_function
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["list", "subclass", "memmap", "writable"])
def test_kinds_of_arrays(call: Any, dtype: Any, kind: str, tmp_path: Path) -> None:
    x = normal(SHAPE, np.float64 if kind == "list" else dtype, 1)
    if kind == "list":
        given: Any = x.tolist()
    elif kind == "memmap":
        given = memory_mapped(x, tmp_path)
    else:
        given = x.copy().view(Subclass) if kind == "subclass" else x.copy()
    result = call(given)
    assert type(result) is np.ndarray
    assert_bits(result, call(x))


@every_function
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(call: Any, layout: str) -> None:
    x = normal(SHAPE, np.float64, 1)
    np.testing.assert_allclose(call(frozen(LAYOUTS[layout](x))), call(x), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_results_lie_in_memory_as_x_does(layout: str) -> None:
    plain = normal(SHAPE, np.float64, 1)
    x = LAYOUTS[layout](plain)
    results = [CALLS[name](x) for name in ("training", "eval", "normalize", "eval-backward")]
    for dy in (LAYOUTS[other](plain) for other in (layout, "channels-first", "byte-swapped")):
        results.append(nb.batch_norm_backward(dy, x, None, MEAN, SCALE).x)
        results.append(nb.backward_elemt(dy, x, MEAN, SCALE, None, SUM, SUM, 140))
    for result in results:
        assert result.dtype == x.dtype
        assert result.strides == np.empty_like(x, order="K").strides


@pytest.mark.small
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(1, 7), (1, 7, 1), (1, 19, 1, 1), (1, 1)])
def test_one_value_per_channel_anywhere_in_memory(shape: tuple[int, ...], layout: str, dtype: Any, twin: str) -> None:
    c = shape[1]
    mean, scale = uniform(c, np.float64, 1), uniform(c, np.float64, 2, 0.5, 1.0)
    plain = normal(shape, dtype, 3)
    expected = naive.normalize(plain, mean, scale)
    for x_layout, out_layout in ((layout, "channels-first"), ("channels-first", layout), (layout, layout)):
        x = frozen(LAYOUTS[x_layout](plain))
        out = LAYOUTS[out_layout](plain).astype(x.dtype, copy=False)
        assert_within(nb.normalize(x, mean, scale, out=out), expected, y_bar(expected, dtype))
        assert_bits(nb.moments(x).mean, plain.reshape(c).astype(np.float64))
        grads = nb.batch_norm_backward(plain, frozen(x.astype(dtype, copy=False)), None, mean, scale, training=False)
        assert grads.bias is not None
        assert_bits(grads.bias, plain.reshape(c).astype(np.float64))


BROADCASTS: dict[str, Callable[[Array], Array]] = {
    "sample": lambda x: np.broadcast_to(x[:1], SHAPE),
    "channel": lambda x: np.broadcast_to(x[:, :1], SHAPE),
    "row": lambda x: np.broadcast_to(x[:, :, :, :1], SHAPE),
    "scalar": lambda x: np.broadcast_to(x[0, 0, 0, 0], SHAPE),
    "arrays": lambda x: np.broadcast_arrays(x[:1], x)[0],
}


@every_function
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("spread", BROADCASTS.values(), ids=BROADCASTS)
def test_broadcast_inputs(call: Any, dtype: Any, spread: Callable[[Array], Array]) -> None:
    x = spread(normal(SHAPE, dtype, 1))
    bar = 8 * BAR[np.dtype(dtype).char]
    np.testing.assert_allclose(call(x), call(x.copy()), rtol=bar, atol=bar * 40)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("other", DTYPES)
@pytest.mark.parametrize("place", [np.array, LAYOUTS["byte-swapped"], lambda a: np.repeat(a, 2)[::2], list])
def test_parameters_of_any_dtype_and_stride(dtype: Any, other: Any, place: Any) -> None:
    x = normal(SHAPE, dtype, 1)
    names = ("running_mean", "running_var", "weight", "bias")
    values = {name: uniform(3, other, seed, 0.5, 1.0) for seed, name in enumerate(names)}
    plain: dict[str, Any] = {name: v.astype(np.float64) for name, v in values.items()}
    given: dict[str, Any] = {name: place(v) for name, v in values.items()}
    for training in (False, True):
        if training and place is list:
            given |= {name: values[name].copy() for name in names[:2]}
        y, mean, scale = nb.batch_norm_forward(x, training=training, **given)
        assert_bits(y, nb.batch_norm_forward(x, training=training, **plain)[0])
        assert [y.dtype, mean.dtype, scale.dtype] == [np.dtype(dtype), np.float64, np.float64]
        for name in names[:2]:
            assert_bits(np.asarray(given[name], other), plain[name].astype(other), name)
    grads = nb.batch_norm_backward(y, x, given["weight"], place(mean), place(scale))
    for result, exact in zip(grads, nb.batch_norm_backward(y, x, plain["weight"], mean, scale), strict=True):
        assert_bits(result, exact)


@pytest.mark.parametrize("dtype", DTYPES)
def test_parameters_of_the_steps_of_any_dtype(dtype: Any) -> None:
    x, weight = normal(SHAPE, dtype, 1), uniform(3, dtype, 2)
    m = nb.moments(x)
    given = (m.mean, m.invstd(), weight, *nb.backward_reduce(x, x, m.mean, m.invstd()))
    narrow: Any = (x, x, *(a.astype(np.float32) for a in given), m.count)
    wide: Any = (x, x, *(a.astype(np.float32).astype(np.float64) for a in given), m.count)
    assert_bits(nb.backward_elemt(*narrow), nb.backward_elemt(*wide))


@pytest.mark.small
def test_a_parameter_of_one_element() -> None:
    """An array whose base is None need not lie without gaps."""
    weight = np.ndarray((3,), np.float64, strides=(0,))
    weight[...] = 2.0
    x = normal(SHAPE, np.float64, 1)
    for training in (True, False):
        given: dict[str, Any] = {"running_mean": np.zeros(3), "running_var": np.ones(3), "training": training}
        assert_bits(nb.batch_norm(x, weight=weight, **given), nb.batch_norm(x, weight=np.full(3, 2.0), **given))


@pytest.mark.small
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("wide", [(0,), (1,), (2,), (3,), (0, 2), (1, 3), (0, 1, 2)])
@pytest.mark.parametrize("shape", [SHAPE, (5, 70), (600, 3)])
def test_each_parameter_has_its_own_dtype(shape: tuple[int, ...], wide: tuple[int, ...], dtype: Any) -> None:
    x, dy = normal(shape, dtype, 1), normal(shape, dtype, 2)
    names = ("running_mean", "running_var", "weight", "bias")
    values = [uniform(shape[1], np.float32, seed, 0.5, 1.0) for seed in range(4)]
    exact = [v.astype(np.float64) for v in values]
    mixed = [exact[k] if k in wide else values[k] for k in range(4)]
    for training in (False, True):
        found: dict[str, Any] = {name: v.copy() for name, v in zip(names, mixed, strict=True)}
        expected: dict[str, Any] = {name: v.copy() for name, v in zip(names, exact, strict=True)}
        y = nb.batch_norm(x, training=training, **found)
        assert_bits(y, nb.batch_norm(x, training=training, **expected))
        for name in names:
            assert_bits(found[name], expected[name].astype(found[name].dtype))
    assert_bits(nb.normalize(x, *mixed), nb.normalize(x, *exact))
    for fixed in (False, True):
        grads = (nb.batch_norm_backward(dy, x, *rows[:3], training=not fixed) for rows in (mixed, exact))
        for one, other in zip(*grads, strict=True):
            assert_bits(one, other)


@pytest.mark.small
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("axis", [-1, 0, (1,), (-3,), (0, 2), (3, 1), (-2, 0, 1), (), (0, 1, 2, 3)])
def test_axes(dtype: Any, axis: naive.Axis) -> None:
    x, dy = normal(SHAPE, dtype, 1, 3.0), normal(SHAPE, dtype, 2)
    shape = tuple(SHAPE[a] for a in naive.kept_axes(4, axis))
    weight, bias, mean, var = (uniform(shape, np.float64, seed, 0.5, 1.0) for seed in range(4))
    training = len(shape) < 4
    new_mean, new_var = mean.copy(), var.copy()
    y, save_mean, save_invstd = nb.batch_norm_forward(x, new_mean, new_var, weight, bias, training, axis=axis)
    if training:
        _, wanted_mean, wanted_scale = naive.forward(x, axis=axis)
        running = naive.running(mean, var, x, 0.1, axis=axis)
        assert_within(new_mean, running[0], BAR["f"], "running_mean")
        assert_within(new_var, running[1], BAR["f"] * running[1], "running_var")
    else:
        wanted_mean, wanted_scale = mean.astype(np.longdouble), naive.invstd(var, 1e-5)
    wanted_y = naive.normalize(x, wanted_mean, wanted_scale, weight, bias, axis)
    assert_within(y, wanted_y, y_bar(wanted_y, dtype), "y")
    grads = nb.batch_norm_backward(dy, x, weight, save_mean, save_invstd, training=training, axis=axis)
    wanted = naive.backward(dy, x, weight, wanted_mean, wanted_scale, training, axis)
    bars = gradient_bars(dy, x, weight, wanted_mean, wanted_scale, axis)
    for name, result, value, bar in zip(grads._fields, grads, wanted, bars, strict=True):
        assert_within(result, value, 2 * bar, f"d{name}")
    m = nb.moments(x, axis=axis)
    count, mean_of_x, m2 = naive.moments(x, axis)
    assert m.count == count
    assert_within(m.mean, mean_of_x, BAR["f"], "mean")
    assert_within(m.m2, m2, BAR["f"] * (m2 + 1e-6), "m2")


@pytest.mark.parametrize("shape", [(0, 3), (4, 0), (0, 0), (0, 3, 5), (4, 3, 0), (2, 0, 3, 4)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_empty_input(shape: tuple[int, ...], dtype: Any) -> None:
    x, c = np.empty(shape, dtype), shape[1]
    mean, var = uniform(c, dtype, 1).copy(), uniform(c, dtype, 2, 0.5, 1.0).copy()
    before = mean.tobytes(), var.tobytes()
    for training in (True, False):
        y, save_mean, save_invstd = nb.batch_norm_forward(x, mean, var, var, mean, training)
        assert (y.shape, y.dtype, save_mean.shape, save_invstd.shape) == (shape, dtype, (c,), (c,))
        grads = nb.batch_norm_backward(y, x, var, save_mean, save_invstd, training=training)
        assert grads.x is not None and grads.x.shape == shape
        assert_bits(grads.weight, np.zeros(c))
        assert_bits(grads.bias, np.zeros(c))
    out = np.empty(shape, dtype)
    assert nb.normalize(x, mean, var, out=out) is out
    m = nb.moments(x)
    nb.update_running(mean, var, m)
    assert (m.count, m.mean.shape, m.m2.shape) == (0, (c,), (c,))
    assert (mean.tobytes(), var.tobytes()) == before
    sums = nb.backward_reduce(x, x, mean, var)
    assert nb.backward_elemt(x, x, mean, var, None, *sums, 0).shape == shape


# -- arguments ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("momentum", [0.0, 0.1, 1.0, 2.0, -0.5])
@pytest.mark.parametrize("ddof", [0, 1, 2.5])
def test_momentum_and_ddof(momentum: float, ddof: float) -> None:
    x = normal(SHAPE, np.float64, 1, 2.0, 3.0)
    mean, var = MEAN.copy(), SCALE.copy()
    nb.batch_norm(x, mean, var, training=True, momentum=momentum, running_ddof=ddof)
    expected = naive.running(MEAN, SCALE, x, momentum, ddof)
    assert_within(mean, expected[0], 1e-12, "running_mean")
    assert_within(var, expected[1], 1e-11, "running_var")
    if momentum == 0.0:
        assert_bits(mean, MEAN)
        assert_bits(var, SCALE)


def test_one_running_statistic_alone_is_updated() -> None:
    x, both = normal(SHAPE, np.float64, 1), (MEAN.copy(), SCALE.copy())
    nb.batch_norm(x, both[0], both[1], training=True)
    mean, var = MEAN.copy(), SCALE.copy()
    nb.batch_norm(x, mean, None, training=True)
    nb.batch_norm(x, None, var, training=True)
    assert_bits(mean, both[0])
    assert_bits(var, both[1])


@pytest.mark.parametrize("eps", [0.0, 1e-5, 1.0])
def test_eval_returns_what_normalised(eps: float) -> None:
    var = np.array([0.0, 1.0, 4.0], np.float32)
    _, mean, scale = nb.batch_norm_forward(normal(SHAPE, np.float32, 1), MEAN, frozen(var), eps=eps)
    assert_bits(mean, MEAN)
    assert_within(scale, naive.invstd(var, eps), 1e-12)
    assert eps or scale[0] == 0.0


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("needs", [("x",), ("weight",), ("bias",), ("x", "bias"), ("weight", "bias"), ()])
def test_needs(training: bool, needs: tuple[str, ...]) -> None:
    x, dy = normal(SHAPE, np.float32, 1), normal(SHAPE, np.float32, 2)
    _, mean, scale = nb.batch_norm_forward(x, training=True)
    everything = nb.batch_norm_backward(dy, x, WEIGHT, mean, scale, training=training)
    some = nb.batch_norm_backward(dy, x, WEIGHT, mean, scale, training=training, needs=iter(needs))  # type: ignore[arg-type]
    for name, result, whole in zip(some._fields, some, everything, strict=True):
        if name in needs:
            assert_bits(result, whole, name)
        else:
            assert result is None


def test_eval_backward_for_dx_alone_reads_dy_alone() -> None:
    dy, nothing = normal(SHAPE, np.float32, 2), frozen(np.full(SHAPE, np.nan, np.float32))
    options: dict[str, Any] = {"training": False, "needs": ("x",)}
    expected = nb.batch_norm_backward(dy, normal(SHAPE, np.float32, 1), WEIGHT, MEAN, SCALE, training=False).x
    assert_bits(nb.batch_norm_backward(dy, nothing, WEIGHT, MEAN, SCALE, **options).x, expected)
    assert_bits(nb.batch_norm_backward(dy, None, WEIGHT, MEAN, SCALE, **options).x, expected)
    assert_bits(nb.batch_norm_backward(dy, None, WEIGHT, None, SCALE, **options).x, expected)


def test_dbias_alone_needs_neither_x_nor_statistics() -> None:
    dy = normal(SHAPE, np.float32, 2)
    for training in (True, False):
        grads = nb.batch_norm_backward(dy, None, training=training, needs=("bias",))
        assert grads.bias is not None
        assert_within(grads.bias, dy.astype(np.longdouble).sum((0, 2, 3)), 1e-5)
