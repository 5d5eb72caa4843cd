"""What the functions refuse, and what they take, on a CUDA device; nothing has changed when they raise."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cases import assert_bits, frozen, normal
from devices import missing, to_device, to_host

import numbabn as nb

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing() or "there is one")

SHAPE = (3, 4, 5, 2)


def data(**changes: Any) -> dict[str, Any]:
    given = {
        "x": to_device(normal(SHAPE, np.float32, 1)),
        "running_mean": to_device(np.zeros(4, np.float32)),
        "running_var": to_device(np.ones(4, np.float32)),
        "weight": to_device(np.ones(4, np.float32)),
        "bias": to_device(np.zeros(4, np.float32)),
        "out": to_device(np.zeros(SHAPE, np.float32)),
        "training": True,
    }
    return given | changes


def large() -> Any:
    return to_device(np.zeros((6, 4, 5, 2), np.float32))


BAD: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "host weight": ({"weight": np.ones(4, np.float32)}, TypeError, "weight is on the host"),
    "host buffer": ({"running_mean": np.zeros(4, np.float32)}, TypeError, "running_mean is on the host"),
    "host out": ({"out": np.zeros(SHAPE, np.float32)}, TypeError, "out is on the host"),
    "host x": ({"x": np.zeros(SHAPE, np.float32)}, TypeError, "on a CUDA device"),
    "list": ({"bias": [0.0] * 4}, TypeError, "bias is on the host"),
    "eps": ({"eps": -1.0}, ValueError, "eps"),
    "axis": ({"axis": 4}, np.exceptions.AxisError, "axis"),
    "one missing": ({"training": False, "running_var": None}, ValueError, "running_var is None"),
}


def lazily_bad() -> dict[str, tuple[dict[str, Any], type[Exception], str]]:
    """Those that need a device."""
    strided = np.ones(8, np.float32)[::2]
    return {
        "ints": ({"x": to_device(np.zeros(SHAPE, np.int32))}, TypeError, "float32 or float64"),
        "half weight": ({"weight": to_device(np.ones(4, np.float16))}, TypeError, "weight"),
        "weight shape": ({"weight": to_device(np.ones(5, np.float32))}, ValueError, "weight has shape"),
        "weight strides": ({"weight": to_device(strided)}, ValueError, "weight has strides"),
        "out shape": ({"out": to_device(np.zeros((3, 4, 5, 3), np.float32))}, ValueError, "out has shape"),
        "out dtype": ({"out": to_device(np.zeros(SHAPE))}, TypeError, "out has dtype"),
        "read-only out": ({"out": to_device(frozen(np.zeros(SHAPE, np.float32)))}, ValueError, "out is read-only"),
        "read-only buffer": ({"running_var": to_device(frozen(np.ones(4, np.float32)))}, ValueError, "read-only"),
        "swapped": ({"x": to_device(normal(SHAPE, np.float32).astype(">f4"))}, TypeError, "byte order"),
        "unaligned": ({"x": to_device(normal(SHAPE, np.float32), 2)}, ValueError, "multiples of their 4 bytes"),
        "one value": ({"x": to_device(normal((1, 4), np.float32)), "out": None}, ValueError, "more than 1 value"),
    }


@pytest.mark.parametrize("name", [*BAD, *(lazily_bad() if not missing() else ())])
def test_refused(name: str) -> None:
    changes, error, message = (BAD | lazily_bad())[name]
    given = data(**changes)
    kept = ("running_mean", "running_var", "out")
    watched = {k: given[k] for k in kept if hasattr(given[k], "__cuda_array_interface__")}
    before = {key: to_host(value) for key, value in watched.items()}
    with pytest.raises(error, match=message):
        nb.batch_norm(**given)
    for key, value in watched.items():
        assert_bits(to_host(value), before[key], key)


class View:
    """Part of an array on the device."""

    def __init__(self, whole: Any, first: int, shape: tuple[int, ...], strides: tuple[int, ...] | None = None) -> None:
        interface = whole.__cuda_array_interface__
        self.whole = whole
        place = interface["data"][0] + first, False
        self.__cuda_array_interface__ = {**interface, "data": place, "shape": shape, "strides": strides}


def test_overlaps_are_refused() -> None:
    whole = large()
    x: Any = View(whole, 0, SHAPE)
    step = 4 * 4 * 5 * 2
    for out in (View(whole, step, SHAPE), View(whole, 4, SHAPE)):
        with pytest.raises(ValueError, match="out overlaps x"):
            nb.batch_norm(**data(x=x, out=out))
    with pytest.raises(ValueError, match="out overlaps itself"):
        nb.batch_norm(**data(out=View(whole, 0, SHAPE, (0, 40, 8, 4))))
    with pytest.raises(ValueError, match="out overlaps weight"):
        nb.batch_norm(**data(out=View(whole, 0, SHAPE), weight=View(whole, 8, (4,))))
    nb.batch_norm(**data(x=x, out=View(whole, 3 * step, SHAPE)))
    assert nb.batch_norm(**data(x=x, out=x)) is x


@pytest.mark.parametrize("shape", [(0, 4), (3, 0, 2), (0, 0, 0)])
@pytest.mark.parametrize("training", [True, False])
def test_nothing(shape: tuple[int, ...], training: bool) -> None:
    n = shape[1]
    mean, var = to_device(np.full(n, 2.0)), to_device(np.full(n, 3.0))
    x = to_device(np.zeros(shape, np.float32))
    y, save_mean, save_invstd = nb.batch_norm_forward(x, mean, var, training=training)
    assert to_host(y).shape == shape and to_host(save_mean).shape == to_host(save_invstd).shape == (n,)
    assert (to_host(mean) == 2.0).all() and (to_host(var) == 3.0).all()
    grads: Any = nb.batch_norm_backward(x, x, None, save_mean, save_invstd, training=training)
    assert to_host(grads.x).shape == shape and not to_host(grads.weight).any() and not to_host(grads.bias).any()
    assert nb.moments(x).count == 0


def test_a_bad_channel_stays_alone() -> None:
    x = np.array(normal(SHAPE, np.float32, 1))
    x[1, 2, 3, 1] = np.nan
    y = to_host(nb.batch_norm(to_device(x), training=True))
    assert np.isnan(y[:, 2]).all() and np.isfinite(np.delete(y, 2, 1)).all()


def test_backward_takes_only_what_it_needs() -> None:
    dy, scale = to_device(normal(SHAPE, np.float32, 1)), to_device(np.full(4, 0.5))
    grads = nb.batch_norm_backward(dy, None, None, None, scale, training=False, needs=("x",))
    assert_bits(to_host(grads.x), to_host(dy) * np.float32(0.5))
    assert grads.weight is None and grads.bias is None
