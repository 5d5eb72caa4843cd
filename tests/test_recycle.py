"""Recycled memory: never under an array that anybody can still see, in whatever way."""

from __future__ import annotations

import copy
import ctypes
import gc
import io
import pickle
import threading
from collections.abc import Callable, Iterator
from typing import Any

import calls
import fresh
import numpy as np
import pytest
import recycled
from cases import LAYOUTS, Array, assert_bits
from hypothesis import given
from hypothesis import strategies as st
from numpy.lib.stride_tricks import as_strided
from recycled import (
    NONE,
    ONES,
    SHAPE,
    ZEROS,
    address,
    call_often,
    cycle,
    filled,
    is_recycled,
    small_too,
)

import numbabn as nb
from numbabn import _recycle, config


@pytest.fixture(autouse=True, scope="module")
def fast_collections() -> Iterator[None]:
    with recycled.fast_collections():
        yield


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    with recycled.restored():
        yield


# -- what somebody can still see ---------------------------------------------------------------------------------------


class Sub(np.ndarray[Any, Any]):
    pass


class Exporter:
    """A DLPack capsule on its way."""

    def __init__(self, array: Array) -> None:
        self.capsule = array.__dlpack__()

    def __dlpack__(self, **_: Any) -> Any:
        return self.capsule

    def __dlpack_device__(self) -> tuple[int, int]:
        return 1, 0


def out_of_band(y: Array) -> list[pickle.PickleBuffer]:
    buffers: list[pickle.PickleBuffer] = []
    pickle.dumps(y, 5, buffer_callback=buffers.append)
    return buffers


def unpickled(y: Array) -> Any:
    return pickle.loads(pickle.dumps(y, 5, buffer_callback=lambda _: None), buffers=out_of_band(y))


def pointer(y: Array) -> Any:
    return y.ctypes.data_as(ctypes.POINTER(ctypes.c_float))


def torch(y: Array) -> Any:
    return pytest.importorskip("torch").from_numpy(y)


def same(kept: Any) -> Any:
    return kept


# What is kept of a result, and how to read the values from that.
HOLDERS: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    "itself": (same, same),
    "view": (lambda y: y.view(), same),
    "view of a view": (lambda y: y[1:][1:].view()[..., 1:], same),
    "slice": (lambda y: y[3:4, ::2, 5], same),
    "reversed": (lambda y: y[::-1, ..., ::-3], same),
    "transposed": (lambda y: y.T, same),
    "reshaped": (lambda y: y.reshape(64, -1), same),
    "raveled": (np.ravel, same),
    "broadcast": (lambda y: np.broadcast_to(y[0], SHAPE), same),
    "strided": (lambda y: as_strided(y, (7, 3), (400, 4)), same),
    "bytes": (lambda y: y.view(np.uint8), lambda a: a.view(np.float32)),
    "subclass": (lambda y: y.view(Sub), same),
    "masked": (lambda y: np.ma.masked_array(y), lambda m: m.data),
    "array of the base": (lambda y: np.asarray(y.base), same),
    "base": (lambda y: y.base, np.asarray),
    "memoryview": (memoryview, np.asarray),
    "memoryview of bytes": (lambda y: memoryview(y).cast("B")[8:800], lambda m: np.frombuffer(m, np.float32)),
    "frombuffer": (lambda y: np.frombuffer(y, np.float32, 1000, 4000), same),
    "DLPack": (np.from_dlpack, same),
    "DLPack capsule": (Exporter, np.from_dlpack),
    "torch": (torch, np.asarray),
    "ctypes pointer": (pointer, lambda p: np.ctypeslib.as_array(p, (1000,))),
    "ctypes array": (np.ctypeslib.as_ctypes, np.ctypeslib.as_array),
    "pickle buffers": (out_of_band, lambda b: np.frombuffer(b[0], np.float32)),
    "unpickled": (unpickled, same),
    "iterator": (lambda y: y.flat, lambda i: i.base),
    "generator": (iter, next),
    "list": (list, lambda rows: rows[-1]),
    "cycle": (cycle, lambda ring: ring[0]),
    "bound method": (lambda y: y.sum, lambda f: f() / ZEROS.size),
    "in place": (lambda y: nb.normalize(y, NONE, ONES, out=y), same),
    "out": (lambda y: nb.normalize(ZEROS, NONE, ONES, bias=np.full(32, y[0, 0, 0, 0]), out=y[::-1]), same),
}


