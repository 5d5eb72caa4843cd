"""The one door to Numba: how kernels are compiled, cached, and which of their twins runs on how many threads."""

from __future__ import annotations

import hashlib
import inspect
import os
import pickle
import sys
import types as pytypes
from collections.abc import Callable, Iterable, Iterator
from functools import cache, partial, wraps
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
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import Flags, compile_extra
from numba.core.compiler_lock import global_compiler_lock
from numba.core.registry import cpu_target
from numba.core.types.misc import VarArg, unliteral
from numba.extending import NativeValue, lower_builtin, models, register_model, type_callable, unbox
from numba.np.arrayobj import populate_array
from numba.np.ufunc import parallel as _pool

from ._config import current
from ._forks import hold, is_forked
from ._objects import BYTE, CHAR, DATA, DTYPE, HALF, KNOWN, NDIM, SHAPE, call_plain

# What a kernel's parameters may be; the annotation alone gives the compiled signature.
In: TypeAlias = npt.NDArray[Any]  # elements in C order, read only: read-only and writable callers share one compilation
Out: TypeAlias = npt.NDArray[Any]  # elements in C order, written; to a kernel both are flat, whatever their rank
Row: TypeAlias = npt.NDArray[Any]  # a number for each channel, float32 or float64; `read_rows` makes it float64
OutRow: TypeAlias = npt.NDArray[Any]  # the same, for `write_rows`
Table: TypeAlias = npt.NDArray[Any]  # float64 (rows, C), read and written
Grid: TypeAlias = npt.NDArray[Any]  # int64 (1 + operands, 3): extents, then each operand's offset and strides
Object: TypeAlias = Any  # any Python object, as it is

_DTYPES = {"f": types.float32, "d": types.float64}
_OPTIONS = {"nogil": True, "error_model": "numpy"}  # no fastmath: vectors and fma are explicit, bits are owed
_ONLY_FOR_KERNELS = {"_nrt": False, "no_cpython_wrapper": True, "no_cfunc_wrapper": True, **_OPTIONS}
_CACHE_ERRORS = (RuntimeError, OSError, EOFError, pickle.UnpicklingError)  # no place, full disk, torn file

_WORD = ir.IntType(64)
_BYTES = ir.IntType(8).as_pointer()

_F = TypeVar("_F", bound=Callable[..., Any])


class ArrayType(types.Array):
    """Numba type of an array in C order, one of rank 1 having all elements of the caller's, whatever its rank.

    Its fields are read where they lie, and no reference is taken: the caller of a kernel has one. Numba's own way takes
    0.1 us longer for each array, NumPy's to a flat view 0.15 us.
    """


register_model(ArrayType)(models.ArrayModel)


@unbox(ArrayType)
def _unbox_array(kind: Any, value: Any, c: Any) -> Any:
    itemsize = kind.dtype.bitwidth // 8
    at = c.builder.ptrtoint(value, _WORD)
    extents = _read(c.builder, at, SHAPE)
    if kind.ndim == 1:
        size = cgutils.alloca_once_value(c.builder, _WORD(1))
        with cgutils.for_range(c.builder, c.builder.and_(_read(c.builder, at, NDIM), _WORD(HALF))) as loop:
            extent = _read(c.builder, c.builder.add(extents, c.builder.mul(loop.index, _WORD(8))), 0)
            c.builder.store(c.builder.mul(c.builder.load(size), extent), size)
        shape = [c.builder.load(size)]
    else:
        shape = [_read(c.builder, extents, 8 * k) for k in range(kind.ndim)]
    strides = [_WORD(itemsize)]
    for extent in shape[:0:-1]:
        strides.insert(0, c.builder.mul(strides[0], extent))
    data = c.builder.inttoptr(_read(c.builder, at, DATA), c.context.get_data_type(kind.dtype).as_pointer())
    array = c.context.make_array(kind)(c.context, c.builder)
    populate_array(array, data, shape, strides, itemsize, meminfo=None)
    return NativeValue(array._getvalue())


def _read(builder: Any, at: Any, offset: int) -> Any:
    """The 8 bytes at an address and an offset."""
    return builder.load(builder.inttoptr(builder.add(at, _WORD(offset)), _WORD.as_pointer()))


class RowType(types.Type):
    """Numba type of an array of rank 1 without gaps, float32 or float64: which of them is read where it lies.

    With a type for each, a kernel would be compiled twice, or rows be copied: 0.7 us for each.
    """

    def __init__(self) -> None:
        super().__init__(name="Row")


