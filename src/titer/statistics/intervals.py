"""Bounds and intervals for proportions."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import beta, binomtest
from scipy.stats import t as student


@dataclass(frozen=True)
class Interval:
    """An estimate and its two-sided confidence interval; all three are nan where there is nothing to estimate."""

    estimate: float
    low: float
    high: float


NOTHING = Interval(float("nan"), float("nan"), float("nan"))


def lower_bound(hits: int, draws: int, alpha: float) -> float:
    """One-sided Clopper-Pearson lower bound: P(bound > p) <= alpha.

    Args:
        hits: successes, 0 to ``draws``.
        draws: trials.
        alpha: error probability.
    """
    return float(beta.ppf(alpha, hits, draws - hits + 1)) if hits > 0 else 0.0


def upper_bound(hits: int, draws: int, alpha: float) -> float:
    """One-sided Clopper-Pearson upper bound: P(bound < p) <= alpha. Never 0."""
    return float(beta.ppf(1 - alpha, hits + 1, draws - hits)) if hits < draws else 1.0


def proportion(successes: int, total: int, level: float = 0.95) -> Interval:
    """A proportion with its exact (Clopper-Pearson) interval."""
    if total == 0:
        return NOTHING
    exact = binomtest(successes, total).proportion_ci(confidence_level=level, method="exact")
    return Interval(successes / total, float(exact.low), float(exact.high))


def group_codes(groups: Sequence[Hashable | None]) -> NDArray[np.int64]:
    """Groups as whole numbers from 0, in order of appearance; None is a group of its own.

    Args:
        groups: one per sample.
    """
    codes: dict[Hashable, int] = {}
    keys = (("alone", place) if group is None else ("group", group) for place, group in enumerate(groups))
    return np.array([codes.setdefault(key, len(codes)) for key in keys], np.int64)


def clustered(values: ArrayLike, groups: Sequence[Hashable | None], level: float = 0.95) -> Interval:
    """The mean of values in [0, 1] whose samples share groups, such as tiles of one slide.

    The variance is that of a ratio of cluster sums; the interval is the exact one for the number of independent samples
    that would have this variance (Korn and Graubard, Survey Methodology 24, 1998), so that it stays honest near 0 and 1,
    where a symmetric interval does not. Where every group is a single sample it is ``proportion``.

    Args:
        values: one per sample.
        groups: one per sample; None is a group of its own.
        level: confidence level.
    """
    values, codes = np.asarray(values, float), group_codes(groups)
    if len(values) == 0:
        return NOTHING
    clusters = int(codes.max()) + 1
    if clusters == len(values) and np.isin(values, (0, 1)).all():
        return proportion(int(values.sum()), len(values), level)
    mean = float(values.mean())
    if np.ptp(values) == 0:
        return effective(mean, clusters, level)
    return effective(mean, independent_samples(mean, (values - mean) / len(values), codes, len(values), level), level)


def independent_samples(
    mean: float, influence: NDArray[np.float64], codes: NDArray[np.int64], most: float, level: float = 0.95
) -> float:
    """How many independent 0/1 samples tell as much about a proportion as these grouped ones.

    Args:
        mean: the estimate.
        influence: (samples,) what each adds to the estimate's error.
        codes: (samples,) which group each is of, from 0.
        most: never more than this.
        level: confidence level; few groups count for less, as t does against z.
    """
    clusters = int(codes.max()) + 1
    if clusters < 2:
        return 1.0
    variance = clusters / (clusters - 1) * float(np.sum(np.bincount(codes, weights=influence) ** 2))
    if variance == 0 or most <= 1:
        return float(min(most, clusters))
    quantile = (1 + level) / 2
    few = student.ppf(quantile, max(1.0, most - 1)) / student.ppf(quantile, clusters - 1)
    return float(min(most, mean * (1 - mean) / variance * few**2))


def effective(mean: float, samples: float, level: float = 0.95) -> Interval:
    """The Clopper-Pearson interval for ``samples`` trials, which need not be whole."""
    tail, hits = (1 - level) / 2, mean * samples
    low = float(beta.ppf(tail, hits, samples - hits + 1)) if hits > 0 else 0.0
    high = float(beta.ppf(1 - tail, hits + 1, samples - hits)) if hits < samples else 1.0
    return Interval(mean, min(low, mean), max(high, mean))
