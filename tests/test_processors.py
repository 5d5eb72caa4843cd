"""Code for other x86-64 processors: right, and bit for bit what this one gives.

Vectors have a fixed number of lanes, which LLVM splits for narrower machines, and fma rounds once whether an
instruction or a function of the C library does it.
"""

from __future__ import annotations

import gc
import json
import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import calls
import fresh
import naive
import numpy as np
import pytest
from cases import assert_within, gradient_bars, y_bar
from llvmlite.binding import get_host_cpu_features

import numbabn as nb
from numbabn import _compile

pytestmark = [
    pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="the processors are of the x86-64 family"),
    pytest.mark.skipif(os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0"), reason="nothing is compiled here"),
]

# Heads and tails of vectors in each row, more than one chunk a channel.
CASES = {"first": calls.Case((5, 9, 33, 37)), "last": calls.Case((5, 9, 33, 37), calls.last)}
# Threads and call. All loops on one thread; of the parallel ones, which are the same, a few: each takes seconds.
JOBS = {
    "first": ((1, calls.training), (1, calls.evaluation), (1, calls.backward), (2, calls.training)),
    "last": ((1, calls.training), (1, calls.evaluation), (1, calls.backward), (2, calls.backward)),
}

PROCESSORS = {
    "generic": {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""},
    "x86-64-v3": {"NUMBA_CPU_NAME": "x86-64-v3", "NUMBA_CPU_FEATURES": "+avx,+avx2,+fma"},
}
BITS = {"generic": "128", "x86-64-v3": "256"}


def test_bits_and_accuracy_of_this_processor() -> None:
    assert len(digests()) == 2 * (5 + 1 + 3) + 5 + 3


@pytest.mark.parametrize("name", PROCESSORS)
def test_another_processor_gives_the_same_bits(name: str, tmp_path: Path) -> None:
    have = get_host_cpu_features()
    if name == "x86-64-v3" and not (have["avx2"] and have["fma"]):
        pytest.skip("this processor has no AVX2 or no fused multiply-add")
    settings = {**PROCESSORS[name], "NUMBA_NUM_THREADS": "2"}
    code = "import test_processors; test_processors.report()"
    processor, words, found = json.loads(fresh.run(code, tmp_path, settings, timeout=300.0))
    assert processor == f"{name}, vectors of {BITS[name]} bits"
    assert "zmm" not in words
    assert ("vfmadd" in words, "ymm" in words) == ((False, False) if name == "generic" else (True, True))
    expected = digests()
    assert not {key for key in expected if found[key] != expected[key]} and found.keys() == expected.keys()


def report() -> None:
    """Print the processor that code is compiled for, what the code has of it, and the bits of all results."""
    found = digests()
    print(json.dumps([_compile.processor(), [w for w in ("vfmadd", "ymm", "zmm") if w in assembly()], found]))


def assembly() -> str:
    """What was compiled for kernels here."""
    from numba.core.dispatcher import Dispatcher

    dispatchers = [d for d in gc.get_objects() if isinstance(d, Dispatcher)]
    ours = [d for d in dispatchers if d.py_func.__module__.startswith("numbabn._cpu")]
    texts = [text for d in ours for text in d.inspect_asm().values()]
    assert texts
    return "\n".join(texts)


def digests() -> dict[str, str]:
    """Bits of all results, which are within their bars of the oracle's."""
    found: dict[str, str] = {}
    for name, case in CASES.items():
        data = calls.Data(case, "f4")
        for threads, call in JOBS[name]:
            with nb.config.using(threads=threads, parallel_threshold=0):
                results = call(data)
            title = f"{call.__name__}, {name}, {threads}"
            for key, expected, bar in oracle(call.__name__, data):
                assert_within(results[key], expected, bar, f"{title}, {key}")
            found |= {f"{title}, {key}": calls.bits(a) for key, a in results.items()}
    return found


def oracle(call: str, d: calls.Data) -> Iterator[tuple[str, Any, Any]]:
    """Name, value and bar of each result."""
    if call == "backward":
        values = naive.backward(d.gradient, d.values, d.weight, d.mean, d.invstd)
        bars = gradient_bars(d.gradient, d.values, d.weight, d.mean, d.invstd)
        yield from zip(("dx", "dweight", "dbias"), values, bars, strict=True)
    elif call == "evaluation":
        y = naive.normalize(d.values, d.mean, naive.invstd(d.var, 1e-5), d.weight, d.bias)
        yield "y", y, 2.0 * y_bar(y, "f4")  # weights are below 2
    else:
        y, mean, invstd = naive.forward(d.values, d.weight, d.bias)
        yield "y", y, 2.0 * y_bar(y, "f4")
        yield "mean", mean, 1e-6 * np.abs(mean)
        yield "invstd", invstd, 1e-6 * invstd
        for key, running in zip(
            ("running_mean", "running_var"), naive.running(*d.running(), d.values, 0.1), strict=True
        ):
            yield key, running, 1e-6 * (1.0 + np.abs(running))