@register_model(RowType)
class _RowModel(models.StructModel):
    def __init__(self, manager: Any, kind: RowType) -> None:
        super().__init__(manager, kind, [("data", types.voidptr), ("size", types.int64), ("char", types.int64)])


@unbox(RowType)
def _unbox_row(kind: Any, value: Any, c: Any) -> Any:
    at = c.builder.ptrtoint(value, _WORD)
    row = cgutils.create_struct_proxy(kind)(c.context, c.builder)
    row.data = c.builder.inttoptr(_read(c.builder, at, DATA), row.data.type)
    row.size = _read(c.builder, _read(c.builder, at, SHAPE), 0)
    row.char = c.builder.and_(_read(c.builder, _read(c.builder, at, DTYPE), CHAR), _WORD(BYTE))
    return NativeValue(row._getvalue())


class ObjectType(types.Type):
    """Numba type of a Python object of any kind: its address."""

    def __init__(self) -> None:
        super().__init__(name="Object")


register_model(ObjectType)(models.OpaqueModel)


@unbox(ObjectType)
def _unbox_object(_kind: ObjectType, value: Any, _context: Any) -> Any:
    return NativeValue(value)


def read_rows(table: Any, rows: Any) -> None:
    """Copy rows with a number for each channel to the first rows of a float64 table."""
    for k, row in enumerate(rows):
        table[k] = row


def write_rows(table: Any, rows: Any) -> None:
    """Copy the first rows of a float64 table to rows as long, each number rounded to their dtype."""
    for k, row in enumerate(rows):
        row[:] = table[k]


def call_apart(builder: Any, name: str, build: Callable[..., None], result: Any, *args: Any) -> Any:
    """Call a function that `build` makes, once in a module: for what is rare and takes long to compile."""
    name = f"numbabn{name}"
    function = builder.module.globals.get(name)
    if function is None:
        function = ir.Function(builder.module, ir.FunctionType(result, [a.type for a in args]), name)
        function.linkage = "linkonce_odr"
        function.attributes.add("noinline")
        build(ir.IRBuilder(function.append_basic_block()), *function.args)
    return builder.call(function, args)


def _copy_rows(build: Callable[..., None], context: Any, builder: Any, sig: Any, args: Any) -> Any:
    """Call what `build` makes for each row, which is one of a kernel's or, where Numba has unboxed it, float64."""
    table = context.make_array(sig.args[0])(context, builder, args[0])
    _, count = cgutils.unpack_tuple(builder, table.shape)
    kind = sig.args[1].dtype
    for k, value in enumerate(cgutils.unpack_tuple(builder, args[1])):
        if isinstance(kind, RowType):
            row = cgutils.create_struct_proxy(kind)(context, builder, value)
            data, size = row.data, row.size
            is_wide = builder.icmp_signed("==", row.char, ir.Constant(row.char.type, ord("d")))
        else:
            row = context.make_array(kind)(context, builder, value)
            data, (size,) = builder.bitcast(row.data, _BYTES), cgutils.unpack_tuple(builder, row.shape)
            is_wide = cgutils.true_bit
        if context.enable_boundscheck:
            cgutils.do_boundscheck(context, builder, builder.sub(count, ir.Constant(count.type, 1)), size, 0)
        numbers = builder.gep(table.data, [builder.mul(count, ir.Constant(count.type, k))])
        call_apart(builder, build.__name__, build, ir.VoidType(), data, is_wide, numbers, count)
    return context.get_dummy_value()


def _build_read_row(builder: Any, data: Any, is_wide: Any, numbers: Any, count: Any) -> None:
    for row, at in _numbers_of(builder, data, is_wide, count):
        number = builder.load(row)
        narrow = row.type.pointee == ir.FloatType()
        builder.store(builder.fpext(number, ir.DoubleType()) if narrow else number, builder.gep(numbers, [at]))
    builder.ret_void()


def _build_write_row(builder: Any, data: Any, is_wide: Any, numbers: Any, count: Any) -> None:
    for row, at in _numbers_of(builder, data, is_wide, count):
        number = builder.load(builder.gep(numbers, [at]))
        narrow = row.type.pointee == ir.FloatType()
        builder.store(builder.fptrunc(number, ir.FloatType()) if narrow else number, row)
    builder.ret_void()


def _numbers_of(builder: Any, data: Any, is_wide: Any, count: Any) -> Iterator[tuple[Any, Any]]:
    """Address and index of a number, in a loop for rows of float64 and in one for rows of float32."""
    with builder.if_else(is_wide) as branches:
        for branch, dtype in zip(branches, (ir.DoubleType(), ir.FloatType()), strict=True):
            with branch, cgutils.for_range(builder, count) as loop:
                yield builder.gep(builder.bitcast(data, dtype.as_pointer()), [loop.index]), loop.index


