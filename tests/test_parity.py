"""Beside PyTorch: the same numbers, gradients, states and words."""

from __future__ import annotations

import copy
import itertools
import pickle
import re
import warnings
from typing import Any

import numpy as np
import pytest
from beside_torch import (
    LAYOUTS,
    SHAPES,
    array,
    assert_close,
    assert_same_state,
    every_dtype,
    every_layout,
    every_shape,
    functional,
    ones,
    pair,
    step,
    tensor,
    torch,
)
from beside_torch import one_thread as one_thread
from cases import DTYPES, Array, frozen, normal, uniform

import numbabn as nb

# -- the same ----------------------------------------------------------------------------------------------------------

SEQUENCE = ("eval", "train", "train", "eval", "frozen", "train", "eval")


@every_shape
@every_layout
@every_dtype
@pytest.mark.parametrize("track", [True, False])
@pytest.mark.parametrize(("affine", "bias"), [*itertools.product([True, False], repeat=2)])
def test_layers(
    kind: str, shape: tuple[int, ...], layout: Any, dtype: Any, track: bool, affine: bool, bias: bool
) -> None:
    xs = [frozen(layout(normal(shape, dtype, seed, 0.5, 2.0))) for seed in range(len(SEQUENCE))]
    dys = [frozen(layout(normal(shape, dtype, seed + 50))) for seed in range(len(SEQUENCE))]
    for momentum, eps in itertools.product((0.1, None, 0.0, 1.0), (1e-5, 1e-2)):
        ours, theirs = pair(kind, 5, eps, momentum, affine, track, bias=bias, dtype=dtype)
        assert repr(ours) == repr(theirs)
        assert_same_state(ours, theirs, repr(ours))
        for k, mode in enumerate(SEQUENCE):
            step(ours, theirs, mode, xs[k], dys[k], f"step {k} ({mode}) of {ours}")


@every_shape
def test_flags_and_buffers_changed_later(kind: str, shape: tuple[int, ...]) -> None:
    x, dy = normal(shape, np.float32, 1, 1.0), normal(shape, np.float32, 2)
    flipped, bare = pair(kind, 5), pair(kind, 5)
    step(*flipped, "train", x, dy, "before")
    for layer in flipped:
        layer.track_running_stats = False
    for layer in bare:
        layer.running_mean = layer.running_var = layer.num_batches_tracked = None
    for mode in SEQUENCE:
        step(*flipped, mode, x, dy, f"flipped, {mode}")
        step(*bare, mode, x, dy, f"without buffers, {mode}")


def test_no_counter() -> None:
    """The running statistics learn without one, too."""
    layers = pair("BatchNorm1d", 5)
    for layer in layers:
        layer.num_batches_tracked = None
    for mode in SEQUENCE:
        x = normal((9, 5), np.float32, 1, 1.0)
        step(*layers, mode, x, x, mode)


def test_numbers_of_channels_from_numpy() -> None:
    ours, theirs = pair("BatchNorm1d", np.int64(5))
    assert repr(ours) == repr(theirs)


def test_gradients_add_up() -> None:
    ours, theirs = pair("BatchNorm1d", 5, dtype=np.float64)
    for seed in range(3):
        x, dy = normal((9, 5), np.float64, seed), normal((9, 5), np.float64, seed + 10)
        ours(x)
        ours.backward(dy)
        theirs(tensor(x)).backward(tensor(dy))
    for name, parameter in theirs.named_parameters():
        assert_close(ours.grads[name], parameter.grad, name)
    assert [*ours.parameters()] == [name for name, _ in theirs.named_parameters()]


@every_dtype
def test_resets(dtype: Any) -> None:
    for reset in ("reset_running_stats", "reset_parameters"):
        layers = pair("BatchNorm1d", 5, dtype=dtype)
        x = normal((9, 5), dtype, 1)
        step(*layers, "train", x, x, "before")
        for layer in layers:
            getattr(layer, reset)()
        assert_same_state(*layers, reset)
        step(*layers, "train", x, x, reset)


