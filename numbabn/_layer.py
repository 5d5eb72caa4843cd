"""What all layers share: parameters, running statistics and their lifecycle. All arithmetic is in `functional`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from . import _state
from ._arrays import SUPPORTED, is_same
from ._layout import integers, kept_axes
from ._moments import require_eps, require_number
from ._placement import add, fill, look, move, on_host, parse, zeros_like
from .functional import batch_norm, batch_norm_backward, batch_norm_forward

Array = npt.NDArray[Any]
_L = TypeVar("_L", bound="Layer")

_PARAMETERS = ("weight", "bias")
STATE = (*_PARAMETERS, "running_mean", "running_var", "num_batches_tracked")


class Layer:
    """What all layers share."""

    _ranks: tuple[int, ...] = ()  # dimensions that an input may have; none stands for any
    axis: int | tuple[int, ...] = 1

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
        self._device = parse(device)
        self._dtype = np.dtype(np.float32 if dtype is None else dtype)
        if self._dtype.char not in SUPPORTED:
            raise TypeError(f"dtype must be float32 or float64, got {self._dtype}")
        require_eps(eps)
        if momentum is not None:
            require_number("momentum", momentum)
        require_number("running_ddof", running_ddof)
        self.eps = eps
        self.momentum = momentum
        self.affine = affine
        self.track_running_stats = track_running_stats
        self.running_ddof = running_ddof
        self.training: bool = True
        self.frozen: bool = False
        self._saved: tuple[Any, ...] | None = None
        self._allocate(num_features, affine, affine and bias, track_running_stats)

    def _allocate(self, num_features: Any, weight: bool, bias: bool, buffers: bool) -> None:
        given = integers("num_features", num_features)
        sizes = given if isinstance(given, tuple) else (given,)
        if any(n < 0 for n in sizes):
            raise ValueError(f"num_features must be >= 0, got {num_features}")
        if len(sizes) != (len(self.axis) if isinstance(self.axis, tuple) else 1):
            raise ValueError(f"num_features must have one extent for each of axis={self.axis}, got {num_features}")
        self.num_features: int | tuple[int, ...] = given
        self.weight: Array | None = self._full(sizes, 1) if weight else None
        self.bias: Array | None = self._full(sizes, 0) if bias else None
        self.running_mean: Array | None = self._full(sizes, 0) if buffers else None
        self.running_var: Array | None = self._full(sizes, 1) if buffers else None
        # on the host wherever the layer is: counting must not wait for a device
        self.num_batches_tracked: Array | None = np.array(0, np.int64) if buffers else None
        self.grads: dict[str, Array] = {}
        self.zero_grad()

    def _full(self, shape: tuple[int, ...], value: float) -> Array:
        return move(np.full(shape, value, self._dtype), self._device)  # type: ignore[no-any-return]

    def __call__(self, x: npt.ArrayLike, out: Array | None = None) -> Array:
        return self.forward(x, out)

    def forward(self, x: npt.ArrayLike, out: Array | None = None) -> Array:
        """Normalise x; in training, learn its statistics and keep a reference to it for `backward`.

        Parameters
        ----------
        x : array_like of float32 or float64
            Of the layer's rank and channels.
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
        seen = x if type(x) is np.ndarray else look(x)
        if isinstance(seen, np.ndarray):
            x = seen
        self._require_shape(seen)
        learning = self.training and not self.frozen
        batch = learning or (self.running_mean is None and self.running_var is None)
        learn = learning and self.track_running_stats
        mean, var = (self.running_mean, self.running_var) if learn or not batch else (None, None)
        given = x, mean, var, self.weight, self.bias, batch, self._factor() if learn else 0.0, self.eps
        if not self.training:
            return batch_norm(*given, axis=self.axis, out=out)
        y, *saved = batch_norm_forward(*given, axis=self.axis, running_ddof=self.running_ddof, out=out)
        if learn and seen.size and self.num_batches_tracked is not None:
            self.num_batches_tracked[()] = self.num_batches_tracked.item() + 1
        destroyed = out is not None and (is_same(out, seen) if isinstance(seen, np.ndarray) else seen.is_same(out))
        self._saved = (None if destroyed else x, *saved, batch)
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
        x, mean, invstd, batch = self._saved
        if x is None:
            raise RuntimeError("backward needs the forward's input, but out=x overwrote it: pass another out")
        needs = ("x", *self.grads)
        grads = batch_norm_backward(
            dy, x, self.weight, mean, invstd, training=batch, axis=self.axis, out=out, needs=needs
        )
        for name in self.grads:
            self.grads[name] = add(self.grads[name], getattr(grads, name))
        self._saved = None
        assert grads.x is not None
        return grads.x

    def train(self: _L, mode: bool = True) -> _L:
        """Use batch statistics from now on, or running ones.

        Parameters
        ----------
        mode : bool, default True
            False lets go of the last input.

        Returns
        -------
        layer
            Itself.
        """
        self.training = bool(mode)
        if not self.training:
            self._saved = None
        return self

    def eval(self: _L) -> _L:
        """Use running statistics from now on and let go of the last input.

        Returns
        -------
        layer
            Itself.
        """
        return self.train(False)

    def freeze(self: _L) -> _L:
        """Use running statistics and leave them alone, whatever `train` says; gradients are still computed.

        Returns
        -------
        layer
            Itself.
        """
        self.frozen = True
        return self

    def unfreeze(self: _L) -> _L:
        """Take back `freeze`.

        Returns
        -------
        layer
            Itself.
        """
        self.frozen = False
        return self

    def to(self: _L, device: str) -> _L:
        """Move parameters, running statistics and gradients to a device; this waits for it.

        Parameters
        ----------
        device : {"cpu", "cuda", "cuda:<number>"}
            Where they shall be; "cuda" is the current CUDA device. `num_batches_tracked` stays on the host.

        Returns
        -------
        layer
            Itself; the last input is let go of.

        Raises
        ------
        ValueError
            For any other device.
        """
        name = parse(device)
        moved = {key: move(value, name) for key, value in self._arrays().items() if key != "num_batches_tracked"}
        grads = {key: move(value, name) for key, value in self.grads.items()}
        self.__dict__.update(moved, grads=grads, _device=name, _saved=None)
        return self

    def parameters(self) -> dict[str, Array]:
        """Weight and bias, those that there are: the arrays themselves, to be changed in place.

        Returns
        -------
        dict of str to ndarray
            With the keys of `grads`.
        """
        return {name: value for name, value in self._arrays().items() if name in _PARAMETERS}

    def zero_grad(self) -> None:
        """Set the parameters' gradients to zero."""
        self.grads = {name: zeros_like(value) for name, value in self.parameters().items()}

    def reset_running_stats(self) -> None:
        """Set the running mean to 0, the running variance to 1 and the number of batches to 0."""
        for buffer, value in ((self.running_mean, 0), (self.running_var, 1), (self.num_batches_tracked, 0)):
            if buffer is not None:
                fill(buffer, value)

    def reset_parameters(self) -> None:
        """Set the weight to 1 and the bias to 0, and reset the running statistics."""
        self.reset_running_stats()
        for parameter, value in ((self.weight, 1), (self.bias, 0)):
            if parameter is not None:
                fill(parameter, value)

    def state_dict(self) -> dict[str, Array]:
        """Copies of parameters and running statistics.

        Returns
        -------
        dict of str to ndarray
            With PyTorch's keys: weight, bias, running_mean, running_var, num_batches_tracked; those that there are.
        """
        return _state.StateDict(self._arrays())

    def load_state_dict(self, state: Mapping[str, Any], strict: bool = True) -> _state.IncompatibleKeys:
        """Copy a state into the layer's arrays, which keep their dtypes.

        Parameters
        ----------
        state : mapping of str to array_like
            As from `state_dict`, or from PyTorch's. num_batches_tracked may be missing in states without a version or
            with one below 2 and is left alone then.
        strict : bool, default True
            Whether keys must match exactly.

        Returns
        -------
        IncompatibleKeys
            ``(missing_keys, unexpected_keys)``.

        Raises
        ------
        RuntimeError
            For shapes that differ and, if strict, missing and unexpected keys, in PyTorch's words.
        TypeError
            For a state that is no mapping, and values that are no numbers. The layer is unchanged after either error.
        """
        return _state.load(type(self).__name__, self._arrays(), state, strict)

    def to_npz(self, path: str | os.PathLike[str]) -> None:
        """Write state and configuration to a file, which is replaced as a whole or not at all.

        Parameters
        ----------
        path : path-like
            Of an .npz file; the name is taken as it is.

        Raises
        ------
        OSError
            If the file cannot be written; one that was there is unchanged.
        """
        _state.write(path, self._arrays(), self._config())

    @classmethod
    def from_npz(cls: type[_L], path: str | os.PathLike[str]) -> _L:
        """Layer that `to_npz` wrote.

        Parameters
        ----------
        path : path-like
            Of a file that `to_npz` wrote.

        Returns
        -------
        layer
            Of the class that this is called on.

        Raises
        ------
        ValueError
            If the file is none of `to_npz`, or of another class.
        OSError
            If it cannot be read.
        """
        arrays, config = _state.read(path)
        if config.get("class") != cls.__name__:
            raise ValueError(f"{os.fspath(path)} holds a {config.get('class')}, expected a {cls.__name__}")
        layer = cls.__new__(cls)
        layer.__dict__.update({k: tuple(v) if isinstance(v, list) else v for k, v in config.items() if k != "class"})
        try:
            layer._dtype = np.dtype(config["_dtype"])
            layer._saved = None
            layer._device = parse(None)
            layer._allocate(layer.num_features, *(name in arrays for name in ("weight", "bias", "running_mean")))
            _state.load(cls.__name__, layer._arrays(), arrays, strict=True)
        except (AttributeError, KeyError, TypeError, RuntimeError) as error:
            raise ValueError(f"{os.fspath(path)} is no file that to_npz wrote: {error}") from error
        return layer

    def __getstate__(self) -> dict[str, Any]:
        """For pickle and copy: everything but the last input, on the host."""
        arrays = {name: on_host(value) for name, value in self._arrays().items()}
        grads = {name: on_host(value) for name, value in self.grads.items()}
        return {**self.__dict__, **arrays, "grads": grads, "_saved": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        arrays = {name: _native(value) for name, value in self._arrays().items()}
        grads = {name: _native(value) for name, value in self.grads.items()}
        self.__dict__.update(arrays, grads=grads)
        self.to(self._device)

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.num_features}, eps={self.eps}, momentum={self.momentum}, "
            f"affine={self.affine}, bias={self.bias is not None}, track_running_stats={self.track_running_stats})"
        )

    def _arrays(self) -> dict[str, Array]:
        """The layer's own arrays, those that there are."""
        arrays = {name: getattr(self, name) for name in STATE}
        return {name: value for name, value in arrays.items() if value is not None}

    def _config(self) -> dict[str, Any]:
        """All that makes the layer what it is and is no array."""
        plain = {k: v for k, v in self.__dict__.items() if k not in (*STATE, "grads", "_saved", "_device")}
        return {**plain, "_dtype": self._dtype.name, "class": type(self).__name__}

    def _factor(self) -> float:
        """Weight of the coming batch: momentum, or the cumulative average's 1 / n, 0 where nobody counts."""
        if self.momentum is not None:
            return self.momentum
        return 0.0 if self.num_batches_tracked is None else 1.0 / (int(self.num_batches_tracked) + 1)

    def _require_shape(self, x: Array) -> None:
        if self._ranks and x.ndim not in self._ranks:
            ranks = " or ".join(f"{n}-D" for n in self._ranks)
            raise ValueError(f"{type(self).__name__} expected {ranks} input, got {x.ndim}-D input of shape {x.shape}")
        shape = x.shape
        kept = kept_axes(shape, self.axis)
        found = tuple([shape[a] for a in kept])
        if found != (self.num_features if isinstance(self.num_features, tuple) else (self.num_features,)):
            where = f"axis {self.axis}" if len(kept) == 1 else f"axes {kept}, in this order"
            raise ValueError(
                f"{type(self).__name__} expected {self.num_features} channels on {where}, got "
                f"{found[0] if len(found) == 1 else found} in input of shape {shape}"
            )


def _native(array: Array) -> Array:
    """The array with NumPy's own dtype object: pickled ones have another, which takes calls the slower way."""
    return array.astype(array.dtype.char)
