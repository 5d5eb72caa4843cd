"""What `out` may be: any memory of the right shape and dtype, x or dy itself, and nothing that overlaps otherwise."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import CALLS, LAYOUTS, MEAN, SCALE, SHAPE, SUM, Array, assert_bits, frozen, normal
from numba import carray, njit
from numba.core import cgutils, types
from numba.extending import intrinsic
from numpy.exceptions import TooHardError
from numpy.lib.stride_tricks import as_strided

import numbabn as nb

every_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)


@every_call
@pytest.mark.parametrize("layout", LAYOUTS)
def test_out(call: Any, layout: str) -> None:
    x = frozen(LAYOUTS[layout](normal(SHAPE, np.float32, 1)))
    for out_layout in ("channels-last", "outer-gaps", "cropped", layout):
        out = LAYOUTS[out_layout](np.zeros(SHAPE, np.float32)).astype(x.dtype, copy=False)
        result = call(x, out=out)
        assert result is out
        np.testing.assert_allclose(out, call(x), rtol=2e-6, atol=2e-6)
        if out.base is not None and out.base.size > out.size and out.base.dtype == out.dtype:
            assert np.count_nonzero(np.isnan(out.base)) == out.base.size - out.size, "wrote between the elements"
    assert_bits(out, call(x))


@every_call
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("view", [False, True])
def test_in_place(call: Any, layout: str, view: bool) -> None:
    x = normal(SHAPE, np.float32, 1)
    expected = call(frozen(LAYOUTS[layout](x)))
    given = LAYOUTS[layout](x)
    out = given.view() if view else given
    assert call(given, out=out) is out
    assert_bits(given, expected)


def test_memory_mapped_out(tmp_path: Path) -> None:
    x = normal(SHAPE, np.float32, 1)
    out = np.memmap(tmp_path / "y", np.float32, "w+", shape=SHAPE)
    assert nb.batch_norm(x, training=True, out=out) is out
    assert_bits(out, nb.batch_norm(x, training=True))


OVERLAPS: dict[str, Callable[[Array], tuple[Array, Array]]] = {
    "shifted": lambda b: (b[:4], b[1:5]),
    "shifted-one-element": lambda b: (b.ravel()[:420].reshape(SHAPE), b.ravel()[1:421].reshape(SHAPE)),
    "reversed": lambda b: (b[:4], b[3::-1]),
    "flipped-channels": lambda b: (b[:4], b[:4, ::-1]),
    "every-second": lambda b: (b[:4], b[:8:2]),
    "last-element": lambda b: (b.ravel()[:420].reshape(SHAPE), b.ravel()[419:839].reshape(SHAPE)),
}


@every_call
@pytest.mark.parametrize("views", OVERLAPS.values(), ids=OVERLAPS)
def test_overlap_with_the_input_is_refused(call: Any, views: Callable[[Array], tuple[Array, Array]]) -> None:
    memory = np.random.default_rng(1).normal(size=(8, *SHAPE[1:]))
    before = memory.tobytes()
    x, out = views(memory)
    with pytest.raises(ValueError, match=r"out overlaps (x|dy)"):
        call(x, out=out)
    assert memory.tobytes() == before


@every_call
def test_neighbours_in_one_buffer_do_not_overlap(call: Any) -> None:
    memory = np.random.default_rng(1).normal(size=(8, *SHAPE[1:]))
    expected = call(memory[::2].copy())
    assert_bits(call(memory[::2], out=memory[1::2]), expected)


@every_call
def test_an_axis_of_one_may_have_any_stride(call: Any) -> None:
    """The same elements all the same, at the first call and when all arguments are looked at in one."""
    x = normal((8, 3), np.float64, 1)
    expected = call(x.copy()[:, :, None, None])
    for _ in range(3):
        given = x.copy()
        out = given.reshape(8, 3, 1, 1)
        assert call(given[:, :, None, None], out=out) is out
        assert_bits(out, expected)


def test_overlap_of_arrays_that_own_nothing_is_refused() -> None:
    """Their base is None, as that of arrays which own their memory is."""
    memory = np.random.default_rng(1).normal(size=60)

    @intrinsic  # type: ignore[untyped-decorator]
    def pointer(_context: Any, a: Any) -> Any:
        return types.voidptr(a), lambda _c, builder, _s, args: builder.inttoptr(args[0], cgutils.voidptr_t)

    @njit  # type: ignore[untyped-decorator]
    def part(address: int, first: int) -> Any:
        return carray(pointer(address), (60,), np.float64)[first : first + 30].reshape(10, 3)

    x, out = part(memory.ctypes.data, 0), part(memory.ctypes.data, 9)
    row = part(memory.ctypes.data, 27)[0]
    for given in ({"x": x, "out": out}, {"x": normal((10, 3), np.float64, 1), "out": out, "weight": row}):
        before = memory.copy()
        with pytest.raises(ValueError, match="out overlaps"):
            nb.batch_norm(**given, training=True)
        assert_bits(memory, before)


@every_call
def test_overlap_of_out_with_itself_is_refused(call: Any) -> None:
    row = np.zeros(3 * 5 * 7 + 6)
    for strides in ((0, 280, 56, 8), (16, 280, 56, 8), (8, 8, 8, 8)):
        out = as_strided(row, SHAPE, strides)
        with pytest.raises(ValueError, match="out overlaps itself"):
            call(normal(SHAPE, np.float64, 1), out=out)
    assert not row.any()


def test_overlap_with_parameters_is_refused() -> None:
    x = normal(SHAPE, np.float64, 1)
    for name in ("running_mean", "running_var", "weight", "bias"):
        for training in (True, False):
            memory = np.ones(SHAPE)
            arguments: dict[str, Any] = {"running_mean": np.zeros(3), "running_var": np.ones(3)}
            arguments[name] = memory[0, 0, 0, 2:5]
            with pytest.raises(ValueError, match=f"out overlaps {name}"):
                nb.batch_norm(x, training=training, out=memory, **arguments)
            assert (memory == 1.0).all()
    memory = np.ones(SHAPE)
    part = memory[1, 1, 1, :3]
    for name in ("weight", "save_mean", "save_invstd"):
        arguments = {"save_mean": MEAN, "save_invstd": SCALE, name: part}
        with pytest.raises(ValueError, match=f"out overlaps {name}"):
            nb.batch_norm_backward(x, x, out=memory, **arguments)
    for name in ("mean", "invstd", "weight", "sum_dy", "sum_dy_xmu"):
        arguments = {"mean": MEAN, "invstd": SCALE, "weight": None, "sum_dy": SUM, "sum_dy_xmu": SUM, name: part}
        with pytest.raises(ValueError, match=f"out overlaps {name}"):
            nb.backward_elemt(x, x, count=140, out=memory, **arguments)


def test_overlap_that_takes_too_long_to_decide_is_refused() -> None:
    memory = np.zeros(1300)
    x = as_strided(memory, (3, 4, 6, 2), (8 * 216, 8 * 72, 8 * 56, 8 * 275))
    out = as_strided(memory[10:], (3, 4, 6, 2), (8 * 304, 8 * 76, 8 * 8, 8 * 4))
    work: Any = 1000
    with pytest.raises(TooHardError):
        np.shares_memory(x, out, max_work=work)
    with pytest.raises(ValueError, match="out overlaps x"):
        nb.batch_norm(x, training=True, out=out)
    assert not memory.any()


@every_call
@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: np.zeros((4, 3, 5, 8)), ValueError, "out has shape"),
        (lambda: np.zeros((4, 3, 35)), ValueError, "out has shape"),
        (lambda: np.zeros(SHAPE, np.float32), TypeError, "out has dtype float32"),
        (lambda: np.zeros(SHAPE, np.int64), TypeError, "out has dtype int64"),
        (lambda: np.zeros(SHAPE).astype(">f8"), TypeError, "out has dtype >f8"),
        (lambda: frozen(np.zeros(SHAPE)), ValueError, "out is read-only"),
        (lambda: np.zeros(SHAPE).tolist(), TypeError, "out must be an ndarray"),
        (lambda: np.ma.zeros(SHAPE), TypeError, "out must be an ndarray"),
    ],
)
@pytest.mark.parametrize("layout", ["channels-first", "channels-last"])
def test_out_that_does_not_fit(call: Any, layout: str, make: Any, error: type[Exception], message: str) -> None:
    out = make()
    with pytest.raises(error, match=message):
        call(frozen(LAYOUTS[layout](normal(SHAPE, np.float64, 1))), out=out)
    assert not np.any(out)


def test_out_of_backward_has_the_byte_order_of_x() -> None:
    x, dy = normal(SHAPE, ">f8", 1), normal(SHAPE, "<f8", 2)
    expected = nb.batch_norm_backward(dy, x, None, MEAN, SCALE).x
    out = np.zeros(SHAPE, ">f8")
    assert nb.batch_norm_backward(dy, x, None, MEAN, SCALE, out=out).x is out
    assert_bits(out, expected)
    with pytest.raises(TypeError, match="out has dtype float64, expected >f8"):
        nb.batch_norm_backward(dy, x, None, MEAN, SCALE, out=np.zeros(SHAPE))
