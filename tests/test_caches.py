"""What the system tells about the caches."""

from __future__ import annotations

from pathlib import Path

import pytest

from numbabn._caches import last_level


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        (["32K", "1024K", "32M"], 32 << 20),
        (["48K", "2048K", "266240K"], 266240 << 10),
        (["1G"], 1 << 30),
        ([], None),
        (["32K", "unknown"], None),
        (["", "32M"], None),
    ],
)
def test_the_last_level_is_the_largest(sizes: list[str], expected: int | None, tmp_path: Path) -> None:
    for k, size in enumerate(sizes):
        (tmp_path / f"index{k}").mkdir()
        (tmp_path / f"index{k}" / "size").write_text(size + "\n")
    assert last_level(tmp_path) == expected


def test_a_system_that_tells_nothing(tmp_path: Path) -> None:
    assert last_level(tmp_path / "missing") is None
