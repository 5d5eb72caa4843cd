"""How time grows: with threads, and with arrays far larger than any cache."""

from __future__ import annotations

import numbabn as nb

from .beside.batch import Batch, Case
from .beside.machine import available_memory
from .beside.timing import Turn, loop_of, measure
from .cases import CASES, OPERATIONS, SMALL, call_of, few

THREADS = {"1": 1, "2": 2, "all": None}
THREADED = list(CASES)[:1] if SMALL else [f"{layout} 32x64x56x56 float32" for layout in ("nchw", "nhwc")]
SAMPLE = (64, 64, 64)
SAMPLES = {"1 MB": 1, "26 MB": 25, "200 MB": 191, "1 GB": 954, "5 GB": 4769}
ARRAYS = {  # that a call holds in memory
    "moments": 1,
    "training, in place": 1,
    "eval, in place": 1,
    "backward, in place": 2,
    "training": 2,
    "training, default": 2,
    "eval, default": 2,
}
ROUNDS = 2 if SMALL else 5


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


class Sizes:
    """Nanoseconds an element, which stay the same once no cache holds the arrays; skipped where memory does not."""

    unit = "ns"
    params = (few(list(ARRAYS)), few(["nchw", "nhwc"]), few(list(SAMPLES)))
    param_names = ("call", "layout", "size")
    timeout = 900

    def setup(self, call: str, layout: str, size: str) -> None:
        case = Case(layout, (SAMPLES[size], *SAMPLE))
        needed = int((ARRAYS[call] + 0.2) * case.nbytes)
        if available_memory() < needed:
            raise NotImplementedError(f"needs {needed / 1e9:.1f} GB of memory")
        self.batch = Batch(case)
        self.call = call_of(self.batch, call)

    def track_ns_per_element(self, *_: str) -> float:
        (times,) = measure([Turn("numbabn", self.call, loop_of(self.batch))], ROUNDS)
        return times.low / self.batch.case.size * 1e9
