"""Moments: what they hold, how they are combined, and what they do to running statistics."""

from __future__ import annotations

from functools import reduce
from operator import add
from typing import Any

import naive
import numpy as np
import pytest
from cases import BAR, DTYPES, LAYOUTS, Array, assert_bits, assert_within, frozen, normal

import numbabn as nb

SHAPE = (60, 5, 7)
EMPTY = nb.Moments(0, np.zeros(5), np.zeros(5))


def assert_moments(m: nb.Moments, x: Array, axis: naive.Axis = 1) -> None:
    count, mean, m2 = naive.moments(x, axis)
    bar = BAR[x.dtype.char]
    std = np.sqrt(m2 / count)
    assert m.count == count
    assert m.mean.dtype == m.m2.dtype == np.float64
    assert_within(m.mean, mean, bar * std + np.abs(mean) * 1e-15, "mean")
    assert_within(m.m2, m2, bar * m2, "m2")


@pytest.mark.small
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("mean", [0.0, 100.0])
def test_moments(dtype: Any, layout: str, mean: float, twin: str) -> None:
    x = normal(SHAPE, dtype, 1, mean)
    assert_moments(nb.moments(frozen(LAYOUTS[layout](x))), x)


@pytest.mark.parametrize("ddof", [0, 1, 2.5])
def test_variance_deviation_and_invstd(ddof: float) -> None:
    x = normal(SHAPE, np.float64, 1, 5.0, 3.0)
    m = nb.moments(x)
    var = naive.moments(x)[2] / (420 - np.longdouble(ddof))
    assert_within(m.var(ddof), var, 1e-12 * var, "var")
    assert_within(m.std(ddof), np.sqrt(var), 1e-12 * np.sqrt(var), "std")
    for eps in (0.0, 1e-5, 1.0):
        scale = naive.invstd(naive.moments(x)[2] / 420, eps)
        assert_within(m.invstd(eps), scale, 1e-12 * scale, "invstd")


def test_variance_of_too_few_values_is_nan() -> None:
    one = nb.moments(normal((1, 5), np.float64, 1))
    assert np.isnan(one.var(1)).all()
    assert np.isnan(one.std(1)).all()
    assert (one.var() == 0.0).all()
    assert np.isnan(EMPTY.var()).all()


def test_invstd_of_no_variance() -> None:
    m = nb.Moments(4, np.zeros(2), np.array([0.0, 4.0]))
    assert m.invstd(0.0).tolist() == [0.0, 1.0]
    np.testing.assert_allclose(m.invstd(), [1e-5**-0.5, 1.00001**-0.5], rtol=1e-14)
    for eps in (-1e-9, float("nan")):
        with pytest.raises(ValueError, match="eps must be >= 0"):
            m.invstd(eps)


@pytest.mark.small
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mean", [0.0, 1e4])
@pytest.mark.parametrize(
    "cuts", [(1,), (30,), (59,), (0, 60), (1, 2, 3), (7, 20, 20, 55), tuple(range(1, 60))], ids=str
)
def test_merge_of_any_split_is_the_whole(cuts: tuple[int, ...], mean: float, dtype: Any) -> None:
    x = normal(SHAPE, dtype, 1, mean)
    parts = [nb.moments(part) for part in np.split(x, cuts)]
    count, true_mean, m2 = naive.moments(x)
    for merged in (parts[0].merge(*parts[1:]), reduce(add, parts), parts[-1].merge(*parts[-2::-1])):
        assert merged.count == count
        assert_within(merged.mean, true_mean, (2e-7 if dtype is np.float32 else 1e-15 * max(mean, 1e3)), "mean")
        assert_within(merged.m2, m2, max(BAR[np.dtype(dtype).char], 1e-15 * mean) * m2, "m2")


def test_merge_does_not_lose_what_lies_between_the_parts() -> None:
    """Two tight clusters: nearly all of the variance is the distance of the means."""
    near, far = normal((50, 3), np.float64, 1, 0.0, 1e-3), normal((70, 3), np.float64, 2, 1e5, 1e-3)
    assert_moments(nb.moments(near) + nb.moments(far), np.concatenate([near, far]))


def test_merge_in_one_order_gives_one_result() -> None:
    parts = [nb.moments(part) for part in np.split(normal(SHAPE, np.float32, 1, 10.0), 6)]
    merged = parts[0].merge(*parts[1:])
    step_by_step = parts[0] + parts[1] + parts[2] + parts[3] + parts[4] + parts[5]
    assert_bits(merged.mean, step_by_step.mean)
    assert_bits(merged.m2, step_by_step.m2)
    assert parts[0].merge() is parts[0]


def test_empty_moments_change_nothing() -> None:
    m = nb.moments(normal(SHAPE, np.float64, 1, 3.0))
    for merged in (m + EMPTY, EMPTY + m, EMPTY.merge(EMPTY, m, EMPTY)):
        assert merged.count == m.count
        assert_bits(merged.mean, m.mean)
        assert_bits(merged.m2, m.m2)
    far = nb.moments(np.full((3, 5), 1e200))  # the square of its distance to nothing is infinite
    assert (EMPTY + far).m2.tolist() == [0.0] * 5
    nothing = EMPTY + EMPTY
    assert (nothing.count, nothing.mean.tolist(), nothing.m2.tolist()) == (0, [0.0] * 5, [0.0] * 5)


