"""Is one method better than another on the same images? Paired differences, their intervals, their tests."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import binomtest
from scipy.stats import t as student

from titer.statistics.intervals import group_codes

Floats = NDArray[np.float64]

RESAMPLES = 5000
_SEED = 20240305


@dataclass(frozen=True)
class Comparison:
    """A paired difference, first minus second.

    Args:
        difference: of the class-balanced means.
        low: end of its interval.
        high: end of its interval.
        p: two-sided, for no difference; at most 1 - level exactly where the interval excludes 0.
        images: how many were compared.
        groups: how many independent groups they are of.
    """

    difference: float
    low: float
    high: float
    p: float
    images: int
    groups: int


def paired(
    first: ArrayLike, second: ArrayLike, labels: ArrayLike, groups: Sequence[Hashable | None], level: float = 0.95
) -> Comparison:
    """Compare two methods on the same images by a bootstrap that draws groups.

    The studentised, symmetric bootstrap (Hall, The Bootstrap and Edgeworth Expansion, 1992, section 3.6): a percentile
    interval of few groups is too short. Neither is shorter than Student's t. To every variance that of two half
    discordant groups is added (Agresti and Min, Statistics in Medicine 24, 2005), so that two methods which happen to
    agree on all images are not said to be equal beyond doubt. Coverage is measured by ``benchmarks/comparisons.py``. The
    same values give the same result: the resamples are fixed.

    Args:
        first: (images,) in [0, 1], such as the share of an image's fits that are right and certified.
        second: (images,) the same of the other method.
        labels: (images,) class indices.
        groups: one per image; None is a group of its own.
        level: confidence level.

    Raises:
        ValueError: if there are no images, or not the same number of each.
    """
    difference, labels = np.asarray(first, float) - np.asarray(second, float), np.asarray(labels)
    if not 0 < len(difference) == len(labels) == len(groups):
        raise ValueError(
            f"expected as many labels and groups as values, got {len(labels)}, {len(groups)}, {len(difference)}"
        )
    codes = group_codes(groups)
    clusters = int(codes.max()) + 1
    sums, counts = _tables(difference, np.unique(labels, return_inverse=True)[1], codes)
    unit = np.sqrt(np.mean(np.sum(counts / counts.sum(axis=0), axis=1) ** 2)) / counts.shape[1]
    estimate, error = _estimates(np.ones((1, clusters)), sums, counts, unit)
    if clusters == 1:
        return Comparison(float(estimate[0]), -1.0, 1.0, 1.0, len(difference), clusters)
    blocks = (_estimates(times.astype(float), sums, counts, unit) for times in np.split(_multiplicities(clusters), 10))
    means, errors = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
    far, seen = np.abs(means - estimate) / errors, abs(estimate[0]) / error[0]
    width = error[0] * max(np.quantile(far, level, method="higher"), student.ppf((1 + level) / 2, clusters - 1))
    p = max((1 + np.sum(far >= seen)) / (1 + len(far)), 2 * student.sf(seen, clusters - 1))
    return Comparison(
        difference=float(estimate[0]),
        low=max(-1.0, float(estimate[0] - width)),
        high=min(1.0, float(estimate[0] + width)),
        p=min(1.0, float(p)),
        images=len(difference),
        groups=clusters,
    )


def mcnemar(first: ArrayLike, second: ArrayLike) -> float:
    """McNemar's exact test of two answers, right or wrong, to the same independent images: its two-sided p-value.

    Args:
        first: (images,) of bool.
        second: (images,) of bool.
    """
    first, second = np.asarray(first, bool), np.asarray(second, bool)
    only_first, only_second = int(np.sum(first & ~second)), int(np.sum(~first & second))
    return float(binomtest(only_first, only_first + only_second).pvalue) if only_first + only_second else 1.0


def holm(ps: Sequence[float]) -> list[float]:
    """p-values of one family after Holm's correction: any of them below alpha by chance has at most that probability."""
    order = np.argsort(ps, kind="stable")
    adjusted = np.empty(len(ps))
    adjusted[order] = np.minimum(1, np.maximum.accumulate(np.asarray(ps)[order] * np.arange(len(ps), 0, -1)))
    return [float(p) for p in adjusted]


def _tables(values: Floats, classes: NDArray[np.int64], codes: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """(groups, classes) sums of values and numbers of images."""
    shape = int(codes.max()) + 1, int(classes.max()) + 1
    sums, counts = np.zeros(shape), np.zeros(shape)
    np.add.at(sums, (codes, classes), values)
    np.add.at(counts, (codes, classes), 1.0)
    return sums, counts


@lru_cache(maxsize=2)
def _multiplicities(groups: int) -> NDArray[np.uint16]:
    """(resamples, groups) how often each group is drawn, from as many as there are, with replacement."""
    random = np.random.default_rng(_SEED)
    drawn = np.empty((RESAMPLES, groups), np.uint16)
    for row in drawn:
        row[:] = np.bincount(random.integers(groups, size=groups), minlength=groups)
    return drawn


def _estimates(times: Floats, sums: Floats, counts: Floats, unit: float) -> tuple[Floats, Floats]:
    """Class-balanced mean and its linearised standard error over groups, for each way of drawing the groups.

    Args:
        times: (ways, groups) how often each group is there.
        sums: (groups, classes).
        counts: (groups, classes).
        unit: what one group of usual size adds to the estimate if all its images differ.
    """
    groups, images = len(sums), times @ counts
    there = images > 0
    means = np.divide(times @ sums, images, out=np.zeros_like(images), where=there)
    weights = np.divide(1.0, images, out=np.zeros_like(images), where=there) / there.sum(axis=1, keepdims=True)
    influence = weights @ sums.T - (weights * means) @ counts.T
    variance = groups / max(1, groups - 1) * np.sum(times * influence**2, axis=1)
    estimate = means.sum(axis=1) / there.sum(axis=1)
    return estimate, np.sqrt(variance + unit**2)
