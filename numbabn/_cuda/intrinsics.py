"""Types and instructions of `packets` for Numba's CUDA target; importing it registers them."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.cuda import types
from numba.cuda.extending import lower_builtin, models, register_model, type_callable

from .._compile_cuda import BLOCK
from .packets import (
    gather,
    lane,
    lane_sum,
    lanes,
    load,
    median,
    number,
    product,
    put,
    quotient,
    reciprocal,
    single,
    splat,
    store,
    take,
)

_I32, _I64 = ir.IntType(32), ir.IntType(64)


class Packet(types.Type):
    """Numba type of a packet."""

    def __init__(self, dtype: Any, count: int) -> None:
        self.dtype: Any = dtype
        self.count = count
        super().__init__(name=f"Packet({dtype}, {count})")


def _llvm(packet: Packet) -> ir.VectorType:
    return ir.VectorType(ir.FloatType() if packet.dtype == types.float32 else ir.DoubleType(), packet.count)


def _of(array: Any) -> Packet | None:
    if not isinstance(array, types.Array) or array.dtype not in (types.float32, types.float64):
        return None
    return Packet(array.dtype, 1 if array.ndim == 1 else 128 // array.dtype.bitwidth)


def _pointer(context: Any, builder: Any, kind: Any, array: Any, i: Any, element: Any) -> Any:
    """Address of the i-th `element`; offsets are 64-bit, for arrays beyond 2^31 elements."""
    data = context.make_array(kind)(context, builder, array).data
    i = i if i.type == _I64 else builder.sext(i, _I64)
    return builder.gep(builder.bitcast(data, element.as_pointer()), [i])


def _spread(builder: Any, scalar: Any, vector: ir.VectorType) -> Any:
    return _join(builder, [scalar] * vector.count, vector)


def _join(builder: Any, scalars: list[Any], vector: ir.VectorType) -> Any:
    result = ir.Constant(vector, ir.Undefined)
    for k, scalar in enumerate(scalars):
        result = builder.insert_element(result, scalar, ir.Constant(_I32, k))
    return result


def _alignment(array: Any, packet: Packet) -> int:
    size = int(packet.dtype.bitwidth) // 8
    return 16 if array.ndim == 2 else size


def _lower_load(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    packet = sig.return_type
    pointer = _pointer(context, builder, sig.args[0], args[0], args[1], _llvm(packet))
    return builder.load(pointer, align=_alignment(sig.args[0], packet))


def _lower_store(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    packet = sig.args[2]
    pointer = _pointer(context, builder, sig.args[0], args[0], args[1], _llvm(packet))
    builder.store(args[2], pointer, align=_alignment(sig.args[0], packet))
    return context.get_dummy_value()


def _elements(context: Any, builder: Any, kind: Any, array: Any, i: Any, count: int, step: int) -> list[Any]:
    element = context.get_data_type(kind.dtype)
    first = _pointer(context, builder, kind, array, i, element)
    return [builder.gep(first, [ir.Constant(_I64, k * step)]) for k in range(count)]


def _lower_put(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    places = _elements(context, builder, sig.args[0], args[0], args[1], sig.args[2].count, BLOCK)
    for k, place in enumerate(places):
        builder.store(builder.extract_element(args[2], ir.Constant(_I32, k)), place)
    return context.get_dummy_value()


def _lower_take(context: Any, builder: Any, sig: Any, args: Any, step: int = BLOCK) -> Any:
    source, packet = sig.args[0].dtype, sig.return_type
    places = _elements(context, builder, sig.args[0], args[0], args[1], packet.count, step)
    found = [context.cast(builder, builder.load(place), source, packet.dtype) for place in places]
    return _join(builder, found, _llvm(packet))


def _lower_gather(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    return _lower_take(context, builder, sig, args, 1)


def _lower_splat(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    scalar = context.cast(builder, args[1], sig.args[1], sig.return_type.dtype)
    return _spread(builder, scalar, _llvm(sig.return_type))


def _lower_single(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    return _spread(builder, args[0], _llvm(sig.return_type))


def _lower_product(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    """One instruction: of operands that a loop does not change, LLVM would keep no more than that they have 64 bits."""
    kind = ir.FunctionType(_I64, [_I32, _I32])
    return builder.asm(kind, "mul.wide.s32 $0, $1, $2;", "=l,r,r", list(args), side_effect=False)


def _lower_lanes(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    return context.get_constant(types.int32, sig.args[0].count)


def _lower_lane(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    """Selects, where k is no constant: an indexed register would live in memory."""
    found = builder.extract_element(args[0], ir.Constant(_I32, 0))
    for k in range(1, sig.args[0].count):
        other = builder.extract_element(args[0], ir.Constant(_I32, k))
        found = builder.select(builder.icmp_signed("==", args[1], ir.Constant(args[1].type, k)), other, found)
    return found


def _lower_lane_sum(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    found = [builder.extract_element(args[0], ir.Constant(_I32, k)) for k in range(sig.args[0].count)]
    while len(found) > 1:
        found = [builder.fadd(a, b) for a, b in zip(found[::2], found[1::2], strict=True)]
    return found[0]


def _lower_number(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    return context.cast(builder, args[1], sig.args[1], sig.return_type)


def _lower_median(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    def pick(order: str, a: Any, b: Any) -> Any:
        return builder.select(builder.fcmp_ordered(order, a, b), a, b)

    def of_lane(k: int) -> Any:
        a, b, c = (builder.extract_element(v, ir.Constant(_I32, k)) for v in args)
        return pick(">", pick("<", a, b), pick("<", pick(">", a, b), c))

    return _join(builder, [of_lane(k) for k in range(sig.return_type.count)], _llvm(sig.return_type))


def _lower_reciprocal(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    one = ir.Constant(args[0].type, 1.0)
    if sig.return_type == types.float64:
        return builder.fdiv(one, args[0])
    kind = ir.FunctionType(one.type, [one.type, one.type])
    name = "__nv_fast_fdividef"
    function = builder.module.globals.get(name) or ir.Function(builder.module, kind, name)
    return builder.call(function, [one, args[0]])


class _Model(models.PrimitiveModel):
    def __init__(self, manager: Any, packet: Packet) -> None:
        super().__init__(manager, packet, _llvm(packet))


def _lower(function: Any, typer: Callable[..., Any], lowering: Callable[..., Any], *kinds: Any) -> None:
    type_callable(function)(lambda _context: typer)
    lower_builtin(function, *kinds)(lowering)


def _instruction(name: str) -> Callable[..., Any]:
    return lambda context, builder, sig, args: getattr(builder, name)(*args)


def _lane_by_lane(name: str) -> Callable[..., Any]:
    """Not as vectors: what compute capability 10 then makes of pairs of lanes, not all tools can read."""

    def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        def of_lane(k: int) -> Any:
            a, b = (builder.extract_element(v, ir.Constant(_I32, k)) for v in args)
            return getattr(builder, name)(a, b)

        return _join(builder, [of_lane(k) for k in range(sig.return_type.count)], _llvm(sig.return_type))

    return lower


def _alike(*packets: Any) -> Any:
    return packets[0] if isinstance(packets[0], Packet) and len({*packets}) == 1 else None


register_model(Packet)(_Model)
_lower(load, lambda x, i: _of(x), _lower_load, types.Array, types.Integer)
_lower(store, lambda x, i, v: types.none, _lower_store, types.Array, types.Integer, Packet)
_lower(put, lambda x, i, v: types.none, _lower_put, types.Array, types.Integer, Packet)
_lower(take, lambda x, i, like: like, _lower_take, types.Array, types.Integer, Packet)
_lower(gather, lambda x, i, like: like, _lower_gather, types.Array, types.Integer, Packet)
_lower(splat, lambda like, value: like, _lower_splat, Packet, types.Float)
_lower(lanes, lambda v: types.int32, _lower_lanes, Packet)
_lower(lane, lambda v, k: v.dtype, _lower_lane, Packet, types.Integer)
_lower(lane_sum, lambda v: v.dtype, _lower_lane_sum, Packet)
_lower(single, lambda value: Packet(value, 1), _lower_single, types.Float)
_lower(number, lambda like, value: like.dtype, _lower_number, Packet, types.Number)
_lower(median, lambda a, b, c: _alike(a, b, c), _lower_median, Packet, Packet, Packet)
_lower(reciprocal, lambda value: value, _lower_reciprocal, types.Float)
_lower(product, lambda a, b: types.int64, _lower_product, types.int32, types.int32)
_lower(quotient, lambda a, b: types.int32, _instruction("udiv"), types.int32, types.int32)
for _function, _name in ((operator.add, "fadd"), (operator.sub, "fsub"), (operator.mul, "fmul")):
    _lower(_function, lambda a, b: _alike(a, b), _lane_by_lane(_name), Packet, Packet)
