"""What holds for every input: invariances, any split, any strides, gradients that are derivatives."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import naive
import numpy as np
import pytest
from cases import BAR, DTYPES, Array, assert_within, frozen, gradient_bars, normal, y_bar
from hypothesis import given, settings
from hypothesis import strategies as st

import numbabn as nb
from numbabn import _layout

seeds = st.integers(0, 2**32 - 1)
dtypes = st.sampled_from(DTYPES)


@st.composite
def batches(draw: st.DrawFn) -> Array:
    """Rank 2 to 4, at least two values per channel, whole numbers: sums and shifts of them are exact."""
    inner = draw(st.sampled_from([(), (1,), (7,), (19,), (3, 6), (5, 17)]))
    shape = (draw(st.integers(2, 9)), draw(st.integers(1, 5)), *inner)
    rng = np.random.default_rng(draw(seeds))
    x = rng.integers(-draw(st.integers(1, 1000)), 1001, shape)
    x[:, draw(st.integers(0, shape[1] - 1))] //= draw(st.sampled_from([1, 100, 10000]))
    return frozen(x.astype(draw(dtypes)))  # type: ignore[no-any-return]


def y_of(x: Array, **options: Any) -> Array:
    return nb.batch_norm(frozen(x), training=True, eps=0.0, **options)


def assert_same_y(y: Array, other: Array) -> None:
    """Two results that are each within the bar of one truth; |mean| / std may be 1e4 here."""
    bar = BAR["f"] if y.dtype == np.float32 else 1e-10
    assert_within(y, other.astype(np.longdouble), 2.0 * bar * np.maximum(1.0, np.abs(other) / 4.0), "y")


# -- invariances -------------------------------------------------------------------------------------------------------


@given(batches(), st.integers(-20, 20), st.sampled_from([1.0, -1.0]))
def test_scaling_by_a_power_of_two_changes_no_bit(x: Array, power: int, sign: float) -> None:
    scaled = (x * np.asarray(sign * 2.0**power, x.dtype)).astype(x.dtype)
    np.testing.assert_array_equal(y_of(scaled), y_of(x) * np.asarray(sign, x.dtype))


@given(batches(), st.integers(-(10**6), 10**6))
def test_shift(x: Array, shift: int) -> None:
    shifted = (x.astype(np.float64) + shift).astype(x.dtype)  # exact: below 2**24
    y, std = naive.forward(x, eps=0.0)[0], np.sqrt(naive.moments(x)[2].min() / (x.size // x.shape[1]))
    if std and (abs(shift) + 1000) / std > 1e5:
        return
    bar = BAR["f"] if x.dtype == np.float32 else 1e-9
    assert_within(y_of(shifted), y, bar * np.maximum(1.0, np.abs(y) / 4.0), "y")


@given(batches(), seeds)
def test_order_of_the_batch(x: Array, seed: int) -> None:
    order = np.random.default_rng(seed).permutation(x.shape[0])
    assert_same_y(y_of(x[order]), y_of(x)[order])


@given(batches(), seeds)
def test_order_of_the_channels(x: Array, seed: int) -> None:
    order = np.random.default_rng(seed).permutation(x.shape[1])
    assert_same_y(y_of(x[:, order]), y_of(x)[:, order])


@given(batches())
def test_normalised_again_nothing_changes(x: Array) -> None:
    y = y_of(x)
    assert_same_y(y_of(y), y)


@given(batches(), st.lists(st.integers(0, 9), max_size=4).map(sorted))
def test_any_split_merges_to_the_whole(x: Array, cuts: list[int]) -> None:
    parts = [nb.moments(part) for part in np.split(x, cuts)]
    merged = parts[0].merge(*parts[1:])
    count, mean, m2 = naive.moments(x)
    assert merged.count == count
    assert_within(merged.mean, mean, 1e-12 if x.dtype == np.float64 else 1e-4, "mean")
    assert_within(merged.m2, m2, BAR["f"] * m2 + 1e-9, "m2")


# -- strides -----------------------------------------------------------------------------------------------------------


class Memory(NamedTuple):
    """How an array lies: its axes from the outermost in memory to the innermost, their steps, its byte order."""

    order: tuple[int, ...]
    steps: tuple[int, ...]
    swapped: bool

    def place(self, a: Array) -> Array:
        inverse = np.argsort(self.order)
        shape = [a.shape[k] * abs(self.steps[k]) for k in self.order]
        dtype = a.dtype.newbyteorder() if self.swapped else a.dtype
        memory = np.full(shape, np.nan, dtype).transpose(inverse)
        view = memory[tuple(slice(None, None, step) for step in self.steps)]
        view[...] = a
        return view


@st.composite
def memories(draw: st.DrawFn, ndim: int) -> Memory:
    order = tuple(draw(st.permutations(range(ndim))))
    steps = draw(st.tuples(*[st.sampled_from([1, 1, 1, -1, 2, -3])] * ndim))
    return Memory(order, steps, draw(st.sampled_from([False, False, False, True])))


@st.composite
def placements(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...], list[Memory]]:
    """A shape, the kept axes, and how x, dy and both results lie."""
    shape = tuple(draw(st.lists(st.integers(1, 6), min_size=2, max_size=5)))
    kept = tuple(draw(st.sets(st.integers(0, len(shape) - 1), max_size=len(shape) - 1)))
    return shape, kept, [draw(memories(len(shape))) for _ in range(3)]


@settings(max_examples=400)
@given(placements(), dtypes, st.sampled_from([1, 5, 40, 1 << 18]), seeds)
def test_strides_do_not_matter(where: Any, dtype: Any, slab: int, seed: int) -> None:
    """Neither do slabs of a few elements, cut through any axis."""
    shape, axis, (at_x, at_dy, at_out) = where
    count = math.prod(n for k, n in enumerate(shape) if k not in axis)
    training = count > 1
    plain_x, plain_dy = normal(shape, dtype, seed, 3.0), normal(shape, dtype, seed + 1, 0.5)
    x, dy = frozen(at_x.place(plain_x)), frozen(at_dy.place(plain_dy))
    out, dx_out = (at._replace(swapped=at_x.swapped).place(plain_x) for at in (at_out, at_dy))
    kept_shape = naive.moments(plain_x, axis)[1].shape
    fixed = np.full(kept_shape, 2.5), np.full(kept_shape, 0.5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_layout, "SLAB", slab)
        y, mean, scale = nb.batch_norm_forward(x, *fixed, training=training, axis=axis, out=out)
        options: dict[str, Any] = {"training": training, "axis": axis, "out": dx_out}
        grads = nb.batch_norm_backward(dy, x, None, mean, scale, **options)
        m = nb.moments(x, axis=axis)
    if training:
        expected, expected_mean, expected_scale = naive.forward(plain_x, axis=axis)
        # Where the variance is tiny by chance, one rounding of x weighs more.
        blur = np.maximum(1.0, 8.0 * expected_scale)
        assert_within(mean, expected_mean, BAR[np.dtype(dtype).char], "save_mean")
        assert_within(scale, expected_scale, BAR[np.dtype(dtype).char] * expected_scale * blur, "save_invstd")
        bar = y_bar(expected, dtype) * naive.spread(blur, len(shape), axis)
    else:
        expected = naive.normalize(plain_x, mean, scale, axis=axis)
        bar = 2.0 * y_bar(expected, dtype)
    assert_within(y, expected, bar, "y")
    wanted = naive.backward(plain_dy, plain_x, None, mean, scale, training, axis)
    for name, result, value, width in zip(
        grads._fields, grads, wanted, gradient_bars(plain_dy, plain_x, None, mean, scale, axis), strict=True
    ):
        assert_within(result, value, 2.0 * width, f"d{name}")
    assert_within(m.m2, naive.moments(plain_x, axis)[2], BAR[np.dtype(dtype).char] * 10.0 * count, "m2")


# -- gradients ---------------------------------------------------------------------------------------------------------


def differences(loss: Callable[[Array], Any], at: Array, step: Any) -> Array:
    """Central differences of a loss, element by element, in at's dtype."""
    result = np.empty_like(at)
    for k in np.ndindex(*at.shape):
        moved = at.copy(), at.copy()
        moved[0][k] += step
        moved[1][k] -= step
        result[k] = (loss(moved[0]) - loss(moved[1])) / (2 * step)
    return result


