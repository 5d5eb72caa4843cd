"""Python threads, forked children and Numba's two threading layers: the right bits, no hang, nobody killed."""

from __future__ import annotations

from pathlib import Path

import fresh
import pytest

LAYERS = ["omp", "workqueue"]
needs_fork = pytest.mark.skipif(not fresh.CAN_FORK, reason="no fork on this platform")

# The serial reference first; then the table on two threads, which starts the pool.
PARALLEL = """
import os, threading, time
import numba, calls
from fresh import forked
import numbabn as nb

with nb.config.using(threads=1):
    expected = calls.digests(calls.SMALL)

def agree():
    found = calls.digests(calls.SMALL)
    assert found == expected, [name for name in found if found[name] != expected[name]]

agree()
assert numba.threading_layer() == os.environ["NUMBA_THREADING_LAYER"]
"""


def run(code: fresh.Code, cache: Path | None, layer: str, **environment: str) -> str:
    """A snippet in which every call is large enough to go parallel, on two threads unless it is told otherwise."""
    settings = {"NUMBA_THREADING_LAYER": layer, "NUMBA_NUM_THREADS": "2", "NUMBABN_PARALLEL_THRESHOLD": "0"}
    return fresh.run(code, cache, {**settings, **environment}, timeout=100.0)


# -- Python threads ----------------------------------------------------------------------------------------------------

MANY_THREADS = """
import random, sys

norm = nb.BatchNorm2d(5).eval()  # shared: eval mode is safe from any thread
data = {dtype: calls.Data(calls.SMALL["last"], dtype) for dtype in calls.DTYPES}
table = dict(calls.jobs(calls.SMALL))
for dtype, d in data.items():
    table[f"shared layer, {dtype}"] = lambda d=d: {"y": norm(d.x)}
with nb.config.using(threads=1):
    right = {name: {k: calls.bits(a) for k, a in call().items()} for name, call in table.items()}

wrong, finished = [], []

def work(seed):
    rng = random.Random(seed)
    try:
        before = numba.get_num_threads()
        for _ in range(500):
            name = rng.choice(list(table))
            with nb.config.using(threads=rng.choice([None, 1, 2, 3])):
                found = {k: calls.bits(a) for k, a in table[name]().items()}
            if found != right[name]:
                wrong.append(name)
            if numba.get_num_threads() != before:
                wrong.append(f"threads after {name}")
    except BaseException as e:
        wrong.append(repr(e))
    finished.append(seed)
"""


@pytest.mark.parametrize("layer", LAYERS)
def test_eight_threads_of_mixed_calls(layer: str, warm: Path) -> None:
    code = """
        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong and len(finished) == 8, wrong[:20]
        agree()  # alone again
    """
    run((PARALLEL, MANY_THREADS, code), warm, layer, NUMBA_NUM_THREADS="3")


@pytest.mark.parametrize("layer", LAYERS)
def test_threads_that_the_threading_module_does_not_know(layer: str, warm: Path) -> None:
    code = """
        import _thread
        for seed in range(8):
            _thread.start_new_thread(work, (seed,))
        while len(finished) < 8:
            time.sleep(0.01)
        assert not wrong, wrong[:20]
    """
    run((PARALLEL, MANY_THREADS, code), warm, layer, NUMBA_NUM_THREADS="3")


def test_threads_meet_at_the_first_call_of_every_kernel() -> None:
    """Nothing is compiled, and nothing is cached: all threads want it at once."""
    code = """
    import threading
    import calls
    gate, failed = threading.Barrier(4), []

    def work(turn):
        gate.wait()
        try:
            calls.check(turn)
        except BaseException as e:
            failed.append(e)

    threads = [threading.Thread(target=work, args=(turn,)) for turn in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed, failed
    """
    run(code, None, "omp", NUMBABN_CACHE="0", NUMBABN_THREADS="1")


# -- forked children ---------------------------------------------------------------------------------------------------


@needs_fork
@pytest.mark.parametrize("layer", LAYERS)
def test_fork_after_parallel_calls(layer: str, warm: Path) -> None:
    code = """
        def child():
            agree()
            forked(agree)  # and a child of the child
            agree()

        for _ in range(3):
            forked(child)
        agree()  # the parent still has its pool
    """
    run((PARALLEL, code), warm, layer)


