"""Fixtures and settings of the whole suite."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import calls
import fresh
import numba
import pytest
from hypothesis import settings

import numbabn as nb
from numbabn import _compile, _cpu

# The first example compiles; the same examples every time keep CI the same from run to run.
settings.register_profile("numbabn", deadline=None, derandomize=True, database=None, max_examples=50)
settings.load_profile("numbabn")


@pytest.fixture(params=["serial", "parallel"])
def twin(request: pytest.FixtureRequest) -> Iterator[str]:
    """Run a test on the serial and on the parallel builds, whatever the size of its arrays."""
    with nb.config.using(threads=1 if request.param == "serial" else 2, parallel_threshold=0):
        yield request.param


@pytest.fixture(scope="session")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder with all twins of all kernels: what this run's own folder has, the rest by two processes."""
    folder, own = tmp_path_factory.mktemp("warm"), os.environ.get("NUMBA_CACHE_DIR")
    place = None if numba.config.DISABLE_JIT else _cpu.channels.finish.place()
    if own and place is not None and place.is_dir():
        shutil.copytree(place, folder / place.relative_to(own), ignore=_other_code)
    code = "import calls; calls.everything([{!r}])"
    fresh.together([code.format(dtype) for dtype in calls.DTYPES], folder, {"NUMBA_NUM_THREADS": "2"})
    return folder


def _other_code(_folder: str, names: list[str]) -> list[str]:
    return [name for name in names if _compile.salt not in name]