@pytest.mark.parametrize(("keep", "read"), HOLDERS.values(), ids=HOLDERS)
def test_memory_that_is_seen_is_left_alone(keep: Callable[[Any], Any], read: Callable[[Any], Any]) -> None:
    place = address(filled(4.0))
    y = filled(5.0)
    assert address(y) == place, "used memory itself"
    kept = keep(y)
    del y
    call_often()
    assert not any(address(held) == place for held in _recycle._held)
    values = read(kept)
    assert np.size(values) and np.all(np.asarray(values) == 5.0)
    del kept, values
    gc.collect()
    assert address(filled(6.0)) == place, "and is used again when nobody sees it any more"


def test_memory_seen_by_another_thread_is_left_alone() -> None:
    def other() -> None:
        y = filled(5.0)
        ready.set()
        assert go_on.wait(30)
        found.append(bool((y == 5.0).all()))

    ready, go_on, found = threading.Event(), threading.Event(), list[bool]()
    thread = threading.Thread(target=other)
    thread.start()
    assert ready.wait(30)
    call_often()
    go_on.set()
    thread.join()
    assert found == [True]


def test_memory_that_is_being_pickled_is_left_alone() -> None:
    class File(io.BytesIO):
        def write(self, data: Any) -> int:
            call_often()
            return super().write(data)

    file = File()
    pickle.dump(filled(5.0), file, 5)
    assert (pickle.loads(file.getvalue()) == 5.0).all()


def test_a_finaliser_in_a_cycle_sees_its_array_and_may_keep_it() -> None:
    class Node:
        def __init__(self) -> None:
            self.y, self.base, self.me = filled(5.0), None, self
            self.base = self.y.base

        def __del__(self) -> None:
            call_often()
            kept.append(self.y)

    kept: list[Array] = []
    Node()
    gc.collect()
    assert len(kept) == 1
    call_often()
    assert (kept[0] == 5.0).all()


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, pickle.dumps])
def test_a_block_cannot_be_copied(copied: Callable[[Any], Any]) -> None:
    """Two of them would leave the same memory to the next result, one after the other."""
    with pytest.raises(TypeError, match="copy the array"):
        copied(filled(5.0).base)


def test_a_block_that_is_revived_is_empty() -> None:
    class Node:
        def __init__(self) -> None:
            self.block, self.me = filled(5.0).base, self

        def __del__(self) -> None:
            kept.append(self.block)

    kept: list[Any] = []
    Node()
    gc.collect()
    for block in kept:
        assert np.asarray(block).dtype == object or not _recycle._held, "its memory is either its own or the next one's"


def test_a_layer_can_go_back_after_its_output_is_gone() -> None:
    rng = np.random.default_rng(0)
    x, dy = (rng.normal(size=SHAPE).astype(np.float32) for _ in range(2))

    def steps() -> list[Array]:
        first, second = nb.BatchNorm2d(32), nb.BatchNorm2d(32)
        second(first(x))
        call_often()
        results = [first.backward(second.backward(dy)), first(x), nb.batch_norm(x, training=True)]
        return [*results, *first.grads.values(), *second.grads.values()]

    recycled = steps()
    with config.using(recycle_limit=0):
        plain = steps()
    for found, expected in zip(recycled, plain, strict=True):
        assert_bits(found, expected)


def test_all_calls_give_the_same_bits_on_used_memory() -> None:
    with config.using(recycle_limit=0):
        expected = calls.digests(calls.SMALL)
    with small_too():
        for name, call in calls.jobs(calls.SMALL):
            for key, result in call().items():
                assert calls.bits(result) == expected[f"{name}, {key}"], (name, key)
                for held in _recycle._held:
                    held[...] = 255  # NaN


# -- what a result is --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_results_are_plain_arrays_in_the_order_of_x(layout: str, dtype: type) -> None:
    x = LAYOUTS[layout](np.random.default_rng(0).normal(size=(16, 32, 48, 48)).astype(dtype))
    with config.using(recycle_limit=0):
        expected = nb.batch_norm(x, training=True)
    for _ in range(2):
        y = nb.batch_norm(x, training=True)
        assert type(y) is np.ndarray and is_recycled(y)
        assert (y.strides, y.dtype) == (expected.strides, expected.dtype)
        assert y.flags.writeable and y.flags.aligned and not y.flags.owndata
        assert address(y) % 64 == 0
        assert_bits(y, expected)
        with pytest.raises(ValueError, match=r"does not own its data|single-segment"):
            y.resize(3)
        for other in (y.copy(), copy.copy(y), copy.deepcopy(y), pickle.loads(pickle.dumps(y))):
            assert not is_recycled(other) and np.array_equal(other, expected)


