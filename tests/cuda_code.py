"""Machine code of every CUDA kernel for one compute capability, built as for a card, without one.

`python cuda_code.py 9.0` prints a line of JSON for each kernel and kind of packet. One capability a process: Numba
keeps what it has compiled of the functions that kernels call.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

# Of a multiprocessor: threads and shared memory; all have 65,536 registers.
ROOM = {"7.5": (1024, 64 << 10), "8.0": (2048, 164 << 10), "9.0": (2048, 228 << 10), "10.0": (2048, 228 << 10)}
BLOCK = 256


class Facts(NamedTuple):
    """What matters of a kernel's code."""

    kernel: str
    dtype: str
    rank: int  # of the arrays: 2 for packets of 16 bytes, 1 for elements
    registers: int
    local: int  # loads and stores of local memory: spills, and arrays that are indexed
    shared: int  # bytes, what is asked for at launch left out
    wide_loads: int
    wide_stores: int
    blocks: int  # that a multiprocessor holds at a time
    occupancy: float
    in_loops: list[str]  # what loops over elements should not have


def signatures() -> Iterator[tuple[Any, str, int, tuple[Any, ...]]]:
    """Every kernel, a dtype, a rank, and the types of its arguments."""
    from numba.cuda import types

    from numbabn import _cuda
    from numbabn._cuda import rows

    def array(dtype: Any, ndim: int, written: bool = False) -> Any:
        return types.Array(dtype, ndim, "C", readonly=not written)

    def ints(kind: Any, n: int) -> Any:
        return types.UniTuple(kind, n)

    row, wide, wide_out = (array(types.float32, 1), array(types.float64, 1), array(types.float64, 1, True))
    running, tickets = array(types.float32, 1, True), array(types.int32, 1, True)
    four = types.UniTuple(types.float64, 4)
    for dtype in (types.float32, types.float64):
        for rank in (2, 1):
            for k, step in enumerate(("first", "last", "strided")):
                if step == "strided" and rank == 2:
                    continue
                x, y = array(dtype, rank), array(dtype, rank, True)
                six, two = ints(types.int32, 6), ints(types.int32, 2)
                shape = (six, ints(types.int32, 5), types.Tuple((six, ints(types.int32, 1), two)))[k]
                at = ints(types.int64, 3)
                if step == "strided":
                    at = types.Tuple((types.int64, ints(types.int64, 1), ints(types.int64, 2)))
                scratch = wide_out, tickets
                found = {
                    _cuda.MOMENTS[k]: (x, running, running, wide_out, *scratch, shape, at, four),
                    _cuda.NORMALIZE[k]: (x, y, row, row, row, row, shape, at, at, types.float64),
                    _cuda.BACKWARD_REDUCE[k]: (x, x, wide, wide, wide_out, *scratch, shape, at, at),
                    _cuda.BACKWARD_ELEMT[k]: (x, x, y, wide, wide, row, wide, shape, at, at, at, types.float64),
                    _cuda.FORWARD[k]: (x, y, running, running, row, row, wide_out, shape, at, at, four),
                    _cuda.BACKWARD[k]: (x, x, y, wide, wide, row, wide_out, shape, at, at, at, types.float64),
                }
                for kernel, signature in found.items():
                    if kernel is not None:
                        yield kernel, str(dtype), rank, signature
    number = types.float64
    both = ints(number, 2)
    for kernel, signature in {
        rows.copy_row: (row, running),
        rows.fill_row: (running, number),
        rows.add_row: (wide, running),
        rows.save_row: (row, row, wide_out, wide_out, number),
        rows.finish_row: (wide, wide, running, running, wide_out, four),
        rows.merge_row: (wide, wide, wide, wide, wide_out, wide_out, both),
        rows.spread_row: (wide, wide_out, number, number, number),
    }.items():
        yield kernel, "rows", 1, signature


def build(kernel: Any, signature: tuple[Any, ...], capability: tuple[int, int]) -> tuple[str, bytes]:
    """PTX and cubin of Numba's own way to a launch: NVVM, then nvJitLink; what it asks about the card is answered."""
    from numba.cuda import codegen, compiler, dispatcher

    card = SimpleNamespace(compute_capability=capability, id=0)
    for module in (dispatcher, compiler):
        module.get_current_device = lambda: card
    codegen.devices = SimpleNamespace(get_context=lambda *_: SimpleNamespace(device=card))
    compiled = dispatcher._Kernel(kernel.function, signature, **kernel.dispatcher.targetoptions)
    target = (*capability, "a" if capability >= (9, 0) else "")
    library = compiled._codelibrary
    cubin = library.get_cubin(cc=target)
    return library.get_lto_ptx(cc=target), getattr(cubin, "code", cubin)


