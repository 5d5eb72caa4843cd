"""A user's program with every public name, for type checkers to read: mypy --strict and pyright. It also runs."""

from __future__ import annotations

from typing import Any, assert_type

import numpy as np
import numpy.typing as npt

import numbabn as nb

Array = npt.NDArray[Any]
Layer = nb.BatchNorm | nb.BatchNorm1d | nb.BatchNorm2d | nb.BatchNorm3d


def images(seed: int = 0) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((8, 3, 4, 4), np.float32)


def functions(x: npt.NDArray[np.float32]) -> nb.BatchNormGrads:
    """Forward and backward, with and without running statistics."""
    mean, var = np.zeros(3), np.ones(3)
    assert_type(nb.batch_norm(x, mean, var, training=True, out=np.empty_like(x)), Array)
    assert_type(nb.batch_norm(x, mean, var, np.ones(3), np.zeros(3), eps=1e-3), Array)
    assert_type(nb.batch_norm([[1.0, 2.0], [3.0, 4.0]], training=True, axis=(1,)), Array)

    y, save_mean, save_invstd = nb.batch_norm_forward(x, training=True, axis=-1, running_ddof=0)
    assert_type(y, Array)
    assert_type(save_mean, Array)
    grads = nb.batch_norm_backward(np.ones_like(x), x, None, save_mean, save_invstd, axis=-1, needs=("x", "bias"))
    assert_type(grads, nb.BatchNormGrads)
    assert_type(grads.weight, Array | None)
    dx, _, d_bias = grads
    assert dx is not None and d_bias is not None
    assert_type(dx.sum() + d_bias.sum(), Any)
    return grads


def steps(x: npt.NDArray[np.float32]) -> Array:
    """Statistics of two halves, combined; the same for the sums of the backward."""
    total = nb.moments(x[:4]) + nb.moments(x[4:])
    assert_type(total, nb.Moments)
    assert_type(total.merge(nb.moments(x), nb.moments(x)), nb.Moments)
    assert_type(total.count, int)
    for statistic in (total.mean, total.m2, total.var(ddof=1), total.std(), total.invstd(eps=1e-3)):
        assert_type(statistic, Array)

    running_mean, running_var = np.zeros(3, np.float32), np.ones(3, np.float32)
    nb.update_running(running_mean, running_var, total, momentum=0.5)
    invstd = total.invstd()
    y = nb.normalize(x, total.mean, invstd, weight=np.ones(3), out=np.empty_like(x))
    assert_type(y, Array)
    sum_dy, sum_dy_xmu = nb.backward_reduce(y, x, total.mean, invstd)
    assert_type(sum_dy, Array)
    dx = nb.backward_elemt(y, x, total.mean, invstd, None, sum_dy, sum_dy_xmu, total.count)
    assert_type(dx, Array)
    return dx


def step(layer: Layer, x: npt.ArrayLike, rate: float = 0.1) -> Array:
    """One step of gradient descent on the sum of squares."""
    layer.zero_grad()
    y = layer(x)
    assert_type(y, Array)
    dx = layer.backward(2 * y)
    assert_type(layer.grads, dict[str, Array])
    for name, parameter in layer.parameters().items():
        parameter -= rate * layer.grads[name]
    return dx


def layers(x: npt.NDArray[np.float32]) -> list[Layer]:
    """Training of all kinds of layers; chained calls keep the kind."""
    last = nb.BatchNorm(4, momentum=None, axis=-1)
    both = nb.BatchNorm((3, 4), 1e-5, 0.1, dtype=np.float64, axis=(1, -1))
    plain = nb.BatchNorm2d(3, affine=True, bias=False)
    rows = nb.BatchNorm1d(3, track_running_stats=False)
    volumes = nb.BatchNorm3d(3, device="cpu", dtype="float64", running_ddof=0)
    for layer, batch in (last, x), (both, x), (plain, x), (rows, x[..., 0]), (volumes, x[..., None]):
        assert_type(step(layer, batch), Array)

    assert_type(plain.train(), nb.BatchNorm2d)
    assert_type(plain.freeze().unfreeze().eval(), nb.BatchNorm2d)
    assert_type(last.eval().forward(x, out=np.empty_like(x)), Array)
    assert_type(plain.training, bool)
    assert_type(plain.weight, Array | None)
    assert_type(plain.running_mean, Array | None)
    assert_type(plain.num_batches_tracked, Array | None)
    plain.reset_running_stats()
    plain.reset_parameters()
    return [last, both, plain, rows, volumes]


def lazy(x: npt.NDArray[np.float32]) -> None:
    """Layers that see their number of channels in the first input."""
    assert_type(nb.LazyBatchNorm1d()(x[..., 0]), Array)
    assert_type(nb.LazyBatchNorm2d(1e-3, 0.2, dtype=np.float64)(x), Array)
    assert_type(nb.LazyBatchNorm3d(affine=False).eval(), nb.LazyBatchNorm3d)


def states(x: npt.NDArray[np.float32]) -> Array:
    """State of one layer in another one."""
    teacher, student = nb.BatchNorm2d(3), nb.BatchNorm2d(3)
    teacher(x)
    state = teacher.state_dict()
    assert_type(state, dict[str, Array])
    result = student.load_state_dict(state, strict=False)
    assert_type(result.missing_keys, list[str])
    return state["running_mean"]


def settings(x: npt.NDArray[np.float32]) -> None:
    """For the process, and for a block."""
    assert_type(nb.config.threads, int | None)
    nb.config.threads = None
    assert_type(nb.config.parallel_threshold, int)
    assert_type(nb.config.cache, bool)
    assert_type(nb.config.recycle_limit, int)
    with nb.config.using(threads=1, parallel_threshold=0) as nothing:
        assert_type(nothing, None)
        nb.batch_norm(x, training=True)


def main() -> None:
    assert_type(nb.__version__, str)
    x = images()
    functions(x)
    steps(x)
    layers(x)
    lazy(x)
    states(x)
    settings(x)


if __name__ == "__main__":
    main()
