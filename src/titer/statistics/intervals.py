"""Bounds and intervals for proportions."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
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


def clustered(values: Sequence[float] | np.ndarray, groups: Sequence[Hashable | None], level: float = 0.95) -> Interval:
    """The mean of values in [0, 1] whose samples share groups, such as tiles of one slide.

    Linearised variance of a ratio of cluster sums with a t quantile (Cochran, Sampling Techniques, 1977). Where every
    group is a single sample the exact interval is used; where the values do not vary, the exact one for as many trials
    as there are groups.

    Args:
        values: one per sample.
        groups: one per sample; None is a group of its own.
        level: confidence level.
    """
    values = np.asarray(values, float)
    if len(values) == 0:
        return NOTHING
    names = [("alone", place) if group is None else ("group", group) for place, group in enumerate(groups)]
    _, members = np.unique([str(name) for name in names], return_inverse=True)
    clusters = int(members.max()) + 1
    mean = float(values.mean())
    if clusters == len(values) and np.isin(values, (0, 1)).all():
        return proportion(int(values.sum()), len(values), level)
    if clusters < 2 or np.ptp(values) == 0:
        # rounded outwards: hits down for the lower end, up for the upper one
        low = proportion(math.floor(mean * clusters), clusters, level).low
        high = proportion(math.ceil(mean * clusters), clusters, level).high
        return Interval(mean, low, high)
    residuals = np.bincount(members, weights=values - mean, minlength=clusters)
    error = np.sqrt(clusters / (clusters - 1) * np.sum(residuals**2)) / len(values)
    reach = float(student.ppf((1 + level) / 2, clusters - 1) * error)
    return Interval(mean, max(0.0, mean - reach), min(1.0, mean + reach))