@every_shape
@every_layout
@every_dtype
@pytest.mark.parametrize("training", [True, False])
def test_functions(kind: str, shape: tuple[int, ...], layout: Any, dtype: Any, training: bool) -> None:
    x, dy = (frozen(layout(normal(shape, dtype, seed, 0.5))) for seed in (1, 2))
    weight, bias, *old = (uniform(5, dtype, seed, 0.25, 1.75) for seed in range(4))
    choices = itertools.product((weight, None), (bias, None), (True, False) if training else (True,), (0.1, 0.0, 1.0))
    for w, b, with_buffers, momentum in choices:
        mean, var = (a.copy() if with_buffers else None for a in old)
        mean_theirs, var_theirs = (tensor(a) if with_buffers else None for a in old)
        x_theirs = tensor(x, grad=True)
        w_theirs, b_theirs = (None if a is None else tensor(a, grad=True) for a in (w, b))
        y_theirs = functional.batch_norm(
            x_theirs, mean_theirs, var_theirs, w_theirs, b_theirs, training, momentum, 1e-4
        )
        y, *saved = nb.batch_norm_forward(x, mean, var, w, b, training, momentum, 1e-4)
        assert_close(y, y_theirs, "y")
        if with_buffers:
            assert_close(mean, mean_theirs, "running_mean")
            assert_close(var, var_theirs, "running_var")
        y_theirs.backward(tensor(dy))
        grads = nb.batch_norm_backward(dy, x, w, *saved, training=training)
        assert_close(grads.x, x_theirs.grad, "dx")
        for t, grad, name in ((w_theirs, grads.weight, "dweight"), (b_theirs, grads.bias, "dbias")):
            if t is not None:
                assert_close(grad, t.grad, name)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", ["NCHW", "NCDHW"])
def test_memory_order(name: str, training: bool) -> None:
    kind, shape = SHAPES[name]
    ours, theirs = pair(kind, 5)
    for layout in LAYOUTS.values():
        x = frozen(layout(normal(shape, np.float32, 1)))
        strides = [s * x.itemsize for s in theirs.train(training)(tensor(x)).stride()]
        assert list(ours.train(training)(x).strides) == strides == list(x.strides)


@pytest.mark.parametrize("axis", [-1, 0, (1, -1), (0, 2)], ids=str)
def test_any_axes_are_channels_of_a_moved_array(axis: Any) -> None:
    shape, axes = (6, 4, 3, 5), axis if isinstance(axis, tuple) else (axis,)
    kept = tuple(shape[a] for a in axes)
    others = tuple(a for a in range(4) if a not in {a % 4 for a in axes})
    ours = nb.BatchNorm(kept if isinstance(axis, tuple) else kept[0], axis=axis, dtype=np.float64)
    theirs = torch.nn.BatchNorm1d(int(np.prod(kept)), dtype=torch.float64)

    def moved(a: Array) -> Array:
        return np.transpose(a, (*others, *axes)).reshape(-1, theirs.num_features)

    for seed in range(2):
        x, dy = normal(shape, np.float64, seed, 1.0), normal(shape, np.float64, seed + 9)
        x_theirs = tensor(moved(x), grad=True)
        y_theirs = theirs(x_theirs)
        assert_close(moved(ours(x)), y_theirs, "y")
        y_theirs.backward(tensor(moved(dy)))
        assert_close(moved(ours.backward(dy)), x_theirs.grad, "dx")
    for name, value in theirs.state_dict().items():
        assert_close(np.ravel(getattr(ours, name)) if value.ndim else getattr(ours, name), value, name)


