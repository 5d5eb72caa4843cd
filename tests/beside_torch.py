"""Both libraries in step: layers in pairs, arrays as tensors, comparisons. Skips who imports it without PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from cases import DTYPES, Array, channels_last, frozen, uniform

import numbabn as nb

torch = pytest.importorskip("torch", "2.13", reason="PyTorch 2.13 is not installed")
functional = torch.nn.functional

SHAPES = {
    "N-C": ("BatchNorm1d", (9, 5)),
    "NCL": ("BatchNorm1d", (4, 5, 7)),
    "NCHW": ("BatchNorm2d", (4, 5, 3, 7)),
    "NCDHW": ("BatchNorm3d", (2, 5, 3, 2, 7)),
}
LAYOUTS: dict[str, Callable[[Array], Array]] = {"contiguous": np.ndarray.copy, "channels-last": channels_last}
TOLERANCE = {np.float32: 4e-6, np.float64: 4e-14}
every_shape = pytest.mark.parametrize(("kind", "shape"), SHAPES.values(), ids=SHAPES)
every_layout = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
every_dtype = pytest.mark.parametrize("dtype", DTYPES)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Their threads wait for each other by spinning, which on a busy machine takes longer than all the rest."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def tensor(a: Any, grad: bool = False) -> Any:
    """A tensor of its own in the array's memory order."""
    return torch.from_numpy(np.array(a)).requires_grad_(grad)


def array(t: Any) -> Any:
    return t.detach().numpy()


def assert_close(ours: Any, theirs: Any, what: str) -> None:
    """Equal but for roundings of sums: relative to the largest element."""
    a, b = np.asarray(ours), array(theirs)
    assert a.shape == b.shape, what
    bar = TOLERANCE[b.dtype.type] * max(1.0, float(abs(b).max(initial=0.0))) if b.dtype.kind == "f" else 0.0
    np.testing.assert_allclose(a, b, rtol=0.0, atol=bar, err_msg=what)


def assert_same_state(ours: Any, theirs: Any, what: str) -> None:
    own, other = ours.state_dict(), theirs.state_dict()
    assert list(own) == list(other), what
    for name in own:
        assert str(own[name].dtype) == str(other[name].dtype).removeprefix("torch."), what
        assert_close(own[name], other[name], f"{name} of {what}")


def pair(kind: str, *arguments: Any, dtype: Any = np.float32, **options: Any) -> tuple[Any, Any]:
    """Both layers, with the same weights and biases."""
    ours = getattr(nb, kind)(*arguments, dtype=dtype, **options)
    theirs = getattr(torch.nn, kind)(*arguments, dtype=getattr(torch, np.dtype(dtype).name), **options)
    for seed, name in enumerate(("weight", "bias")):
        if getattr(ours, name) is not None:
            getattr(ours, name)[...] = uniform(getattr(ours, name).shape, dtype, seed, 0.25, 1.75)
            getattr(theirs, name).data.copy_(tensor(getattr(ours, name)))
    return ours, theirs


def step(ours: Any, theirs: Any, mode: str, x: Array, dy: Array, what: str) -> None:
    """One call of both, and its backward: in training, in evaluation, or frozen."""
    ours.train(mode != "eval")
    theirs.train(mode == "train")
    ours.freeze() if mode == "frozen" else ours.unfreeze()
    x_theirs = tensor(x, grad=True)
    theirs.zero_grad()
    y, y_theirs = ours(x), theirs(x_theirs)
    assert y.dtype == x.dtype
    assert_close(y, y_theirs, f"y of {what}")
    if mode != "eval":
        y_theirs.backward(tensor(dy))
        ours.zero_grad()
        assert_close(ours.backward(dy), x_theirs.grad, f"dx of {what}")
        assert list(ours.grads) == [name for name, _ in theirs.named_parameters()]
        for name, parameter in theirs.named_parameters():
            assert_close(ours.grads[name], parameter.grad, f"gradient of {name} of {what}")
    assert_same_state(ours, theirs, what)


def ones(*shape: int, dtype: Any = np.float32) -> Any:
    return frozen(np.ones(shape, dtype))