for _copier, _build in ((read_rows, _build_read_row), (write_rows, _build_write_row)):
    type_callable(_copier)(lambda _context: lambda table, rows: types.none)
    lower_builtin(_copier, types.Array, types.containers.UniTuple)(partial(_copy_rows, _build))


class _Part(JITCodeLibrary):
    """Code of a function that only kernels call: it is linked, optimised and made into instructions in them alone.

    Optimised with all that it calls, once for itself and again for each caller, a kernel's first call took 1.15 to 1.3
    times as long; with instructions and a way in from Python of its own a tenth more.
    """

    def finalize(self) -> None:
        self._finalized = True


def inner(function: _F) -> _F:
    """Compile a function that only kernels call; it lives in their cache entries and cannot allocate.

    Without Numba's runtime, array arguments are not reference-counted: two atomic operations a call, from all threads
    on one address, made a pass over 7x7 planes twice as long. Nor has it wrappers for other callers, which took a
    quarter of the time to compile.
    """
    return _callable(function)


def inline(function: _F) -> _F:
    """Compile a function that becomes part of its caller: vectors then stay in registers between the two.

    Left to LLVM, planes of 7x7 took from once to twice the time, by what else stood in the kernel.
    """
    return _callable(function, forceinline=True)


def linked(function: _F) -> _F:
    """Compile a function that is linked to the kernel alone: for those that hold most of a parallel loop.

    LLVM works through all that a function calls again for each caller on the way up, and four times for a parallel
    loop. What lies between the two only names this one: 0.5 to 2.7 s less of 8 to 14 for the first call of a kernel.
    """
    return _callable(function, to_kernel=True)


def _callable(function: _F, to_kernel: bool = False, **options: bool) -> _F:
    """Have a function compiled for the types of a call and linked to its caller, or to the kernel that both are in.

    A part brings along what it calls, which nothing has linked to it; a linked function has its own within.
    """
    compiled: dict[tuple[Any, ...], Any] = {}

    @wraps(function)
    def typed(*args: Any) -> Any:
        kinds = tuple(map(unliteral, args))
        if kinds not in compiled:
            typing, context, flags = cpu_target.typing_context, cpu_target.target_context, Flags()
            cpu_target.options.parse_as_flags(flags, {**_ONLY_FOR_KERNELS, **options})
            flags.no_compile = not to_kernel  # what lies between becomes instructions too, and has to find it
            part = None if to_kernel else _Part(context.codegen(), function.__qualname__)
            compiled[kinds] = compile_extra(typing, context, function, kinds, None, flags, {}, library=part)
        return compiled[kinds].signature

    @lower_builtin(function, VarArg(types.Any))
    def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        code, caller = compiled[sig.args], context.active_code_library
        library = context._codelib_stack[0] if to_kernel else caller
        if library is not caller:
            _name_in(library, context, code.fndesc)
        for part in [code.library] if to_kernel else [code.library, *code.library._linking_libraries]:
            if part not in library._linking_libraries:
                library.add_linking_library(part)
        return context.call_internal(builder, code.fndesc, sig, args)

    type_callable(function)(lambda _context: typed)
    return function


def _name_in(library: Any, context: Any, function: Any) -> None:
    """Name a function in a library's own code: what nothing there names is not linked."""
    module = library.create_ir_module("")
    kind = ir.ArrayType(_BYTES, 1)
    used = ir.GlobalVariable(module, kind, "llvm.compiler.used")
    used.linkage = "appending"
    used.initializer = kind([context.declare_function(module, function).bitcast(_BYTES)])
    library.add_ir_module(module)


kernels: list[kernel] = []  # all that are loaded