@pytest.mark.parametrize("name", ["NCL", "NCHW", "NCDHW"])
@pytest.mark.parametrize(
    "options", [{}, {"affine": False}, {"bias": False, "momentum": None}, {"track_running_stats": False}]
)
def test_lazy_layers(name: str, options: dict[str, Any]) -> None:
    kind, shape = SHAPES[name]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Lazy modules", UserWarning)
        ours, theirs = pair(f"Lazy{kind}", **options)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for mode in ("eval", "train", "eval"):
        ours.train(mode == "train")
        theirs.train(mode == "train")
        x = normal(shape, np.float32, 1, 1.0)
        assert_close(ours(x), theirs(tensor(x)), mode)
        assert_same_state(ours, theirs, mode)
        assert repr(ours) == repr(theirs)
        assert type(ours) is getattr(nb, kind)
        assert type(theirs) is getattr(torch.nn, kind)


# -- state -------------------------------------------------------------------------------------------------------------

OPTIONS = [{}, {"affine": False}, {"bias": False}, {"track_running_stats": False}]


def trained(dtype: Any, options: dict[str, Any]) -> tuple[Any, Any]:
    ours, theirs = pair("BatchNorm1d", 5, dtype=dtype, **options)
    for seed in range(3):
        x = normal((9, 5), dtype, seed, seed)
        step(ours, theirs, "train", x, x, f"batch {seed}")
    return ours, theirs


@pytest.mark.parametrize(("given", "taken"), [*itertools.product(DTYPES, repeat=2)])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_states_are_exchanged(given: Any, taken: Any, options: dict[str, Any]) -> None:
    ours, theirs = trained(given, options)
    ours_new, theirs_new = pair("BatchNorm1d", 5, dtype=taken, **options)
    into = theirs_new.load_state_dict({name: tensor(a) for name, a in ours.state_dict().items()}, strict=True)
    back = ours_new.load_state_dict({name: array(t) for name, t in theirs.state_dict().items()}, strict=True)
    assert tuple(into) == tuple(back) == ([], [])
    assert into._fields == back._fields
    for name, value in ours.state_dict().items():
        kind = np.dtype(taken) if value.dtype.kind == "f" else value.dtype
        np.testing.assert_array_equal(array(theirs_new.state_dict()[name]), value.astype(kind))
    for name, value in theirs.state_dict().items():
        own = ours_new.state_dict()[name]
        np.testing.assert_array_equal(own, array(value).astype(own.dtype))
    x = normal((9, 5), taken, 7)
    again = copy.deepcopy(theirs_new)
    again.load_state_dict({name: tensor(a) for name, a in ours_new.state_dict().items()}, strict=True)
    for mode in ("eval", "train", "eval"):
        step(ours_new, again, mode, x, x, mode)


def test_states_carry_their_version() -> None:
    ours, theirs = pair("BatchNorm1d", 5)
    versions = [state._metadata[""]["version"] for state in (ours.state_dict(), theirs.state_dict())]
    assert versions == [2, 2]


@pytest.mark.parametrize(
    "again", [copy.copy, copy.deepcopy, lambda s: pickle.loads(pickle.dumps(s)), lambda s: s.copy()]
)
def test_copies_of_states(again: Any) -> None:
    ours, theirs = pair("BatchNorm1d", 5)
    assert again(ours.state_dict())._metadata[""]["version"] == 2  # which PyTorch's own `copy` loses
    for layer in (ours, theirs):
        assert tuple(layer.load_state_dict(again(layer.state_dict()))) == ([], [])


@pytest.mark.parametrize("version", [None, 1, 2])
def test_states_without_a_counter(version: int | None) -> None:
    """Up to version 1 there was none: that of the layer stays. Without a version a state counts as old."""
    ours, theirs = trained(np.float32, {})
    for layer in (ours, theirs):
        state = layer.state_dict()
        del state["num_batches_tracked"]
        if version is None:
            state = dict(state)
        else:
            state._metadata[""]["version"] = version
        if version == 2:
            with pytest.raises(RuntimeError, match=r"Missing key.*num_batches_tracked"):
                layer.load_state_dict(state)
            assert layer.load_state_dict(state, strict=False).missing_keys == ["num_batches_tracked"]
        else:
            assert tuple(layer.load_state_dict(state)) == ([], [])
        assert layer.num_batches_tracked == 3


