"""Settings: their values and scopes, the environment variables, and the threads that a call really uses."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fresh
import pytest

from numbabn import config

NAMES = ("threads", "parallel_threshold", "cache", "recycle_limit")
SHOW = f"from numbabn import config; print(*(getattr(config, name) for name in {NAMES}))"


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    before = {name: getattr(config, name) for name in NAMES}
    yield
    for name, value in before.items():
        setattr(config, name, value)


def in_a_thread(function: Any) -> Any:
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(function()))
    thread.start()
    thread.join()
    return results[0]


# -- values ------------------------------------------------------------------------------------------------------------

BAD = [
    ("threads", 0, "None or an int >= 1"),
    ("threads", -1, "None or an int >= 1"),
    ("threads", 2.0, "None or an int >= 1"),
    ("threads", "2", "None or an int >= 1"),
    ("threads", True, "None or an int >= 1"),
    ("parallel_threshold", -1, "int >= 0"),
    ("parallel_threshold", None, "int >= 0"),
    ("parallel_threshold", 1e6, "int >= 0"),
    ("parallel_threshold", False, "int >= 0"),
    ("cache", 1, "True or False"),
    ("cache", None, "True or False"),
    ("cache", "yes", "True or False"),
    ("recycle_limit", -1, "int >= 0"),
    ("recycle_limit", None, "int >= 0"),
    ("recycle_limit", 1e9, "int >= 0"),
    ("recycle_limit", True, "int >= 0"),
]


@pytest.mark.parametrize(("name", "value", "expected"), BAD)
def test_bad_values_are_refused_and_change_nothing(name: str, value: object, expected: str) -> None:
    before = repr(config)
    message = f"{name} must be .*{expected}, got {value!r}"
    with pytest.raises(ValueError, match=message):
        setattr(config, name, value)
    with pytest.raises(ValueError, match=message), config.using(**{name: value}):
        pytest.fail("the block was entered")
    assert repr(config) == before


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("threads", None),
        ("threads", 1),
        ("threads", 10**6),
        ("parallel_threshold", 0),
        ("cache", False),
        ("recycle_limit", 0),
        ("recycle_limit", 1 << 50),
    ],
)
def test_good_values_hold(name: str, value: object) -> None:
    setattr(config, name, value)
    assert getattr(config, name) == value
    assert f"{name}={value!r}" in repr(config)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(TypeError, match="workers"), config.using(workers=2):
        pytest.fail("the block was entered")
    with pytest.raises(TypeError, match="workers"), config.using(threads=1, workers=2):
        pytest.fail("the block was entered")
    with pytest.raises(AttributeError):
        config.workers = 2  # type: ignore[attr-defined]
    with pytest.raises(AttributeError):
        config.workers  # type: ignore[attr-defined] # noqa: B018


# -- scopes ------------------------------------------------------------------------------------------------------------


def test_using_nests_and_ends() -> None:
    def both() -> tuple[int | None, int]:
        return config.threads, config.parallel_threshold

    config.threads, config.parallel_threshold = 7, 5
    with config.using(threads=3):
        assert both() == (3, 5)
        with config.using(parallel_threshold=9):
            assert both() == (3, 9)
            with config.using(threads=None):
                assert both() == (None, 9)
            assert both() == (3, 9)
        assert both() == (3, 5)
    assert both() == (7, 5)


def test_using_ends_by_an_exception_too() -> None:
    before = repr(config)
    with pytest.raises(KeyError), config.using(threads=3), config.using(cache=not config.cache):
        raise KeyError
    assert repr(config) == before


def test_an_assignment_inside_using_ends_with_it() -> None:
    config.threads = 7
    with config.using(parallel_threshold=9):
        config.threads = 2
        assert config.threads == 2
        assert in_a_thread(lambda: config.threads) == 7
    assert config.threads == 7


def test_using_is_for_its_own_thread() -> None:
    config.threads = 7
    with config.using(threads=3):
        assert in_a_thread(lambda: config.threads) == 7
        assert config.threads == 3

    def other() -> None:
        with config.using(threads=2):
            inside.set()
            leave.wait(10)

    inside, leave = threading.Event(), threading.Event()
    thread = threading.Thread(target=other)
    thread.start()
    assert inside.wait(10)
    assert config.threads == 7
    leave.set()
    thread.join()


def test_an_assignment_is_for_the_process() -> None:
    config.threads = 6
    assert in_a_thread(lambda: config.threads) == 6
    in_a_thread(lambda: setattr(config, "threads", 4))
    assert config.threads == 4


def test_using_is_for_its_own_task() -> None:
    seen: list[tuple[int | None, int | None]] = []

    async def task(threads: int) -> None:
        with config.using(threads=threads):
            await asyncio.sleep(0)
            seen.append((threads, config.threads))
            await asyncio.sleep(0)
            seen.append((threads, config.threads))

    async def both() -> None:
        await asyncio.gather(task(2), task(3))

    asyncio.run(both())
    assert len(seen) == 4 and all(wanted == found for wanted, found in seen)


# -- environment -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, "None 65536 True 1073741824"),
        ({"NUMBABN_THREADS": "3"}, "3 65536 True 1073741824"),
        ({"NUMBABN_THREADS": " 3 "}, "3 65536 True 1073741824"),
        ({"NUMBABN_THREADS": ""}, "None 65536 True 1073741824"),
        ({"NUMBABN_PARALLEL_THRESHOLD": "0"}, "None 0 True 1073741824"),
        ({"NUMBABN_CACHE": "0"}, "None 65536 False 1073741824"),
        ({"NUMBABN_CACHE": "1"}, "None 65536 True 1073741824"),
        ({"NUMBABN_RECYCLE_LIMIT": "0"}, "None 65536 True 0"),
        (
            {
                "NUMBABN_THREADS": "1",
                "NUMBABN_PARALLEL_THRESHOLD": "12",
                "NUMBABN_CACHE": "0",
                "NUMBABN_RECYCLE_LIMIT": "5000000000",
            },
            "1 12 False 5000000000",
        ),
    ],
)
def test_environment(environment: dict[str, str], expected: str) -> None:
    assert fresh.run(SHOW, None, environment) == expected + "\n"


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("NUMBABN_THREADS", "0", "an integer >= 1"),
        ("NUMBABN_THREADS", "-2", "an integer >= 1"),
        ("NUMBABN_THREADS", "two", "an integer >= 1"),
        ("NUMBABN_THREADS", "1.5", "an integer >= 1"),
        ("NUMBABN_PARALLEL_THRESHOLD", "-1", "an integer >= 0"),
        ("NUMBABN_PARALLEL_THRESHOLD", "1e6", "an integer >= 0"),
        ("NUMBABN_CACHE", "yes", "0 or 1"),
        ("NUMBABN_CACHE", "2", "0 or 1"),
        ("NUMBABN_RECYCLE_LIMIT", "-1", "an integer >= 0"),
        ("NUMBABN_RECYCLE_LIMIT", "1GB", "an integer >= 0"),
    ],
)
def test_bad_environment_is_named_at_first_use_and_again(variable: str, value: str, expected: str) -> None:
    code = """
        import numbabn  # which does not read the settings yet
        for _ in range(2):
            try:
                numbabn.config
            except ValueError as e:
                print(e)
    """
    message = f"environment variable {variable} must be {expected}, got {value!r}\n"
    assert fresh.run(code, None, {variable: value}) == 2 * message


# -- threads of a call -------------------------------------------------------------------------------------------------

# Numba's own setter tells what it is asked for; the pool is there once `get_num_threads` or a launch has started it.
THREADS = """
import os
import numba
import numpy as np
import numbabn as nb
from numba.np.ufunc import parallel as pool

