"""Settings: how many threads, from which size on, whether kernels are kept on disk, how much memory is held."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True, slots=True)
class Settings:
    """One consistent set of values."""

    threads: int | None = None
    parallel_threshold: int = 65_536
    cache: bool = True
    recycle_limit: int = 1 << 30  # on top of all that a program sees: 4% of a machine with 24 GiB goes unnoticed

    def __post_init__(self) -> None:
        if self.threads is not None and (not _is_int(self.threads) or self.threads < 1):
            raise ValueError(f"threads must be None or an int >= 1, got {self.threads!r}")
        if not _is_int(self.parallel_threshold) or self.parallel_threshold < 0:
            raise ValueError(f"parallel_threshold must be an int >= 0, got {self.parallel_threshold!r}")
        if not isinstance(self.cache, bool):
            raise ValueError(f"cache must be True or False, got {self.cache!r}")
        if not _is_int(self.recycle_limit) or self.recycle_limit < 0:
            raise ValueError(f"recycle_limit must be an int >= 0, got {self.recycle_limit!r}")


class Config:
    """Settings of the process, `numbabn.config`.

    Results do not depend on any of them: every value gives the same bits.

    Attributes
    ----------
    threads : int or None
        Most threads a call may use; None means Numba's own number (``numba.get_num_threads()``). Values above
        ``NUMBA_NUM_THREADS`` are clamped to it. Environment: ``NUMBABN_THREADS``.
    parallel_threshold : int
        Arrays with fewer elements are handled by one thread; in sums a channel with planes counts as 64 elements more.
        Environment: ``NUMBABN_PARALLEL_THRESHOLD``.
    cache : bool
        Keep compiled kernels on disk (where, is Numba's to say: ``NUMBA_CACHE_DIR``). Read when a kernel is first
        used. Environment: ``NUMBABN_CACHE`` (0 or 1).
    recycle_limit : int
        Most bytes of memory that are held, when the last reference to a large result is gone, for the next result of
        about that size; 1 GiB by default. 0 frees what is held and holds nothing. Inside `using` it can only be
        lowered: memory is given back to the process. Environment: ``NUMBABN_RECYCLE_LIMIT``.

    Examples
    --------
    >>> import numbabn as nb
    >>> with nb.config.using(threads=1):
    ...     nb.config.threads
    1
    """

    __slots__ = ()

    @property
    def threads(self) -> int | None:
        return current().threads

    @threads.setter
    def threads(self, value: int | None) -> None:
        _set(threads=value)

    @property
    def parallel_threshold(self) -> int:
        return current().parallel_threshold

    @parallel_threshold.setter
    def parallel_threshold(self, value: int) -> None:
        _set(parallel_threshold=value)

    @property
    def cache(self) -> bool:
        return current().cache

    @cache.setter
    def cache(self, value: bool) -> None:
        _set(cache=value)

    @property
    def recycle_limit(self) -> int:
        return current().recycle_limit

    @recycle_limit.setter
    def recycle_limit(self, value: int) -> None:
        _set(recycle_limit=value)

    @contextmanager
    def using(self, **values: Any) -> Iterator[None]:
        """Settings that hold inside a ``with`` block, for this thread (or task) alone.

        Parameters
        ----------
        **values
            Any of `threads`, `parallel_threshold`, `cache`, `recycle_limit`.

        Raises
        ------
        TypeError
            For a name that is no setting.
        ValueError
            For a value that the setting does not take.
        """
        token = _local.set(replace(current(), **values))
        try:
            yield
        finally:
            _local.reset(token)

    def __repr__(self) -> str:
        return repr(current()).replace("Settings", "config")


def current() -> Settings:
    """Settings in force for the calling thread."""
    return _local.get() or _process


def of_process() -> Settings:
    """Settings in force outside `using`."""
    return _process


def watch(callback: Callable[[], None]) -> None:
    """Call back after each assignment that holds for the process."""
    _watchers.append(callback)


def _set(**values: Any) -> None:
    """Assignments inside `using` end with it; elsewhere they hold for the process."""
    global _process
    if _local.get() is not None:
        _local.set(replace(current(), **values))
    else:
        _process = replace(_process, **values)
        for callback in _watchers:
            callback()


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _from_environment() -> Settings:
    values: dict[str, Any] = {}
    for field, expected in _EXPECTED.items():
        variable = f"NUMBABN_{field.upper()}"
        text = os.environ.get(variable, "").strip()
        if not text:
            continue
        try:
            values[field] = {"0": False, "1": True}[text] if field == "cache" else int(text)
            Settings(**values)
        except (KeyError, ValueError):
            raise ValueError(f"environment variable {variable} must be {expected}, got {text!r}") from None
    return Settings(**values)


_EXPECTED = {
    "threads": "an integer >= 1",
    "parallel_threshold": "an integer >= 0",
    "cache": "0 or 1",
    "recycle_limit": "an integer >= 0",
}
_watchers: list[Callable[[], None]] = []
_process = _from_environment()
_local: ContextVar[Settings | None] = ContextVar("numbabn_settings", default=None)
config: Config = Config()
