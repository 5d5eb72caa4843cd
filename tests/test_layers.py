"""Layers: which statistics they use and learn, what they keep for backward, and what an error leaves as it was."""

from __future__ import annotations

import weakref
from typing import Any

import naive
import numpy as np
import pytest
from cases import BAR, DTYPES, SLACK, Array, assert_bits, assert_within, frozen, gradient_bars, normal, uniform, y_bar

import numbabn as nb

SHAPES = {
    "1d": (nb.BatchNorm1d, (9, 5)),
    "1d-length": (nb.BatchNorm1d, (4, 5, 7)),
    "2d": (nb.BatchNorm2d, (4, 5, 3, 7)),
    "3d": (nb.BatchNorm3d, (2, 5, 3, 2, 7)),
}
every_layer = pytest.mark.parametrize(("kind", "shape"), SHAPES.values(), ids=SHAPES)
BUFFERS = ("running_mean", "running_var", "num_batches_tracked")


def state(layer: Any) -> dict[str, Any]:
    """All that a layer holds, as bytes."""
    arrays = {name: getattr(layer, name) for name in ("weight", "bias", *BUFFERS)} | layer.grads
    return {name: None if a is None else (str(a.dtype), a.tobytes()) for name, a in arrays.items()}


def with_parameters(layer: Any) -> Any:
    """The layer with parameters and running statistics that are not the initial ones."""
    for seed, name in enumerate(("weight", "bias", "running_mean", "running_var")):
        array = getattr(layer, name)
        if array is not None:
            array[...] = uniform(layer.num_features, np.float64, seed, 0.25, 0.75)
    return layer


# -- construction ------------------------------------------------------------------------------------------------------


@every_layer
@pytest.mark.parametrize("dtype", [None, *DTYPES, "float64"])
def test_initial_state(kind: Any, shape: tuple[int, ...], dtype: Any) -> None:
    layer = kind(5, dtype=dtype)
    expected = np.dtype(dtype or np.float32)
    for name, value in (("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0)):
        assert_bits(getattr(layer, name), np.full(5, value, expected), name)
    assert_bits(layer.num_batches_tracked, np.array(0, np.int64))
    assert (layer.eps, layer.momentum, layer.training) == (1e-5, 0.1, True)
    assert_bits(layer.grads["weight"], np.zeros(5, expected))
    assert_bits(layer.grads["bias"], np.zeros(5, expected))


def test_positional_order() -> None:
    layer = nb.BatchNorm2d(3, 1e-3, None, False, False, "cpu", np.float64)
    assert (layer.num_features, layer.eps, layer.momentum) == (3, 1e-3, None)
    assert (layer.weight, layer.bias, *(getattr(layer, name) for name in BUFFERS)) == (None,) * 5
    assert layer.grads == {}


def test_no_bias() -> None:
    layer = nb.BatchNorm1d(5, bias=False)
    assert layer.bias is None
    x = normal((9, 5), np.float32, 1)
    layer(x)
    layer.backward(x)
    assert list(layer.grads) == ["weight"]


@pytest.mark.parametrize(
    ("layer", "text"),
    [
        (
            nb.BatchNorm2d(3),
            "BatchNorm2d(3, eps=1e-05, momentum=0.1, affine=True, bias=True, track_running_stats=True)",
        ),
        (
            nb.BatchNorm1d(4, 0.0, None, affine=False, track_running_stats=False),
            "BatchNorm1d(4, eps=0.0, momentum=None, affine=False, bias=False, track_running_stats=False)",
        ),
        (
            nb.BatchNorm3d(5, bias=False),
            "BatchNorm3d(5, eps=1e-05, momentum=0.1, affine=True, bias=False, track_running_stats=True)",
        ),
    ],
)
def test_repr(layer: Any, text: str) -> None:
    assert repr(layer) == text


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"eps": -1.0}, ValueError),
        ({"eps": float("nan")}, ValueError),
        ({"device": "tpu"}, ValueError),
        ({"dtype": np.int32}, TypeError),
        ({"dtype": np.float16}, TypeError),
    ],
)
def test_bad_construction(arguments: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match=next(iter(arguments))):
        nb.BatchNorm1d(3, **arguments)


