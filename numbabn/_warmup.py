"""The warmup: every kernel compiled into Numba's cache, so that later processes only load them."""

from __future__ import annotations

import sys
import time
from collections.abc import Generator, Sequence
from contextlib import closing
from importlib import import_module
from importlib.util import find_spec
from typing import Any, TypeVar

import numpy as np

from ._arrays import SUPPORTED
from ._forks import load

T = TypeVar("T")


def main(dtype: Sequence[str] | None = None) -> int:
    """Compile for these dtypes, for all if there are none; 1 if there is nowhere to keep the code, else 0."""
    start = time.perf_counter()
    names = set(dtype or ["all"])
    chars = SUPPORTED if "all" in names else {np.dtype(name).char for name in names}
    load("_cpu")  # defines the kernels
    kernels = load("_compile").kernels
    try:
        place = kernels[0].place()
    except RuntimeError as error:
        return _fail(f"no cache to warm up: {error}")
    jobs = [(kernel, *twin) for kernel in kernels for twin in kernel.twins(sorted(chars))]
    done: list[Any] = []
    with closing(progress(jobs)) as counted:  # the bar is finished before anything else is said
        for kernel, char, parallel in counted:
            done.append(kernel.compiled(char, parallel).stats)
            if done[-1].cache_path is None:
                break
    if done[-1].cache_path is None:
        return _fail(f"a kernel could not be kept in {place}: the disk is full or a file there is damaged")
    found = sum(len(stats.cache_hits) for stats in done)
    seconds = time.perf_counter() - start
    print(f"{len(jobs) - found} kernels compiled, {found} already there, {seconds:.1f} s: {place}")
    return 0


def progress(jobs: Sequence[T]) -> Generator[T, None, None]:
    """The same jobs, counted on stderr: by a bar where tqdm is installed, else in lines."""
    if find_spec("tqdm"):
        with import_module("tqdm").tqdm(jobs, unit="kernel") as bar:
            yield from bar
        return
    for done, job in enumerate(jobs, start=1):
        yield job
        print(f"{done} of {len(jobs)} kernels", file=sys.stderr, flush=True)


def _fail(message: str) -> int:
    print(f"numbabn: {message}", file=sys.stderr)
    return 1
