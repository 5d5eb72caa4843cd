"""The accuracy that is promised, at every mean, in every layout, and what NaN, zero and huge numbers do."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import naive
import numpy as np
import pytest
from cases import BAR, DTYPES, LAYOUTS, SLACK, Array, assert_bits, assert_within, frozen, gradient_bars, normal

import numbabn as nb

MEANS = (0.0, 1.0, 1e2, 1e3, 1e4, 1e5)  # in standard deviations
FIRST = ("plain", "outlier", "zero")  # the very first value of each channel
PLACES: dict[str, tuple[tuple[int, ...], str]] = {
    "NCHW": ((8, 6, 29, 31), "channels-first"),
    "NHWC": ((8, 6, 29, 31), "channels-last"),
    "N-C": ((7200, 6), "channels-first"),
    "N-C-many": ((300, 70), "channels-first"),
    "short-planes": ((900, 6, 3, 3), "channels-first"),
    "few-short-planes": ((3, 40, 7, 7), "channels-first"),
    "few-planes": ((4, 19, 15, 17), "channels-first"),
    "one-plane": ((1, 5, 90, 91), "channels-first"),
    "strided": ((8, 6, 29, 31), "outer-gaps"),
    "slabs": ((8, 6, 29, 31), "inner-gaps"),
    "swapped": ((7200, 6), "byte-swapped"),
}


def bars(dtype: Any, mean: float) -> tuple[float, float]:
    """Errors allowed in y (and in an invstd, relatively), and in a running mean in standard deviations."""
    if np.dtype(dtype) == np.float32:
        return BAR["f"], 1e-7 * SLACK
    # Half a unit in the last place of a float64 mean is 1.1e-16 of it: the bar goes up to 1e-10 at 1e5.
    return (max(BAR["d"], 1e-15 * mean * SLACK),) * 2


@lru_cache(maxsize=4)
def data(shape: tuple[int, ...], dtype: Any, mean: float, first: str) -> tuple[Array, Array]:
    """x with a chosen value first, and dy."""
    x = normal(shape, np.float64, 3, mean).copy()
    if first != "plain":
        x.reshape(*shape[:2], -1)[0, :, 0] = mean + 30.0 if first == "outlier" else 0.0
    return frozen(x.astype(dtype)), normal(shape, dtype, 4, 0.5)


@lru_cache(maxsize=4)
def oracle(shape: tuple[int, ...], dtype: Any, mean: float, first: str) -> tuple[Any, ...]:
    x = data(shape, dtype, mean, first)[0]
    y, _, scale = naive.forward(x)
    return y, scale, naive.running(np.zeros(shape[1]), np.ones(shape[1]), x, 1.0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mean", MEANS)
@pytest.mark.parametrize("first", FIRST)
@pytest.mark.parametrize(("shape", "layout"), PLACES.values(), ids=PLACES)
def test_bar(shape: tuple[int, ...], layout: str, dtype: Any, mean: float, first: str) -> None:
    x, dy = (frozen(LAYOUTS[layout](a)) for a in data(shape, dtype, mean, first))
    expected_y, scale, running = oracle(shape, dtype, mean, first)
    bar, mean_bar = bars(dtype, mean)
    running_mean, running_var = np.zeros(shape[1], dtype), np.ones(shape[1], dtype)
    y, save_mean, save_invstd = nb.batch_norm_forward(x, running_mean, running_var, training=True, momentum=1.0)
    assert_within(y, expected_y, bar * np.maximum(1.0, np.abs(expected_y) / 4.0), "y")
    assert_within(save_invstd, scale, bar * scale, "save_invstd")
    assert_within(save_mean, running[0], mean_bar / scale, "save_mean")
    ulp = np.spacing(np.abs(running[0]).astype(dtype)).astype(np.longdouble)
    assert_within(running_mean, running[0], 2.0 * ulp + mean_bar / scale, "running_mean")
    assert_within(running_var, running[1], bar * running[1], "running_var")
    assert_gradients(dy, x, save_mean, save_invstd)


@pytest.mark.parametrize("kind", ["a few others", "others first", "two values", "behind a ReLU"])
@pytest.mark.parametrize(
    "shape", [(31, 640), (103, 640), (250, 640), (6, 320, 13, 13), (16, 320, 14, 14), (24, 160, 9, 9), (1, 256, 64, 64)]
)
@pytest.mark.parametrize("layout", ["channels-first", "channels-last"])
def test_bar_where_most_values_are_equal(shape: tuple[int, ...], layout: str, kind: str) -> None:
    """Their squares all round alike, in every lane."""
    rng = np.random.default_rng(7)
    size = int(np.prod(shape)) // shape[1]
    x = np.zeros((size, shape[1]))
    for column in x.T:
        share = rng.uniform(0.02, 0.5)
        if kind == "a few others":
            column[rng.choice(size, rng.integers(1, 6), replace=False)] = rng.uniform(1.0, 2.0)
        elif kind == "others first":  # where the first pivot comes from
            column[rng.choice(128 if size > 400 else 16, rng.integers(1, 4), replace=False)] = 1.7
            column[rng.choice(size, rng.integers(0, 20), replace=False)] = 1.7
        elif kind == "two values":
            column[...] = np.where(rng.random(size) < share, *rng.uniform((1.0, -1.0), (2.0, 0.0)))
        else:
            column[...] = np.where(rng.random(size) < share, np.abs(rng.standard_normal(size)), 0.0)
    x = np.moveaxis(x.reshape(shape[0], *shape[2:], shape[1]), -1, 1).astype(np.float32)
    expected, mean, scale = naive.forward(x)
    y, save_mean, save_invstd = nb.batch_norm_forward(LAYOUTS[layout](x), training=True)
    assert_within(y, expected, BAR["f"] * np.maximum(1.0, np.abs(expected) / 4.0), "y")
    assert_within(save_mean, mean, (1e-7 + np.abs(mean) * 2.0**-23) / scale, "save_mean")
    assert_within(save_invstd, scale, BAR["f"] * scale, "save_invstd")


def assert_gradients(dy: Array, x: Array, mean: Array, scale: Array) -> None:
    """Compared with the formula on the mean and invstd that were saved: their own errors have been measured."""
    grads = nb.batch_norm_backward(dy, x, None, mean, scale)
    expected = naive.backward(dy, x, None, mean, scale)
    for name, value, wanted, bar in zip(
        grads._fields, grads, expected, gradient_bars(dy, x, None, mean, scale), strict=True
    ):
        assert_within(value, wanted, bar, f"d{name}")


WANDERINGS: dict[str, Any] = {
    "steps": lambda x: x + 1000.0 * (np.arange(len(x))[:, None] // 64 % 3),
    "a step": lambda x: x + 30.0 * (np.arange(len(x))[:, None] >= 70),
    "sorted": lambda x: np.sort(x, axis=0),
    "slope": lambda x: x + np.arange(len(x))[:, None],
    "dead, then alive": lambda x: x * (np.arange(len(x))[:, None] >= 4096),
}


@pytest.mark.parametrize("wandering", WANDERINGS.values(), ids=WANDERINGS)
@pytest.mark.parametrize("mean", [0.0, 1e4])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("order", ["C", "F"])
def test_bar_where_the_mean_wanders(wandering: Any, mean: float, dtype: Any, order: Any, twin: str) -> None:
    """Sums are taken around the mean of what came before, which then is far from the mean of what comes."""
    x = frozen(np.asarray(wandering(normal((20_011, 3), np.float64, 5, mean)).astype(dtype), order=order))
    y, batch_mean, scale = naive.forward(x)
    bar = bars(dtype, mean)[0]
    result = nb.batch_norm_forward(x, training=True)
    assert_within(result[0], y, bar * np.maximum(1.0, np.abs(y) / 4.0), "y")
    assert_within(result[2], scale, bar * scale, "save_invstd")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mean", MEANS)
@pytest.mark.parametrize(("shape", "layout"), PLACES.values(), ids=PLACES)
def test_bar_in_eval(shape: tuple[int, ...], layout: str, dtype: Any, mean: float) -> None:
    """Far from zero only float64 buffers can hold the mean; the path from there to y owes the same digits."""
    x = frozen(LAYOUTS[layout](data(shape, dtype, mean, "plain")[0]))
    _, batch_mean, m2 = (np.asarray(v, np.float64) for v in naive.moments(x))
    var = m2 / (x.size // shape[1])
    expected = naive.normalize(x, batch_mean, naive.invstd(var, 1e-5))
    bar = bars(dtype, mean)[0] * np.maximum(1.0, np.abs(expected) / 4.0)
    assert_within(nb.batch_norm(x, batch_mean, var), expected, bar)


@pytest.mark.parametrize("mean", [1e2, 1e5])
def test_bar_with_few_values(mean: float, twin: str) -> None:
    for rows in (2, 3, 5, 63, 64, 65, 127, 129):
        x = normal((rows, 9), np.float32, rows, mean)
        y = naive.forward(x)[0]
        assert_within(nb.batch_norm(x, training=True), y, BAR["f"] * np.maximum(1.0, np.abs(y) / 4.0), f"{rows} rows")


@pytest.mark.parametrize("place", [lambda x: x, lambda x: x.T.copy().T, lambda x: x[:, :, None]])
def test_invstd_of_many_rows_far_from_zero(place: Any, twin: str) -> None:
    x = place((np.random.default_rng(0).standard_normal((100000, 2)) + 1e4).astype(np.float32))
    _, mean, scale = naive.forward(x)
    result = nb.batch_norm_forward(frozen(x), training=True)
    assert_within(result[2], scale, 1e-6 * scale, "save_invstd")
    assert abs(result[2] - 0.999).max() < 0.01
    assert_within(result[1], mean, 1e-7 / scale, "save_mean")


# -- magnitudes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(576, 3), (5, 40), (64, 3, 9, 9), (4, 3, 20, 20)], ids=str)
@pytest.mark.parametrize("layout", ["channels-first", "channels-last"])
def test_the_largest_numbers(shape: tuple[int, ...], layout: str, twin: str) -> None:
    """Their sums, and the sums of a few, are beyond float32."""
    x = (np.random.default_rng(0).uniform(-1.0, 1.0, shape) * 1.5e38).astype(np.float32)
    y, mean, scale = naive.forward(x)
    result = nb.batch_norm_forward(LAYOUTS[layout](x), training=True)
    for value, expected, bar in zip(result, (y, mean, scale), (1e-6, 1e-7 / scale, 1e-6 * scale), strict=True):
        assert_within(value, expected, bar * np.ones_like(expected))


every_magnitude = pytest.mark.parametrize("power", [-25, -15, 15, 25])


def scaled(shape: tuple[int, ...], layout: str, mean: float, power: int) -> Array:
    """Float32 data whose squares leave float32's range, or nearly so."""
    x = normal(shape, np.float64, 3, mean) * 10.0**power
    return frozen(LAYOUTS[layout](x.astype(np.float32)))  # type: ignore[no-any-return]


