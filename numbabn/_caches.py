"""The sizes of the caches, which decide in what order and how results are written, never what they are."""

from __future__ import annotations

from pathlib import Path

_FOLDER = Path("/sys/devices/system/cpu/cpu0/cache")  # Linux: a folder for each cache
_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def second_level(folder: Path = _FOLDER) -> int | None:
    """Bytes of the first processor's second-level cache; None where the system hides it."""
    return _sizes(folder).get(2)


def last_level(folder: Path = _FOLDER) -> int | None:
    """Bytes of the first processor's cache of the highest level, the third at least; None where the system hides it."""
    sizes = _sizes(folder)
    level = max(sizes, default=0)
    return sizes[level] if level > 2 else None


def _sizes(folder: Path) -> dict[int, int]:
    """Bytes of each level's cache; nothing where what the system tells is no size."""
    try:
        caches = folder.glob("index*")
        return {int((cache / "level").read_text()): _bytes((cache / "size").read_text().strip()) for cache in caches}
    except (OSError, ValueError, LookupError):
        return {}


def _bytes(size: str) -> int:
    return int(size[:-1]) * _UNITS[size[-1]]