@given(st.data())
def test_strides_are_those_of_numpy(data: st.DataObject) -> None:
    ndim = data.draw(st.integers(1, 5))
    shape = [data.draw(st.integers(1, 4)) for _ in range(ndim)]
    like = np.zeros([3 * n for n in shape], data.draw(st.sampled_from(("f4", ">f8")))).transpose(
        data.draw(st.permutations(range(ndim)))
    )
    steps = [data.draw(st.sampled_from((1, -1, 2, 3, None))) for _ in range(ndim)]
    for axis, step in enumerate(steps):
        index = (slice(None),) * axis
        like = like[(*index, slice(0, 1))] if step is None else like[(*index, slice(None, None, step))]
    if data.draw(st.booleans()):
        like = np.broadcast_to(like, [n if n > 1 else 2 for n in like.shape])
    expected = np.empty_like(like, order="K", subok=False)
    with small_too():
        found = _recycle.empty_like(like)
    assert (found.shape, found.dtype, found.flags.forc) == (expected.shape, expected.dtype, expected.flags.forc)
    steps_of = (s for a in (found, expected) for s, n in zip(a.strides, a.shape, strict=True) if n > 1)
    strides = list(steps_of)
    assert strides[: len(strides) // 2] == strides[len(strides) // 2 :]


# -- ends and forks ----------------------------------------------------------------------------------------------------


def test_blocks_that_were_never_filled_go_in_silence() -> None:
    _recycle._Block.__new__(_recycle._Block)
    with pytest.raises(AttributeError):
        _recycle._Block(None, ZEROS)  # type: ignore[arg-type]
    gc.collect()
    assert not _recycle._held


ENDS = {
    "alive": "",
    "gone": "del y",
    "in a cycle": "ring = [y]; ring.append(ring); del y, ring",
    "in a module": "import sys; sys.keep = y; sys.modules['later'] = [y]; del y",
    "at exit": "import atexit; atexit.register(lambda y: r.empty_like(y), y)",
    "in a daemon": "import threading as t; t.Thread(target=lambda _: t.Event().wait(), args=(y,), daemon=True).start()",
    "module gone": "import sys; del sys.modules['numbabn._recycle'], sys.modules['numbabn._config']",
    "globals gone": "vars(r).update(dict.fromkeys(list(vars(r)))); del y",
    "in builtins": "import builtins; builtins.y, builtins.b = y, y.base; del y",
}


@pytest.mark.parametrize("code", ENDS.values(), ids=ENDS)
def test_the_interpreter_ends_in_silence(code: str) -> None:
    before = """
        import numpy as np
        from numbabn import _recycle as r
        y = r.empty_like(np.zeros(1 << 20, np.float32))
        assert y.base is not None
    """
    fresh.run((before, code), None, silent=True)


@pytest.mark.skipif(not fresh.CAN_FORK, reason="no fork on this platform")
def test_a_forked_child_has_its_own_copy() -> None:
    code = """
        import gc, threading
        import numpy as np
        from fresh import forked
        from numbabn import _recycle

        def filled(value):
            y = _recycle.empty_like(like)
            y[...] = value
            return y

        def child():
            global mine
            assert (mine == 1).all() and (_recycle._held[0].view(np.float32) == 2).all()
            taken = filled(3)
            assert taken.__array_interface__["data"][0] == place and not _recycle._held
            del mine
            more = filled(4)
            assert (taken == 3).all() and (more == 4).all()
            forked(lambda: filled(5))  # a child of the child
            assert (taken == 3).all() and (more == 4).all()

        def busy():
            while not done:
                filled(6)

        like = np.zeros(1 << 20, np.float32)
        mine, other = filled(1), filled(2)
        place = other.__array_interface__["data"][0]
        del other
        for _ in range(3):
            forked(child)
            assert (mine == 1).all() and (_recycle._held[0].view(np.float32) == 2).all()
        done = False
        threads = [threading.Thread(target=busy) for _ in range(2)]
        for thread in threads:
            thread.start()
        for _ in range(10):  # at any moment of another thread's allocations
            forked(lambda: [filled(7) for _ in range(3)])
            assert (mine == 1).all()
        done = True
        for thread in threads:
            thread.join()
    """
    fresh.run(code, None, silent=True)
