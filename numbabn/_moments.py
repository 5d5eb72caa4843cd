"""Count, mean and M2: what statistics are combined with, across chunks, processes and devices."""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
import numpy.typing as npt

from ._arrays import is_device_array
from ._forks import load
from ._scalar import merge


@dataclass(frozen=True, slots=True, eq=False)
class Moments:
    """Per-channel statistics that can be combined exactly.

    Attributes
    ----------
    count : int
        Values per channel.
    mean : ndarray of float64
        Mean of each channel, in the shape of the kept axes.
    m2 : ndarray of float64
        Sum of squared deviations from the mean, same shape.

    Examples
    --------
    >>> import numpy as np
    >>> import numbabn as nb
    >>> x = np.arange(12.0).reshape(6, 2)
    >>> whole = nb.moments(x[:4]) + nb.moments(x[4:])
    >>> whole.count, whole.mean, whole.var()
    (6, array([5., 6.]), array([11.66666667, 11.66666667]))
    """

    count: int
    mean: npt.NDArray[Any]
    m2: npt.NDArray[Any]

    def __add__(self, other: Moments) -> Moments:
        if not isinstance(other, Moments):
            return NotImplemented
        if self.mean.shape != other.mean.shape:
            raise ValueError(f"moments of shape {other.mean.shape} cannot be added to moments of {self.mean.shape}")
        if other.count == 0:
            return self
        if _is_on_host(self.mean) and _is_on_host(other.mean):
            mean, m2 = merged(self.count, self.mean, self.m2, other.count, other.mean, other.m2)
        else:
            mean, m2 = _on_device().merge(self, other)
        return Moments(self.count + other.count, mean, m2)

    def merge(self, *others: Moments) -> Moments:
        """Moments of this and all the other samples together, in the given order.

        Parameters
        ----------
        *others : Moments
            Of the same shape.

        Returns
        -------
        Moments
            Of all samples.

        Raises
        ------
        TypeError
            If one of them is no Moments.
        ValueError
            If shapes differ.

        Notes
        -----
        Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances" (1983).
        """
        return reduce(operator.add, others, self)

    def var(self, ddof: float = 0) -> npt.NDArray[Any]:
        """Variance, m2 / (count - ddof); NaN where there are not more than `ddof` values.

        Parameters
        ----------
        ddof : float, default 0
            0 for the biased variance that normalises, 1 for the unbiased one.

        Returns
        -------
        ndarray of float64
            In the shape of the mean.
        """
        free = self.count - ddof
        if not _is_on_host(self.m2):
            return _on_device().spread(self.m2, free if free > 0 else math.nan, 0.0, 1.0)  # type: ignore[no-any-return]
        return self.m2 / free if free > 0 else np.full_like(self.m2, np.nan)

    def std(self, ddof: float = 0) -> npt.NDArray[Any]:
        """Standard deviation, the square root of `var`.

        Parameters
        ----------
        ddof : float, default 0
            As in `var`.

        Returns
        -------
        ndarray of float64
            In the shape of the mean.
        """
        if not _is_on_host(self.m2):
            free = self.count - ddof
            return _on_device().spread(self.m2, free if free > 0 else math.nan, 0.0, 0.5)  # type: ignore[no-any-return]
        return np.sqrt(self.var(ddof))  # type: ignore[no-any-return]

    def invstd(self, eps: float = 1e-5) -> npt.NDArray[Any]:
        """1 / sqrt(var + eps), and 0 where that sum is 0.

        Parameters
        ----------
        eps : float, default 1e-5
            Not negative.

        Returns
        -------
        ndarray of float64
            In the shape of the mean.

        Raises
        ------
        ValueError
            If eps is negative or NaN.
        """
        if not _is_on_host(self.m2):
            require_eps(eps)
            return _on_device().spread(self.m2, self.count or math.nan, eps, -0.5)  # type: ignore[no-any-return]
        return invstd(self.var(), eps)


def _is_on_host(row: Any) -> bool:
    """NumPy's own; a subclass may play an array on a device."""
    return type(row) is np.ndarray or not is_device_array(row)


def _on_device() -> Any:
    return load("_device_steps")


def merged(count_a: Any, mean_a: Any, m2_a: Any, count_b: Any, mean_b: Any, m2_b: Any) -> tuple[Any, Any]:
    """`merge` of arrays, quietly; a mean that differences of infinities made NaN is the infinity of one sign.

    Where there is nothing in a, its distance to b does not matter, though its square may be infinite.
    """
    with np.errstate(all="ignore"):
        mean, m2 = merge(count_a, mean_a, m2_a, count_b, mean_b, m2_b)
        return np.where(np.isnan(mean), mean_a + mean_b, mean), np.where(np.equal(count_a, 0), m2_b, m2)


def invstd(var: npt.NDArray[Any], eps: float) -> npt.NDArray[Any]:
    """1 / sqrt(var + eps), and 0 where that sum is 0."""
    require_eps(eps)
    with np.errstate(all="ignore"):
        std = np.sqrt(np.add(var, eps, dtype=np.float64))
        return np.divide(1.0, std, out=np.zeros_like(std), where=std != 0.0)  # type: ignore[no-any-return]


def require_eps(eps: float) -> None:
    """Refuse a negative or NaN eps, and what is no number."""
    if type(eps) is not float:
        require_number("eps", eps)
    if not eps >= 0.0:
        raise ValueError(f"eps must be >= 0, got {eps}")


def require_number(name: str, value: Any) -> None:
    """Refuse what is no real number; one in an array of no dimensions is."""
    if not hasattr(value, "__float__") or getattr(value, "shape", ()) != ():
        raise TypeError(f"{name} must be a number, got {value!r}")
