"""Stateful layers, by the rank of what they take."""

from __future__ import annotations

import numpy.typing as npt

from ._layer import Layer
from ._layout import integers
from ._lazy_layer import LazyLayer

_INTRO = """Batch normalization over {what}.

    {more}A training layer keeps a reference to its last input, which pins that memory, until `backward`, the next
    forward or `eval`. It is trained from one thread at a time; in eval mode any number of threads may call it.

    Parameters
    ----------
"""
_FEATURES = """    num_features : int
        Number of channels C.
"""
_COMMON = """    eps : float, default 1e-5
        Added to the variance.
    momentum : float or None, default 0.1
        Weight of the new batch in the running statistics (PyTorch's convention; Keras, Flax and TensorFlow name the
        weight of the old value). None for the average of all batches.
    affine : bool, default True
        Learn a weight and a bias.
    track_running_stats : bool, default True
        Keep running statistics; without them batch statistics are used in eval mode too.
    device : None, "cpu", "cuda" or "cuda:<number>"
        Where parameters and running statistics live; inputs have to be there.
    dtype : dtype_like, default float32
        Of parameters and running statistics; inputs may be of any supported dtype.
    bias : bool, default True
        False for a weight alone.
    running_ddof : float, default 1
        The running variance learns ``var * n / (n - running_ddof)``.
"""
_ATTRIBUTES = """
    Attributes
    ----------
    weight, bias, running_mean, running_var : ndarray or None
        In the shape of the channels.
    num_batches_tracked : int64 scalar array or None
        Training batches seen.
    grads : dict of str to ndarray
        Gradients of the parameters, added up until `zero_grad`.
    training : bool
        Set by `train` and `eval`.
    frozen : bool
        Set by `freeze` and `unfreeze`.

    Raises
    ------
    TypeError
        For an unsupported dtype, or a num_features that is no int, where there is one.
    ValueError
        For a negative eps or num_features, extents that are not as many as axes, or an unknown device.
    ImportError
        For a CUDA device without Numba's CUDA package.

    Examples
    --------
    >>> import numpy as np
    >>> import numbabn as nb
"""
_PLAIN = """    >>> layer = nb.{name}(3)
    >>> layer
    {name}(3, eps=1e-05, momentum=0.1, affine=True, bias=True, track_running_stats=True)
    >>> x = np.random.default_rng(0).normal(size={shape}).astype("float32")
    >>> y = layer(x)
    >>> layer.backward(y).shape
    {shape}
    """
_LAZY = """    >>> layer = nb.{name}()
    >>> y = layer(np.ones({shape}, "float32"))
    >>> layer
    {becomes}(3, eps=1e-05, momentum=0.1, affine=True, bias=True, track_running_stats=True)
    """


def _doc(name: str, what: str, shape: str) -> str:
    more = "Channels are on axis 1.\n    "
    return (_INTRO + _FEATURES + _COMMON + _ATTRIBUTES + _PLAIN).format(name=name, what=what, more=more, shape=shape)


def _lazy_doc(becomes: str, what: str, shape: str) -> str:
    more = f"The first input tells the number of channels, on axis 1; the layer then is a `{becomes}`.\n    "
    text = _INTRO + _COMMON + _ATTRIBUTES + _LAZY
    return text.format(name=f"Lazy{becomes}", what=what, more=more, shape=shape, becomes=becomes)


class BatchNorm(Layer):
    __doc__ = (
        _INTRO
        + """    num_features : int or tuple of int
        Number of channels; for a tuple of axes their extents, in the order in which the axes lie in the array.
"""
        + _COMMON
        + """    axis : int or tuple of int, default 1
        The channel axis, or all axes that are kept apart; the others are reduced.
"""
        + _ATTRIBUTES
        + """    >>> layer = nb.BatchNorm((3, 5), axis=(1, -1))
    >>> x = np.random.default_rng(0).normal(size=(8, 3, 4, 5)).astype("float32")
    >>> y = layer(x)
    >>> layer.running_mean.shape
    (3, 5)
    >>> bool(abs(y.mean((0, 2))).max() < 1e-6)
    True
    """
    ).format(what="arrays of any rank from 2 on, any axis or axes being the channels", more="")

    def __init__(
        self,
        num_features: int | tuple[int, ...],
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: str | None = None,
        dtype: npt.DTypeLike | None = None,
        *,
        bias: bool = True,
        running_ddof: float = 1,
        axis: int | tuple[int, ...] = 1,
    ) -> None:
        self.axis = integers("axis", axis)
        super().__init__(
            num_features,  # type: ignore[arg-type]
            eps,
            momentum,
            affine,
            track_running_stats,
            device,
            dtype,
            bias=bias,
            running_ddof=running_ddof,
        )

    def __repr__(self) -> str:
        return f"{super().__repr__()[:-1]}, axis={self.axis})"


class BatchNorm1d(Layer):
    __doc__ = _doc("BatchNorm1d", "(N, C) or (N, C, L) arrays", "(8, 3)")
    _ranks = (2, 3)


class BatchNorm2d(Layer):
    __doc__ = _doc("BatchNorm2d", "(N, C, H, W) arrays", "(8, 3, 4, 4)")
    _ranks = (4,)


class BatchNorm3d(Layer):
    __doc__ = _doc("BatchNorm3d", "(N, C, D, H, W) arrays", "(8, 3, 2, 4, 4)")
    _ranks = (5,)


class LazyBatchNorm1d(LazyLayer):
    __doc__ = _lazy_doc("BatchNorm1d", "(N, C) or (N, C, L) arrays", "(8, 3)")
    _becomes = BatchNorm1d


class LazyBatchNorm2d(LazyLayer):
    __doc__ = _lazy_doc("BatchNorm2d", "(N, C, H, W) arrays", "(8, 3, 4, 4)")
    _becomes = BatchNorm2d


class LazyBatchNorm3d(LazyLayer):
    __doc__ = _lazy_doc("BatchNorm3d", "(N, C, D, H, W) arrays", "(8, 3, 2, 4, 4)")
    _becomes = BatchNorm3d
