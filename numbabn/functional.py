"""The public functions: check the arguments, find the frame, hand it to the backend, return."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from . import _steps
from ._geometry import GRAD_WEIGHT, INVSTD, M2, MEAN, SUM_DY, SUM_DY_XMU
from ._layout import Layout, layout
from ._moments import Moments, require_eps, require_number

Array = npt.NDArray[Any]

_ALL = ("x", "weight", "bias")  # gradients
_made = tuple.__new__  # of a named tuple: by its own constructor it takes 0.4 us more of a small backward's 13


class BatchNormGrads(NamedTuple):
    """Gradients of a batch normalization; None for those that were not asked for.

    Attributes
    ----------
    x : ndarray or None
        Gradient with respect to the input, in its shape and dtype.
    weight, bias : ndarray or None
        Gradients with respect to the parameters, float64, in the shape of the kept axes.

    Examples
    --------
    >>> import numpy as np
    >>> import numbabn as nb
    >>> x = np.random.default_rng(0).normal(size=(8, 3))
    >>> y, mean, invstd = nb.batch_norm_forward(x, training=True)
    >>> dx, dweight, dbias = nb.batch_norm_backward(y, x, None, mean, invstd, needs=("x", "bias"))
    >>> dx.shape, dweight, dbias.shape
    ((8, 3), None, (3,))
    """

    x: Array | None
    weight: Array | None
    bias: Array | None


def batch_norm(
    x: npt.ArrayLike,
    running_mean: Array | None = None,
    running_var: Array | None = None,
    weight: npt.ArrayLike | None = None,
    bias: npt.ArrayLike | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    axis: int | tuple[int, ...] = 1,
    running_ddof: float = 1,
    out: Array | None = None,
) -> Array:
    """Normalise each channel to mean 0 and variance 1, then scale and shift it.

    ``y = (x - mean) / sqrt(var + eps) * weight + bias``, with the statistics of the batch in training and the running
    ones otherwise.

    Parameters
    ----------
    x : array_like of float32 or float64, rank 2 or more
        Input. Its memory order is kept; no stride pattern makes a whole copy. An array on a CUDA device has all others
        there too, and results of its library.
    running_mean, running_var : ndarray, optional
        Running statistics in the shape of the kept axes, any supported float dtype. Needed unless `training`; in
        training, those given are updated in place.
    weight, bias : array_like, optional
        Scale and shift in the shape of the kept axes, any supported float dtype. 1 and 0 where left out.
    training : bool, default False
        Whether to use, and to learn, the statistics of this batch.
    momentum : float, default 0.1
        Weight of the new batch in the running statistics (PyTorch's convention; Keras, Flax and TensorFlow name the
        weight of the old value): ``running = momentum * batch + (1 - momentum) * running``.
    eps : float, default 1e-5
        Added to the variance. 0 is allowed: a channel of variance 0 then gives 0.
    axis : int or tuple of int, default 1
        The channel axis, or all axes that are kept apart; the others are reduced.
    running_ddof : float, default 1
        ``running_var`` learns ``var * n / (n - running_ddof)``; 0 for the biased variance.
    out : ndarray, optional
        Where to write y: x's shape and dtype, writable. May be x itself; any other overlap is refused.

    Returns
    -------
    ndarray
        y, in x's shape and dtype; `out` if given.

    Raises
    ------
    TypeError
        If a dtype or kind of array is not supported, or `axis` is no int or tuple of them.
    ValueError
        If shapes do not fit, x has less than two dimensions, `axis` repeats one, eps is negative, training sees one
        value per channel or no more than `running_ddof`, running statistics are missing, or `out` overlaps an input.
    AxisError
        If `axis` is out of range. Nothing has changed after any of these.

    Notes
    -----
    Ioffe and Szegedy, "Batch Normalization: Accelerating Deep Network Training by Reducing Internal Covariate Shift"
    (2015). Exact to 1e-6 (float32) at means up to 1e5 standard deviations.

    Examples
    --------
    >>> import numpy as np
    >>> import numbabn as nb
    >>> nb.batch_norm(np.arange(15.0).reshape(5, 3), training=True)[:, 0].round(4)
    array([-1.4142, -0.7071,  0.    ,  0.7071,  1.4142])
    """
    if training:
        return _train(x, running_mean, running_var, weight, bias, momentum, eps, axis, running_ddof, out, False)[0]
    return _infer(x, running_mean, running_var, weight, bias, eps, axis, out)[0]


def batch_norm_forward(
    x: npt.ArrayLike,
    running_mean: Array | None = None,
    running_var: Array | None = None,
    weight: npt.ArrayLike | None = None,
    bias: npt.ArrayLike | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    axis: int | tuple[int, ...] = 1,
    running_ddof: float = 1,
    out: Array | None = None,
) -> tuple[Array, Array, Array]:
    """`batch_norm` that also returns what `batch_norm_backward` needs.

    Parameters
    ----------
    x, running_mean, running_var, weight, bias, training, momentum, eps, axis, running_ddof, out
        As in `batch_norm`.

    Returns
    -------
    y : ndarray
        In x's shape and dtype.
    save_mean, save_invstd : ndarray of float64
        The mean and ``1 / sqrt(var + eps)`` that normalised, in the shape of the kept axes: the batch's in training,
        else the running ones.

    Raises
    ------
    TypeError, ValueError, AxisError
        As in `batch_norm`.

    Examples
    --------
    >>> import numpy as np
    >>> import numbabn as nb
    >>> y, mean, invstd = nb.batch_norm_forward(np.arange(15.0).reshape(5, 3), training=True, eps=0)
    >>> mean, (1 / invstd**2).round(6)
    (array([6., 7., 8.]), array([18., 18., 18.]))
    """
    if training:
        y, shape, stats = _train(x, running_mean, running_var, weight, bias, momentum, eps, axis, running_ddof, out)
        return y, _row(stats, MEAN, shape), _row(stats, INVSTD, shape)
    y, shape, rows, at = _infer(x, running_mean, running_var, weight, bias, eps, axis, out)
    return y, *at.saved(rows, eps, shape)


def batch_norm_backward(
    dy: npt.ArrayLike,
    x: npt.ArrayLike | None,
    weight: npt.ArrayLike | None = None,
    save_mean: npt.ArrayLike | None = None,
    save_invstd: npt.ArrayLike | None = None,
    *,
    training: bool = True,
    axis: int | tuple[int, ...] = 1,
    out: Array | None = None,
    needs: tuple[str, ...] = _ALL,
) -> BatchNormGrads:
    """Gradients of `batch_norm_forward`.

    Parameters
    ----------
    dy : array_like
        Gradient with respect to y, in x's shape and dtype.
    x : array_like or None
        The forward's input. May be None where `needs` leaves out "weight" and, in training, "x": all else depends on dy
        alone.
    weight : array_like, optional
        The forward's weight.
    save_mean, save_invstd : array_like
        As the forward returned them. `save_mean` may be None where x may.
    training : bool, default True
        Whether the forward used the batch's statistics, which depend on x, or fixed ones.
    axis : int or tuple of int, default 1
        As in the forward.
    out : ndarray, optional
        Where to write dx: x's shape and dtype. May be dy or x itself.
    needs : tuple of {"x", "weight", "bias"}
        The gradients to compute.

    Returns
    -------
    BatchNormGrads
        ``(x, weight, bias)``; x in the input's dtype, the others float64; None for those not in `needs`.

    Raises
    ------
    TypeError, ValueError, AxisError
        As in `batch_norm`, and ValueError if what `needs` requires is None.

    Notes
    -----
    With r = invstd and n values per channel (Ioffe and Szegedy 2015): ``dbias = sum(dy)``,
    ``dweight = r * sum(dy * (x - mean))`` and, in training,
    ``dx = weight * r * (dy - sum(dy) / n - (x - mean) * r**2 * sum(dy * (x - mean)) / n)``, else ``weight * r * dy``.

    Examples
    --------
    >>> import numpy as np
    >>> import numbabn as nb
    >>> x = np.random.default_rng(0).normal(size=(8, 3))
    >>> y, mean, invstd = nb.batch_norm_forward(x, training=True)
    >>> grads = nb.batch_norm_backward(np.ones_like(x), x, None, mean, invstd)
    >>> grads.bias, bool(abs(grads.x).max() < 1e-12)
    (array([8., 8., 8.]), True)
    """
    needs_x = needs_weight = needs_bias = True
    if needs is not _ALL:
        needs = tuple(needs)
        for name in needs:
            if name not in _ALL:
                raise ValueError(f"needs may hold 'x', 'weight' and 'bias', got {name!r}")
        needs_x, needs_weight, needs_bias = (name in needs for name in _ALL)
    at, g = (_steps, dy) if type(dy) is np.ndarray else _steps.adopted("dy", dy)
    lie = layout(g.shape, g.strides, g.dtype, axis, "dy")
    reads_x = needs_weight or (training and needs_x)
    if reads_x and x is None:
        raise ValueError(f"x is None, expected the forward's input for needs={needs} with training={training}")
    if out is not None and not needs_x:
        raise ValueError(f"out is given but needs={needs} asks for no gradient with respect to x")
    array: Any = x
    dx: Any = at.output(None, x) if needs_x and out is None and type(x) is np.ndarray else out
    fitting = at.fit(lie, g, x, dx, (save_mean, save_invstd, weight, weight), 0)
    if fitting:
        rows = save_mean, save_invstd, fitting[2]
    else:
        array = None if x is None else at.adopt_like("x", x, g, "dy")
        if needs_x and (out is not None or dx is None):
            dx = at.output(out, g if array is None else array, ("dy", g), ("x", array))
        apart = None if out is None else dx
        scales = needs_x or needs_weight
        rows = (
            at.row_of(lie, apart, "save_mean" if reads_x or save_mean is not None else "", save_mean),
            at.row_of(lie, apart, "save_invstd" if scales or save_invstd is not None else "", save_invstd),
            at.row_of(lie, apart, "weight", weight),
        )
    d_weight = d_bias = None
    if training and dx is not None and array is not None:
        sums = at.backward(g, array, dx, rows, lie, fitting is not None)
    elif needs_weight and array is not None:
        sums = at.backward_reduce(g, array, rows, lie)
    elif needs_bias:
        sums = at.backward_reduce(g, g, rows, lie)  # sum(dy) alone: x need not come into cache
    shape, flat = lie.kept_shape, lie.row_shape is not None
    if needs_bias:  # `_row`, whose two calls take 0.35 us of a small backward's 13
        d_bias = sums[SUM_DY] if flat else sums[SUM_DY].reshape(shape)
    if needs_weight:
        d_weight = sums[GRAD_WEIGHT] if flat else sums[GRAD_WEIGHT].reshape(shape)
    if dx is not None and not training:
        at.scale(g, dx, rows, lie)
    return _made(BatchNormGrads, (dx if out is None else out, d_weight, d_bias))


def moments(x: npt.ArrayLike, *, axis: int | tuple[int, ...] = 1) -> Moments:
    """Count, mean and sum of squared deviations of each channel.

    Parameters
    ----------
    x : array_like of float32 or float64, rank 2 or more
        Input, read in place.
    axis : int or tuple of int, default 1
        The channel axis, or all axes that are kept apart.

    Returns
    -------
    Moments
        With float64 arrays in the shape of the kept axes; count 0 and zeros for an empty x.

    Raises
    ------
    TypeError, ValueError, AxisError
        As in `batch_norm`.

    Examples
    --------
    >>> import numpy as np
    >>> import numbabn as nb
    >>> m = nb.moments(np.arange(6.0).reshape(3, 2))
    >>> m.count, m.mean, m.var()
    (3, array([2., 3.]), array([2.66666667, 2.66666667]))
    """
    at, array = (_steps, x) if type(x) is np.ndarray else _steps.adopted("x", x)
    lie = layout(array.shape, array.strides, array.dtype, axis)
    stats = at.moments(array, lie)
    count = lie.per_channel if array.size else 0
    return Moments(count, at.own(_row(stats, MEAN, lie.kept_shape)), at.own(_row(stats, M2, lie.kept_shape)))


def update_running(
    running_mean: Array | None,
    running_var: Array | None,
    moments: Moments,
    momentum: float = 0.1,
    *,
    running_ddof: float = 1,
) -> None:
    """Blend a batch's statistics into running ones, in place.

    Parameters
    ----------
    running_mean, running_var : ndarray or None
        Buffers in the shape of the moments, any supported float dtype; None is left alone.
    moments : Moments
        Of the batch. Nothing changes if its count is 0.
    momentum : float, default 0.1
        Weight of the batch: ``running = momentum * batch + (1 - momentum) * running``.
    running_ddof : float, default 1
        ``running_var`` learns ``m2 / (count - running_ddof)``.

    Raises
    ------
    TypeError
        If a buffer is no ndarray, or not on the device of the moments, or has an unsupported dtype.
    ValueError
        If a buffer's shape differs, it is read-only, or the count is not above `running_ddof`.

    Examples
    --------
    >>> import numpy as np
    >>> import numbabn as nb
    >>> mean, var = np.zeros(2), np.ones(2)
    >>> nb.update_running(mean, var, nb.moments(np.arange(6.0).reshape(3, 2)), momentum=0.5)
    >>> mean, var
    (array([1. , 1.5]), array([2.5, 2.5]))
    """
    if not isinstance(moments, Moments):
        raise TypeError(f"moments must be Moments, got {type(moments).__name__}")
    require_number("momentum", momentum)
    require_number("running_ddof", running_ddof)
    shape = moments.mean.shape
    at = _steps if type(moments.mean) is np.ndarray else _steps.adopted("moments.mean", moments.mean)[0]
    r_mean = None if running_mean is None else at.buffer("running_mean", running_mean, shape)
    r_var = None if running_var is None else at.buffer("running_var", running_var, shape)
    if moments.count == 0:
        return
    if r_var is not None and not moments.count > running_ddof:
        raise ValueError(f"moments.count is {moments.count}, expected more than running_ddof={running_ddof}")
    at.update_running(r_mean, r_var, moments, momentum, running_ddof)


def normalize(
    x: npt.ArrayLike,
    mean: npt.ArrayLike,
    invstd: npt.ArrayLike,
    weight: npt.ArrayLike | None = None,
    bias: npt.ArrayLike | None = None,
    *,
    axis: int | tuple[int, ...] = 1,
    out: Array | None = None,
) -> Array:
    """``(x - mean) * invstd * weight + bias`` with given statistics.

    Parameters
    ----------
    x : array_like of float32 or float64, rank 2 or more
        Input.
    mean, invstd : array_like
        In the shape of the kept axes. A float64 mean keeps data far from zero exact.
    weight, bias : array_like, optional
        1 and 0 where left out.
    axis : int or tuple of int, default 1
        The channel axis, or all axes that are kept apart.
    out : ndarray, optional
        x's shape and dtype; may be x itself.

    Returns
    -------
    ndarray
        In x's shape and dtype; `out` if given.

    Raises
    ------
    TypeError, ValueError, AxisError
        As in `batch_norm`.

    Examples
    --------
    >>> import numpy as np
    >>> import numbabn as nb
    >>> x = np.arange(6.0).reshape(3, 2)
    >>> m = nb.moments(x)
    >>> nb.normalize(x, m.mean, m.invstd(eps=0)).round(4)
    array([[-1.2247, -1.2247],
           [ 0.    ,  0.    ],
           [ 1.2247,  1.2247]])
    """
    at, array = (_steps, x) if type(x) is np.ndarray else _steps.adopted("x", x)
    lie = layout(array.shape, array.strides, array.dtype, axis)
    y = at.output(None, array) if out is None else out
    given = mean, invstd, weight, bias
    rows = fitting = at.fit(lie, array, array, y, given, 0)
    if not fitting:
        if out is not None:
            y = at.output(out, array, ("x", array))
        rows = at.rows_of(lie, None if out is None else y, ("mean", "invstd", "weight", "bias"), given)
    at.normalize(array, y, rows, lie, fitting is not None)
    return y if out is None else out


def backward_reduce(
    dy: npt.ArrayLike,
    x: npt.ArrayLike,
    mean: npt.ArrayLike,
    invstd: npt.ArrayLike,
    *,
    axis: int | tuple[int, ...] = 1,
) -> tuple[Array, Array]:
    """The two sums that the training backward needs; add them over chunks or processes.

    Parameters
    ----------
    dy, x : array_like
        Gradient with respect to y and the forward's input, of one shape and dtype.
    mean, invstd : array_like
        That normalised x, in the shape of the kept axes. `invstd` turns ``sum_dy_xmu`` into the weight's gradient,
        ``invstd * sum_dy_xmu``; the sums do not depend on it.
    axis : int or tuple of int, default 1
        The channel axis, or all axes that are kept apart.

    Returns
    -------
    sum_dy, sum_dy_xmu : ndarray of float64
        ``sum(dy)``, the bias's gradient, and ``sum(dy * (x - mean))``, in the shape of the kept axes.

    Raises
    ------
    TypeError, ValueError, AxisError
        As in `batch_norm`.

    Examples
    --------
    >>> import numpy as np
    >>> import numbabn as nb
    >>> x = np.arange(6.0).reshape(3, 2)
    >>> nb.backward_reduce(x, x, mean=[2.0, 3.0], invstd=[1.0, 1.0])
    (array([6., 9.]), array([8., 8.]))
    """
    at, g = (_steps, dy) if type(dy) is np.ndarray else _steps.adopted("dy", dy)
    lie = layout(g.shape, g.strides, g.dtype, axis, "dy")
    array = at.adopt_like("x", x, g, "dy")
    rows = at.row_of(lie, None, "mean", mean), at.row_of(lie, None, "invstd", invstd)
    sums = at.backward_reduce(g, array, rows, lie)
    return at.own(_row(sums, SUM_DY, lie.kept_shape)), at.own(_row(sums, SUM_DY_XMU, lie.kept_shape))


def backward_elemt(
    dy: npt.ArrayLike,
    x: npt.ArrayLike,
    mean: npt.ArrayLike,
    invstd: npt.ArrayLike,
    weight: npt.ArrayLike | None,
    sum_dy: npt.ArrayLike,
    sum_dy_xmu: npt.ArrayLike,
    count: float,
    *,
    axis: int | tuple[int, ...] = 1,
    out: Array | None = None,
) -> Array:
    """dx of the training backward, from sums over the whole batch.

    Parameters
    ----------
    dy, x : array_like
        As in `backward_reduce`; a chunk of the batch is enough.
    mean, invstd : array_like
        Of the whole batch.
    weight : array_like or None
        The forward's weight.
    sum_dy, sum_dy_xmu : array_like
        Sums over the whole batch.
    count : float
        Values per channel in the whole batch.
    axis : int or tuple of int, default 1
        The channel axis, or all axes that are kept apart.
    out : ndarray, optional
        x's shape and dtype; may be dy or x itself.

    Returns
    -------
    ndarray
        dx, in x's shape and dtype; `out` if given.

    Raises
    ------
    TypeError, ValueError, AxisError
        As in `batch_norm`, and ValueError if count is not positive.

    Examples
    --------
    >>> import numpy as np
    >>> import numbabn as nb
    >>> x = np.arange(6.0).reshape(3, 2)
    >>> m = nb.moments(x)
    >>> sums = nb.backward_reduce(x, x, m.mean, m.invstd(0))
    >>> bool(abs(nb.backward_elemt(x, x, m.mean, m.invstd(0), None, *sums, m.count)).max() < 1e-15)
    True
    """
    at, g = (_steps, dy) if type(dy) is np.ndarray else _steps.adopted("dy", dy)
    lie = layout(g.shape, g.strides, g.dtype, axis, "dy")
    array = at.adopt_like("x", x, g, "dy")
    require_number("count", count)
    if g.size and not count > 0:
        raise ValueError(f"count must be > 0, got {count}")
    dx = at.output(out, array, ("dy", g), ("x", array))
    apart = None if out is None else dx
    given = ("mean", mean), ("invstd", invstd), ("weight", weight), ("sum_dy", sum_dy), ("sum_dy_xmu", sum_dy_xmu)
    rows = [at.row_of(lie, apart, *named) for named in given]
    at.backward_elemt(g, array, dx, tuple(rows[:3]), tuple(rows[3:]), lie, float(count))
    return dx if out is None else out


# -- checks ------------------------------------------------------------------------------------------------------------


def _require_count(x: Array, lie: Layout, ddof: float) -> None:
    if x.size == 0 or (lie.per_channel > 1 and lie.per_channel > ddof):
        return
    if lie.per_channel == 1:
        raise ValueError(f"training needs more than 1 value per channel, got x of shape {x.shape}, axis {lie.kept}")
    raise ValueError(f"running_ddof is {ddof}, expected less than the {lie.per_channel} values per channel")


def _row(table: Array | _steps.Rows, row: int, shape: tuple[int, ...]) -> Array:
    """One row of statistics or sums, in the kept axes' shape."""
    return table[row] if len(shape) == 1 else table[row].reshape(shape)