CASES: dict[str, tuple[tuple[int, ...], naive.Axis]] = {
    "N-C": ((6, 3), 1),
    "N-C-L": ((3, 2, 5), 1),
    "last": ((3, 2, 5), -1),
    "two-axes": ((2, 3, 2, 3), (1, 2)),
}
every_case = pytest.mark.parametrize(("shape", "axis"), CASES.values(), ids=CASES)


def operands(shape: tuple[int, ...], axis: naive.Axis) -> dict[str, Array]:
    kept = tuple(shape[a] for a in naive.kept_axes(len(shape), axis))
    named = {name: normal(kept, np.float64, k) for k, name in enumerate(("weight", "bias", "mean"))}
    var = frozen(np.abs(normal(kept, np.float64, 3)) + 0.5)
    return named | {"x": normal(shape, np.float64, 4, 1.0), "dy": normal(shape, np.float64, 5, 0.5), "var": var}


@pytest.mark.small
@every_case
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("eps", [1e-5, 0.5])
def test_gradients_are_derivatives(shape: tuple[int, ...], axis: naive.Axis, training: bool, eps: float) -> None:
    o = operands(shape, axis)
    options: dict[str, Any] = {"training": training, "axis": axis}

    def forward(**changed: Array) -> Any:
        a = o | changed
        mean, var = (None, None) if training else (a["mean"], a["var"])
        return nb.batch_norm_forward(a["x"], mean, var, a["weight"], a["bias"], eps=eps, **options)

    _, mean, scale = forward()
    grads: Any = nb.batch_norm_backward(o["dy"], o["x"], o["weight"], mean, scale, **options)
    for name, gradient in zip(("x", "weight", "bias"), grads, strict=True):
        by_differences = differences(lambda v, name=name: (forward(**{name: v})[0] * o["dy"]).sum(), o[name], 1e-5)  # type: ignore[misc]
        np.testing.assert_allclose(gradient, by_differences, rtol=1e-6, atol=1e-7, err_msg=name)
    expected_mean, expected_scale = mean.astype(np.longdouble), scale.astype(np.longdouble)
    expected = naive.backward(o["dy"], o["x"], o["weight"], expected_mean, expected_scale, training, axis)
    bars = gradient_bars(o["dy"], o["x"], o["weight"], expected_mean, expected_scale, axis)
    for name, gradient, value, bar in zip(grads._fields, grads, expected, bars, strict=True):
        assert_within(gradient, value, bar, name)


