"""One table of calls, over functions and layers, layouts and dtypes, and the bits that each of them gives."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias

import naive
import numpy as np
import numpy.typing as npt

import numbabn as nb

Array: TypeAlias = npt.NDArray[Any]
Results: TypeAlias = dict[str, Array]

DTYPES = ("f4", "f8")


# -- places in memory: a copy of an array, `shift` elements behind where NumPy would have put it -----------------------


class Place(Protocol):
    def __call__(self, a: Array, shift: int = 0) -> Array: ...


def _room(shape: tuple[int, ...], dtype: npt.DTypeLike, shift: int) -> Array:
    size = int(np.prod(shape))
    return np.zeros(size + shift, dtype)[shift:].reshape(shape)


def first(a: Array, shift: int = 0) -> Array:
    """Channels first, contiguous."""
    room = _room(a.shape, a.dtype, shift)
    room[...] = a
    return room


def last(a: Array, shift: int = 0) -> Array:
    """Channels last in memory, still axis 1."""
    room = np.moveaxis(_room((a.shape[0], *a.shape[2:], a.shape[1]), a.dtype, shift), -1, 1)
    room[...] = a
    return room


def spaced(a: Array, shift: int = 0) -> Array:
    """Every other element of the last axis: no frame fits it, so it goes through slabs."""
    room = _room((*a.shape[:-1], 2 * a.shape[-1]), a.dtype, shift)[..., ::2]
    room[...] = a
    return room


def swapped(a: Array, shift: int = 0) -> Array:
    """The other byte order."""
    return first(a.astype(a.dtype.newbyteorder()), shift)


class Case(NamedTuple):
    """Where an array lies and which of its axes are the channels."""

    shape: tuple[int, ...]
    place: Place = first
    axis: int | tuple[int, ...] = 1
    dtypes: tuple[str, ...] = DTYPES


# Few elements, for many calls.
SMALL = {
    "first": Case((3, 5, 11, 13)),
    "many first": Case((2, 24, 9, 8)),
    "long first": Case((3, 5, 17, 19)),
    "many long first": Case((2, 24, 17, 20)),
    "last": Case((3, 5, 11, 13), last),
    "rows": Case((64, 12)),
    "spaced": Case((3, 4, 7, 5), spaced),
}
# Several parts a channel, fused and in steps (which the number of threads decides), tails, slabs and streamed results.
LARGE = {
    "few first": Case((4, 3, 200, 211)),
    "some first": Case((6, 12, 61, 67)),
    "many first": Case((6, 64, 29, 31)),
    "short planes": Case((64, 256, 7, 7)),
    "few planes": Case((3, 150, 13, 17)),
    "tiny planes": Case((70, 259, 3, 3)),
    "streamed first": Case((8, 32, 131, 129), dtypes=("f4",)),
    "few last": Case((4, 7, 189, 97), last),
    "many last": Case((4, 600, 16, 16), last),
    "streamed last": Case((4, 35, 128, 121), last, dtypes=("f8",)),
    "few columns": Case((70_001, 7)),
    "many columns": Case((901, 515)),
    "two axes": Case((40, 5, 9, 211), first, (1, 2)),
    "spaced": Case((4, 8, 128, 161), spaced),
    "spaced columns": Case((5003, 60), spaced),
    "byte-swapped": Case((8, 16, 64, 40), swapped),
}


class Data:
    """What the calls of one case and dtype read."""

    def __init__(self, case: Case, dtype: npt.DTypeLike) -> None:
        self.case, self.axis = case, case.axis
        rng = np.random.default_rng(len(case.shape) + case.shape[1])
        self.values = (rng.normal(size=case.shape) * 2.0 + 3.0).astype(dtype)
        self.gradient = rng.normal(size=case.shape).astype(dtype)
        self.x, self.dy = case.place(self.values), case.place(self.gradient)
        axes = naive.kept_axes(len(case.shape), case.axis)
        self.channels = tuple(case.shape[a] for a in axes)
        draws = (rng.uniform(0.5, 2.0, self.channels).astype(np.float32) for _ in range(5))
        self.weight, self.bias, self.mean, self.invstd, self.var = draws

    def running(self) -> tuple[Array, Array]:
        return np.zeros(self.channels, np.float32), np.ones(self.channels, np.float32)


# -- the calls ---------------------------------------------------------------------------------------------------------


def training(d: Data, x: Array | None = None, out: Array | None = None) -> Results:
    mean, var = d.running()
    x = d.x if x is None else x
    y, save_mean, save_invstd = nb.batch_norm_forward(x, mean, var, d.weight, d.bias, True, axis=d.axis, out=out)
    return {"y": y, "mean": save_mean, "invstd": save_invstd, "running_mean": mean, "running_var": var}


def in_steps(d: Data) -> Results:
    """Training, step by step."""
    (mean, var), m = d.running(), nb.moments(d.x, axis=d.axis)
    nb.update_running(mean, var, m)
    y = nb.normalize(d.x, m.mean, m.invstd(), d.weight, d.bias, axis=d.axis)
    return {"y": y, "mean": m.mean, "invstd": m.invstd(), "running_mean": mean, "running_var": var}


def in_place(d: Data) -> Results:
    x = d.case.place(d.values)
    return training(d, x, x)


def shifted(d: Data) -> Results:
    """Training at other addresses."""
    return training(d, d.case.place(d.values, 3), d.case.place(d.values, 5))


def moments(d: Data) -> Results:
    m = nb.moments(d.x, axis=d.axis)
    return {"mean": m.mean, "m2": m.m2}


def evaluation(d: Data) -> Results:
    return {"y": nb.batch_norm(d.x, d.mean, d.var, d.weight, d.bias, axis=d.axis)}


def normalize(d: Data) -> Results:
    return {"y": nb.normalize(d.x, d.mean, d.invstd, d.weight, d.bias, axis=d.axis)}


def backward(d: Data) -> Results:
    return _named(nb.batch_norm_backward(d.dy, d.x, d.weight, d.mean, d.invstd, axis=d.axis))


def backward_in_steps(d: Data) -> Results:
    dy, x = d.dy, d.x
    s, t = nb.backward_reduce(dy, x, d.mean, d.invstd, axis=d.axis)
    count = d.values.size // d.mean.size
    dx = nb.backward_elemt(dy, x, d.mean, d.invstd, d.weight, s, t, count, axis=d.axis)
    return {"dx": dx, "dweight": t * d.invstd.astype(np.float64), "dbias": s}


def backward_shifted(d: Data) -> Results:
    dy, x = d.case.place(d.gradient, 1), d.case.place(d.values, 3)
    out = d.case.place(d.values, 5)
    return _named(nb.batch_norm_backward(dy, x, d.weight, d.mean, d.invstd, axis=d.axis, out=out))


def backward_of_eval(d: Data) -> Results:
    return _named(nb.batch_norm_backward(d.dy, d.x, d.weight, d.mean, d.invstd, training=False, axis=d.axis))


def layer(d: Data) -> Results:
    """One training step of a layer."""
    kind = {2: nb.BatchNorm1d, 4: nb.BatchNorm2d}[d.x.ndim]
    norm = kind(d.channels[0])
    norm.weight, norm.bias = d.weight.copy(), d.bias.copy()
    y = norm(d.x)
    dx = norm.backward(d.dy)
    assert norm.running_mean is not None and norm.running_var is not None
    return {"y": y, "dx": dx, **norm.grads, "running_mean": norm.running_mean, "running_var": norm.running_var}


def _named(grads: nb.BatchNormGrads) -> Results:
    assert grads.x is not None and grads.weight is not None and grads.bias is not None
    return {"dx": grads.x, "dweight": grads.weight, "dbias": grads.bias}


CALLS: dict[str, Callable[[Data], Results]] = {
    f.__name__: f
    for f in (
        training,
        in_steps,
        in_place,
        shifted,
        moments,
        evaluation,
        normalize,
        backward,
        backward_in_steps,
        backward_shifted,
        backward_of_eval,
        layer,
    )
}
# Calls that owe the bits of another, in what both return.
SAME = {
    "in_steps": "training",
    "in_place": "training",
    "shifted": "training",
    "moments": "training",
    "layer": "training",
    "backward_in_steps": "backward",
    "backward_shifted": "backward",
}


# -- running them ------------------------------------------------------------------------------------------------------


def jobs(cases: dict[str, Case], dtypes: Sequence[str] = DTYPES) -> Iterator[tuple[str, Callable[[], Results]]]:
    """Name and call of every row of the table that the cases allow."""
    for case_name, case in cases.items():
        for dtype in filter(case.dtypes.__contains__, dtypes):
            data = Data(case, dtype)
            for name, call in CALLS.items():
                if call is not layer or case.axis == 1:
                    yield f"{case_name}, {dtype}, {name}", lambda call=call, data=data: call(data)  # type: ignore[misc]


def bits(array: Array) -> str:
    """Digest of an array's elements, in index order and native byte order."""
    native = np.ascontiguousarray(array, array.dtype.newbyteorder("="))
    return hashlib.blake2b(native.data, digest_size=8).hexdigest()


