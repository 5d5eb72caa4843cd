"""Forks wait for what a child could not finish: modules half loaded and kernels half compiled by other threads."""

from __future__ import annotations

import importlib
import logging  # noqa: F401 - its fork hook takes a lock that loading Numba wants: ours has to come before it
import os
import threading
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

_loading = threading.RLock()
_locks: list[AbstractContextManager[Any]] = [_loading]
_held = ExitStack()


def load(name: str) -> Any:
    """The package's module of this name, loaded on first use."""
    with _loading:
        return importlib.import_module(f".{name}", __package__)


def hold(*locks: AbstractContextManager[Any]) -> None:
    """Take these locks before each fork too: a child has nobody left to let go of them."""
    _locks.extend(locks)


def is_forked() -> bool:
    """Whether this process is a forked child that has loaded no program of its own (seen on Linux)."""
    stat = Path("/proc/self/stat")
    if not stat.is_file():
        return False
    flags = int(stat.read_text().rpartition(")")[2].split()[6])
    return bool(flags & 0x40)  # the kernel's PF_FORKNOEXEC


def _before_fork() -> None:
    for lock in _locks:  # the first one keeps the others from being added meanwhile
        _held.enter_context(lock)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_held.close, after_in_child=_held.close)
