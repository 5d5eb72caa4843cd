"""The running statistics, which learn from the batch's."""

from __future__ import annotations

import numpy as np

from .._compile import OutRow, Table, inner, kernel
from .._geometry import INVSTD, M2, MEAN
from .._scalar import blend as _blend
from .pointwise import invstd

blend = inner(_blend)


@inner
def update_running(running_mean, running_var, mean, m2, count, momentum, ddof):
    """Blend the batch's statistics into the running ones, after all that reads what may be the same memory."""
    for c in range(len(mean)):
        running_mean[c] = blend(np.float64(running_mean[c]), mean[c], momentum)
        running_var[c] = blend(np.float64(running_var[c]), m2[c] / (count - ddof), momentum)


@kernel
def finish(
    running_mean: OutRow, running_var: OutRow, stats: Table, count: float, eps: float, momentum: float, ddof: float
) -> None:
    """invstd and the running statistics of all channels from mean and M2; C numbers."""
    for c in range(stats.shape[1]):
        stats[INVSTD, c] = invstd(stats[M2, c] / count, eps)
    update_running(running_mean, running_var, stats[MEAN], stats[M2], count, momentum, ddof)
