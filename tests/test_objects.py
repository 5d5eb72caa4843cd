"""The one look at all arguments: what it lets through, what it leaves to the checks by name, and that both agree."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import numbabn as nb
from numbabn import _objects, _steps
from numbabn._layout import layout

Array = npt.NDArray[Any]
Change = Callable[[dict[str, Any]], None]

pytestmark = pytest.mark.small


@pytest.fixture(autouse=True)
def looking(monkeypatch: pytest.MonkeyPatch) -> None:
    """As after the first call of a process."""
    monkeypatch.setattr(_steps, "_look", _steps._look_first)


def arguments(shape: tuple[int, ...] = (6, 3, 4), dtype: str = "f4") -> dict[str, Any]:
    rng = np.random.default_rng(0)
    x = rng.standard_normal(shape).astype(dtype)
    rows = {name: 1 + rng.random(shape[1]).astype(dtype) for name in ("running_mean", "running_var", "weight", "bias")}
    return {"x": x, "out": np.empty_like(x), **rows}


def fits(given: dict[str, Any], written: int = 0) -> Any:
    x = given["x"]
    rows = tuple(given[name] for name in ("running_mean", "running_var", "weight", "bias"))
    return _steps.fit(layout(x.shape, x.strides, x.dtype, 1), x, x, given["out"], rows, written)


def channels_last(a: Array) -> Array:
    """As it is, in another order in memory."""
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(a, 1, -1)), -1, 1)


def read_only(a: Array) -> Array:
    b = a.copy()
    b.flags.writeable = False
    return b


def misaligned(a: Array) -> Array:
    b = np.empty(a.nbytes + 1, np.uint8)[1:].view(a.dtype).reshape(a.shape)
    b[...] = a
    return b


def pickled(a: Array) -> Array:
    """With a dtype object that equals NumPy's own and is another."""
    b: Array = pickle.loads(pickle.dumps(a))
    assert b.dtype is not a.dtype
    return b


def spread(a: Array) -> Array:
    b = np.zeros((*a.shape, 2), a.dtype)[..., 0]
    b[...] = a
    return b


class Sub(np.ndarray[Any, Any]):
    """A subclass, which may behave like nothing known."""


def wide_all(given: dict[str, Any]) -> None:
    for name in ("running_mean", "running_var", "weight", "bias"):
        given[name] = given[name].astype(np.float64)