def _infer(
    x: npt.ArrayLike,
    running_mean: Array | None,
    running_var: Array | None,
    weight: npt.ArrayLike | None,
    bias: npt.ArrayLike | None,
    eps: float,
    axis: int | tuple[int, ...],
    out: Array | None,
) -> tuple[Array, tuple[int, ...], _steps.Rows, Any]:
    """y, the kept axes' shape, the rows running mean, running variance, weight and bias, and where the steps are."""
    at, array = (_steps, x) if type(x) is np.ndarray else _steps.adopted("x", x)
    lie = layout(array.shape, array.strides, array.dtype, axis)
    require_eps(eps)
    given = running_mean, running_var, weight, bias
    y = at.output(None, array) if out is None else out
    rows = fitting = at.fit(lie, array, array, y, given, 0)
    if not fitting:
        if out is not None:
            y = at.output(out, array, ("x", array))
        rows = at.rows_of(lie, None if out is None else y, ("running_mean", "running_var", "weight", "bias"), given)
    at.infer(array, y, rows, lie, eps, fitting is not None)
    return y if out is None else out, lie.kept_shape, rows, at


def _train(
    x: npt.ArrayLike,
    running_mean: Array | None,
    running_var: Array | None,
    weight: npt.ArrayLike | None,
    bias: npt.ArrayLike | None,
    momentum: float,
    eps: float,
    axis: int | tuple[int, ...],
    running_ddof: float,
    out: Array | None,
    kept: bool = True,
) -> tuple[Array, tuple[int, ...], Array]:
    """y, the kept axes' shape, and the statistics that normalised, which the caller may have no use for."""
    at, array = (_steps, x) if type(x) is np.ndarray else _steps.adopted("x", x, kept)
    lie = layout(array.shape, array.strides, array.dtype, axis)
    shape = lie.kept_shape
    require_eps(eps)
    if type(momentum) is not float or type(running_ddof) is not int:  # to ask both takes 0.3 us of a small call's 5
        require_number("momentum", momentum)
        require_number("running_ddof", running_ddof)
    ddof = running_ddof if running_var is not None else 0
    y = at.output(None, array) if out is None else out
    rows = at.fit(lie, array, array, y, (running_mean, running_var, weight, bias), 2)
    if rows:
        _require_count(array, lie, ddof)
        return y, shape, at.train(array, y, rows, lie, eps, momentum, ddof, True)
    r_mean = None if running_mean is None else at.buffer("running_mean", running_mean, shape)
    r_var = None if running_var is None else at.buffer("running_var", running_var, shape)
    _require_count(array, lie, ddof)
    if out is not None:
        y = at.output(out, array, ("x", array))
    names = ("" if r_mean is None else "running_mean", "" if r_var is None else "running_var", "weight", "bias")
    rows = at.rows_of(lie, None if out is None else y, names, (r_mean, r_var, weight, bias))
    if array.size == 0:
        return (y if out is None else out), shape, at.zeros(lie)
    stats = at.train(array, y, rows, lie, eps, momentum, ddof, False)
    if r_mean is not None and rows[0] is not r_mean:
        r_mean[...] = rows[0].reshape(shape)
    if r_var is not None and rows[1] is not r_var:
        r_var[...] = rows[1].reshape(shape)
    return (y if out is None else out), shape, stats