@every_magnitude
@pytest.mark.parametrize("mean", [0.0, 100.0])
@pytest.mark.parametrize(("shape", "layout"), PLACES.values(), ids=PLACES)
def test_squares_out_of_range(shape: tuple[int, ...], layout: str, mean: float, power: int) -> None:
    x = scaled(shape, layout, mean, power)
    y, batch_mean, scale = nb.batch_norm_forward(x, training=True, eps=0.0)
    expected_y, expected_mean, expected_scale = naive.forward(x, eps=0.0)
    assert_within(y, expected_y, BAR["f"] * np.maximum(1.0, np.abs(expected_y) / 4.0), "y")
    assert_within(scale, expected_scale, BAR["f"] * expected_scale, "save_invstd")
    assert_within(batch_mean, expected_mean, 1e-7 / expected_scale, "save_mean")


@every_magnitude
@pytest.mark.parametrize(("shape", "layout"), PLACES.values(), ids=PLACES)
def test_gradients_where_squares_are_out_of_range(shape: tuple[int, ...], layout: str, power: int) -> None:
    x = scaled(shape, layout, 3.0, power)
    _, mean, scale = nb.batch_norm_forward(x, training=True, eps=0.0)
    assert_gradients(frozen(LAYOUTS[layout](normal(shape, np.float32, 4, 0.5))), x, mean, scale)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [0.0, 1.0, 0.1, -1234.567, 1e-30, 1e30])