FITTING: dict[str, Change] = {
    "plain": lambda given: None,
    "float64 rows": wide_all,
    "one wide row": lambda given: given.update(weight=given["weight"].astype(np.float64)),
    "no weight": lambda given: given.update(weight=None),
    "no bias": lambda given: given.update(bias=None),
    "in place": lambda given: given.update(out=given["x"]),
    "the same elements": lambda given: given.update(out=given["x"][:]),
    "views": lambda given: given.update(bias=np.vstack([given["bias"]] * 2)[1]),
    "channels last": lambda given: given.update(x=channels_last(given["x"]), out=channels_last(given["out"])),
    "channels last in place": lambda given: given.update(x=(x := channels_last(given["x"])), out=x),
    "read-only input and rows": lambda given: given.update(x=read_only(given["x"]), weight=read_only(given["weight"])),
    "halves of one block": lambda given: given.update(zip(("x", "out"), np.stack([given["x"]] * 2), strict=True)),
}
LEFT: dict[str, Change] = {
    "x misaligned": lambda given: given.update(x=misaligned(given["x"])),
    "x from a pickle": lambda given: given.update(x=pickled(given["x"])),
    "all from pickles": lambda given: given.update({name: pickled(a) for name, a in given.items()}),
    "x in pieces": lambda given: given.update(x=spread(given["x"])),
    "x in Fortran order": lambda given: given.update(x=np.asfortranarray(given["x"])),
    "x of the other byte order": lambda given: given.update(x=given["x"].astype(">f4"), out=given["out"].astype(">f4")),
    "x with channels last": lambda given: given.update(x=channels_last(given["x"])),
    "out with channels last": lambda given: given.update(out=channels_last(given["out"])),
    "out in pieces": lambda given: given.update(out=spread(given["out"])),
    "out misaligned": lambda given: given.update(out=misaligned(given["out"])),
    "out of a subclass": lambda given: given.update(out=given["out"].view(Sub)),
    "a row in pieces": lambda given: given.update(weight=spread(given["weight"])),
    "a row misaligned": lambda given: given.update(weight=misaligned(given["weight"])),
    "a row of the other byte order": lambda given: given.update(weight=given["weight"].astype(">f4")),
    "a row of a subclass": lambda given: given.update(weight=given["weight"].view(Sub)),
    "a list": lambda given: given.update(weight=given["weight"].tolist()),
}
REFUSED: dict[str, Change] = {
    "out of another shape": lambda given: given.update(out=np.empty((6, 4, 3), np.float32)),
    "out of another shape than x with channels last": lambda given: given.update(
        x=channels_last(given["x"]), out=np.empty((6, 4, 3), np.float32)
    ),
    "out of more axes than x with channels last": lambda given: given.update(
        x=channels_last(given["x"]), out=np.empty((6, 3, 4, 1), np.float32)
    ),
    "out no array, x with channels last": lambda given: given.update(x=channels_last(given["x"]), out=object()),
    "out of more axes": lambda given: given.update(out=np.empty((6, 3, 4, 1), np.float32)),
    "out of another dtype": lambda given: given.update(out=np.empty((6, 3, 4))),
    "out of integers": lambda given: given.update(out=np.empty((6, 3, 4), np.int32)),
    "out read-only": lambda given: given.update(out=read_only(given["out"])),
    "out no array": lambda given: given.update(out=object()),
    "out over x": lambda given: given.update(zip(("x", "out"), overlapping(given["x"]), strict=True)),
    "out over x from a pickle": lambda given: given.update(
        zip(("x", "out"), overlapping(pickled(given["x"].astype(np.float64)), pickled), strict=True)
    ),
    "out over a row": lambda given: given.update(weight=given["out"].reshape(-1)[-3:]),
    "a row too long": lambda given: given.update(weight=np.ones(4, np.float32)),
    "a row of no axis": lambda given: given.update(weight=np.float32(1)),
    "a row of two axes": lambda given: given.update(weight=np.ones((3, 1), np.float32)),
    "a row of integers": lambda given: given.update(weight=np.ones(3, np.int32)),
    "a row of halves": lambda given: given.update(weight=np.ones(3, np.float16)),
}


def overlapping(x: Array, made: Callable[[Array], Array] = np.array) -> tuple[Array, Array]:
    """Two arrays of one block, the second half of the one in the first of the other."""
    block = made(np.concatenate([x.reshape(-1), x.reshape(-1)[:5]]))
    return block[5:].reshape(x.shape), block[:-5].reshape(x.shape)


def changed(change: Change, **how: Any) -> dict[str, Any]:
    given = arguments(**how)
    change(given)
    return given


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("shape", [(6, 3), (6, 3, 4), (1, 2, 3, 4), (2, 1, 1, 1, 1), (2, 3, 1, 2, 2, 2)])
def test_arrays_in_order_fit(shape: tuple[int, ...], dtype: str) -> None:
    assert fits(arguments(shape, dtype), written=2)


@pytest.mark.parametrize("change", FITTING.values(), ids=FITTING)
def test_what_fits(change: Change) -> None:
    assert fits(changed(change))


@pytest.mark.parametrize("change", [*LEFT.values(), *REFUSED.values()], ids=[*LEFT, *REFUSED])
def test_what_does_not(change: Change) -> None:
    assert not fits(changed(change))


@pytest.mark.parametrize("name", ["running_mean", "running_var"])
def test_what_is_written_must_be_writable(name: str) -> None:
    given = arguments()
    given[name] = read_only(given[name])
    assert fits(given) and not fits(given, written=2)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("change", [*FITTING.values(), *LEFT.values()], ids=[*FITTING, *LEFT])