asked, set_num_threads = [], numba.set_num_threads

def spy(n):
    asked.append(n)
    set_num_threads(n)

numba.set_num_threads = spy
x = np.arange(4000.0).reshape(4, 10, 100)

def call():
    nb.moments(x)
    found = asked.copy()
    asked.clear()
    return found
"""
SMALL_CALLS = {"NUMBABN_PARALLEL_THRESHOLD": "0", "NUMBA_NUM_THREADS": "3"}


def test_threads_hold_for_the_call_alone_and_are_clamped(warm: Path) -> None:
    code = """
        with nb.config.using(threads=2):
            assert call() == [2, 3], "the very first call"
        assert call() == [] and numba.get_num_threads() == 3
        with nb.config.using(threads=2):
            assert call() == [2, 3] and numba.get_num_threads() == 3
        for n in (4, 1000, 10**9):
            with nb.config.using(threads=n):
                assert call() == [], "as many as there are"
                set_num_threads(1)
                assert call() == [3, 1] and numba.get_num_threads() == 1
                set_num_threads(3)
        set_num_threads(2)
        with nb.config.using(threads=1):
            assert call() == [] and numba.get_num_threads() == 2
        assert call() == [] and numba.get_num_threads() == 2
        nb.config.threads = 3
        assert call() == [3, 2] and numba.get_num_threads() == 2
    """
    fresh.run((THREADS, code), warm, SMALL_CALLS)


def test_threads_of_the_environment(warm: Path) -> None:
    fresh.run((THREADS, "assert call() == [2, 3]"), warm, {**SMALL_CALLS, "NUMBABN_THREADS": "2"})
    fresh.run((THREADS, "assert call() == []"), warm, {**SMALL_CALLS, "NUMBABN_THREADS": "50"})


def test_a_call_that_raises_leaves_the_threads_alone(warm: Path) -> None:
    code = """
        def refused(f):
            try:
                f()
            except (TypeError, ValueError):
                return True

        with nb.config.using(threads=2):
            assert refused(lambda: nb.normalize(x, x, x)) and refused(lambda: nb.moments(x.astype(int)))
            assert refused(lambda: nb.batch_norm(x, out=x[:, ::-1], training=True))
            assert numba.get_num_threads() == 3
            try:
                raise KeyboardInterrupt
            except KeyboardInterrupt:
                pass
        assert numba.get_num_threads() == 3
    """
    fresh.run((THREADS, code), warm, SMALL_CALLS)


def test_a_kernel_that_raises_leaves_the_threads_alone(tmp_path: Path) -> None:
    code = """
        from numbabn._cpu import reduce_first
        outside = np.array([[2, 3, 4], [4000, 12, 4]])
        try:
            reduce_first.moments_long_channels_first.on(2, x)(x.reshape(-1), np.zeros((3, 3)), outside)
        except (IndexError, SystemError):  # what Numba makes of an exception in a parallel loop
            print("raised", asked, numba.get_num_threads())
    """
    settings = {**SMALL_CALLS, "NUMBABN_THREADS": "2", "NUMBA_BOUNDSCHECK": "1"}
    assert fresh.run((THREADS, code), tmp_path, settings) == "raised [2, 3] 3\n"


def test_one_thread_and_small_arrays_need_no_pool(warm: Path) -> None:
    code = """
        with nb.config.using(threads=1):
            call()
        work = x.size + 64 * 10  # elements and channels with planes
        with nb.config.using(parallel_threshold=work + 1):
            call()
        nb.BatchNorm1d(10)(x)
        assert not pool._is_initialized
        with nb.config.using(parallel_threshold=work):
            call()
        assert pool._is_initialized
    """
    fresh.run((THREADS, code), warm, {"NUMBA_NUM_THREADS": "3"})