def test_merge_keeps_nan_in_its_channel() -> None:
    parts = [v.copy() for v in np.split(normal(SHAPE, np.float64, 1), 3)]
    parts[1][3, 2, 1] = np.nan
    merged = nb.moments(parts[0]).merge(nb.moments(parts[1]), nb.moments(parts[2]))
    assert np.isnan([merged.mean[2], merged.m2[2]]).all()
    others = [0, 1, 3, 4]
    count, mean, m2 = naive.moments(np.concatenate(parts)[:, others])
    assert_within(merged.mean[others], mean, 1e-14, "mean")
    assert_within(merged.m2[others], m2, 1e-12 * m2, "m2")


@pytest.mark.parametrize("bad", [np.inf, -np.inf])
def test_merge_of_infinities_warns_no_more_than_the_whole(bad: float) -> None:
    x = normal(SHAPE, np.float64, 1).copy()
    x[[3, 40], 2, 1] = bad
    merged = nb.moments(x[:30]) + nb.moments(x[30:])
    assert not np.isfinite([merged.mean[2], merged.m2[2]]).any()
    assert np.isfinite(merged.m2[[0, 1, 3, 4]]).all()


def test_what_cannot_be_added() -> None:
    m = nb.moments(normal(SHAPE, np.float64, 1))
    with pytest.raises(ValueError, match="shape"):
        m + nb.moments(normal((4, 3), np.float64, 1))
    with pytest.raises(ValueError, match="shape"):
        m.merge(m, nb.Moments(0, np.zeros(3), np.zeros(3)))
    with pytest.raises(TypeError):
        m + 1  # type: ignore[operator]
    for others in ((3,), (m, None), (3, m)):
        with pytest.raises(TypeError, match="Moments"):
            m.merge(*others)


def test_moments_of_two_axes_merge() -> None:
    x = normal((6, 4, 5, 3), np.float64, 1, 2.0)
    m = nb.moments(x[:2], axis=(1, 3)) + nb.moments(x[2:], axis=(1, 3))
    assert m.mean.shape == m.m2.shape == (4, 3)
    assert_moments(m, x, (1, 3))


# -- running statistics ------------------------------------------------------------------------------------------------


@pytest.mark.small
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("momentum", [0.0, 0.1, 1.0, -0.5])
@pytest.mark.parametrize("ddof", [0, 1])
def test_update_running(dtype: Any, momentum: float, ddof: int) -> None:
    x = normal(SHAPE, np.float64, 1, 2.0)
    start = normal((5,), dtype, 2), frozen(np.abs(normal((5,), dtype, 3)))
    mean, var = (v.copy() for v in start)
    nb.update_running(mean, var, nb.moments(x), momentum, running_ddof=ddof)
    expected = naive.running(*start, x, momentum, ddof)
    assert mean.dtype == var.dtype == dtype
    for buffer, wanted, old in zip((mean, var), expected, start, strict=True):
        assert_within(buffer, wanted, np.spacing(np.abs(wanted).astype(dtype)).astype(np.longdouble) + 1e-13)
        assert momentum or buffer.tobytes() == old.tobytes()


def test_update_running_writes_through_views_and_byte_orders() -> None:
    m = nb.moments(normal(SHAPE, np.float64, 1, 2.0))
    plain = np.zeros(5), np.ones(5)
    nb.update_running(*plain, m)
    memory = np.zeros((5, 2))
    mean, var = memory[::-1, 1], np.ones(5, ">f8")
    nb.update_running(mean, var, m)
    assert_bits(memory[::-1, 1].copy(), plain[0])
    assert not memory[:, 0].any()
    assert_bits(var.astype(float), plain[1])


def test_update_running_leaves_none_alone() -> None:
    m = nb.moments(normal(SHAPE, np.float64, 1, 2.0))
    both = np.zeros(5), np.ones(5)
    nb.update_running(*both, m)
    mean, var = np.zeros(5), np.ones(5)
    nb.update_running(mean, None, m)
    nb.update_running(None, var, m)
    nb.update_running(None, None, m)
    assert_bits(mean, both[0])
    assert_bits(var, both[1])


def test_update_running_with_an_empty_batch_changes_nothing() -> None:
    mean, var = np.full(5, 2.0), np.full(5, 3.0)
    nb.update_running(mean, var, EMPTY)
    nb.update_running(mean, var, nb.moments(np.empty((0, 5))))
    assert (mean == 2.0).all()
    assert (var == 3.0).all()


def test_one_value_updates_a_mean_but_no_unbiased_variance() -> None:
    m, mean, var = nb.moments(np.full((1, 2), 7.0)), np.zeros(2), np.ones(2)
    with pytest.raises(ValueError, match=r"moments\.count is 1"):
        nb.update_running(mean, var, m)
    assert (mean.tolist(), var.tolist()) == ([0.0, 0.0], [1.0, 1.0])
    nb.update_running(mean, None, m, 0.5)
    nb.update_running(None, var, m, 0.5, running_ddof=0)
    assert (mean.tolist(), var.tolist()) == ([3.5, 3.5], [0.5, 0.5])