# -- which statistics, which update ------------------------------------------------------------------------------------

# training, track_running_stats, buffers -> normalises with, updates buffers, counts
SEMANTICS: dict[str, tuple[bool, bool, str, str]] = {
    "train": (True, True, "both", "batch learn"),
    "train-untracked": (True, False, "none", "batch"),
    "train-flag-flipped": (True, False, "both", "batch"),
    "eval": (False, True, "both", "running"),
    "eval-flag-flipped": (False, False, "both", "running"),
    "eval-untracked": (False, False, "none", "batch"),
    "eval-tracked-without-buffers": (False, True, "none", "batch"),
    "eval-mean-alone": (False, True, "running_mean", "error"),
    "eval-var-alone": (False, True, "running_var", "error"),
}


@pytest.mark.small
@every_layer
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("training", "track", "buffers", "outcome"), SEMANTICS.values(), ids=SEMANTICS)
def test_semantics(
    kind: Any, shape: tuple[int, ...], training: bool, track: bool, buffers: str, outcome: str, dtype: Any
) -> None:
    layer = with_parameters(kind(5, dtype=dtype)).train(training)
    layer.track_running_stats = track
    for name in BUFFERS:
        if buffers not in ("both", name):
            setattr(layer, name, None)
    x, before = normal(shape, dtype, 1, 2.0), state(layer)
    if outcome == "error":
        with pytest.raises(ValueError, match=r"running_(mean|var)"):
            layer(x)
        assert state(layer) == before
        return
    old: list[Any] = [None if v is None else v.copy() for v in (layer.running_mean, layer.running_var)]
    y = layer(x)
    if "batch" in outcome:
        expected = naive.forward(x, layer.weight, layer.bias)[0]
    else:
        expected = naive.normalize(x, old[0], naive.invstd(old[1], 1e-5), layer.weight, layer.bias)
    assert_within(y, expected, y_bar(expected, dtype))
    assert y.dtype == dtype
    if "learn" in outcome:
        running = naive.running(old[0], old[1], x, 0.1)
        assert_within(layer.running_mean, running[0], BAR[np.dtype(dtype).char])
        assert_within(layer.running_var, running[1], BAR[np.dtype(dtype).char] * running[1])
        assert layer.num_batches_tracked == 1
    else:
        assert state(layer) == before


@pytest.mark.parametrize("momentum", [None, 0.1, 0.0, 1.0])
@pytest.mark.parametrize("ddof", [0, 1])
def test_running_statistics_over_batches(momentum: float | None, ddof: int) -> None:
    layer = nb.BatchNorm2d(5, momentum=momentum, dtype=np.float64, running_ddof=ddof)
    mean, var = np.zeros(5, np.longdouble), np.ones(5, np.longdouble)
    for batch in range(1, 6):
        x = normal((4, 5, 3, 7), np.float32, batch, batch)
        layer(x)
        mean, var = naive.running(mean, var, x, 1.0 / batch if momentum is None else momentum, ddof)
        assert_within(layer.running_mean, mean, SLACK * 1e-6)
        assert_within(layer.running_var, var, SLACK * 1e-6 * var)
        assert layer.num_batches_tracked == batch
    assert_bits(layer.num_batches_tracked, np.array(5, np.int64))


def test_input_of_another_dtype() -> None:
    for own, other in (DTYPES, DTYPES[::-1]):
        layer = nb.BatchNorm1d(3, dtype=own)
        y = layer(normal((8, 3), other, 1))
        assert y.dtype == other
        assert layer.running_mean is not None
        assert layer.running_mean.dtype == own
        assert layer.backward(y).dtype == other
        assert layer.grads["weight"].dtype == own


def test_lists() -> None:
    layer = nb.BatchNorm1d(2, affine=False)
    y = layer([[1.0, 2.0], [3.0, 6.0]])
    np.testing.assert_allclose(y, [[-1.0, -1.0], [1.0, 1.0]], rtol=1e-5)
    assert layer.backward([[1.0, 2.0], [3.0, 4.0]]).shape == (2, 2)


