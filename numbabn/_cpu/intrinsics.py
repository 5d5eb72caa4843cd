"""Types and instructions of `vectors`, and of what reads Python's objects, for Numba; importing it registers them."""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import partial
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.core.imputils import impl_ret_borrowed
from numba.extending import lower_builtin, models, register_model, type_callable

from .._compile import ObjectType, call_apart
from .._objects import address, word
from .vectors import (
    cast,
    cast_like,
    fence,
    fma,
    hsum,
    in_order,
    lanes,
    load,
    load_like,
    load_part,
    plain,
    prefetch,
    prefetch_far,
    rounded,
    splat,
    sqrt,
    store,
    store_part,
    stream,
    until_aligned,
    where_zero,
    within,
)

LANES = {types.float32: 16, types.float64: 8}  # 64 bytes, one cache line

_I32 = ir.IntType(32)


class Vector(types.Type):
    """Numba type of an LLVM vector."""

    def __init__(self, dtype: Any, count: int) -> None:
        self.dtype: Any = dtype
        self.count = count
        super().__init__(name=f"Vector({dtype}, {count})")


def _llvm(vector: Vector) -> ir.VectorType:
    element = ir.FloatType() if vector.dtype == types.float32 else ir.DoubleType()
    return ir.VectorType(element, vector.count)


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, vector: Vector) -> None:
        super().__init__(manager, vector, _llvm(vector))


def _of(array: Any) -> Vector | None:
    known = isinstance(array, types.Array) and array.dtype in LANES
    return Vector(array.dtype, LANES[array.dtype]) if known else None


def _typed(function: Any, typer: Callable[..., Any]) -> None:
    type_callable(function)(lambda _context: typer)


_typed(lanes, lambda x: types.intp if _of(x) else None)
_typed(load, lambda x, i: _of(x))
_typed(load_like, lambda x, i, like: like if isinstance(like, Vector) else None)
_typed(load_part, lambda x, i, n, fill: fill if isinstance(fill, Vector) else None)
_typed(store, lambda x, i, v: types.none)
_typed(store_part, lambda x, i, v, n: types.none)
_typed(stream, lambda x, i, v: types.none)
_typed(prefetch, lambda x, i: types.none)
_typed(prefetch_far, lambda x, i: types.none)
_typed(fence, lambda: types.none)
_typed(in_order, lambda: types.none)
_typed(until_aligned, lambda x, i: types.intp if _of(x) else None)
_typed(splat, lambda like, value: like if isinstance(like, Vector) else _of(like))
_typed(rounded, lambda x, value: types.float64)
_typed(cast, lambda v, dtype: Vector(dtype.dtype, v.count))
_typed(cast_like, lambda v, like: like)
_typed(sqrt, lambda v: v if isinstance(v, Vector) else None)
_typed(fma, lambda a, b, c: a if isinstance(a, Vector) else None)
_typed(within, lambda v, n, low, high: types.boolean)
_typed(where_zero, lambda test, a, b: a if a == b else None)
_typed(hsum, lambda v: types.float64)
_typed(plain, lambda a: types.Array(a.dtype, a.ndim, a.layout, readonly=not a.mutable))
_typed(address, lambda o: types.int64 if isinstance(o, ObjectType) else None)
_typed(word, lambda at: types.int64)
_typed(operator.neg, lambda v: v if isinstance(v, Vector) else None)


def _of_operands(a: Any, b: Any) -> Vector | None:
    """The vector that two of its kind, or one of it and a number, make."""
    if isinstance(a, Vector) and (a == b or isinstance(b, types.Float)):
        return a
    return b if isinstance(b, Vector) and isinstance(a, types.Float) else None


def _pointer(context: Any, builder: Any, array_type: Any, array: Any, i: Any, n: Any, vector: Vector) -> Any:
    """Address of lane 0; under NUMBA_BOUNDSCHECK the first and the last of n lanes are checked."""
    view = context.make_array(array_type)(context, builder, array)
    if context.enable_boundscheck:
        size = cgutils.unpack_tuple(builder, view.shape)[0]
        some = builder.icmp_signed(">", n, ir.Constant(n.type, 0))
        last = builder.select(some, builder.sub(builder.add(i, n), ir.Constant(n.type, 1)), i)
        for index in (i, last):
            cgutils.do_boundscheck(context, builder, index, size, 0)
    return builder.bitcast(builder.gep(view.data, [i]), _llvm(vector).as_pointer())


