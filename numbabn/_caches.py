"""The size of the last-level cache, which decides how results are written, never what they are."""

from __future__ import annotations

from pathlib import Path

_FOLDER = Path("/sys/devices/system/cpu/cpu0/cache")  # Linux: a folder for each cache
_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def last_level(folder: Path = _FOLDER) -> int | None:
    """Bytes of the first processor's cache of the highest level, the third at least; None where the system hides it."""
    try:
        caches = folder.glob("index*")
        sizes = {int((cache / "level").read_text()): (cache / "size").read_text().strip() for cache in caches}
        level = max(sizes)
        return int(sizes[level][:-1]) * _UNITS[sizes[level][-1]] if level > 2 else None
    except (OSError, ValueError, LookupError):
        return None
