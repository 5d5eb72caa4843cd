"""Stateful layers: parameters, running statistics and their lifecycle. All arithmetic is in `functional`."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ._arrays import SUPPORTED, is_same
from ._moments import require_eps
from .functional import batch_norm_backward, batch_norm_forward

Array = npt.NDArray[Any]


class _BatchNorm:
    """What the layers of every rank share; `_ranks` are the numbers of dimensions that an input may have."""

    _ranks: tuple[int, ...]

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: str | None = None,
        dtype: npt.DTypeLike | None = None,
        *,
        bias: bool = True,
        running_ddof: float = 1,
    ) -> None:
        if device not in (None, "cpu"):
            raise ValueError(f"device must be None or 'cpu', got {device!r}")
        kind = np.dtype(np.float32 if dtype is None else dtype)
        if kind.char not in SUPPORTED:
            raise TypeError(f"dtype must be float32 or float64, got {kind}")
        require_eps(eps)
        self.num_features = num_features
        self.eps = eps
        self.momentum = momentum
        self.affine = affine
        self.track_running_stats = track_running_stats
        self.running_ddof = running_ddof
        self.training = True
        self.weight: Array | None = np.ones(num_features, kind) if affine else None
        self.bias: Array | None = np.zeros(num_features, kind) if affine and bias else None
        self.running_mean: Array | None = np.zeros(num_features, kind) if track_running_stats else None
        self.running_var: Array | None = np.ones(num_features, kind) if track_running_stats else None
        self.num_batches_tracked: Array | None = np.array(0, np.int64) if track_running_stats else None
        self.grads: dict[str, Array] = {}
        self.zero_grad()
        self._saved: tuple[Any, ...] | None = None

    def __call__(self, x: npt.ArrayLike, out: Array | None = None) -> Array:
        return self.forward(x, out)

    def forward(self, x: npt.ArrayLike, out: Array | None = None) -> Array:
        """Normalise x; in training, learn its statistics and keep a reference to it for `backward`.

        Parameters
        ----------
        x : array_like of float32 or float64
            Of the layer's rank, channels on axis 1.
        out : ndarray, optional
            Where to write the result: x's shape and dtype. May be x itself, which then is lost to `backward`.

        Returns
        -------
        ndarray
            In x's shape and dtype; `out` if given.

        Raises
        ------
        TypeError, ValueError
            As in `numbabn.batch_norm`, and ValueError for another rank or number of channels. The layer is unchanged.
        """
        x = x if isinstance(x, np.ndarray) else np.asarray(x)
        self._require_shape(x)
        batch = self.training or (self.running_mean is None and self.running_var is None)
        learn = self.training and self.track_running_stats and self.num_batches_tracked is not None
        mean, var = (self.running_mean, self.running_var) if learn or not batch else (None, None)
        y, save_mean, save_invstd = batch_norm_forward(
            x,
            mean,
            var,
            self.weight,
            self.bias,
            batch,
            self._factor() if learn else 0.0,
            self.eps,
            running_ddof=self.running_ddof,
            out=out,
        )
        if learn and x.size and self.num_batches_tracked is not None:
            self.num_batches_tracked[...] += 1
        if self.training:
            destroyed = out is not None and is_same(out, x)
            self._saved = (None if destroyed else x, save_mean, save_invstd)
        return y

    def backward(self, dy: npt.ArrayLike, out: Array | None = None) -> Array:
        """Gradient with respect to the last input; those of the parameters are added to `grads`.

        Parameters
        ----------
        dy : array_like
            Gradient with respect to the last output, in its shape and dtype.
        out : ndarray, optional
            Where to write the result; may be dy itself.

        Returns
        -------
        ndarray
            dx, in dy's shape and dtype; `out` if given.

        Raises
        ------
        RuntimeError
            If there was no forward in training mode since the last backward, or it overwrote its input (``out=x``).
        TypeError, ValueError
            As in `numbabn.batch_norm_backward`.
        """
        if self._saved is None:
            raise RuntimeError("backward needs a forward in training mode before it; each forward serves one backward")
        x, mean, invstd = self._saved
        if x is None:
            raise RuntimeError("backward needs the forward's input, but out=x overwrote it: pass another out")
        needs = ("x", *self.grads)
        grads = batch_norm_backward(dy, x, self.weight, mean, invstd, out=out, needs=needs)
        for name in self.grads:
            self.grads[name] += getattr(grads, name)
        self._saved = None
        assert grads.x is not None
        return grads.x

    def train(self, mode: bool = True) -> _BatchNorm:
        """Use batch statistics from now on, or running ones.

        Parameters
        ----------
        mode : bool, default True
            False lets go of the last input.

        Returns
        -------
        _BatchNorm
            The layer.
        """
        self.training = bool(mode)
        if not self.training:
            self._saved = None
        return self

    def eval(self) -> _BatchNorm:
        """Use running statistics from now on and let go of the last input.

        Returns
        -------
        _BatchNorm
            The layer.
        """
        return self.train(False)

    def zero_grad(self) -> None:
        """Set the parameters' gradients to zero."""
        parameters = {"weight": self.weight, "bias": self.bias}
        self.grads = {name: np.zeros_like(value) for name, value in parameters.items() if value is not None}

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.num_features}, eps={self.eps}, momentum={self.momentum}, "
            f"affine={self.affine}, bias={self.bias is not None}, track_running_stats={self.track_running_stats})"
        )

    def _factor(self) -> float:
        """Weight of the coming batch: momentum, or the cumulative average's 1 / n."""
        assert self.num_batches_tracked is not None
        return 1.0 / (int(self.num_batches_tracked) + 1) if self.momentum is None else self.momentum

    def _require_shape(self, x: Array) -> None:
        if x.ndim not in self._ranks:
            ranks = " or ".join(f"{n}-D" for n in self._ranks)
            raise ValueError(f"{type(self).__name__} expected {ranks} input, got {x.ndim}-D input of shape {x.shape}")
        if x.shape[1] != self.num_features:
            raise ValueError(
                f"{type(self).__name__} expected {self.num_features} channels on axis 1, got {x.shape[1]} "
                f"in input of shape {x.shape}"
            )


