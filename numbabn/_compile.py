"""The one door to Numba: how kernels are compiled, cached, and which of their twins runs on how many threads."""

from __future__ import annotations

import hashlib
import inspect
import os
import pickle
import sys
import types as pytypes
from collections.abc import Callable, Iterable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import llvmlite
import numba
import numpy.ma  # noqa: F401 - Numba asks for it at a first call: loaded here, no fork finds it half loaded
import numpy.typing as npt
from llvmlite import ir
from llvmlite.binding import ffi as llvm
from numba import prange as prange
from numba.core import cgutils, types
from numba.core.caching import FunctionCache
from numba.core.compiler_lock import global_compiler_lock
from numba.core.registry import cpu_target
from numba.extending import NativeValue, models, register_model, unbox
from numba.np.arrayobj import populate_array
from numba.np.ufunc import parallel as _pool

from ._config import current
from ._forks import hold
from ._objects import DATA, HALF, KNOWN, NDIM, SHAPE

# What a kernel's parameters may be; the annotation alone gives the compiled signature.
In: TypeAlias = npt.NDArray[Any]  # elements in C order, read only: read-only and writable callers share one compilation
Out: TypeAlias = npt.NDArray[Any]  # elements in C order, written; to a kernel both are flat, whatever their rank
Row: TypeAlias = npt.NDArray[Any]  # a number for each channel, in the flat arrays' dtype or all in float64, read only
OutRow: TypeAlias = npt.NDArray[Any]  # the same, written
WideRow: TypeAlias = npt.NDArray[Any]  # a float64 number for each channel, read only
Table: TypeAlias = npt.NDArray[Any]  # float64 (rows, C), read and written
Grid: TypeAlias = npt.NDArray[Any]  # int64 (1 + operands, 3): extents, then each operand's offset and strides
Object: TypeAlias = Any  # any Python object, as it is

_DTYPES = {"f": types.float32, "d": types.float64}
_OPTIONS = {"nogil": True, "error_model": "numpy"}  # no fastmath: vectors and fma are explicit, bits are owed
_CACHE_ERRORS = (RuntimeError, OSError, EOFError, pickle.UnpicklingError)  # no place, full disk, torn file

_F = TypeVar("_F", bound=Callable[..., Any])


class ObjectType(types.Type):
    """Numba type of a Python object of any kind: its address."""

    def __init__(self) -> None:
        super().__init__(name="Object")


@register_model(ObjectType)
class _ObjectModel(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager: Any, kind: ObjectType) -> None:
        super().__init__(manager, kind, ir.IntType(8).as_pointer())


class ArrayType(types.Array):
    """Numba type of an array in C order, one of rank 1 having all elements of the caller's, whatever its rank.

    Its fields are read where they lie, and no reference is taken: the caller of a kernel has one. Numba's own way takes
    0.1 us longer for each array, NumPy's to a flat view 0.15 us.
    """


@register_model(ArrayType)
class _ArrayModel(models.ArrayModel):  # type: ignore[misc]
    pass


@unbox(ArrayType)  # type: ignore[untyped-decorator]
def _unbox_array(kind: Any, value: Any, c: Any) -> Any:
    word, itemsize = ir.IntType(64), kind.dtype.bitwidth // 8

    def read(base: Any, offset: Any) -> Any:
        return c.builder.load(c.builder.inttoptr(c.builder.add(base, offset), word.as_pointer()))

    at = c.builder.ptrtoint(value, word)
    extents = read(at, word(SHAPE))
    if kind.ndim == 1:
        size = cgutils.alloca_once_value(c.builder, word(1))
        with cgutils.for_range(c.builder, c.builder.and_(read(at, word(NDIM)), word(HALF))) as loop:
            extent = read(extents, c.builder.mul(loop.index, word(8)))
            c.builder.store(c.builder.mul(c.builder.load(size), extent), size)
        shape = [c.builder.load(size)]
    else:
        shape = [read(extents, word(8 * k)) for k in range(kind.ndim)]
    strides = [word(itemsize)]
    for extent in shape[:0:-1]:
        strides.insert(0, c.builder.mul(strides[0], extent))
    data = c.builder.inttoptr(read(at, word(DATA)), c.context.get_data_type(kind.dtype).as_pointer())
    array = c.context.make_array(kind)(c.context, c.builder)
    populate_array(array, data, shape, strides, itemsize, meminfo=None)
    return NativeValue(array._getvalue())


@unbox(ObjectType)  # type: ignore[untyped-decorator]
def _unbox(_kind: ObjectType, value: Any, _context: Any) -> Any:
    return NativeValue(value)


_ONLY_FOR_KERNELS = {"_nrt": False, "no_cpython_wrapper": True, "no_cfunc_wrapper": True, **_OPTIONS}


