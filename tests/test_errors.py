"""What the functions refuse, by which name, and that nothing has changed when they do."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from cases import CALLS, MEAN, OTHER, REDUCTIONS, SCALE, SHAPE, SUM, Array, frozen, normal, uniform
from numpy.exceptions import AxisError

import numbabn as nb

X = normal(SHAPE, np.float64, 1)
every_function = pytest.mark.parametrize("call", (CALLS | REDUCTIONS).values(), ids=CALLS | REDUCTIONS)

# Functions by their per-channel arguments.
PER_CHANNEL: dict[str, Any] = {
    "running_mean": lambda c: nb.batch_norm(X, c, SCALE.copy()),
    "running_var": lambda c: nb.batch_norm(X, MEAN.copy(), c),
    "weight": lambda c: nb.batch_norm(X, weight=c, training=True),
    "bias": lambda c: nb.batch_norm(X, bias=c, training=True),
    "mean": lambda c: nb.normalize(X, c, SCALE),
    "invstd": lambda c: nb.normalize(X, MEAN, c),
    "save_mean": lambda c: nb.batch_norm_backward(X, OTHER, None, c, SCALE),
    "save_invstd": lambda c: nb.batch_norm_backward(X, OTHER, None, MEAN, c),
    "sum_dy": lambda c: nb.backward_elemt(X, OTHER, MEAN, SCALE, None, c, SUM, 140),
    "sum_dy_xmu": lambda c: nb.backward_elemt(X, OTHER, MEAN, SCALE, None, SUM, c, 140),
}


@every_function
@pytest.mark.parametrize("dtype", ["i4", "i8", "u1", "?", "c8", "c16", "O", "f2", "g", "U3", "M8[s]"])
def test_dtypes(call: Any, dtype: str) -> None:
    with pytest.raises(TypeError, match=r"(x|dy) has dtype .*expected float32 or float64.*astype"):
        call(np.ones(SHAPE).astype(dtype))


@every_function
def test_masked_arrays(call: Any) -> None:
    with pytest.raises(TypeError, match="masked"):
        call(np.ma.masked_less(X, 0.0))


@every_function
def test_lists_of_integers(call: Any) -> None:
    with pytest.raises(TypeError, match="astype"):
        call([[[[1]]] * 3] * 4)


@every_function
@pytest.mark.parametrize("shape", [(), (3,)])
def test_rank(call: Any, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="at least 2 dimensions"):
        call(np.ones(shape))


@every_function
@pytest.mark.parametrize("axis", [4, -5, (1, 4), (-5,)])
def test_axes_out_of_range(call: Any, axis: Any) -> None:
    with pytest.raises(AxisError, match="out of bounds"):
        call(X, axis=axis)


@every_function
@pytest.mark.parametrize("axis", [[1], 1.0, "1", None, (0, 1.0), ((0, 1),)], ids=str)
def test_axes_that_are_no_integers(call: Any, axis: Any) -> None:
    call(X, axis=np.int64(1))
    with pytest.raises(TypeError, match=f"^axis must be an int or a tuple of ints, got {re.escape(repr(axis))}$"):
        call(X, axis=axis)


@every_function
@pytest.mark.parametrize("axis", [(1, 1), (1, -3)])
def test_repeated_axes(call: Any, axis: Any) -> None:
    with pytest.raises(ValueError, match="repeat"):
        call(X, axis=axis)


@pytest.mark.parametrize(("name", "call"), PER_CHANNEL.items(), ids=PER_CHANNEL)
@pytest.mark.parametrize(
    ("value", "error"),
    [
        (np.ones(4), ValueError),
        (np.ones((1, 3)), ValueError),
        (np.float64(1.0), ValueError),
        (np.ones(3, np.int64), TypeError),
        (np.ones(3, np.float16), TypeError),
        (np.ones(3, complex), TypeError),
        (np.ma.ones(3), TypeError),
        ("abc", TypeError),
    ],
)
def test_per_channel_arguments(name: str, call: Any, value: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=rf"^{name} (has|is)\b"):
        call(value)


@pytest.mark.parametrize("name", ["mean", "invstd", "sum_dy", "sum_dy_xmu"])
def test_per_channel_arguments_that_cannot_be_none(name: str) -> None:
    with pytest.raises((TypeError, ValueError), match=name):
        PER_CHANNEL[name](None)


# -- training: nothing has changed -------------------------------------------------------------------------------------

REFUSED: dict[str, tuple[type[Exception], str, dict[str, Any]]] = {
    "dtype": (TypeError, "x has dtype", {"x": np.ones(SHAPE, np.int32)}),
    "rank": (ValueError, "at least 2", {"x": np.ones(3)}),
    "one-value": (ValueError, "more than 1 value per channel", {"x": np.ones((1, 3))}),
    "axis": (AxisError, "axis 9", {"axis": 9}),
    "channels": (ValueError, "running_mean has shape", {"axis": 2}),
    "weight-shape": (ValueError, "weight has shape", {"weight": np.ones(4)}),
    "weight-dtype": (TypeError, "weight has dtype", {"weight": np.ones(3, int)}),
    "bias-shape": (ValueError, "bias has shape", {"bias": np.ones((3, 1))}),
    "bias-masked": (TypeError, "bias is a masked array", {"bias": np.ma.ones(3)}),
    "negative-eps": (ValueError, "eps must be >= 0", {"eps": -1e-5}),
    "nan-eps": (ValueError, "eps must be >= 0", {"eps": float("nan")}),
    "eps-text": (TypeError, "eps must be a number, got '1e-5'", {"eps": "1e-5"}),
    "eps-array": (TypeError, "eps must be a number", {"eps": np.full(3, 1e-5)}),
    "momentum-none": (TypeError, "momentum must be a number, got None", {"momentum": None}),
    "momentum-text": (TypeError, "momentum must be a number, got 'much'", {"momentum": "much"}),
    "momentum-complex": (TypeError, "momentum must be a number, got 1j", {"momentum": 1j}),
    "ddof-none": (TypeError, "running_ddof must be a number, got None", {"running_ddof": None}),
    "ddof-nan": (ValueError, "running_ddof is nan", {"running_ddof": float("nan")}),
    "ddof": (ValueError, "running_ddof is 140", {"running_ddof": 140}),
    "ddof-one-more": (ValueError, "running_ddof is 141", {"running_ddof": 141}),
    "mean-shape": (ValueError, "running_mean has shape", {"running_mean": np.zeros(4)}),
    "mean-read-only": (ValueError, "running_mean is read-only", {"running_mean": frozen(np.zeros(3))}),
    "mean-list": (TypeError, "running_mean is updated in place", {"running_mean": [0.0, 0.0, 0.0]}),
    "mean-dtype": (TypeError, "running_mean has dtype", {"running_mean": np.zeros(3, np.float16)}),
    "mean-masked": (TypeError, "running_mean is a masked array", {"running_mean": np.ma.zeros(3)}),
    "var-shape": (ValueError, "running_var has shape", {"running_var": np.zeros(())}),
    "var-read-only": (ValueError, "running_var is read-only", {"running_var": frozen(np.ones(3))}),
    "var-tuple": (TypeError, "running_var is updated in place", {"running_var": (1.0, 1.0, 1.0)}),
    "out-shape": (ValueError, "out has shape", {"out": np.zeros((4, 3, 5, 6))}),
    "out-dtype": (TypeError, "out has dtype", {"out": np.zeros(SHAPE, np.float32)}),
    "out-read-only": (ValueError, "out is read-only", {"out": frozen(np.zeros(SHAPE))}),
}


@pytest.mark.parametrize(("error", "message", "change"), REFUSED.values(), ids=REFUSED)
def test_training_that_is_refused_changes_nothing(error: Any, message: str, change: dict[str, Any]) -> None:
    arguments: dict[str, Any] = {
        "x": X,
        "running_mean": MEAN.copy(),
        "running_var": SCALE.copy(),
        "weight": uniform(3, np.float32, 1),
        "bias": None,
        "training": True,
        "out": np.full(SHAPE, 7.0),
    } | change
    writable: dict[str, Array] = {
        k: v for k, v in arguments.items() if k in ("running_mean", "running_var", "out") and isinstance(v, np.ndarray)
    }
    before = {k: v.tobytes() for k, v in writable.items()}
    for function in (nb.batch_norm, nb.batch_norm_forward):
        with pytest.raises(error, match=message):
            function(**arguments)
    assert {k: v.tobytes() for k, v in writable.items()} == before


def test_one_value_per_channel_is_enough_for_eval_and_moments() -> None:
    x = normal((1, 3), np.float64, 1)
    assert nb.batch_norm(x, MEAN, SCALE).shape == (1, 3)
    m = nb.moments(x)
    assert (m.count, m.mean.tolist(), m.m2.tolist()) == (1, x[0].tolist(), [0.0, 0.0, 0.0])


@pytest.mark.parametrize(("mean", "var"), [(None, None), (MEAN, None), (None, SCALE)])
def test_eval_without_running_statistics(mean: Any, var: Any) -> None:
    with pytest.raises(ValueError, match=r"running_(mean|var) is None"):
        nb.batch_norm(X, mean, var)


@pytest.mark.parametrize("eps", [-1.0, float("nan")])
def test_eval_with_a_bad_eps(eps: float) -> None:
    with pytest.raises(ValueError, match="eps must be >= 0"):
        nb.batch_norm(X, MEAN, SCALE, eps=eps)


# -- backward ----------------------------------------------------------------------------------------------------------

BACKWARD: dict[str, tuple[type[Exception], str, dict[str, Any]]] = {
    "no-x": (ValueError, "x is None", {"x": None}),
    "no-x-for-dx": (ValueError, "x is None", {"x": None, "needs": ("x",)}),
    "no-x-for-dweight": (ValueError, "x is None", {"x": None, "needs": ("weight",), "training": False}),
    "no-mean": (ValueError, "save_mean is None", {"save_mean": None}),
    "no-mean-in-eval": (ValueError, "save_mean is None", {"save_mean": None, "training": False}),
    "no-invstd": (ValueError, "save_invstd is None", {"save_invstd": None}),
    "no-invstd-in-eval": (ValueError, "save_invstd is None", {"save_invstd": None, "training": False, "needs": ("x",)}),
    "needs": (ValueError, "needs may hold", {"needs": ("x", "gamma")}),
    "shapes": (ValueError, "dy has shape .* expected the shape of x", {"x": OTHER[:3]}),
    "dtypes": (TypeError, "dy has dtype float64, expected the dtype of x, float32", {"x": OTHER.astype(np.float32)}),
    "dy-dtype": (TypeError, "dy has dtype", {"dy": np.ones(SHAPE, np.int64)}),
    "dy-rank": (ValueError, "dy has shape", {"dy": np.ones(3)}),
    "weight": (ValueError, "weight has shape", {"weight": np.ones(2)}),
    "axis": (AxisError, "axis 4", {"axis": 4}),
    "out-unused": (ValueError, "out is given but", {"needs": ("weight", "bias")}),
    "out": (ValueError, "out has shape", {"out": np.full((4, 3, 35), 7.0)}),
}


@pytest.mark.parametrize(("error", "message", "change"), BACKWARD.values(), ids=BACKWARD)
def test_backward_that_is_refused_changes_nothing(error: Any, message: str, change: dict[str, Any]) -> None:
    saved = {"save_mean": MEAN, "save_invstd": SCALE}
    arguments: dict[str, Any] = {"dy": X, "x": OTHER, "out": np.full(SHAPE, 7.0)} | saved | change
    with pytest.raises(error, match=message):
        nb.batch_norm_backward(**arguments)
    assert (arguments["out"] == 7.0).all()


@pytest.mark.parametrize("count", [0, -1, float("nan")])
def test_count_of_backward_elemt(count: float) -> None:
    out = np.full(SHAPE, 7.0)
    with pytest.raises(ValueError, match="count must be > 0"):
        nb.backward_elemt(X, OTHER, MEAN, SCALE, None, SUM, SUM, count, out=out)
    assert (out == 7.0).all()


@pytest.mark.parametrize(
    ("error", "message", "change"),
    [
        (TypeError, "running_mean is updated in place", {"running_mean": [0.0] * 3}),
        (TypeError, "running_var has dtype", {"running_var": np.ones(3, int)}),
        (ValueError, "running_mean has shape", {"running_mean": np.zeros(2)}),
        (ValueError, "running_var is read-only", {"running_var": SCALE}),
        (ValueError, "moments.count is 140", {"running_ddof": 140}),
        (TypeError, "moments must be Moments, got NoneType", {"moments": None}),
        (TypeError, "momentum must be a number, got 'much'", {"momentum": "much"}),
        (TypeError, "running_ddof must be a number, got None", {"running_ddof": None}),
    ],
)
def test_update_running_that_is_refused_changes_nothing(error: Any, message: str, change: dict[str, Any]) -> None:
    arguments: dict[str, Any] = {"running_mean": MEAN.copy(), "running_var": SCALE.copy(), "moments": nb.moments(X)}
    arguments |= change
    before = [np.asarray(arguments[k]).tobytes() for k in ("running_mean", "running_var")]
    with pytest.raises(error, match=message):
        nb.update_running(**arguments)
    assert [np.asarray(arguments[k]).tobytes() for k in ("running_mean", "running_var")] == before


def test_a_name_that_does_not_exist() -> None:
    with pytest.raises(AttributeError, match="no attribute 'batchnorm'"):
        nb.batchnorm  # noqa: B018
    assert set(nb.__all__) <= set(dir(nb))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_numpys_error_settings_do_not_leave_half_of_it_written(dtype: Any) -> None:
    """As in kernels, infinities and NaN are values."""
    with np.errstate(all="raise"):
        mean, var = np.zeros(1, dtype), np.ones(1, dtype)
        nb.update_running(mean, var, nb.moments(np.array([[1e30], [3e150]])), 1.0)
        assert np.isinf(var.astype(np.float32)).all() if dtype is np.float32 else np.isfinite(mean).all()
        layer = nb.BatchNorm1d(1)
        layer(np.array([[1.0], [2.0]], dtype))
        layer.backward(np.full((2, 1), 3e38, dtype))
        assert np.isinf(layer.grads["bias"]).all()
        out = np.zeros((2, 1), dtype)
        y, _, invstd = nb.batch_norm_forward(np.ones((2, 1), dtype), np.zeros(1), -np.ones(1), out=out)
        assert y is out and np.isnan(invstd).all() and np.isnan(out).all()