@every_case
@pytest.mark.parametrize("training", [True, False])
def test_the_oracle_s_gradients_are_derivatives(shape: tuple[int, ...], axis: naive.Axis, training: bool) -> None:
    o = {name: value.astype(np.longdouble) for name, value in operands(shape, axis).items()}

    def forward(**changed: Array) -> Any:
        a = o | changed
        if training:
            return naive.forward(a["x"], a["weight"], a["bias"], 1e-5, axis)
        scale = naive.invstd(a["var"], 1e-5)
        return naive.normalize(a["x"], a["mean"], scale, a["weight"], a["bias"], axis), a["mean"], scale

    _, mean, scale = forward()
    grads = naive.backward(o["dy"], o["x"], o["weight"], mean, scale, training, axis)
    for name, gradient in zip(("x", "weight", "bias"), grads, strict=True):
        by_differences = differences(lambda v, name=name: (forward(**{name: v})[0] * o["dy"]).sum(), o[name], 1e-6)  # type: ignore[misc]
        np.testing.assert_allclose(gradient, by_differences, rtol=1e-8, atol=1e-8, err_msg=name)


@given(batches(), seeds)
def test_dx_is_orthogonal_to_shifts_and_to_x(x: Array, seed: int) -> None:
    """With eps 0 the loss does not change when a channel is shifted or scaled."""
    dy = normal(x.shape, x.dtype, seed, 0.5)
    y, mean, scale = nb.batch_norm_forward(x, training=True, eps=0.0)
    dx = nb.batch_norm_backward(dy, x, None, mean, scale).x
    assert dx is not None
    bar = (BAR["f"] if x.dtype == np.float32 else 1e-9) * (x.size // x.shape[1]) * 40.0
    for direction in (np.ones_like(y), y):
        along = (dx.astype(np.float64) * direction).sum(naive.reduced_axes(x.ndim, 1))
        assert (np.abs(along) <= bar * scale).all()


@given(batches(), seeds, st.integers(-20, 20))
def test_gradients_are_linear_in_dy(x: Array, seed: int, power: int) -> None:
    dy, factor = normal(x.shape, x.dtype, seed), np.asarray(2.0**power, x.dtype)
    _, mean, scale = nb.batch_norm_forward(x, training=True)
    once = nb.batch_norm_backward(dy, x, None, mean, scale)
    scaled = nb.batch_norm_backward(frozen(dy * factor), x, None, mean, scale)
    for result, value in zip(scaled, once, strict=True):
        assert value is not None
        np.testing.assert_array_equal(result, value * factor)