def inner(function: _F) -> _F:
    """Compile a function that only kernels call; it lives in their cache entries and cannot allocate.

    Without Numba's runtime, array arguments are not reference-counted: two atomic operations a call, from all threads
    on one address, made a pass over 7x7 planes twice as long. Nor has it wrappers for other callers, which took a
    quarter of the time to compile.
    """
    return numba.njit(**_ONLY_FOR_KERNELS)(function)  # type: ignore[no-any-return]


def inline(function: _F) -> _F:
    """Compile a function that becomes part of its caller: vectors then stay in registers between the two.

    Left to LLVM, planes of 7x7 took from once to twice the time, by what else stood in the kernel.
    """
    return numba.njit(forceinline=True, **_ONLY_FOR_KERNELS)(function)  # type: ignore[no-any-return]


def unfold(function: _F) -> _F:
    """Compile a function as if its lines stood in the parallel loop that calls it: for those that hold most of one.

    LLVM works through all that a function calls again for each caller on the way up, and four times for a parallel
    loop: one step less took 0.7 s of 7 from the first call of a kernel. For what these functions call it gave nothing.
    """
    return numba.njit(inline="always", **_ONLY_FOR_KERNELS)(function)  # type: ignore[no-any-return]


@inner
def row(grid: Grid, k: int) -> tuple[Any, Any, Any]:
    """The three numbers in row k of a grid."""
    return grid[k, 0], grid[k, 1], grid[k, 2]


kernels: list[kernel] = []  # all that are loaded


class kernel:  # noqa: N801 - a decorator
    """One body, a few cached functions: by dtypes, serial and parallel, each with one explicit signature.

    Numba keys its cache by the defining file and the signature. A name of its own for each twin, with a hash of all
    kernel sources in it, keeps twins apart, drops code whose helpers changed, and makes racing processes write the
    same content.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self._twins: dict[tuple[str, bool], Any] = {}  # by dtype characters and parallel
        self._serial: dict[str, Callable[..., Any]] = {}  # their entry points
        self._parallel: dict[str, Callable[..., Any]] = {}
        kinds = (p.annotation for p in inspect.signature(function).parameters.values())
        self._flat = tuple(kind in ("In", "Out") for kind in kinds)
        self._reads_objects = "Object" in function.__annotations__.values()  # as they are: no one may change them then
        kernels.append(self)

    def on(self, threads: int, x: In, row: Row | None = None) -> Callable[..., Any]:
        """What to call with x, a row and the rest: the twin for their dtypes and that many threads."""
        chars = x.dtype.char if row is None else x.dtype.char + row.dtype.char
        if threads == 1:
            return self._serial.get(chars) or self._enter(self._serial, chars, False)
        twin = self._parallel.get(chars) or self._enter(self._parallel, chars, True)
        return twin if current().threads is None else partial(_run, twin, threads)

    def compiled(self, chars: str, parallel: bool) -> Any:
        """Twin for dtype characters, of flat arrays and of rows, loaded from the cache or compiled on first use."""
        with global_compiler_lock:
            if (chars, parallel) not in self._twins:
                self._twins[chars, parallel] = self._compile(chars, parallel)
            return self._twins[chars, parallel]

    def _enter(self, entries: dict[str, Callable[..., Any]], chars: str, parallel: bool) -> Callable[..., Any]:
        """Note and return where to call a twin.

        Its only signature's own entry: 0.3 us sooner than by way of Numba's look at the arguments' types.
        """
        twin = self.compiled(chars, parallel)
        entry: Callable[..., Any] = twin if numba.config.DISABLE_JIT else twin.get_overload(*twin.signatures)
        if numba.config.DISABLE_JIT or not KNOWN:
            entry = partial(_call_flat, entry, self._flat)
        entries[chars] = entry
        return entry

    def twins(self, chars: Iterable[str]) -> Iterator[tuple[str, bool]]:
        """Dtype characters and parallel of each twin that calls with arrays of these dtypes ask for."""
        kinds = {p.annotation for p in inspect.signature(self.function).parameters.values()}
        rows = bool(kinds & {"Row", "OutRow"})
        if not kinds & {"In", "Out"}:
            found = sorted({*chars, "d"}) if rows else ["d"]
        else:
            found = [char + row for char in chars for row in (sorted({char, "d"}) if rows else [""])]
        for twin in found:
            yield twin, False
            if "prange" in self.function.__code__.co_names:
                yield twin, True

    def place(self) -> Path:
        """Folder where its twins are kept; RuntimeError says why there is none."""
        if numba.config.DISABLE_JIT:
            raise RuntimeError("nothing is compiled where NUMBA_DISABLE_JIT is set")
        if not current().cache:
            raise RuntimeError("switched off by NUMBABN_CACHE")
        return Path(FunctionCache(self.function).cache_path)

    def _compile(self, chars: str, parallel: bool) -> Callable[..., Any]:
        if numba.config.DISABLE_JIT:
            return self.function
        body = self.function
        name = (
            f"{body.__name__}_{'_'.join(str(_DTYPES[c]) for c in chars)}_{'parallel' if parallel else 'serial'}_{salt}"
        )
        options = {**_OPTIONS, "parallel": parallel, "nogil": not self._reads_objects}
        signature = self._signature(_DTYPES[chars[0]], _DTYPES[chars[-1]])
        if current().cache:
            try:
                return numba.njit(signature, cache=True, **options)(_copy(body, name))  # type: ignore[no-any-return]
            except _CACHE_ERRORS:
                pass  # nowhere to keep it: compile for this process alone
        return numba.njit(signature, **options)(_copy(body, name))  # type: ignore[no-any-return]

    def _signature(self, dtype: Any, row_dtype: Any) -> Any:
        array = ArrayType if KNOWN else types.Array
        types_of = {
            "In": array(dtype, 1, "C", readonly=True),
            "Out": array(dtype, 1, "C"),
            "Row": array(row_dtype, 1, "C", readonly=True),
            "OutRow": array(row_dtype, 1, "C"),
            "WideRow": array(types.float64, 1, "C", readonly=True),
            "Table": array(types.float64, 2, "C"),
            "Grid": array(types.int64, 2, "C"),
            "Object": ObjectType(),
            "float": types.float64,
            "int": types.int64,
            "bool": types.boolean,
            "None": types.void,
        }
        signature = inspect.signature(self.function)
        result = types_of[str(signature.return_annotation)]
        return result(*(types_of[str(p.annotation)] for p in signature.parameters.values()))


def threads_for(size: int) -> int:
    """Threads that a call over `size` elements may use here and now; 1 asks for the serial twin."""
    settings = current()
    if size < settings.parallel_threshold or settings.threads == 1 or _pool_lost or numba.config.DISABLE_JIT:
        return 1
    threads = numba.config.NUMBA_NUM_THREADS if settings.threads is None else settings.threads
    return 1 if _must_not_nest() and len(sys._current_frames()) > 1 else min(threads, numba.config.NUMBA_NUM_THREADS)


def layer() -> str:
    """The threading layer, which starting the pool settles."""
    numba.get_num_threads()
    return str(numba.threading_layer())


@cache
def _must_not_nest() -> bool:
    """Whether a second parallel call at the same time aborts the process: workqueue."""
    return layer() == "workqueue"


def versions() -> dict[str, str]:
    """Of the compiler."""
    return {"Numba": numba.__version__, "llvmlite": llvmlite.__version__}


def processor() -> str:
    """The processor that LLVM compiles for, which Numba's settings may change, and the vectors that it has."""
    _, name, features = cpu_target.target_context.codegen().magic_tuple()
    found = set(features.split(","))
    bits = 512 if "+avx512f" in found else 256 if "+avx" in found else 128
    return f"{name}, vectors of {bits} bits"


