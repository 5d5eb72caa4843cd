"""How time grows: with threads, and with arrays far larger than any cache."""

from __future__ import annotations

import numbabn as nb

from .beside.batch import Batch, Case
from .beside.machine import available_memory
from .cases import CASES, OPERATIONS, SMALL, call_of, few

GIGABYTES = {
    "1 GB": (4, 8, 9, 9) if SMALL else (64, 256, 128, 128),
    "5 GB": (5, 8, 9, 9) if SMALL else (320, 256, 128, 128),
}
THREADS = {"1": 1, "2": 2, "all": None}
THREADED = list(CASES)[:1] if SMALL else [f"{layout} 32x64x56x56 float32" for layout in ("nchw", "nhwc")]
BLOCKS = 4.2  # arrays of a batch, with a new output, and a little more


class Threads:
    """Calls that may use so many threads, fewer where there are not as many processors."""

    params = (list(THREADS), few(OPERATIONS[:-1]), THREADED)
    param_names = ("threads", "operation", "case")

    def setup(self, threads: str, operation: str, case: str) -> None:
        self.before = nb.config.threads
        nb.config.threads = THREADS[threads]
        self.call = call_of(Batch(CASES[case]), operation)

    def teardown(self, *_: str) -> None:
        nb.config.threads = self.before

    def time_call(self, *_: str) -> None:
        self.call()


class Huge:
    """Float32 arrays of gigabytes; skipped where memory does not hold them."""

    params = (few(["training, default", *OPERATIONS]), list(GIGABYTES))
    param_names = ("call", "size")
    timeout = 900
    number = 1
    repeat = 3
    warmup_time = 0

    def setup(self, call: str, size: str) -> None:
        case = Case("nchw", GIGABYTES[size])
        needed = int(BLOCKS * case.nbytes)
        if available_memory() < needed:
            raise NotImplementedError(f"needs {needed / 1e9:.1f} GB of memory")
        self.call = call_of(Batch(case), call)

    def time_call(self, *_: str) -> None:
        self.call()