@pytest.mark.parametrize("shape", [(0, 5), (4, 5, 0)])
def test_empty_batches(shape: tuple[int, ...]) -> None:
    layer = with_parameters(nb.BatchNorm1d(5))
    before = state(layer)
    x = np.empty(shape, np.float32)
    assert layer(x).shape == shape
    assert layer.backward(x).shape == shape
    assert state(layer) == before
    assert layer.eval()(x).shape == shape
    assert nb.BatchNorm1d(0)(np.empty((4, 0), np.float32)).shape == (4, 0)


# -- backward ----------------------------------------------------------------------------------------------------------


@pytest.mark.small
@every_layer
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("track", [True, False])
def test_backward(kind: Any, shape: tuple[int, ...], dtype: Any, affine: bool, track: bool) -> None:
    layer = with_parameters(kind(5, affine=affine, track_running_stats=track, dtype=dtype))
    x, dy = normal(shape, dtype, 1, 2.0), normal(shape, dtype, 2)
    layer(x)
    dx = layer.backward(dy)
    _, mean, scale = naive.forward(x)
    expected = naive.backward(dy, x, layer.weight, mean, scale)
    bars = [2 * bar for bar in gradient_bars(dy, x, layer.weight, mean, scale)]
    assert dx.dtype == dtype
    assert_within(dx, expected[0], bars[0], "dx")
    assert set(layer.grads) == ({"weight", "bias"} if affine else set())
    if affine:
        assert_within(layer.grads["weight"], expected[1], bars[1], "dweight")
        assert_within(layer.grads["bias"], expected[2], bars[2], "dbias")


def test_gradients_accumulate_until_zero_grad() -> None:
    layer, once = nb.BatchNorm1d(5, dtype=np.float64), nb.BatchNorm1d(5, dtype=np.float64)
    batches = [(normal((9, 5), np.float64, k), normal((9, 5), np.float64, k + 10)) for k in range(3)]
    total = {"weight": np.zeros(5), "bias": np.zeros(5)}
    for x, dy in batches:
        once.zero_grad()
        for each in (layer, once):
            each(x)
            each.backward(dy)
        for name, value in once.grads.items():
            total[name] += value
            assert_bits(layer.grads[name], total[name])
    layer.zero_grad()
    assert_bits(layer.grads["weight"], np.zeros(5))
    assert_bits(layer.grads["bias"], np.zeros(5))


def test_out_of_forward_and_backward() -> None:
    x, dy = normal((4, 5, 7), np.float32, 1), normal((4, 5, 7), np.float32, 2)
    plain, layer = nb.BatchNorm1d(5), nb.BatchNorm1d(5)
    expected_y, expected_dx = plain(x), plain.backward(dy)
    y, dx = np.empty_like(x), dy.copy()
    assert layer(x, out=y) is y
    assert layer.backward(dx, out=dx) is dx
    assert_bits(y, expected_y)
    assert_bits(dx, expected_dx)
    assert state(layer) == state(plain)


def test_out_beside_x_in_one_buffer_keeps_x() -> None:
    memory = np.zeros((8, 5), np.float32)
    memory[::2] = normal((4, 5), np.float32, 1)
    layer, plain = nb.BatchNorm1d(5), nb.BatchNorm1d(5)
    x = memory[::2].copy()
    assert_bits(layer(memory[::2], out=memory[1::2]), plain(x))
    assert_bits(layer.backward(x), plain.backward(x))


def test_backward_that_is_not_possible() -> None:
    x = normal((4, 5), np.float32, 1)
    layer = nb.BatchNorm1d(5)
    with pytest.raises(RuntimeError, match="forward"):
        layer.backward(x)
    layer(x)
    layer.backward(x)
    with pytest.raises(RuntimeError, match="forward"):
        layer.backward(x)
    layer(x)
    layer.eval()
    with pytest.raises(RuntimeError, match="forward"):
        layer.backward(x)
    layer(x)
    with pytest.raises(RuntimeError, match="forward"):
        layer.backward(x)
    given = x.copy()
    layer.train()(given, out=given)
    before = state(layer)
    with pytest.raises(RuntimeError, match="out=x"):
        layer.backward(x)
    assert state(layer) == before
    layer(x)
    assert layer.backward(x).shape == x.shape


