"""The body of `test_backends` on a CUDA device: a card, or Numba's simulator (NUMBA_ENABLE_CUDASIM=1)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import naive
import numpy as np
import pytest
from cases import BAR, DTYPES, LAYOUTS, assert_bits, assert_within, frozen, normal
from devices import missing, simulated, to_device, to_host
from test_backends import MODES, Mode, expected, problem, run

import numbabn as nb

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing() or "there is one")

# Aligned planes, odd ones, planes cut by columns, (N, C) that is aligned or not; blocks that share channels.
SHAPES = {
    "one-packet": (2, 3, 2, 2),
    "odd-planes": (3, 5, 7, 3),
    "rows": (37, 9),
    "rank-5": (2, 3, 2, 3, 4),
    "shared-planes": (9, 2, 16, 16) if simulated() else (5, 3, 64, 64),
    "shared-odd-planes": (3, 2, 31, 23) if simulated() else (4, 3, 61, 71),
    "shared-rows": (260, 8) if simulated() else (1100, 64),
    "shared-odd-rows": (390, 5) if simulated() else (2500, 43),
    "panels": (5, 264),
}
FRAMES = ("channels-first", "channels-last", "outer-gaps", "reversed")
STRIDED = ("inner-gaps", "backwards", "cropped", "fortran", "channel-gaps", "channels-outermost")


def cases() -> Iterator[tuple[str, str, str, Any]]:
    """Shape, layout, mode and dtype, each varied where it matters; the slow simulator gets a third of them."""
    slow = simulated()
    for shape in SHAPES:
        for layout in FRAMES[: 2 if "shared" in shape or slow else 4]:
            for dtype in DTYPES[: 1 if "shared" in shape and slow else 2]:
                yield shape, layout, "training", dtype
            if not ("shared" in shape and slow):
                yield shape, layout, "eval-in-place", np.float32
        yield shape, FRAMES[0], "training-plain" if shape == "one-packet" else "training", np.float32
    for layout in (*FRAMES, *STRIDED[: 2 if slow else None]):
        for mode in ("training", "eval") if slow else ("training", "training-in-place", "eval"):
            yield "one-packet" if slow else "odd-planes", layout, mode, np.float32
    yield "odd-planes", FRAMES[0], "training-in-place", np.float64


@pytest.mark.parametrize(("shape", "layout", "mode", "dtype"), dict.fromkeys(cases()))
def test_results(shape: str, layout: str, mode: str, dtype: Any) -> None:
    how: Mode = MODES[mode]
    results = run(problem(SHAPES[shape], dtype, how.affine), how, layout, to_device)
    for name, (value, bar) in expected(SHAPES[shape], dtype, how).items():
        assert_within(to_host(results[name]), value, bar, name)


@pytest.mark.parametrize("layout", ["channels-first", "channels-last", "inner-gaps"])
@pytest.mark.parametrize("shape", ["odd-planes"] if simulated() else ["odd-planes", "shared-planes", "shared-odd-rows"])
def test_steps_give_the_bits_of_the_whole(shape: str, layout: str) -> None:
    p = problem(SHAPES[shape], np.float32, True)
    whole = {name: to_host(a) for name, a in run(p, MODES["training-in-place"], layout, to_device).items()}
    x, dy = to_device(LAYOUTS[layout](p.x)), to_device(LAYOUTS[layout](p.dy))
    weight, bias = to_device(p.weight), to_device(p.bias)
    m = nb.moments(x)
    scale = m.invstd()
    running = to_device(p.running_mean.copy()), to_device(p.running_var.copy())
    nb.update_running(*running, m, 0.3)
    sums = nb.backward_reduce(dy, x, m.mean, scale)
    dx = nb.backward_elemt(dy, x, m.mean, scale, weight, *sums, m.count, out=dy)
    y = nb.normalize(x, m.mean, scale, weight, bias, out=x)
    found: dict[str, Any] = {"save_mean": m.mean, "save_invstd": scale, "y": y, "dbias": sums[0], "dx": dx}
    found |= dict(zip(("running_mean", "running_var"), running, strict=True))
    for name, result in found.items():
        assert_bits(to_host(result), whole[name], name)


@pytest.mark.parametrize("shift", [4] if simulated() else [4, 8, 12])
@pytest.mark.parametrize("shape", ["one-packet"] if simulated() else ["shared-planes", "shared-rows"])
def test_addresses_change_no_bit(shape: str, shift: int) -> None:
    p = problem(SHAPES[shape], np.float32, True)
    whole = run(p, MODES["training-in-place"], "channels-first", to_device)
    moved = run(p, MODES["training-in-place"], "channels-first", lambda a: to_device(a, shift))
    for name, result in moved.items():
        assert_bits(to_host(result), to_host(whole[name]), name)


@pytest.mark.parametrize("mean", [1e5] if simulated() else [0.0, 100.0, 1e5])
@pytest.mark.parametrize("first", ["data"] if simulated() else ["data", "outlier", "zero"])
@pytest.mark.parametrize("shape", ["rows"] if simulated() else ["shared-planes", "shared-odd-planes", "shared-rows"])
def test_far_from_zero(shape: str, first: str, mean: float) -> None:
    x = np.array(normal(SHAPES[shape], np.float32, 1, mean))
    if first != "data":
        x[0].reshape(x.shape[1], -1)[:, 0] = mean + 30.0 if first == "outlier" else 0.0
    running = to_device(np.zeros(x.shape[1])), to_device(np.ones(x.shape[1]))
    y = nb.batch_norm(to_device(frozen(x)), *running, training=True)
    wanted, _, _ = naive.forward(x)
    assert_within(to_host(y), wanted, BAR["f"] * np.maximum(1.0, np.abs(wanted) / 4.0), "y")
    new_mean, new_var = naive.running(np.zeros(x.shape[1]), np.ones(x.shape[1]), x, 0.1)
    _, _, m2 = naive.moments(x)
    std = np.sqrt(m2 / (x.size // x.shape[1]))
    assert_within(to_host(running[0]), new_mean, 1e-7 * std + 2.4e-7 * np.abs(new_mean), "running_mean")
    assert_within(to_host(running[1]), new_var, 1e-6 * new_var, "running_var")


# -- layers ------------------------------------------------------------------------------------------------------------


def steps(layer: Any, to: Any, back: Any) -> dict[str, Any]:
    """Two training steps and an evaluation."""
    results: dict[str, Any] = {}
    for k in range(2):
        x, dy = normal((4, 3, 5, 4), np.float32, k, 5.0), normal((4, 3, 5, 4), np.float32, k + 9)
        results |= {f"y{k}": back(layer(to(x))), f"dx{k}": back(layer.backward(to(dy)))}
    results["eval"] = back(layer.eval()(to(x)))
    return results | {f"grad {name}": back(a) for name, a in layer.grads.items()} | dict(layer.state_dict())


@pytest.mark.parametrize("momentum", [0.1, None])
def test_layers(momentum: float | None) -> None:
    there = steps(nb.BatchNorm2d(3, momentum=momentum, device="cuda"), to_device, to_host)
    here = steps(nb.BatchNorm2d(3, momentum=momentum), np.array, np.array)
    assert there.keys() == here.keys() and there["num_batches_tracked"] == 2
    for name, value in here.items():
        assert_within(there[name], value.astype(np.longdouble), 5e-6 * np.maximum(1.0, np.abs(value)), name)


def test_layers_move() -> None:
    import copy

    layer = nb.BatchNorm2d(3)
    layer(normal((4, 3, 5, 4), np.float32, 1, 5.0))
    state = layer.state_dict()
    moved = layer.to("cuda")
    assert moved is layer and type(layer.weight) is not np.ndarray
    for name, value in layer.state_dict().items():
        assert_bits(value, state[name], name)
    weight = layer.weight
    assert layer.to("cuda").weight is weight
    assert layer.to("cuda:0").weight is not weight  # arrays of Numba's do not tell where they are
    assert_bits(layer.state_dict()["running_mean"], state["running_mean"])
    twin = copy.deepcopy(layer)
    assert type(twin.weight) is not np.ndarray
    layer.reset_parameters()
    assert layer.state_dict()["running_mean"].max() == 0.0
    layer.load_state_dict(twin.state_dict())
    assert_bits(layer.to("cpu").running_mean, state["running_mean"])
    lazy = nb.LazyBatchNorm2d(device="cuda")
    lazy(to_device(normal((2, 7, 2, 2), np.float32)))
    assert to_host(lazy.running_var).shape == (7,)


def test_a_layer_that_overwrote_its_input_says_so() -> None:
    layer, x = nb.BatchNorm2d(3, device="cuda"), to_device(np.array(normal((2, 3, 2, 2), np.float32)))
    layer(x, out=x)
    with pytest.raises(RuntimeError, match="out=x overwrote it"):
        layer.backward(x)
