"""The machine code of every CUDA kernel, for four generations of cards, built without any of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest
from cuda_code import ROOM, Facts, disassembler, misplaced

REGISTERS = 80
OCCUPANCY = 0.375  # of a multiprocessor's threads
ELEMENTWISE = ("_channels_first", "_channels_last", "_strided")


@cache
def missing() -> str:
    """Why nothing can be compiled here."""
    if find_spec("numba_cuda") is None or find_spec("nvidia") is None:
        return "numba-cuda with its compiler is not installed: pip install '.[test-cuda]'"
    if os.environ.get("NUMBA_ENABLE_CUDASIM") == "1":
        return "the simulator compiles nothing"
    try:
        subprocess.run([disassembler(), "--version"], check=True, capture_output=True)
    except OSError:
        return "nvdisasm is not installed: pip install '.[test-cuda]'"
    return ""


@cache
def built(capability: str) -> list[Facts]:
    script = Path(__file__).with_name("cuda_code.py")
    done = subprocess.run([sys.executable, "-W", "ignore", script, capability], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return [Facts(**json.loads(line)) for line in done.stdout.splitlines()]


def names(found: list[Facts]) -> list[str]:
    return [f"{f.kernel} {f.dtype} rank {f.rank}: {f}" for f in found]


compiled = pytest.mark.skipif(bool(missing()), reason=missing() or "all is there")
every_capability = pytest.mark.parametrize("capability", ROOM)


@compiled
@every_capability
class TestCode:
    def test_every_kernel_is_built(self, capability: str) -> None:
        from numbabn import _cuda
        from numbabn._compile_cuda import kernels

        assert {f.kernel for f in built(capability)} == {k.function.__name__ for k in kernels}, _cuda

    def test_nothing_is_spilled(self, capability: str) -> None:
        assert not names([f for f in built(capability) if f.local])

    def test_registers_and_occupancy(self, capability: str) -> None:
        assert not names([f for f in built(capability) if f.registers > REGISTERS or f.occupancy < OCCUPANCY])

    def test_packets_are_moved_whole(self, capability: str) -> None:
        packets = [f for f in built(capability) if f.rank == 2 and f.kernel.endswith(ELEMENTWISE)]
        assert len(packets) >= 20
        assert not names([f for f in packets if f.wide_loads < 4])
        writing = [f for f in packets if f.kernel.startswith(("normalize", "backward_elemt", "forward"))]
        assert not names([f for f in writing if not f.wide_stores])

    def test_loops_over_elements_are_clean(self, capability: str) -> None:
        assert not names([f for f in built(capability) if f.in_loops])


def test_the_reader_of_loops_sees_what_is_misplaced() -> None:
    loop = "\n".join(["$L1:", "ld.global.v4.f32 {%f1}, [%rd1];", "{}", "@%p1 bra $L1;"])
    for line in ("mul.lo.s64 %rd1, %rd2, %rd3;", "setp.lt.s64 %p1, %rd1, %rd2;", "fma.rn.f64 %fd1, %fd2;"):
        assert misplaced(loop.replace("{}", line), "float32")
    for line in ("add.s64 %rd1, %rd2, %rd3;", "mul.wide.s32 %rd1, %r1, 4;", "setp.lt.s32 %p1, %r1, %r2;"):
        assert not misplaced(loop.replace("{}", line), "float32")
    assert not misplaced(loop.replace("{}", "ret;\n$L2:\nmul.lo.s64 %rd1, %rd2, %rd3;"), "float32")
    assert not misplaced("fma.rn.f64 %fd1, %fd2;\n" + loop.replace("{}", "add.s32 %r1, %r1, 1;"), "float32")
