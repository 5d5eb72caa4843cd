"""Machine code on x86-64: whole vectors, fused multiply-adds, streamed stores, nothing scalar in hot loops."""

from __future__ import annotations

import json
import os
import platform
import re
from collections.abc import Iterator

import fresh
import pytest
from llvmlite.binding import get_host_cpu_features

pytestmark = [
    pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="the instructions are those of x86-64"),
    pytest.mark.skipif(os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0"), reason="nothing is compiled here"),
]

PROCESSORS = {
    "x86-64-v3": ("ymm", "+avx,+avx2,+fma", ("avx2", "fma")),
    "x86-64-v4": ("zmm", "+avx,+avx2,+fma,+avx512f,+avx512bw,+avx512cd,+avx512dq,+avx512vl", ("avx512f", "avx512vl")),
}
STREAMING = ("normalize_channels_first", "normalize_channels_last", "backward_elemt_channels_first")
SUMMING = (
    "moments_long_channels_first",
    "moments_short_channels_first",
    "moments_channels_last",
    "backward_reduce_long_channels_first",
    "backward_reduce_short_channels_first",
)
READING_ON = {  # and the kernels that do one half of their work
    "forward_long_channels_first": "moments_long_channels_first",
    "backward_long_channels_first": "backward_reduce_long_channels_first",
    "backward_elemt_channels_last": "normalize_channels_last",
}
CODE = f"""
import json
from numbabn import _compile, _cpu
kernels = {{k.function.__name__: k for k in _compile.kernels}}
texts = {{}}
for name in {STREAMING + SUMMING + tuple(READING_ON)}:
    chars = next(chars for chars, parallel in kernels[name].twins("f") if not parallel)
    texts[name] = "".join(kernels[name].compiled(chars, False).inspect_asm().values())
print(json.dumps(texts))
"""
SCALAR = re.compile(r"\bv?(?:add|sub|mul|div|fn?m(?:add|sub)\d+)ss\b")
FMA = re.compile(r"\bvfn?m(?:add|sub)\d+ps\b")


@pytest.fixture(scope="module", params=PROCESSORS)
def compiled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, str]]:
    """Name of the widest registers and the assembly of each kernel, serial, float32."""
    register, features, needed = PROCESSORS[request.param]
    have = get_host_cpu_features()
    if not all(have[name] for name in needed):
        pytest.skip(f"this processor is below {request.param}")
    settings = {"NUMBA_CPU_NAME": request.param, "NUMBA_CPU_FEATURES": features}
    cache = tmp_path_factory.mktemp("assembly")
    return register, json.loads(fresh.run(CODE, cache, settings, timeout=300.0))


def inner_loops(text: str) -> Iterator[list[str]]:
    """Instructions of each innermost loop: from a label to a jump back to it, with no other such jump between."""
    lines = [line.strip() for line in text.splitlines()]
    labels = {line[:-1]: n for n, line in enumerate(lines) if line.endswith(":")}
    ends = [n for n, line in enumerate(lines) if line.startswith("j") and labels.get(line.split()[-1], n) < n]
    for end in ends:
        begin = labels[lines[end].split()[-1]]
        if not any(begin <= other < end for other in ends):
            yield lines[begin : end + 1]


@pytest.mark.parametrize("name", STREAMING + SUMMING)
def test_no_scalar_arithmetic_in_single_precision(name: str, compiled: tuple[str, dict[str, str]]) -> None:
    """Remainders are masked vectors: a scalar multiply-add would take as long, and round differently."""
    assert not SCALAR.findall(compiled[1][name])


@pytest.mark.parametrize("name", STREAMING + SUMMING)
def test_hot_loops_have_whole_vectors_and_fused_multiply_adds(name: str, compiled: tuple[str, dict[str, str]]) -> None:
    register, texts = compiled
    hot = [loop for loop in inner_loops(texts[name]) if any(FMA.search(line) for line in loop)]
    assert hot
    narrow = [line for loop in hot for line in loop if FMA.search(line) and register not in line]
    assert not narrow


@pytest.mark.parametrize("name", STREAMING)
def test_results_are_streamed_or_stored_in_whole_vectors(name: str, compiled: tuple[str, dict[str, str]]) -> None:
    register, texts = compiled
    lines = [line.strip() for line in texts[name].splitlines()]
    streamed = [line for line in lines if line.startswith("vmovntps")]
    assert streamed and all(register in line for line in streamed)
    plain = re.compile(rf"^vmovu?a?ps\s+%{register}\d+, [-\w]*\(")
    assert any(plain.match(line) for line in lines)


@pytest.mark.parametrize("name", [name for name in SUMMING if name.endswith("channels_first")])
def test_sums_stay_in_registers(name: str, compiled: tuple[str, dict[str, str]]) -> None:
    """Sixteen of them hold two pairs of sums, not four. What goes to float64 does so once a strip, outside."""
    register, texts = compiled
    loops = ["\n".join(loop) for loop in inner_loops(texts[name])]
    hot = [loop for loop in loops if FMA.search(loop) and "prefetch" in loop and "cvtps2pd" not in loop]
    assert hot
    assert not re.findall(rf"%{register}\d+, -?\d*\(%r[sb]p\)", "\n".join(hot))


@pytest.mark.parametrize("name", SUMMING)
def test_sums_are_read_ahead(name: str, compiled: tuple[str, dict[str, str]]) -> None:
    """Into the first-level cache."""
    assert any("prefetcht0" in line for loop in inner_loops(compiled[1][name]) for line in loop)


@pytest.mark.parametrize("name", READING_ON)
def test_more_is_asked_for_while_results_are_written(name: str, compiled: tuple[str, dict[str, str]]) -> None:
    texts = compiled[1]
    assert texts[name].count("prefetch") > texts[READING_ON[name]].count("prefetch")


def test_the_reader_of_loops_finds_the_inner_ones() -> None:
    text = "a:\n  add\nb:\n  vmulss\n  jne b\n  jmp a\nc:\n  ret\n  jmp c2\nc2:\n"
    assert list(inner_loops(text)) == [["b:", "vmulss", "jne b"]]
