"""What is held of results that are gone, however they come and go: one block within the limit, for what fits it."""

from __future__ import annotations

import gc
import sys
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import recycled
from cases import Array
from hypothesis import given
from hypothesis import strategies as st
from recycled import (
    NONE,
    ONES,
    SHAPE,
    ZEROS,
    address,
    call_is_recycled,
    call_often,
    cycle,
    filled,
    nothing_held,
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


# -- what is held ------------------------------------------------------------------------------------------------------


def test_used_memory_is_used_again() -> None:
    y = filled(1.0)
    places = [address(y)]
    for value in range(6):
        y = filled(value)  # beside the one before
        places.append(address(y))
    assert len(set(places)) == 2 and places[2:] == places[:-2]
    place = address(y)
    for shape in ((32, 32, 32, 32), (16, 64, 64, 16)):
        del y
        x = np.moveaxis(np.zeros(shape, np.float32), 3, 1)
        y = nb.normalize(x, np.zeros(x.shape[1]), np.ones(x.shape[1]))
        assert address(y) == place and y.strides == x.strides and not y.any()


def test_small_results_are_left_to_numpy() -> None:
    y = nb.normalize(ZEROS[:15], NONE, ONES)
    assert y.base is None and y.flags.owndata
    del y
    assert not _recycle._held


def test_what_fits() -> None:
    sizes = {8000: True, 9000: True, 7999: False, 9001: False, 4000: False, 16000: False, 1: False}
    with small_too():
        for size, fits in sizes.items():
            y = _recycle.empty_like(np.zeros(size, np.uint8))
            place, memory = address(y), weakref.ref(y.base.memory)  # type: ignore[union-attr]
            del y
            assert memory() is _recycle._held[0]
            y = _recycle.empty_like(np.zeros(8000, np.uint8))
            assert (memory() is not None) == fits
            assert address(y) == place or not fits
            del y
            nothing_held()


def test_what_does_not_fit_is_freed_before_more_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    def new(size: int) -> Any:
        seen.append(memory())
        return make(size)

    y = filled(1.0)
    memory, make, seen = weakref.ref(y.base.memory), _recycle._new, list[Any]()  # type: ignore[union-attr]
    monkeypatch.setattr(_recycle, "_new", new)
    del y
    assert memory() is not None
    filled(1.0, (32, *SHAPE[1:]))
    assert seen == [None]


def test_one_block_is_held() -> None:
    several = [filled(value) for value in range(4)]
    memories = [weakref.ref(y.base.memory) for y in several]  # type: ignore[union-attr]
    while several:
        several.pop()
    assert [memory() is not None for memory in memories] == [True, False, False, False]


def test_no_page_faults_once_memory_is_there() -> None:
    resource = pytest.importorskip("resource")
    x = np.zeros((16, 32, 320, 64), np.float32)  # 40 MiB: 10,240 pages, or 20 huge ones and those at the ends
    with config.using(threads=1):
        for _ in range(3):
            y = nb.batch_norm(x, NONE, ONES)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(5):
            y = nb.batch_norm(x, NONE, ONES)
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    assert faults < 5 * 10 and not y.any()


# -- the limit ---------------------------------------------------------------------------------------------------------


def test_the_limit_is_the_largest_block() -> None:
    config.recycle_limit = ZEROS.nbytes
    assert call_is_recycled(1.0) and len(_recycle._held) == 1
    config.recycle_limit = ZEROS.nbytes - 1
    assert not _recycle._held, "freed at once"
    assert not call_is_recycled(1.0) and not _recycle._held


def test_arrays_that_are_above_a_limit_when_they_go_are_freed() -> None:
    y, z = filled(1.0), filled(2.0, (32, *SHAPE[1:]))
    config.recycle_limit = ZEROS.nbytes
    del z
    assert not _recycle._held
    del y
    assert len(_recycle._held) == 1
    config.recycle_limit = 0
    assert not _recycle._held
    assert not call_is_recycled(1.0) and not _recycle._held
    config.recycle_limit = ZEROS.nbytes
    assert call_is_recycled(1.0) and len(_recycle._held) == 1


def test_a_call_above_the_limit_frees_what_is_held() -> None:
    config.recycle_limit = ZEROS.nbytes
    filled(1.0)
    assert not call_is_recycled(1.0, (32, *SHAPE[1:])) and not _recycle._held


def test_off_for_one_thread() -> None:
    place = address(filled(1.0))
    with config.using(recycle_limit=0):
        y = filled(2.0)
        assert y.base is None
        found: list[int] = []
        thread = threading.Thread(target=lambda: found.append(address(filled(3.0))))
        thread.start()
        thread.join()
        assert found == [place]
        del y
        assert address(_recycle._held[0]) == place
    assert address(filled(4.0)) == place


def test_arrays_go_by_the_limit_of_the_process() -> None:
    y, z = filled(1.0), filled(2.0)
    with config.using(recycle_limit=0):
        del y
        assert len(_recycle._held) == 1
    config.recycle_limit = 0
    with config.using(recycle_limit=1 << 30):
        del z
        assert not _recycle._held
        assert call_is_recycled(1.0) and not _recycle._held


# -- at any time -------------------------------------------------------------------------------------------------------


def test_finalisers_run_inside_an_allocation(monkeypatch: pytest.MonkeyPatch) -> None:
    def new(size: int) -> Any:
        old.clear()
        memory = make(size)
        gc.collect()
        return memory

    make, old = _recycle._new, [filled(5.0), cycle(filled(6.0))]
    monkeypatch.setattr(_recycle, "_new", new)
    y = filled(7.0)
    assert address(y) != address(_recycle._held[0])
    call_often()
    assert (y == 7.0).all()


def test_the_collector_may_run_at_any_time() -> None:
    before, live = gc.get_threshold(), dict[int, Array]()
    gc.set_threshold(1)
    try:
        with small_too():
            for k in range(400):
                y = nb.normalize(ZEROS[:1, :, :2, :2], NONE, ONES, bias=np.full(32, float(k)))
                cycle(y)
                live[k % 7] = y if k % 3 else y[0]
                assert all(np.all(a == a.flat[0]) for a in live.values())
                assert y[0, 0, 0, 0] == k and {int(a.flat[0]) % 7 for a in live.values()} == set(live)
    finally:
        gc.set_threshold(*before)


@given(st.lists(st.tuples(st.sampled_from(("new", "view", "drop")), st.integers(0, 7)), min_size=5, max_size=60))
def test_any_order_of_coming_and_going(steps: list[tuple[str, int]]) -> None:
    sizes = (64, 68, 72, 73, 128, 130, 260, 512)
    live: list[tuple[int, Array]] = []
    with small_too():
        for value, (what, n) in enumerate(steps):
            if what == "new":
                live.append((value, _recycle.empty_like(np.zeros((2, sizes[n]), np.float32))))
                live[-1][1][...] = value
            elif live and what == "view":
                of, array = live[n % len(live)]
                live.append((of, array[..., n:]))
            elif live:
                live.pop(n % len(live))
            assert all((array == of).all() for of, array in live)
            assert len(_recycle._held) <= 1


def test_many_threads() -> None:
    def work(seed: int) -> None:
        rng, live = np.random.default_rng(seed), dict[int, tuple[int, Array]]()
        x = [np.zeros((n, 32, 8, 8), np.float32) for n in (16, 17, 18, 40)]
        barrier.wait(30)
        for k in range(150):
            value = 1000 * seed + k
            y = nb.normalize(x[rng.integers(4)], NONE, ONES, bias=np.full(32, float(value)))
            live[int(rng.integers(3))] = value, y[::-1] if k % 2 else y
            if not all((a == v).all() for v, a in live.values()):
                wrong.append(value)

    barrier, wrong = threading.Barrier(8), list[int]()
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with small_too():
            threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert not wrong
