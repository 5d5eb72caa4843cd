"""What kernels take from Python, read where it lies: arrays, rows of either dtype, objects as they are.

Importing it tells Numba. Where arrays lie otherwise than `_objects` says, `_compile` asks Numba for its own types.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import NativeValue, lower_builtin, models, register_model, type_callable, unbox
from numba.np.arrayobj import populate_array

from ._objects import BYTE, CHAR, DATA, DTYPE, HALF, NDIM, SHAPE, address, word

_WORD = ir.IntType(64)
_BYTES = ir.IntType(8).as_pointer()


class ArrayType(types.Array):
    """Numba type of an array in C order, one of rank 1 having all elements of the caller's, whatever its rank.

    Its fields are read where they lie, and no reference is taken: the caller of a kernel has one. Numba's own way takes
    0.1 us longer for each array, NumPy's to a flat view 0.15 us.
    """


@register_model(ArrayType)
class _ArrayModel(models.ArrayModel):
    pass


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


def plain(array: Any) -> Any:
    """The same array, as one that a kernel makes is to Numba: what takes either is then compiled once."""
    return array


type_callable(plain)(lambda _context: lambda a: types.Array(a.dtype, a.ndim, a.layout, readonly=not a.mutable))


@lower_builtin(plain, types.Array)
def _lower_plain(_context: Any, _builder: Any, _sig: Any, args: Any) -> Any:
    return args[0]


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


@register_model(ObjectType)
class _ObjectModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: ObjectType) -> None:
        super().__init__(manager, kind, _BYTES)


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


type_callable(read_rows)(lambda _context: lambda table, rows: types.none)
type_callable(write_rows)(lambda _context: lambda table, rows: types.none)
type_callable(address)(lambda _context: lambda o: types.int64 if isinstance(o, ObjectType) else None)
type_callable(word)(lambda _context: lambda at: types.int64)


@lower_builtin(read_rows, types.Array, types.containers.UniTuple)
def _lower_read_rows(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    return _copy_rows(context, builder, sig, args, _build_read_row)


@lower_builtin(write_rows, types.Array, types.containers.UniTuple)
def _lower_write_rows(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    return _copy_rows(context, builder, sig, args, _build_write_row)


def _copy_rows(context: Any, builder: Any, sig: Any, args: Any, build: Callable[..., None]) -> Any:
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


@lower_builtin(address, ObjectType)
def _lower_address(_context: Any, builder: Any, _sig: Any, args: Any) -> Any:
    return builder.ptrtoint(args[0], _WORD)


@lower_builtin(word, types.Integer)
def _lower_word(_context: Any, builder: Any, _sig: Any, args: Any) -> Any:
    return builder.load(builder.inttoptr(args[0], _WORD.as_pointer()))