@pytest.mark.parametrize("layout", ["channels-first", "channels-last", "inner-gaps"])
@pytest.mark.parametrize("shape", [(5, 3), (7, 3, 13), (8, 3, 29, 31), (3, 2, 61, 71)], ids=str)
def test_constant_channels_are_zero(shape: tuple[int, ...], layout: str, value: float, dtype: Any, twin: str) -> None:
    x = normal(shape, dtype, 1).copy()
    x[:, 1] = value
    x = frozen(LAYOUTS[layout](x))
    y, mean, scale = nb.batch_norm_forward(x, training=True, eps=0.0)
    assert (y[:, 1] == 0.0).all()
    assert mean[1] == dtype(value)
    assert scale[1] == 0.0
    assert nb.moments(x).m2[1] == 0.0
    grads = nb.batch_norm_backward(normal(shape, dtype, 2), x, None, mean, scale)
    assert grads.x is not None
    assert grads.weight is not None
    assert (grads.x[:, 1] == 0.0).all()
    assert grads.weight[1] == 0.0


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", ["channels-first", "channels-last", "inner-gaps"])
def test_dead_channels(dtype: Any, layout: str, twin: str) -> None:
    """All zero but for one tiny value: finite, and the neighbours do not notice."""
    x = normal((4, 5, 9, 11), dtype, 1).copy()
    clean = nb.batch_norm(LAYOUTS[layout](x), training=True)
    x[:, 3] = 0.0
    x[2, 3, 4, 5] = 1e-20
    y = nb.batch_norm(frozen(LAYOUTS[layout](x)), training=True)
    expected = naive.forward(x)[0]
    assert_within(y[:, 3], expected[:, 3], 1e-6 * np.maximum(np.abs(expected[:, 3]), 1e-25))
    others, bar = [0, 1, 2, 4], BAR[np.dtype(dtype).char]
    np.testing.assert_allclose(y[:, others], clean[:, others], bar, bar)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 1000, -1])