def disassembly(cubin: bytes) -> str:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        return subprocess.run([disassembler(), file.name], capture_output=True, text=True, check=True).stdout


def disassembler() -> str:
    nvidia: Any = import_module("nvidia")

    found = (path for place in nvidia.__path__ for path in Path(place).rglob("bin/nvdisasm"))
    return str(next(found, "nvdisasm"))


def loops(ptx: str) -> Iterator[list[str]]:
    """The instructions of each loop: of blocks that lead to each other. Not every jump back is one."""
    blocks: dict[str, list[str]] = {"": []}
    after: dict[str, set[str]] = {"": set()}
    here, goes_on = "", True
    for line in (line.strip() for line in ptx.splitlines()):
        if label := re.fullmatch(r"(\$[\w$]+):", line):
            if goes_on:
                after[here].add(label[1])
            here, goes_on = label[1], True
            blocks[here], after[here] = [], set()
            continue
        blocks[here].append(line)
        if jump := re.match(r"(@!?%p\d+\s+)?bra(?:\.uni)?\s+(\$[\w$]+);", line):
            after[here].add(jump[2])
            goes_on = bool(jump[1])
        elif line in ("ret;", "exit;"):
            goes_on = False
        if not goes_on:
            here = f"{here}'"
            blocks[here], after[here] = [], set()
    reached = {label: reachable(label, after) for label in blocks}
    for members in {frozenset(m for m in reached[k] if k in reached[m]) for k in blocks if k in reached[k]}:
        yield [line for label in members for line in blocks[label]]


def reachable(start: str, after: dict[str, set[str]]) -> set[str]:
    """Blocks that some way from the end of one leads to."""
    found: set[str] = set()
    ahead = list(after[start])
    while ahead:
        if (label := ahead.pop()) not in found:
            found.add(label)
            ahead += after[label]
    return found


def misplaced(ptx: str, dtype: str) -> list[str]:
    """Instructions that no loop over elements should have: float64 among float32, 64-bit integers but additions."""
    bad = re.compile(
        r"^(?:@!?%p\d+\s+)?((?:mul\.lo|mul\.hi|mad\.lo|div|rem)\.[su]64|setp\.\w+\.[su]64|call\b"
        + (r"|[\w.]+\.f64(?:\.\w+)?" if dtype == "float32" else "")
        + ")"
    )
    packet = r"(?:nc\.)?(?:v[24]\.)?(?:f32|b32)" if dtype == "float32" else r"v2\.(?:f64|b64)"
    element = r"(?:ld|st)\.global\." + packet
    found = []
    for loop in loops(ptx):
        if any(re.search(element, line) for line in loop):
            found += [match[1] for line in loop if (match := bad.match(line))]
    return found


def facts(kernel: Any, dtype: str, rank: int, signature: tuple[Any, ...], capability: str) -> Facts:
    major, minor = (int(n) for n in capability.split("."))
    ptx, cubin = build(kernel, signature, (major, minor))
    code = disassembly(cubin)
    counts = re.findall(r"EIATTR_REGCOUNT.*?index@\(.*?\.word\s+(0x[0-9a-f]+)", code, re.DOTALL)
    registers = max(int(n, 16) for n in counts)
    declared = re.findall(r"\.shared \.align (\d+) \.b8 [\w$]+\[(\d+)\]", ptx)
    shared = sum(-(-int(n) // int(align)) * int(align) for align, n in declared)
    threads, room = ROOM[capability]
    by_registers = 65536 // (-(-registers // 8) * 8 * BLOCK)
    blocks = min(threads // BLOCK, by_registers, room // (shared + 1024))
    return Facts(
        kernel.function.__name__,
        dtype,
        rank,
        registers,
        len(re.findall(r"\b(?:LDL|STL)\b", code)),
        shared,
        len(re.findall(r"\bLDG\.E\.(?:\w+\.)*128", code)),
        len(re.findall(r"\bSTG\.E\.(?:\w+\.)*128", code)),
        blocks,
        blocks * BLOCK / threads,
        misplaced(ptx, dtype),
    )


if __name__ == "__main__":
    for one in signatures():
        print(json.dumps(facts(*one, sys.argv[1])._asdict()), flush=True)
