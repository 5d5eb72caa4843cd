"""What a run was measured with: processor, threads, versions, day."""

from __future__ import annotations

import datetime
import os
import platform
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import numpy as np

import numbabn as nb

from .peers import PEERS

_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
_MEMORY = Path("/proc/meminfo")
_GROUP = tuple(Path("/sys/fs/cgroup") / name for name in ("memory.max", "memory.current"))


def processor() -> str:
    """Its name as the system knows it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def caches() -> dict[str, str]:
    """Size of each data cache that the first processor sees, where the system tells."""
    found = {}
    for folder in sorted(_CACHES.glob("index*")):
        level, kind, size = ((folder / name).read_text().strip() for name in ("level", "type", "size"))
        if kind != "Instruction":
            found[f"L{level}"] = size
    return found


def available_memory() -> int:
    """Bytes that can still be had without swapping, as far as the system and a container's limit tell."""
    found = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")] if hasattr(os, "sysconf") else []
    if _MEMORY.is_file():
        lines = dict(line.split(":") for line in _MEMORY.read_text(encoding="utf-8").splitlines())
        found.append(int(lines["MemAvailable"].split()[0]) * 1024)
    most, used = (path.read_text().strip() if path.is_file() else "max" for path in _GROUP)
    if "max" not in (most, used):
        found.append(int(most) - int(used))
    return min(found, default=0)


def versions(peers: list[str]) -> dict[str, str]:
    """Of us, what we stand on, and the peers."""
    own = {"numbabn": nb.__version__, "Python": platform.python_version(), "numpy": np.__version__}
    return own | {"numba": version("numba")} | {name: PEERS[name].version() for name in peers}


def facts(peers: list[str]) -> dict[str, object]:
    """Everything, for the record."""
    return {
        "date": datetime.date.today().isoformat(),
        "machine": {
            "processor": processor(),
            "vectors": import_module("numbabn._compile").processor(),
            "cores": cores(),
            "caches": caches(),
            "available memory": available_memory(),
            "system": f"{platform.system()} {platform.machine()}",
        },
        "versions": versions(peers),
    }


def sentence(peers: list[str]) -> str:
    """The same in a line or two."""
    sizes = ", ".join(f"{name} {size}" for name, size in caches().items()) or "caches unknown"
    names = ", ".join(f"{name} {number}" for name, number in versions(peers).items())
    today = datetime.date.today().isoformat()
    return f"{processor()}, {cores()} cores, {sizes}; {names}; {today}."