@pytest.mark.parametrize("shape", [(4, 5, 17, 21), (5, 5, 13, 17), (30, 5, 6, 6)])
@pytest.mark.parametrize("layout", ["channels-first", "channels-last", "outer-gaps", "inner-gaps"])
def test_nan_and_infinity_stay_in_their_channel(
    shape: tuple[int, ...], dtype: Any, bad: float, place: int, layout: str, twin: str
) -> None:
    c, others = 2, [0, 1, 3, 4]
    plain, dy = normal(shape, dtype, 1, 3.0), frozen(LAYOUTS[layout](normal(shape, dtype, 2)))
    spoilt = plain.copy()
    spoilt[:, c].flat[place] = bad
    results = []
    for x in (plain, spoilt):
        x = frozen(LAYOUTS[layout](x))
        running = np.zeros(5, dtype), np.ones(5, dtype)
        y, mean, scale = nb.batch_norm_forward(x, *running, training=True)
        grads = nb.batch_norm_backward(dy, x, None, mean, scale)
        assert grads.x is not None
        results.append((y.swapaxes(0, 1), mean, scale, *running, grads.x.swapaxes(0, 1), grads.weight, grads.bias))
    bar = BAR[np.dtype(dtype).char]
    for clean, result in zip(*results, strict=True):
        assert clean is not None
        assert result is not None
        np.testing.assert_allclose(result[others], clean[others], 4 * bar, 4 * bar * (1 if clean.ndim > 1 else 40))
    y, mean, scale, running_mean, running_var, dx, dweight, dbias = results[1]
    assert np.isnan(y[c]).all()
    assert np.isnan(dx[c]).all()
    for channels in (scale, running_var, dweight):
        assert channels is not None
        assert np.isnan(channels[c])
    assert not np.isfinite([mean[c], running_mean[c]]).any()
    assert dbias is not None
    assert np.isfinite(dbias[c])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("values", [(np.inf,), (-np.inf,), (np.inf, np.inf), (np.inf, -np.inf), (np.nan, np.inf)])
