"""Batch normalization on NumPy and CUDA arrays: exact, fast and bitwise reproducible.

Names are loaded when first used; importing the package imports neither Numba nor anything optional.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._forks import load

__version__ = "0.1.0"

_HOME = {
    "BatchNorm": "layers",
    "BatchNorm1d": "layers",
    "BatchNorm2d": "layers",
    "BatchNorm3d": "layers",
    "BatchNormGrads": "functional",
    "LazyBatchNorm1d": "layers",
    "LazyBatchNorm2d": "layers",
    "LazyBatchNorm3d": "layers",
    "Moments": "_moments",
    "backward_elemt": "functional",
    "backward_reduce": "functional",
    "batch_norm": "functional",
    "batch_norm_backward": "functional",
    "batch_norm_forward": "functional",
    "config": "_config",
    "moments": "functional",
    "normalize": "functional",
    "update_running": "functional",
}

__all__ = [*_HOME, "__version__"]

if TYPE_CHECKING:
    from ._config import config as config
    from ._moments import Moments as Moments
    from .functional import BatchNormGrads as BatchNormGrads
    from .functional import backward_elemt as backward_elemt
    from .functional import backward_reduce as backward_reduce
    from .functional import batch_norm as batch_norm
    from .functional import batch_norm_backward as batch_norm_backward
    from .functional import batch_norm_forward as batch_norm_forward
    from .functional import moments as moments
    from .functional import normalize as normalize
    from .functional import update_running as update_running
    from .layers import BatchNorm as BatchNorm
    from .layers import BatchNorm1d as BatchNorm1d
    from .layers import BatchNorm2d as BatchNorm2d
    from .layers import BatchNorm3d as BatchNorm3d
    from .layers import LazyBatchNorm1d as LazyBatchNorm1d
    from .layers import LazyBatchNorm2d as LazyBatchNorm2d
    from .layers import LazyBatchNorm3d as LazyBatchNorm3d


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(load(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
