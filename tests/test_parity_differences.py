"""Beside PyTorch, where numbabn differs on purpose: first what they do, then what we do."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from beside_torch import array, assert_close, every_dtype, functional, ones, pair, step, tensor, torch
from beside_torch import one_thread as one_thread
from cases import DTYPES, channels_last, frozen, normal

import numbabn as nb


def test_eps_0_in_training() -> None:
    x = normal((9, 5), np.float64, 1).copy()
    x[:, 2] = 3.0
    with pytest.raises(ValueError, match="eps must be positive during training"):
        functional.batch_norm(tensor(x), None, None, training=True, eps=0.0)
    y, mean, invstd = nb.batch_norm_forward(x, training=True, eps=0.0)
    assert (y[:, 2] == 0.0).all()
    assert invstd[2] == 0.0
    np.testing.assert_allclose(y.std(0), [1.0, 1.0, 0.0, 1.0, 1.0], rtol=1e-14)
    grads = nb.batch_norm_backward(y, x, None, mean, invstd)
    assert grads.x is not None
    assert (grads.x[:, 2] == 0.0).all()
    assert np.isfinite(grads.x).all()


def test_eps_0_in_evaluation() -> None:
    x, zeros = normal((4, 5), np.float32, 1), np.zeros(5, np.float32)
    for mean in (zeros, x[0]):
        x_theirs = tensor(x, grad=True)
        y_theirs = functional.batch_norm(x_theirs, tensor(mean), tensor(zeros), eps=0.0)
        y_theirs.sum().backward()
        assert not np.isfinite(array(y_theirs)).any()
        assert np.isinf(array(x_theirs.grad)).all()
        y, *saved = nb.batch_norm_forward(x, mean, zeros, eps=0.0)
        assert (y == 0.0).all()
        grads = nb.batch_norm_backward(y + 1, x, None, *saved, training=False)
        assert grads.x is not None
        assert (grads.x == 0.0).all()


@pytest.mark.parametrize("eps", [-1.0, float("nan")])
def test_eps_that_is_none_is_refused_early(eps: float) -> None:
    assert torch.nn.BatchNorm1d(5, eps).num_features == 5
    with pytest.raises(ValueError, match="eps"):
        nb.BatchNorm1d(5, eps)
    if eps != eps:
        assert functional.batch_norm(tensor(ones(4, 5)), None, None, training=True, eps=eps).isnan().all()
        with pytest.raises(ValueError, match="eps"):
            nb.batch_norm(ones(4, 5), training=True, eps=eps)


@pytest.mark.parametrize("shape", [(1, 5), (4, 6)])
@pytest.mark.parametrize("momentum", [0.1, None])
def test_a_call_that_raises_counts_no_batch(shape: tuple[int, ...], momentum: float | None) -> None:
    ours, theirs = pair("BatchNorm1d", 5, momentum=momentum)
    x = normal((9, 5), np.float32, 1)
    step(ours, theirs, "train", x, x, "before")
    before = ours.state_dict()
    with pytest.raises((ValueError, RuntimeError)):
        theirs(tensor(ones(*shape)))
    with pytest.raises(ValueError, match="channel"):
        ours(ones(*shape))
    assert theirs.num_batches_tracked == 2
    for name, value in ours.state_dict().items():
        np.testing.assert_array_equal(value, before[name])
    theirs(tensor(x))
    ours(x)
    assert (theirs.num_batches_tracked, ours.num_batches_tracked) == (3, 2)
    if momentum is None:
        means = [layer.running_mean[0] / before["running_mean"][0] for layer in (theirs, ours)]
        np.testing.assert_allclose(means, 1.0, rtol=1e-6)  # twice the same batch: any average is right
        x = normal((9, 5), np.float32, 2, 6.0)
        theirs(tensor(x))
        ours(x)
        mean = x.mean(0, dtype=np.float64)
        np.testing.assert_allclose(ours.running_mean, (2 * before["running_mean"] + mean) / 3, rtol=1e-6)
        np.testing.assert_allclose(array(theirs.running_mean), (3 * before["running_mean"] + mean) / 4, rtol=1e-6)


@pytest.mark.parametrize("shape", [(0, 5), (4, 5, 0)])
def test_an_empty_batch_is_not_counted(shape: tuple[int, ...]) -> None:
    x = np.empty(shape, np.float32)
    ours, theirs = pair("BatchNorm1d", 5)
    x_theirs = tensor(x, grad=True)
    y = theirs(x_theirs)
    y.sum().backward()
    assert ours(x).shape == y.shape == ours.backward(x).shape == x_theirs.grad.shape == shape
    for name in ("weight", "bias"):
        assert (ours.grads[name] == 0).all()
        assert (getattr(theirs, name).grad == 0).all()
    assert (theirs.num_batches_tracked, ours.num_batches_tracked) == (1, 0)
    for name in ("running_mean", "running_var"):
        assert_close(getattr(ours, name), getattr(theirs, name), name)


@pytest.mark.parametrize("shape", [(4, 0), (4, 0, 3)])
def test_no_channels(shape: tuple[int, ...]) -> None:
    x = np.empty(shape, np.float32)
    ours, theirs = pair("BatchNorm1d", 0)
    for layer in (theirs, theirs.eval()):
        with pytest.raises(IndexError):
            layer(tensor(x))
    assert ours(x).shape == ours.backward(x).shape == ours.eval()(x).shape == shape


ACCURACY = {"N-C": ((7200, 6), False), "NHWC": ((8, 6, 29, 31), True), "NCHW": ((8, 6, 29, 31), False)}


@every_dtype
@pytest.mark.parametrize(("shape", "last"), ACCURACY.values(), ids=ACCURACY)
def test_accuracy_far_from_zero(shape: tuple[int, ...], last: bool, dtype: Any) -> None:
    """They lose digits at a mean of 1e5 standard deviations."""
    x = normal(shape, dtype, 1, 1e5)
    x = frozen(channels_last(x)) if last else x
    wide, reduced = x.astype(np.longdouble), (0, *range(2, x.ndim))
    exact = (wide - wide.mean(reduced, keepdims=True)) / np.sqrt(wide.var(reduced, keepdims=True) + 1e-5)
    y = array(functional.batch_norm(tensor(x), None, None, training=True))
    theirs, ours = (float(abs(each - exact).max()) for each in (y, nb.batch_norm(x, training=True)))
    bar = 1e-6 if dtype == np.float32 else 1e-10
    assert ours < bar < theirs
    assert theirs > 8 * ours


def test_dtypes_may_differ() -> None:
    for own, other in (DTYPES, DTYPES[::-1]):
        ours, theirs = pair("BatchNorm1d", 5, dtype=own)
        x = normal((9, 5), other, 1)
        with pytest.raises(RuntimeError, match="mixed dtype"):
            theirs(tensor(x))
        assert ours(x).dtype == other
        assert ours.running_mean.dtype == own


def test_one_buffer_alone_in_training() -> None:
    x, mean = normal((9, 5), np.float64, 1, 3.0), np.zeros(5)
    with pytest.raises(ValueError, match="both be None or neither"):
        functional.batch_norm(tensor(x), tensor(mean), None, training=True)
    nb.batch_norm(x, mean, None, training=True)
    np.testing.assert_allclose(mean, 0.1 * x.mean(0), rtol=1e-14)


def test_states_are_copies() -> None:
    for layer, shares in zip(pair("BatchNorm1d", 5), (False, True), strict=True):
        state = layer.state_dict()
        layer(normal((9, 5), np.float32, 1) if not shares else tensor(normal((9, 5), np.float32, 1)))
        assert (state["num_batches_tracked"] == 1) == shares


@pytest.mark.parametrize("strict", [True, False])
def test_a_state_that_does_not_fit_changes_nothing(strict: bool) -> None:
    for layer, changed in zip(pair("BatchNorm1d", 5), (False, True), strict=True):
        values = {
            name: np.full_like(np.asarray(a.detach() if changed else a), 7) for name, a in layer.state_dict().items()
        }
        values["running_var"] = np.ones(6, np.float32)
        with pytest.raises(RuntimeError, match="size mismatch for running_var"):
            layer.load_state_dict({n: tensor(a) if changed else a for n, a in values.items()}, strict=strict)
        assert bool((layer.running_mean == 7).all()) == changed
