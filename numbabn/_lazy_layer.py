"""Layers that learn their number of channels from the first input or state, and then are plain ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from . import _state
from ._layer import STATE, Array, Layer
from ._placement import look


class LazyLayer(Layer):
    """A layer that learns its number of channels from the first input, and then is one of `_becomes`."""

    _becomes: type[Layer]

    def __init__(
        self,
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
        super().__init__(
            0, eps, momentum, affine, track_running_stats, device, dtype, bias=bias, running_ddof=running_ddof
        )

    def forward(self, x: npt.ArrayLike, out: Array | None = None) -> Array:
        seen = look(x)
        grown = self._grown(seen.shape[1] if seen.ndim > 1 else 0)
        y = grown.forward(x, out)
        self._become(grown)
        return y

    forward.__doc__ = Layer.forward.__doc__

    def load_state_dict(self, state: Mapping[str, Any], strict: bool = True) -> _state.IncompatibleKeys:
        sizes = [np.shape(state[name]) for name in STATE[:4] if name in state]
        if not sizes or len(sizes[0]) != 1 or sizes[0][0] == 0:  # of a layer that has seen nothing either
            return super().load_state_dict(state, strict)
        grown = self._grown(sizes[0][0])
        result = grown.load_state_dict(state, strict)
        self._become(grown)
        return result

    load_state_dict.__doc__ = Layer.load_state_dict.__doc__

    def _grown(self, num_features: int) -> Layer:
        grown = self._becomes.__new__(self._becomes)
        grown.__dict__.update(self.__dict__)
        grown._allocate(num_features, *(a is not None for a in (self.weight, self.bias, self.running_mean)))
        return grown

    def _become(self, grown: Layer) -> None:
        self.__dict__ = grown.__dict__
        self.__class__ = type(grown)  # type: ignore[assignment]
