"""What the system tells about the caches."""

from __future__ import annotations

from pathlib import Path

import pytest

from numbabn._caches import last_level, second_level


@pytest.mark.parametrize(
    ("sizes", "second", "last"),
    [
        ({1: "32K", 2: "1024K", 3: "32M"}, 1 << 20, 32 << 20),
        ({1: "48K", 2: "2048K", 3: "266240K"}, 2 << 20, 266240 << 10),
        ({3: "8M", 4: "1G"}, None, 1 << 30),
        ({1: "64K", 2: "4096K"}, 4 << 20, None),
        ({}, None, None),
        ({1: "32K", 3: "unknown"}, None, None),
        ({2: "1M", 3: ""}, None, None),
    ],
)
def test_the_last_level_is_the_third_or_beyond(
    sizes: dict[int, str], second: int | None, last: int | None, tmp_path: Path
) -> None:
    for level, size in sizes.items():
        (tmp_path / f"index{level}").mkdir()
        (tmp_path / f"index{level}" / "level").write_text(f"{level}\n")
        (tmp_path / f"index{level}" / "size").write_text(size + "\n")
    assert (second_level(tmp_path), last_level(tmp_path)) == (second, last)


def test_a_system_that_tells_nothing(tmp_path: Path) -> None:
    assert second_level(tmp_path / "missing") is last_level(tmp_path / "missing") is None
    (tmp_path / "index3").mkdir()
    assert second_level(tmp_path) is last_level(tmp_path) is None