_DOC = """Batch normalization over {what}, channels on axis 1.

    A training layer keeps a reference to its last input, which pins that memory, until `backward`, the next forward or
    `eval`. It is trained from one thread at a time; in eval mode any number of threads may call it.

    Parameters
    ----------
    num_features : int
        Number of channels C.
    eps : float, default 1e-5
        Added to the variance.
    momentum : float or None, default 0.1
        Weight of the new batch in the running statistics (PyTorch's convention; Keras, Flax and TensorFlow name the
        weight of the old value). None for the average of all batches.
    affine : bool, default True
        Learn a weight and a bias.
    track_running_stats : bool, default True
        Keep running statistics; without them batch statistics are used in eval mode too.
    device : None or "cpu"
        Where parameters live.
    dtype : dtype_like, default float32
        Of parameters and running statistics; inputs may be of any supported dtype.
    bias : bool, default True
        False for a weight alone.
    running_ddof : float, default 1
        The running variance learns ``var * n / (n - running_ddof)``.

    Attributes
    ----------
    weight, bias, running_mean, running_var : ndarray of shape (C,) or None
    num_batches_tracked : int64 scalar array or None
        Training batches seen.
    grads : dict of str to ndarray
        Gradients of the parameters, added up until `zero_grad`.
    training : bool

    Raises
    ------
    TypeError
        For an unsupported dtype.
    ValueError
        For a negative eps or an unknown device.

    Examples
    --------
    >>> import numpy as np
    >>> import numbabn as nb
    >>> layer = nb.{name}(3)
    >>> layer
    {name}(3, eps=1e-05, momentum=0.1, affine=True, bias=True, track_running_stats=True)
    >>> x = np.random.default_rng(0).normal(size={shape}).astype("float32")
    >>> y = layer(x)
    >>> layer.backward(y).shape
    {shape}
    """


class BatchNorm1d(_BatchNorm):
    __doc__ = _DOC.format(name="BatchNorm1d", what="(N, C) or (N, C, L) arrays", shape="(8, 3)")
    _ranks = (2, 3)


class BatchNorm2d(_BatchNorm):
    __doc__ = _DOC.format(name="BatchNorm2d", what="(N, C, H, W) arrays", shape="(8, 3, 4, 4)")
    _ranks = (4,)


class BatchNorm3d(_BatchNorm):
    __doc__ = _DOC.format(name="BatchNorm3d", what="(N, C, D, H, W) arrays", shape="(8, 3, 2, 4, 4)")
    _ranks = (5,)