def test_both_ways_agree(change: Change, training: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    results = []
    for look in (_steps._look_first, lambda *_: False):
        monkeypatch.setattr(_steps, "_look", look)
        given = changed(change)
        y = nb.batch_norm(**given, training=training)
        assert y is given["out"]
        results.append([np.asarray(y), *(np.asarray(given[name]) for name in ("running_mean", "running_var"))])
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one, other, strict=True)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("change", REFUSED.values(), ids=REFUSED)
def test_both_ways_refuse(change: Change, training: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    messages = []
    for look in (_steps._look_first, lambda *_: False):
        monkeypatch.setattr(_steps, "_look", look)
        given = changed(change)
        before = given["running_mean"].copy()
        with pytest.raises((TypeError, ValueError)) as raised:
            nb.batch_norm(**given, training=training)
        np.testing.assert_array_equal(given["running_mean"], before)
        messages.append(str(raised.value))
    assert messages[0] == messages[1]


def both_ways(call: Callable[[], Any], fitting: bool, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Any]:
    """Results of a call with the look, which says yes if `fitting`, and without it."""
    said = []

    def look(*arguments: Any) -> bool:
        said.append(_steps._look_first(*arguments))
        return said[-1]

    monkeypatch.setattr(_steps, "_look", look)
    looked = call()
    assert said in ([[fitting]] if fitting else ([], [False]))
    monkeypatch.setattr(_steps, "_look", lambda *_: False)
    return looked, call()


BACKWARD: dict[str, tuple[bool, Change]] = {
    "narrow weight": (True, lambda given: None),
    "wide weight": (True, lambda given: given.update(weight=given["weight"].astype(np.float64))),
    "into dy": (True, lambda given: given.update(out=given["dy"])),
    "into x": (True, lambda given: given.update(out=given["x"])),
    "a new array": (True, lambda given: given.update(out=None)),
    "narrow mean": (True, lambda given: given.update(save_mean=given["save_mean"].astype(np.float32))),
    "x in pieces": (False, lambda given: given.update(x=spread(given["x"]))),
    "x in Fortran order": (False, lambda given: given.update(x=np.asfortranarray(given["x"]), out=None)),
    "dy in pieces": (False, lambda given: given.update(dy=spread(given["dy"]))),
    "no weight": (True, lambda given: given.update(weight=None)),
}


@pytest.mark.parametrize("needs", [("x", "weight", "bias"), ("x",), ("bias", "x")])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("fitting, change", BACKWARD.values(), ids=BACKWARD)
def test_both_ways_agree_on_gradients(
    fitting: bool, change: Change, training: bool, needs: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    def call() -> nb.BatchNormGrads:
        given = arguments()
        rng = np.random.default_rng(1)
        given = {"dy": rng.standard_normal((6, 3, 4)).astype("f4"), **{k: given[k] for k in ("x", "out", "weight")}}
        given |= {"save_mean": rng.random(3), "save_invstd": 1 + rng.random(3)}
        change(given)
        grads = nb.batch_norm_backward(**given, training=training, needs=needs)
        assert given["out"] is None or grads.x is given["out"]
        return grads

    for one, other in zip(*both_ways(call, fitting, monkeypatch), strict=True):
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            np.testing.assert_array_equal(one, other, strict=True)
            assert one.strides == other.strides


NORMALIZE: dict[str, tuple[bool, Change]] = {
    "narrow weight and bias": (True, lambda given: None),
    "wide weight": (True, lambda given: given.update(weight=given["weight"].astype(np.float64))),
    "in place": (True, lambda given: given.update(out=given["x"])),
    "a new array": (True, lambda given: given.update(out=None)),
    "narrow statistics": (True, lambda given: given.update({k: given[k].astype("f4") for k in ("mean", "invstd")})),
    "no bias": (True, lambda given: given.update(bias=None)),
}


@pytest.mark.parametrize("fitting, change", NORMALIZE.values(), ids=NORMALIZE)
def test_both_ways_normalize_alike(fitting: bool, change: Change, monkeypatch: pytest.MonkeyPatch) -> None:
    def call() -> Array:
        rng = np.random.default_rng(1)
        given = {k: v for k, v in arguments().items() if not k.startswith("running")}
        given |= {"mean": rng.random(3), "invstd": 1 + rng.random(3)}
        change(given)
        y = nb.normalize(**given)
        assert given["out"] is None or y is given["out"]
        return y

    one, other = both_ways(call, fitting, monkeypatch)
    np.testing.assert_array_equal(one, other, strict=True)


def test_the_first_call_of_a_process_does_not_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_steps, "_look", _steps._look_later)
    assert not fits(arguments())
    assert fits(arguments())


def test_where_arrays_lie_otherwise_nothing_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    from numbabn._cpu import objects

    assert _objects.is_known() and _objects.KNOWN
    monkeypatch.setattr(_objects, "NDIM", 28)  # where nothing of an array's is
    assert not _objects.is_known()
    monkeypatch.setattr(objects, "KNOWN", False)
    assert objects.entry() is None
    assert not fits(arguments())
