"""The same bits for every number of threads, threading layer, build, way through the kernels, address and run."""

from __future__ import annotations

import json
from pathlib import Path

import fresh
import pytest

CODE = """
import json
import calls, numba
from numba.np.ufunc import parallel
print(json.dumps([calls.digests(calls.LARGE), numba.threading_layer() if parallel._is_initialized else None]))
"""


def digests(cache: Path, **environment: str) -> tuple[dict[str, str], str | None]:
    """Digests of the table's results, and the threading layer if there was need for one."""
    found, layer = json.loads(fresh.run(CODE, cache, environment))
    return found, layer


@pytest.fixture(scope="module")
def serial(warm: Path) -> dict[str, str]:
    """What all others are compared with: one thread, serial builds."""
    found, layer = digests(warm, NUMBABN_THREADS="1")
    assert layer is None, "one thread needs no pool"
    assert len(found) > 500 and len(set(found.values())) > 200
    return found


def assert_equal(found: dict[str, str], expected: dict[str, str]) -> None:
    assert found.keys() == expected.keys()
    different = [name for name in found if found[name] != expected[name]]
    assert not different, f"{len(different)} of {len(found)} differ: {different[:20]}"


@pytest.mark.parametrize("layer", ["omp", "workqueue"])
@pytest.mark.parametrize("threads", ["1", "2", "3", "5"])
def test_threads_and_layers_do_not_change_a_bit(layer: str, threads: str, serial: dict[str, str], warm: Path) -> None:
    found, used = digests(warm, NUMBA_NUM_THREADS=threads, NUMBA_THREADING_LAYER=layer)
    assert used == layer
    assert_equal(found, serial)


def test_settings_do_not_change_a_bit(serial: dict[str, str], warm: Path) -> None:
    few, _ = digests(warm, NUMBA_NUM_THREADS="5", NUMBABN_THREADS="3", NUMBABN_PARALLEL_THRESHOLD="0")
    assert_equal(few, serial)
    none, layer = digests(warm, NUMBA_NUM_THREADS="5", NUMBABN_PARALLEL_THRESHOLD="1000000000")
    assert layer is None
    assert_equal(none, serial)


def test_runs_repeat(serial: dict[str, str], warm: Path) -> None:
    assert_equal(digests(warm, NUMBABN_THREADS="1")[0], serial)


def test_fused_in_steps_in_place_and_elsewhere_in_memory_are_the_same(serial: dict[str, str]) -> None:
    import calls

    compared = 0
    for name, digest in serial.items():
        *case, call, key = name.rsplit(", ", 2)
        twin = ", ".join((*case, calls.SAME.get(call, call), key))
        if call in calls.SAME and twin in serial:
            assert digest == serial[twin], f"{name} differs from {twin}"
            compared += 1
    assert compared > 200