def digests(cases: dict[str, Case], dtypes: Sequence[str] = DTYPES) -> dict[str, str]:
    """Digest of every array that the table gives."""
    return {f"{name}, {key}": bits(a) for name, call in jobs(cases, dtypes) for key, a in call().items()}


def everything(dtypes: Sequence[str]) -> None:
    """Bring every twin of every kernel into use."""
    for threads in (1, 2):
        with nb.config.using(threads=threads, parallel_threshold=0):
            digests(SMALL, dtypes)
    digests({"few last": LARGE["few last"]}, dtypes)


# What `check` compares with the oracle; neighbours differ in call, layout or dtype.
CHECKS = (
    (normalize, "first", "f8"),
    (moments, "first", "f4"),
    (normalize, "last", "f4"),
    (moments, "first", "f8"),
    (normalize, "first", "f4"),
    (normalize, "last", "f8"),
)


def check(begin: int = 0, number: int = len(CHECKS)) -> None:
    """Calls against the oracle: so many of `CHECKS`, the first being the one at `begin`."""
    for k in range(begin, begin + number):
        call, case, dtype = CHECKS[k % len(CHECKS)]
        data = Data(SMALL[case], dtype)
        expected = _expected(call, data)
        for name, actual in call(data).items():
            bar = {"f4": 1e-5, "f8": 1e-12}[dtype] * (1.0 + np.abs(expected[name]))
            right = (np.abs(actual - expected[name]) <= bar).all()
            assert right, f"{name} of {call.__name__}, {case}, {dtype}: {actual}, not {expected[name]}"


def _expected(call: Callable[[Data], Results], d: Data) -> Results:
    if call is moments:
        _, mean, m2 = naive.moments(d.values, d.axis)
        return {"mean": mean, "m2": m2}
    return {"y": naive.normalize(d.values, d.mean, d.invstd, d.weight, d.bias, d.axis)}