@pytest.mark.parametrize("release", ["backward", "eval", "forward", "out"])
def test_the_last_input_is_let_go(release: str) -> None:
    layer, dy = nb.BatchNorm1d(5), normal((4, 5), np.float32, 1)
    x = dy.copy()
    reference = weakref.ref(x)
    layer(x)
    if release == "backward":
        layer.backward(dy)
    elif release == "eval":
        layer.eval()
    elif release == "forward":
        layer(dy)
    else:
        layer(x, out=x)
    del x
    assert reference() is None


# -- errors ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "shape"),
    [
        (nb.BatchNorm1d, (5,)),
        (nb.BatchNorm1d, (2, 5, 3, 3)),
        (nb.BatchNorm2d, (4, 5)),
        (nb.BatchNorm2d, (4, 5, 3)),
        (nb.BatchNorm2d, (4, 5, 3, 3, 3)),
        (nb.BatchNorm3d, (4, 5, 3, 3)),
        (nb.BatchNorm1d, (4, 6)),
        (nb.BatchNorm2d, (4, 6, 3, 3)),
    ],
    ids=str,
)
def test_shapes_that_do_not_fit(kind: Any, shape: tuple[int, ...]) -> None:
    layer = kind(5)
    before = state(layer)
    expected = "expected 5 channels.*got 6" if shape[1:2] == (6,) else f"-D input.*got {len(shape)}-D"
    for each in (layer, layer.eval()):
        with pytest.raises(ValueError, match=expected):
            each(np.ones(shape, np.float32))
    assert state(layer) == before


BAD_CALLS: dict[str, tuple[type[Exception], Any, dict[str, Any]]] = {
    "one-value": (ValueError, np.ones((1, 5), np.float32), {}),
    "integers": (TypeError, np.ones((4, 5), np.int64), {}),
    "masked": (TypeError, np.ma.ones((4, 5)), {}),
    "out-shape": (ValueError, np.ones((4, 5)), {"out": np.ones((4, 6))}),
    "out-dtype": (TypeError, np.ones((4, 5)), {"out": np.ones((4, 5), np.float32)}),
    "out-read-only": (ValueError, np.ones((4, 5)), {"out": frozen(np.ones((4, 5)))}),
}


@pytest.mark.parametrize(("error", "x", "options"), BAD_CALLS.values(), ids=BAD_CALLS)
@pytest.mark.parametrize("momentum", [0.1, None])
def test_a_forward_that_raises_changes_nothing(error: Any, x: Array, options: Any, momentum: float | None) -> None:
    layer = with_parameters(nb.BatchNorm1d(5, momentum=momentum))
    good, dy = normal((4, 5), np.float32, 1), normal((4, 5), np.float32, 2)
    layer(good)
    expected = nb.batch_norm_backward(dy, good, layer.weight, *nb.batch_norm_forward(good, training=True)[1:]).x
    before = state(layer)
    with pytest.raises(error):
        layer(x, **options)
    assert state(layer) == before
    assert_bits(layer.backward(dy), expected)


@pytest.mark.parametrize(
    ("error", "dy", "options"),
    [
        (ValueError, np.ones((4, 6), np.float32), {}),
        (ValueError, np.ones((5, 5), np.float32), {}),
        (TypeError, np.ones((4, 5)), {}),
        (TypeError, np.ones((4, 5), int), {}),
        (ValueError, np.ones((4, 5), np.float32), {"out": np.ones((4, 4), np.float32)}),
        (TypeError, np.ones((4, 5), np.float32), {"out": np.ones((4, 5))}),
    ],
)
def test_a_backward_that_raises_changes_nothing(error: Any, dy: Array, options: Any) -> None:
    layer, x = with_parameters(nb.BatchNorm1d(5)), normal((4, 5), np.float32, 1)
    layer(x)
    layer.grads["weight"] += 1.0
    before = state(layer)
    with pytest.raises(error):
        layer.backward(dy, **options)
    assert state(layer) == before
    assert layer.backward(x).shape == x.shape


def test_train_and_eval_return_the_layer() -> None:
    layer = nb.BatchNorm1d(5)
    for change, training in ((layer.eval, False), (layer.train, True), (lambda: layer.train(False), False)):
        assert change() is layer
        assert layer.training is training
