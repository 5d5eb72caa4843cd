"""What only a card can show: libraries' arrays, streams, graphs, sizes beyond 2^31, the speed of memory."""

from __future__ import annotations

from typing import Any

import naive
import numpy as np
import pytest
from cases import assert_bits, assert_within, normal, y_bar
from devices import missing, simulated, to_device, to_host

import numbabn as nb

pytestmark = pytest.mark.gpu

SHAPE = (8, 16, 28, 28)


def no_card() -> str:
    """Why there is no card here: something that answers for one does not count."""
    if missing() or simulated():
        return missing() or "the simulator is no card"
    from numba import cuda

    return "" if hasattr(cuda.current_context(), "handle") else "a virtual device is no card"


@pytest.fixture(autouse=True)
def card() -> Any:
    if no_card():
        pytest.skip(no_card())
    from numba import cuda

    return cuda


@pytest.fixture(params=["torch", "cupy"])
def library(request: pytest.FixtureRequest) -> Any:
    found = pytest.importorskip(request.param)
    if request.param == "torch" and not found.cuda.is_available():
        pytest.skip("PyTorch was built without CUDA")
    return found


def array(library: Any, a: Any) -> Any:
    return library.from_numpy(np.array(a)).cuda() if library.__name__ == "torch" else library.asarray(a)


def host(a: Any) -> Any:
    return a.cpu().numpy() if hasattr(a, "cpu") else a.get()


def _strides(a: Any) -> Any:
    return a.stride() if hasattr(a, "stride") else a.strides


def test_results_are_of_the_callers_library(library: Any) -> None:
    x = normal(SHAPE, np.float32, 1, 5.0)
    y, mean, invstd = nb.batch_norm_forward(array(library, x), training=True)
    wanted = naive.forward(x)
    for result, value in zip((y, mean, invstd), wanted, strict=True):
        assert type(result) is type(array(library, x)) and result.device == array(library, x).device
        assert_within(host(result), value, y_bar(value, np.float32))
    last = array(library, x).transpose(1, -1)
    like_last: Any = nb.batch_norm(last, training=True)
    assert _strides(like_last) == _strides(last)


def test_work_is_on_the_current_stream(card: Any, library: Any) -> None:
    if library.__name__ != "torch":
        pytest.skip("shown with PyTorch's streams")
    stream, x = library.cuda.Stream(), array(library, normal(SHAPE, np.float32, 1))
    nb.batch_norm(x, training=True)
    library.cuda.synchronize()
    with library.cuda.stream(stream):
        library.cuda._sleep(200_000_000)
        y = nb.batch_norm(x, training=True)
        assert not stream.query(), "the host waited"
    library.cuda.current_stream().wait_stream(stream)
    assert_bits(host(y), host(nb.batch_norm(x, training=True)))


def test_a_warm_call_can_be_captured(library: Any) -> None:
    if library.__name__ != "torch":
        pytest.skip("shown with PyTorch's graphs")
    x = array(library, normal(SHAPE, np.float32, 1))
    y, mean, var = library.empty_like(x), library.zeros(16).cuda(), library.ones(16).cuda()
    stream = library.cuda.Stream()
    with library.cuda.stream(stream):
        nb.batch_norm(x, mean, var, training=True, out=y)
    stream.synchronize()
    graph = library.cuda.CUDAGraph()
    with library.cuda.graph(graph, stream=stream):
        nb.batch_norm(x, mean, var, training=True, out=y)
    x.copy_(array(library, normal(SHAPE, np.float32, 2, 3.0)))
    graph.replay()
    library.cuda.synchronize()
    assert_bits(host(y), host(nb.batch_norm(x, training=True)))


def test_more_elements_than_32_bits_count(card: Any) -> None:
    shape = (33, 64, 1024, 1024)
    free = card.current_context().get_memory_info().free
    if free < 2.1 * 4 * np.prod(shape, dtype=float):
        pytest.skip(f"{free / 1e9:.0f} GB of memory are free")
    x = card.device_array(shape, np.float32)
    part = normal((1, *shape[1:]), np.float32, 1, 3.0)
    for n in range(shape[0]):
        x[n : n + 1].copy_to_device(part)
    y: Any
    y, mean, invstd = nb.batch_norm_forward(x, training=True)
    wanted, *_ = naive.forward(part[:, :2])
    assert_within(y[32:33, :2].copy_to_host(), wanted, y_bar(wanted, np.float32))
    assert to_host(mean).shape == to_host(invstd).shape == (64,)


@pytest.mark.parametrize("shape", [(32, 64, 56, 56), (32, 512, 28, 28), (32, 512, 7, 7), (100_000, 256)], ids=str)
def test_eval_is_near_the_speed_of_a_copy(card: Any, shape: tuple[int, ...]) -> None:
    x, y = to_device(normal(shape, np.float32)), card.device_array(shape, np.float32)
    given = [to_device(np.ones(shape[1], np.float32)) for _ in range(4)]
    source = card.device_array(shape, np.float32)

    def seconds(call: Any) -> float:
        first, last = card.event(), card.event()
        call()
        first.record()
        for _ in range(50):
            call()
        last.record()
        last.synchronize()
        return float(card.event_elapsed_time(first, last)) / 50e3

    ours, copy = seconds(lambda: nb.batch_norm(x, *given, out=y)), seconds(lambda: y.copy_to_device(source))
    assert ours < 2.0 * copy + 20e-6, f"{2 * 4 * np.prod(shape) / ours / 1e9:.0f} GB/s"
