"""Fixtures and settings of the whole suite."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import settings

import numbabn as nb

# The first example compiles; the same examples every time keep CI the same from run to run.
settings.register_profile("numbabn", deadline=None, derandomize=True, database=None, max_examples=50)
settings.load_profile("numbabn")


@pytest.fixture(params=["serial", "parallel"])
def twin(request: pytest.FixtureRequest) -> Iterator[str]:
    """Run a test on the serial and on the parallel builds, whatever the size of its arrays."""
    with nb.config.using(threads=1 if request.param == "serial" else 2, parallel_threshold=0):
        yield request.param
