"""The sample that type checkers read also runs, and leaves out no public name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import sample

import numbabn


@pytest.mark.parametrize("name", numbabn.__all__)
def test_the_sample_uses(name: str) -> None:
    assert re.search(rf"\bnb\.{name}\b", Path(sample.__file__).read_text())


def test_the_sample_runs() -> None:
    sample.main()