@pytest.mark.parametrize("layout", ["channels-first", "channels-last", "outer-gaps", "inner-gaps"])
def test_mean_of_infinities(dtype: Any, values: tuple[float, ...], layout: str, twin: str) -> None:
    """sum(x) / n says that it is infinite where all infinities have one sign."""
    x = normal((4, 5, 71, 73), dtype, 1).copy()
    for k, value in enumerate(values):
        x[3 * k, 2, 4, 5] = value
    m = nb.moments(frozen(LAYOUTS[layout](x)))
    with np.errstate(invalid="ignore"):
        np.testing.assert_equal(m.mean[2], np.sum(values))
    assert np.isnan(m.m2[2])
    assert np.isfinite(m.mean[[0, 1, 3, 4]]).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("layout", ["channels-first", "channels-last", "inner-gaps"])
def test_eval_leaves_nan_and_infinity_where_they_are(bad: float, layout: str) -> None:
    x = normal((4, 5, 17, 21), np.float32, 1, 3.0).copy()
    clean = nb.batch_norm(LAYOUTS[layout](x), np.zeros(5), np.ones(5))
    x[1, 2, 3, 4] = bad
    y = nb.batch_norm(frozen(LAYOUTS[layout](x)), np.zeros(5), np.ones(5))
    np.testing.assert_equal(y[1, 2, 3, 4], np.float32(bad))
    y[1, 2, 3, 4] = clean[1, 2, 3, 4]
    assert_bits(y, clean)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", ["channels-first", "channels-last"])
def test_channels_of_one_value_and_of_nearly_one(dtype: Any, layout: str) -> None:
    """The squares of what is left of a channel may be too small for the dtype; M2 is not."""
    x = normal((6, 20, 9, 11), dtype, 1).copy()
    x[:, 3], x[:, 4] = 1.5, 0.0
    x[:, 7] = 1e-25
    x[:, 7, :, ::2] *= -1.0
    m = nb.moments(frozen(LAYOUTS[layout](x)))
    assert (m.mean[3], m.m2[3], m.mean[4], m.m2[4]) == (1.5, 0.0, 0.0, 0.0)
    _, mean, m2 = naive.moments(x)
    others = [c for c in range(20) if c not in (3, 4)]
    assert_within(m.mean[others], mean[others], 1e-7 * np.sqrt(m2[others] / m.count))
    assert_within(m.m2[others], m2[others], 1e-6 * m2[others])


@pytest.mark.parametrize("layout", ["channels-first", "channels-last"])
@pytest.mark.parametrize(
    "shape", [(2, 3, 150, 151), (4, 3, 15, 17), (700, 3, 7, 7), (900, 3, 2, 2), (40000, 3), (3000, 70)]
)
def test_sums_of_equal_products(shape: tuple[int, ...], layout: str) -> None:
    """Where all products of a channel are equal, so are their roundings: nothing averages out."""
    channels = np.linspace(0.7, 2.9, shape[1], dtype=np.float32).reshape(-1, *[1] * (len(shape) - 2))
    x, dy = (LAYOUTS[layout](np.broadcast_to(a, shape)) for a in (channels, channels / np.float32(3)))
    dy, x, mean = frozen(dy), frozen(x), np.full(shape[1], 0.1)
    sums = nb.backward_reduce(dy, x, mean, np.ones(shape[1]))
    for found, expected in zip(sums, naive.backward_reduce(dy, x, mean), strict=True):
        assert_within(found, expected, 7e-7 * np.abs(expected))