MISFITS: dict[str, dict[str, Any]] = {
    "missing": {"bias": None, "running_var": None},
    "unexpected": {"gamma": np.ones(5), "beta": np.ones(5)},
    "shape": {"weight": np.ones(4), "running_mean": np.ones((5, 1))},
    "all": {"bias": None, "gamma": np.ones(5), "running_var": np.ones(6)},
}


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("changes", MISFITS.values(), ids=MISFITS)
def test_states_that_do_not_fit(changes: dict[str, Any], strict: bool) -> None:
    layers = pair("BatchNorm1d", 5)
    given = {**layers[0].state_dict(), **changes}
    state = {name: np.asarray(a) for name, a in given.items() if a is not None}
    states = state, {name: tensor(a) for name, a in state.items()}
    outcomes: list[Any] = []
    for layer, each in zip(layers, states, strict=True):
        try:
            outcomes.append(tuple(layer.load_state_dict(each, strict=strict)))
        except RuntimeError as error:
            outcomes.append(
                re.sub(r"torch\.Size\(\[(.*?)\]\)", lambda m: str(tuple(map(int, m[1].split(",")))), str(error))
            )
    assert outcomes[0] == outcomes[1]
    assert isinstance(outcomes[0], str) == (strict or any(np.shape(a) not in ((5,), ()) for a in state.values()))


# -- both refuse -------------------------------------------------------------------------------------------------------


def without(layer: Any, name: str) -> Any:
    setattr(layer, name, None)
    return layer.eval()


# Their error, ours, the words of both; modules and the makers of their arrays are arguments.
REFUSED: dict[str, tuple[Any, Any, str, Any]] = {
    "one-value": (
        ValueError,
        ValueError,
        "more than 1 value per channel",
        lambda m, a: m.BatchNorm1d(5)(a(ones(1, 5))),
    ),
    "rank-of-1d": (ValueError, ValueError, "expected 2-?D or 3-?D input", lambda m, a: m.BatchNorm1d(5)(a(ones(5)))),
    "rank-of-2d": (ValueError, ValueError, "expected 4-?D input", lambda m, a: m.BatchNorm2d(5)(a(ones(4, 5)))),
    "rank-of-3d": (ValueError, ValueError, "expected 5-?D input", lambda m, a: m.BatchNorm3d(5)(a(ones(4, 5)))),
    "channels": (RuntimeError, ValueError, "6", lambda m, a: m.BatchNorm1d(5)(a(ones(4, 6)))),
    "integers": (
        NotImplementedError,
        TypeError,
        "(?i)long|int64",
        lambda m, a: m.BatchNorm1d(5)(a(ones(4, 5, dtype=np.int64))),
    ),
    "mean-alone": (
        RuntimeError,
        ValueError,
        "running_var",
        lambda m, a: without(m.BatchNorm1d(5), "running_var")(a(ones(4, 5))),
    ),
    "var-alone": (
        RuntimeError,
        ValueError,
        "running_mean",
        lambda m, a: without(m.BatchNorm1d(5), "running_mean")(a(ones(4, 5))),
    ),
    "negative-eps": (ValueError, ValueError, "eps must be", lambda m, a: m.BatchNorm1d(5, -1.0).eval()(a(ones(4, 5)))),
}


@pytest.mark.parametrize(("theirs", "ours", "words", "call"), REFUSED.values(), ids=REFUSED)
def test_both_refuse(theirs: Any, ours: Any, words: str, call: Any) -> None:
    with pytest.raises(theirs, match=words):
        call(torch.nn, tensor)
    with pytest.raises(ours, match=words):
        call(nb, np.asarray)


def test_both_functions_refuse_evaluation_without_statistics() -> None:
    with pytest.raises(RuntimeError, match="running_mean"):
        functional.batch_norm(tensor(ones(4, 5)), None, None)
    with pytest.raises(ValueError, match="running_mean"):
        nb.batch_norm(ones(4, 5))
