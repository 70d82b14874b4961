"""Paired statistics for comparisons on the same samples: cluster bootstrap and McNemar's test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb, isfinite

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

#: Resamples and level of every interval (ours; the usual choice for percentile intervals).
RESAMPLES = 2000
LEVEL = 0.95

#: So many groups it takes for a 95 % interval (ours): all of n lie on one side of the median with
#: 2^(1 - n), which is less than 5 % from six on.
ENOUGH = 6


@dataclass(frozen=True)
class Interval:
    """An estimate with its bootstrap interval.

    Attributes:
        value: the estimate on the samples as they are.
        low: lower end of the 95 % percentile interval; nan where there is none.
        high: upper end.
    """

    value: float
    low: float
    high: float

    @property
    def bounded(self) -> bool:
        """Whether there is an interval around the estimate."""
        return isfinite(self.low) and isfinite(self.high)

    def excludes(self, point: float) -> bool:
        """Whether `point` lies outside the interval."""
        return not self.low <= point <= self.high


class Bootstrap:
    """One set of resamples of whole groups, shared by every statistic so that all are paired.

    Questions about one image are correlated, therefore images are drawn and not questions.

    Args:
        groups: the group of every sample, `[n]`; equal values belong together.
        seed: of the resampling.
        resamples: how many times groups are drawn.

    Raises:
        ValueError: there is no sample.
    """

    def __init__(self, groups: Sequence[int], seed: int = 0, resamples: int = RESAMPLES) -> None:
        if len(groups) == 0:
            raise ValueError("a bootstrap needs at least one sample")
        names, self._group = np.unique(np.asarray(groups), return_inverse=True)
        self._groups = len(names)
        rng = np.random.default_rng(seed)
        even = np.full(self._groups, 1.0 / self._groups)
        self._draws: Array = rng.multinomial(self._groups, even, resamples).astype(np.float64)
        self._weight = self._resampled(np.ones(len(groups)))

    def mean(self, values: Sequence[float] | Array) -> Interval:
        """Interval of the mean of `values` `[n]`."""
        given = np.asarray(values, dtype=np.float64)
        return _interval(float(given.mean()), self._resampled(given) / self._weight)

    def difference(
        self, values: Sequence[float] | Array, others: Sequence[float] | Array
    ) -> Interval:
        """Interval of mean(values) - mean(others), sample by sample `[n]`."""
        return self.mean(np.asarray(values, np.float64) - np.asarray(others, np.float64))

    def ratio(self, values: Sequence[float] | Array, others: Sequence[float] | Array) -> Interval:
        """Interval of sum(values) / sum(others) over the same samples `[n]`.

        It is nan where `others` sums to zero.
        """
        top, bottom = np.asarray(values, np.float64), np.asarray(others, np.float64)
        with np.errstate(divide="ignore", invalid="ignore"):
            value = float(np.divide(top.sum(), bottom.sum()))
            return _interval(value, self._resampled(top) / self._resampled(bottom))

    def _resampled(self, values: Array) -> Array:
        """Sum of the values over every resample, `[n]` -> `[resamples]`."""
        sums = np.bincount(self._group, weights=values, minlength=self._groups)
        return np.asarray(self._draws @ sums, dtype=np.float64)


def _interval(value: float, resampled: Array) -> Interval:
    usable = resampled[np.isfinite(resampled)]
    if not np.isfinite(value) or usable.size == 0:
        return Interval(float("nan"), float("nan"), float("nan"))
    tail = (1.0 - LEVEL) / 2.0
    low, high = np.quantile(usable, [tail, 1.0 - tail])
    return Interval(value, float(low), float(high))


def rule_of_three(groups: int) -> float:
    """The share that what happened in none of so many groups may have, at 95 %, and 1 at most."""
    return min(3 / groups, 1.0)


def mcnemar(first: Sequence[bool], second: Sequence[bool]) -> float:
    """Exact two-sided p of McNemar's test for two answers to the same questions.

    It takes samples as independent, so with several questions an image it is too small; the
    cluster bootstrap is the one to trust there.
    """
    # Python's integers: of NumPy's, powers overflow in silence from 63 differing answers on
    only_first = sum(bool(a) and not b for a, b in zip(first, second, strict=True))
    only_second = sum(bool(b) and not a for a, b in zip(first, second, strict=True))
    differing = only_first + only_second
    fewer = min(only_first, only_second)
    tail = sum(comb(differing, k) for k in range(fewer + 1))
    return min(1.0, float(2 * tail / 2**differing))