def _run(twin: Callable[..., Any], threads: int, *args: Any) -> None:
    """Call a parallel twin on `threads` threads and leave the thread's own number as it was."""
    before = numba.get_num_threads()
    if threads == before:
        twin(*args)
        return
    numba.set_num_threads(threads)
    try:
        twin(*args)
    finally:
        numba.set_num_threads(before)


def _call_flat(twin: Callable[..., Any], flat: tuple[bool, ...], *args: Any) -> Any:
    """Call what takes its flat arrays as such."""
    return twin(*(a.reshape(-1) if is_flat else a for a, is_flat in zip(args, flat, strict=True)))


def _copy(function: Callable[..., Any], name: str) -> Any:
    code, scope = function.__code__, function.__globals__
    twin = pytypes.FunctionType(code, scope, name)
    twin.__qualname__ = name
    twin.__module__ = function.__module__
    return twin


def _source_hash() -> str:
    folder = Path(__file__).parent
    digest = hashlib.sha256()
    shared = (folder / f"{name}.py" for name in ("_compile", "_geometry", "_scalar"))
    for path in sorted([*folder.glob("_cpu/*.py"), *shared]):
        digest.update(path.read_bytes())
    digest.update(f"{numba.config.BOUNDSCHECK} {numba.config.OPT} {KNOWN}".encode())  # what Numba's key leaves out
    return digest.hexdigest()[:12]


def _is_orphan() -> bool:
    """Whether a parent without this package started the pool and this is its forked child (seen on Linux)."""
    stat = Path("/proc/self/stat")
    if not (_pool._is_initialized and stat.is_file()):
        return False
    flags = int(stat.read_text().rpartition(")")[2].split()[6])
    return bool(flags & 0x40)  # the kernel's PF_FORKNOEXEC


def _lose_pool() -> None:
    """A forked child has Numba's pool but none of its threads; GNU OpenMP would kill it at the next launch."""
    global _pool_lost
    _pool_lost = _pool_lost or bool(_pool._is_initialized)


salt = _source_hash()
_pool_lost = _is_orphan()
hold(global_compiler_lock, llvm.lib._lock)  # the second one for finalisers
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_lose_pool)