def _mask(builder: Any, n: Any, count: int) -> Any:
    lane = ir.VectorType(_I32, count)
    iota = ir.Constant(lane, [ir.Constant(_I32, k) for k in range(count)])
    return builder.icmp_signed("<", iota, _broadcast(builder, builder.trunc(n, _I32), lane))


def _broadcast(builder: Any, scalar: Any, vector: ir.VectorType) -> Any:
    undefined = ir.Constant(vector, ir.Undefined)
    first = builder.insert_element(undefined, scalar, ir.Constant(_I32, 0))
    zeros = ir.Constant(ir.VectorType(_I32, vector.count), [ir.Constant(_I32, 0)] * vector.count)
    return builder.shuffle_vector(first, undefined, zeros)


def _call(builder: Any, name: str, result: Any, args: list[Any]) -> Any:
    kind = ir.FunctionType(result, [a.type for a in args])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), args)


def _has_masks(context: Any) -> bool:
    """Whether the processor reads and writes some lanes as fast as all.

    Masked writes of AVX2 take 20 cycles and more where they are done in microcode: planes of 14x14 in cache then took
    2.6 times as long. Processors without masks have a branch for each lane.
    """
    return "+avx512f" in context.codegen().magic_tuple()[2].split(",")


def _load(builder: Any, vector: Vector, pointer: Any) -> Any:
    return builder.load(pointer, align=vector.dtype.bitwidth // 8)


def _halves(builder: Any, v: Any) -> tuple[Any, Any]:
    count, undefined = v.type.count // 2, ir.Constant(v.type, ir.Undefined)
    low, high = ([ir.Constant(_I32, first + k) for k in range(count)] for first in (0, count))
    mask = ir.VectorType(_I32, count)
    return tuple(builder.shuffle_vector(v, undefined, ir.Constant(mask, lanes)) for lanes in (low, high))


def _suffix(vector: Vector) -> str:
    return f"v{vector.count}f{vector.dtype.bitwidth}"


def _align(vector: Vector) -> Any:
    return ir.Constant(_I32, vector.dtype.bitwidth // 8)


@lower_builtin(lanes, types.Array)
def _lower_lanes(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    return context.get_constant(types.intp, LANES[sig.args[0].dtype])


@lower_builtin(load, types.Array, types.Integer)
@lower_builtin(load_like, types.Array, types.Integer, Vector)
def _lower_load(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    vector = sig.return_type
    x, i = args[:2]
    n = context.get_constant(types.intp, vector.count)
    pointer = _pointer(context, builder, sig.args[0], x, i, n, vector)
    return _load(builder, vector, pointer)


@lower_builtin(load_part, types.Array, types.Integer, types.Integer, Vector)
def _lower_load_part(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    vector = sig.return_type
    x, i, n, fill = args
    pointer = _pointer(context, builder, sig.args[0], x, i, n, vector)
    if _has_masks(context):
        return _masked_load(builder, vector, pointer, n, fill)
    size = cgutils.unpack_tuple(builder, context.make_array(sig.args[0])(context, builder, x).shape)[0]
    end, count = builder.add(i, ir.Constant(i.type, vector.count)), ir.Constant(n.type, vector.count)
    result = cgutils.alloca_once(builder, fill.type)
    with builder.if_else(builder.icmp_signed(">=", n, count)) as (whole, part):
        with whole:
            builder.store(_load(builder, vector, pointer), result)
        with part, builder.if_else(builder.icmp_signed("<=", end, size), likely=True) as (inside, beyond):
            with inside:
                selected = builder.select(_mask(builder, n, vector.count), _load(builder, vector, pointer), fill)
                builder.store(selected, result)
            with beyond:
                build = partial(_build_load_part, vector)
                found = call_apart(builder, f"_load_part_{_suffix(vector)}", build, fill.type, pointer, n, fill)
                builder.store(found, result)
    return builder.load(result)


def _build_load_part(vector: Vector, builder: Any, pointer: Any, n: Any, fill: Any) -> None:
    builder.ret(_masked_load(builder, vector, pointer, n, fill))


def _masked_load(builder: Any, vector: Vector, pointer: Any, n: Any, fill: Any) -> Any:
    name = f"llvm.masked.load.{_suffix(vector)}.p0"
    return _call(builder, name, fill.type, [pointer, _align(vector), _mask(builder, n, vector.count), fill])


@lower_builtin(store, types.Array, types.Integer, Vector)
def _lower_store(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    vector = sig.args[2]
    x, i, v = args
    n = context.get_constant(types.intp, vector.count)
    pointer = _pointer(context, builder, sig.args[0], x, i, n, vector)
    builder.store(v, pointer, align=vector.dtype.bitwidth // 8)
    return context.get_dummy_value()


@lower_builtin(store_part, types.Array, types.Integer, Vector, types.Integer)
def _lower_store_part(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    vector = sig.args[2]
    x, i, v, n = args
    pointer = _pointer(context, builder, sig.args[0], x, i, n, vector)
    if _has_masks(context):
        name = f"llvm.masked.store.{_suffix(vector)}.p0"
        _call(builder, name, ir.VoidType(), [v, pointer, _align(vector), _mask(builder, n, vector.count)])
        return context.get_dummy_value()
    with builder.if_else(builder.icmp_signed(">=", n, ir.Constant(n.type, vector.count))) as (whole, part):
        with whole:
            builder.store(v, pointer, align=vector.dtype.bitwidth // 8)
        with part:
            build = partial(_build_store_part, vector)
            call_apart(builder, f"_store_part_{_suffix(vector)}", build, ir.VoidType(), v, pointer, n)
    return context.get_dummy_value()


def _build_store_part(vector: Vector, builder: Any, v: Any, pointer: Any, n: Any) -> None:
    """By halves: 8 lanes if n has them, 4, 2 and 1."""
    align, count = vector.dtype.bitwidth // 8, vector.count
    at = builder.bitcast(pointer, v.type.element.as_pointer())
    while count > 1:
        count //= 2
        low, high = _halves(builder, v)
        some = builder.and_(n, ir.Constant(n.type, count))
        has = builder.icmp_signed("!=", some, ir.Constant(n.type, 0))
        with builder.if_then(has):
            builder.store(low, builder.bitcast(at, low.type.as_pointer()), align=align)
        v, at = builder.select(has, high, low), builder.gep(at, [some])
    builder.ret_void()


@lower_builtin(stream, types.Array, types.Integer, Vector)
def _lower_stream(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    vector = sig.args[2]
    x, i, v = args
    n = context.get_constant(types.intp, vector.count)
    pointer = _pointer(context, builder, sig.args[0], x, i, n, vector)
    write = builder.store(v, pointer, align=64)
    write.set_metadata("nontemporal", builder.module.add_metadata([ir.Constant(_I32, 1)]))
    return context.get_dummy_value()


def _prefetch(locality: int, context: Any, builder: Any, sig: Any, args: Any) -> Any:
    data = context.make_array(sig.args[0])(context, builder, args[0]).data
    address = builder.bitcast(builder.gep(data, [args[1]]), ir.IntType(8).as_pointer())
    read, level, of_data = (ir.Constant(_I32, k) for k in (0, locality, 1))
    _call(builder, "llvm.prefetch.p0", ir.VoidType(), [address, read, level, of_data])
    return context.get_dummy_value()


lower_builtin(prefetch, types.Array, types.Integer)(partial(_prefetch, 3))
lower_builtin(prefetch_far, types.Array, types.Integer)(partial(_prefetch, 2))


@lower_builtin(fence)
def _lower_fence(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    builder.fence("seq_cst")
    return context.get_dummy_value()


@lower_builtin(in_order)
def _lower_in_order(context: Any, builder: Any, _sig: Any, _args: Any) -> Any:
    builder.fence("seq_cst", "singlethread")  # no instruction
    return context.get_dummy_value()


@lower_builtin(until_aligned, types.Array, types.Integer)
def _lower_until_aligned(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    data = context.make_array(sig.args[0])(context, builder, args[0]).data
    size = sig.args[0].dtype.bitwidth // 8
    address = builder.ptrtoint(builder.gep(data, [args[1]]), ir.IntType(64))
    ahead = builder.and_(builder.neg(address), ir.Constant(address.type, 63))
    return builder.udiv(ahead, ir.Constant(address.type, size))


@lower_builtin(splat, types.Array, types.Float)
@lower_builtin(splat, Vector, types.Float)
def _lower_splat(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    scalar = context.cast(builder, args[1], sig.args[1], sig.return_type.dtype)
    return _broadcast(builder, scalar, _llvm(sig.return_type))


@lower_builtin(rounded, types.Array, types.Float)
def _lower_rounded(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    narrow = context.cast(builder, args[1], sig.args[1], sig.args[0].dtype)
    return context.cast(builder, narrow, sig.args[0].dtype, types.float64)


@lower_builtin(cast, Vector, types.Any)
@lower_builtin(cast_like, Vector, Vector)
def _lower_cast(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    source, target = sig.args[0], sig.return_type
    if source == target:
        return args[0]
    convert = builder.fpext if target.dtype.bitwidth > source.dtype.bitwidth else builder.fptrunc
    return convert(args[0], _llvm(target))


@lower_builtin(sqrt, Vector)
def _lower_sqrt(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    return _call(builder, f"llvm.sqrt.{_suffix(sig.return_type)}", _llvm(sig.return_type), list(args))


@lower_builtin(operator.neg, Vector)
def _lower_neg(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    return builder.fneg(*args)


@lower_builtin(fma, Vector, Vector, Vector)
def _lower_fma(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    return _call(builder, f"llvm.fma.{_suffix(sig.return_type)}", _llvm(sig.return_type), list(args))


@lower_builtin(within, Vector, types.Integer, types.Float, types.Float)
def _lower_within(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    vector = sig.args[0]
    v, n, low, high = args
    low, high = (
        _broadcast(builder, context.cast(builder, bound, kind, vector.dtype), _llvm(vector))
        for bound, kind in ((low, sig.args[2]), (high, sig.args[3]))
    )
    inside = builder.and_(builder.fcmp_ordered(">", v, low), builder.fcmp_ordered("<", v, high))
    outside = builder.and_(builder.not_(inside), _mask(builder, n, vector.count))
    bits = ir.IntType(vector.count)
    return builder.icmp_unsigned("==", builder.bitcast(outside, bits), ir.Constant(bits, 0))


@lower_builtin(where_zero, Vector, Vector, Vector)
def _lower_where_zero(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    test, a, b = args
    return builder.select(builder.fcmp_ordered("==", test, ir.Constant(test.type, None)), a, b)


@lower_builtin(hsum, Vector)
def _lower_hsum(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    wide = Vector(types.float64, sig.args[0].count)
    v = _lower_cast(context, builder, wide(sig.args[0], types.none), args)
    while v.type.count > 1:
        v = builder.fadd(*_halves(builder, v))
    return builder.extract_element(v, ir.Constant(_I32, 0))


@lower_builtin(plain, types.Array)
def _lower_plain(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    return impl_ret_borrowed(context, builder, sig.return_type, args[0])


@lower_builtin(address, ObjectType)
def _lower_address(_context: Any, builder: Any, _sig: Any, args: Any) -> Any:
    return builder.ptrtoint(args[0], ir.IntType(64))


@lower_builtin(word, types.Integer)
def _lower_word(_context: Any, builder: Any, _sig: Any, args: Any) -> Any:
    return builder.load(builder.inttoptr(args[0], ir.IntType(64).as_pointer()))


def _lower_operator(function: Any, instruction: str) -> None:
    _typed(function, _of_operands)

    @lower_builtin(function, Vector, Vector)
    @lower_builtin(function, Vector, types.Float)
    @lower_builtin(function, types.Float, Vector)
    def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        vector = sig.return_type
        lanes_of = (
            a if kind == vector else _broadcast(builder, context.cast(builder, a, kind, vector.dtype), _llvm(vector))
            for a, kind in zip(args, sig.args, strict=True)
        )
        return getattr(builder, instruction)(*lanes_of)


_lower_operator(operator.add, "fadd")
_lower_operator(operator.sub, "fsub")
_lower_operator(operator.mul, "fmul")
_lower_operator(operator.truediv, "fdiv")