class kernel:  # noqa: N801 - a decorator
    """One body, a few cached functions: by dtype, serial and parallel, each with one explicit signature.

    Numba keys its cache by the defining file and the signature. A name of its own for each twin, with a hash of all
    kernel sources in it, keeps twins apart, drops code whose helpers changed, and makes racing processes write the
    same content.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self._twins: dict[tuple[str, bool], Any] = {}  # by dtype character and parallel
        self._serial: dict[str, Callable[..., Any]] = {}  # their entry points
        self._parallel: dict[str, Callable[..., Any]] = {}
        self._kinds = tuple(p.annotation for p in inspect.signature(function).parameters.values())
        kernels.append(self)

    def on(self, threads: int, x: In) -> Callable[..., Any]:
        """What to call with x and the rest: the twin for its dtype and that many threads."""
        char = x.dtype.char
        if threads == 1:
            return self._serial.get(char) or self._enter(self._serial, char, False)
        twin = self._parallel.get(char) or self._enter(self._parallel, char, True)
        return twin if current().threads is None else partial(_run, twin, threads)

    def compiled(self, char: str, parallel: bool) -> Any:
        """Twin for a dtype's character, loaded from the cache or compiled on first use."""
        with global_compiler_lock:
            if (char, parallel) not in self._twins:
                self._twins[char, parallel] = self._compile(char, parallel)
            return self._twins[char, parallel]

    def _enter(self, entries: dict[str, Callable[..., Any]], char: str, parallel: bool) -> Callable[..., Any]:
        """Note and return where to call a twin.

        Its only signature's own entry: 0.3 us sooner than by way of Numba's look at the arguments' types.
        """
        twin = self.compiled(char, parallel)
        entry: Callable[..., Any] = twin if numba.config.DISABLE_JIT else twin.get_overload(*twin.signatures)
        if numba.config.DISABLE_JIT or not KNOWN:
            entry = partial(call_plain, entry, self._kinds)
        entries[char] = entry
        return entry

    def twins(self, chars: Iterable[str]) -> Iterator[tuple[str, bool]]:
        """Dtype character and parallel of each twin that calls with arrays of these dtypes ask for."""
        for char in chars if {"In", "Out"} & set(self._kinds) else "d":
            yield char, False
            if "prange" in self.function.__code__.co_names:
                yield char, True

    def place(self) -> Path:
        """Folder where its twins are kept; RuntimeError says why there is none."""
        if numba.config.DISABLE_JIT:
            raise RuntimeError("nothing is compiled where NUMBA_DISABLE_JIT is set")
        if not current().cache:
            raise RuntimeError("switched off by NUMBABN_CACHE")
        return Path(FunctionCache(self.function).cache_path)

    def _compile(self, char: str, parallel: bool) -> Callable[..., Any]:
        if numba.config.DISABLE_JIT:
            return self.function
        body = self.function
        name = f"{body.__name__}_{_DTYPES[char]}_{'parallel' if parallel else 'serial'}_{salt}"
        reads_objects = "Object" in self._kinds  # as they are: no one may change them then
        options = {**_OPTIONS, "parallel": parallel, "nogil": not reads_objects}
        signature = self._signature(_DTYPES[char])
        if current().cache:
            try:
                return numba.njit(signature, cache=True, **options)(_copy(body, name))  # type: ignore[no-any-return]
            except _CACHE_ERRORS:
                pass  # nowhere to keep it: compile for this process alone
        return numba.njit(signature, **options)(_copy(body, name))  # type: ignore[no-any-return]

    def _signature(self, dtype: Any) -> Any:
        array = ArrayType if KNOWN else types.Array
        row = RowType() if KNOWN else types.Array(types.float64, 1, "C")
        types_of = {
            "In": array(dtype, 1, "C", readonly=True),
            "Out": array(dtype, 1, "C"),
            "Row": row,
            "OutRow": row,
            "Table": array(types.float64, 2, "C"),
            "Grid": array(types.int64, 2, "C"),
            "Object": ObjectType(),
            "float": types.float64,
            "int": types.int64,
            "bool": types.boolean,
            "None": types.void,
        }
        result = types_of[str(inspect.signature(self.function).return_annotation)]
        return result(*(types_of[kind] for kind in self._kinds))


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


def _copy(function: Callable[..., Any], name: str) -> Any:
    code, scope = function.__code__, function.__globals__
    twin = pytypes.FunctionType(code, scope, name)
    twin.__qualname__ = name
    twin.__module__ = function.__module__
    return twin


def _source_hash() -> str:
    folder = Path(__file__).parent
    digest = hashlib.sha256()
    shared = (folder / f"{name}.py" for name in ("_compile", "_geometry", "_objects", "_scalar"))
    for path in sorted([*folder.glob("_cpu/*.py"), *shared]):
        digest.update(path.read_bytes())
    digest.update(f"{numba.config.BOUNDSCHECK} {numba.config.OPT} {KNOWN}".encode())  # what Numba's key leaves out
    return digest.hexdigest()[:12]


def _lose_pool() -> None:
    """A forked child has Numba's pool but none of its threads; GNU OpenMP would kill it at the next launch."""
    global _pool_lost
    _pool_lost = _pool_lost or bool(_pool._is_initialized)


salt = _source_hash()
_pool_lost = bool(_pool._is_initialized) and is_forked()
hold(global_compiler_lock, llvm.lib._lock)  # the second one for finalisers
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_lose_pool)