@needs_fork
@pytest.mark.parametrize("layer", LAYERS)
def test_a_pool_of_forked_processes(layer: str, warm: Path) -> None:
    code = """
        import multiprocessing

        def work(_):
            agree()
            return os.getpid()

        with multiprocessing.get_context("fork").Pool(2) as pool:
            children = pool.map(work, range(8), chunksize=1)
            pool.close()
            pool.join()
        assert os.getpid() not in children
        agree()
    """
    run((PARALLEL, code), warm, layer)


@needs_fork
@pytest.mark.parametrize("layer", LAYERS)
def test_fork_while_another_thread_calls(layer: str, warm: Path) -> None:
    code = """
        stop, failed = threading.Event(), []

        def work():
            try:
                while not stop.is_set():
                    agree()
            except BaseException as e:
                failed.append(e)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        for _ in range(10):
            forked(agree)
        stop.set()
        thread.join()
        assert not failed, failed
    """
    run((PARALLEL, code), warm, layer)


USER_KERNEL = """
import os, threading, time
import numba
import numpy as np
from fresh import forked

@numba.njit(parallel=True)
def double(x):
    for i in numba.prange(x.size):
        x[i] *= 2.0

x = np.ones(1000)
double(x)
assert numba.threading_layer() == os.environ["NUMBA_THREADING_LAYER"]
"""


@needs_fork
@pytest.mark.parametrize("layer", LAYERS)
def test_fork_from_a_parent_that_used_numba_but_not_this_package(layer: str, warm: Path) -> None:
    code = """
        def child():
            import calls
            calls.everything(calls.DTYPES)
            calls.check()

        forked(child)
        double(x)
        child()
    """
    run((USER_KERNEL, code), warm, layer)


# What starts the pool; GNU OpenMP has no threads yet before the first launch.
BEGINNINGS = {"launched": USER_KERNEL, "only asked for": "import numba\nassert numba.get_num_threads() == 3"}


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("beginning", BEGINNINGS)
def test_import_after_numba_was_used_keeps_its_pool(beginning: str, layer: str, warm: Path) -> None:
    """The mirror image: not forked, so there is no reason to go without threads."""
    code = """
        calls_seen, set_num_threads = [], numba.set_num_threads
        numba.set_num_threads = lambda n: (calls_seen.append(n), set_num_threads(n))
        import calls
        import numbabn as nb
        with nb.config.using(threads=1):
            calls.check()
        assert not calls_seen
        with nb.config.using(threads=2):
            calls.check()
        assert 2 in calls_seen, "stayed serial"
    """
    run((BEGINNINGS[beginning], code), warm, layer, NUMBA_NUM_THREADS="3")


@needs_fork
@pytest.mark.parametrize("delay", [0.0, 0.001, 0.002, 0.004, 0.1, 0.3])
def test_fork_while_another_thread_loads_the_package(warm: Path, delay: float) -> None:
    code = f"""
    import threading, time
    import numpy as np, numbabn as nb
    from fresh import forked

    def first_call():
        assert nb.moments(np.ones((4, 2))).count == 4

    thread = threading.Thread(target=first_call)
    thread.start()
    time.sleep({delay})
    forked(first_call)
    thread.join()
    """
    run(code, warm, "omp", NUMBABN_THREADS="1")


@needs_fork
def test_fork_while_another_thread_compiles_our_kernels() -> None:
    code = """
    import threading, time
    import calls
    import numbabn._cpu  # a fork in the middle of an import would be Python's own hazard
    from fresh import forked

    compiling = threading.Thread(target=calls.check, args=(1,), daemon=True)
    compiling.start()
    time.sleep(0.2)
    children = 0
    while compiling.is_alive():
        forked(lambda: calls.check(number=1))
        children += 1
    compiling.join()
    assert children > 1
    calls.check()
    """
    run(code, None, "omp", NUMBABN_CACHE="0", NUMBABN_THREADS="1")


@needs_fork
def test_fork_while_another_thread_compiles_something_else(warm: Path) -> None:
    code = """
    import threading
    import numba, calls
    import numpy as np
    from fresh import forked

    calls.check(number=1)  # the package is at work already
    stop, begun = threading.Event(), threading.Event()

    def compile_on_and_on():
        k = 0
        while not stop.is_set():
            k += 1
            numba.njit(eval(f"lambda x: x + {k}"))(1.0)
            begun.set()

    thread = threading.Thread(target=compile_on_and_on, daemon=True)
    thread.start()
    begun.wait()
    for _ in range(5):
        forked(calls.check, timeout=10)
    stop.set()
    thread.join()
    """
    run(code, warm, "omp", NUMBABN_THREADS="1")
