"""What a clinician asks of a classifier: per class, how often right, how well ranked, how well calibrated."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import ndtri
from scipy.stats import rankdata
from sklearn.metrics import roc_auc_score

from titer.statistics.intervals import (
    NOTHING,
    Interval,
    clustered,
    effective,
    group_codes,
    independent_samples,
)

Labels = NDArray[np.int64]
Groups = Sequence[Hashable | None]

_EDGE = 1e-9


@dataclass(frozen=True)
class ClassResult:
    """One class against the rest.

    Args:
        label: its index.
        images: how many images are of this class.
        sensitivity: share of its images that are predicted so; an abstention is not.
        specificity: share of the other images that are not predicted so; an abstention is not.
        auroc: of the share of votes for this class.
    """

    label: int
    images: int
    sensitivity: Interval
    specificity: Interval
    auroc: Interval


@dataclass(frozen=True)
class Bin:
    """Images whose top class got a share of the votes from ``low`` to ``high``.

    Args:
        low: smallest share.
        high: largest share.
        images: how many there are.
        confidence: their mean share.
        accuracy: how often their top class is the label.
    """

    low: float
    high: float
    images: int
    confidence: float
    accuracy: Interval


def class_results(
    labels: Labels, predictions: Labels, shares: NDArray[np.float64], groups: Groups
) -> list[ClassResult]:
    """One result per class.

    Args:
        labels: (images,) class indices.
        predictions: (images,) class indices, -1 for abstention.
        shares: (images, classes) shares of votes.
        groups: one per image; intervals respect them.
    """
    return [
        ClassResult(
            label=label,
            images=int((labels == label).sum()),
            sensitivity=_share(predictions == label, labels == label, groups),
            specificity=_share(predictions != label, labels != label, groups),
            auroc=auroc(labels == label, shares[:, label], groups),
        )
        for label in range(shares.shape[1])
    ]


def balanced_accuracy(labels: Labels, predictions: Labels, groups: Groups) -> Interval:
    """Mean sensitivity over the classes that have images.

    Args:
        labels: (images,) class indices.
        predictions: (images,) class indices, -1 for abstention.
        groups: one per image.
    """
    return balanced_mean((predictions == labels).astype(float), labels, groups)


def balanced_mean(values: NDArray[np.float64], labels: Labels, groups: Groups, level: float = 0.95) -> Interval:
    """Mean over the classes that have images of the mean of their images' values.

    The interval takes the linearised variance over groups as a number of independent samples, as ``clustered`` does; never
    more than would give this variance if all classes were equally hard.

    Args:
        values: (images,) in [0, 1].
        labels: (images,) class indices.
        groups: one per image.
        level: confidence level.
    """
    if len(labels) == 0:
        return NOTHING
    _, classes, images = np.unique(labels, return_inverse=True, return_counts=True)
    means = np.bincount(classes, weights=values) / images
    mean = float(means.mean())
    influence = (values - means[classes]) / images[classes] / len(images)
    most = len(images) ** 2 / float(np.sum(1 / images))
    return effective(mean, independent_samples(mean, influence, group_codes(groups), most, level), level)


def auroc(own: NDArray[np.bool_], scores: NDArray[np.float64], groups: Groups, level: float = 0.95) -> Interval:
    """Area under the curve of one class against the rest.

    Newcombe's score interval (method 5; Statistics in Medicine 25, 2006), which does not shrink to nothing where the
    classes are separated, as a bootstrap does. Images that share a group count as one.

    Args:
        own: (images,) whether an image is of the class.
        scores: (images,) the higher, the more likely of the class.
        groups: one per image.
        level: confidence level.
    """
    if own.all() or not own.any():
        return NOTHING
    codes, area = group_codes(groups), float(roc_auc_score(own, scores))
    return area_interval(area, len(np.unique(codes[own])), len(np.unique(codes[~own])), level)


def macro_auroc(
    truth: NDArray[np.float64], scores: NDArray[np.float64], groups: Groups, level: float = 0.95
) -> Interval:
    """Mean area under the curves of several findings; those that all known images have, or none, are left out.

    The interval takes the variance over groups of what each image adds to the mean (its placement among the images of the
    other kind: DeLong, DeLong and Clarke-Pearson, Biometrics 44, 1988) as a number of independent samples, as
    ``balanced_mean`` does, so that findings of one image are not taken for independent ones. Never more than one for each
    group, so that perfect areas keep an interval; it is rather too wide than too narrow.

    Args:
        truth: (images, findings), 1 and 0, nan where it is not known.
        scores: (images, findings), the higher, the more likely there.
        groups: one per image.
        level: confidence level.
    """
    areas, influence = [], np.zeros(len(truth))
    for own, given in zip(truth.T, scores.T, strict=True):
        there, absent = own == 1, own == 0
        if not there.any() or not absent.any():
            continue
        both = there | absent
        ranks = np.zeros(len(own))
        ranks[both] = rankdata(given[both])
        # the share of the other kind that an image is placed rightly against, ties by half
        above = (ranks[there] - rankdata(given[there])) / absent.sum()
        below = 1 - (ranks[absent] - rankdata(given[absent])) / there.sum()
        areas.append(float(above.mean()))
        influence[there] += (above - areas[-1]) / there.sum()
        influence[absent] += (below - areas[-1]) / absent.sum()
    if not areas:
        return NOTHING
    mean, codes = float(np.mean(areas)), group_codes(groups)
    most = int(codes.max()) + 1
    return effective(mean, independent_samples(mean, influence / len(areas), codes, most, level), level)


def area_interval(area: float, positive: int, negative: int, level: float = 0.95) -> Interval:
    """Newcombe's interval for an area under the curve.

    Args:
        area: the estimate.
        positive, negative: independent samples on either side.
        level: confidence level.
    """
    reach = float(ndtri((1 + level) / 2))

    def gap(true: float) -> float:
        """Squared standardised distance of the estimate from a true area, less what the level allows."""
        return (area - true) ** 2 - reach**2 * _area_variance(true, positive, negative)

    # at 0 and 1 the gap of a perfect area is a root too, but not the one wanted
    low = float(brentq(gap, 0.0, min(area, 1 - _EDGE))) if area > _EDGE else 0.0
    high = float(brentq(gap, max(area, _EDGE), 1.0)) if area < 1 - _EDGE else 1.0
    return Interval(area, low, high)


def _area_variance(area: float, positive: int, negative: int) -> float:
    """Variance of an area under the curve (Hanley and McNeil, 1982), with Newcombe's common sample size."""
    common = (positive + negative) / 2 - 1
    spread = 1 + common * (1 - area) / (2 - area) + common * area / (1 + area)
    return area * (1 - area) * spread / (positive * negative)


def reliability(shares: NDArray[np.float64], labels: Labels, groups: Groups, bins: int = 10) -> list[Bin]:
    """Accuracy of the top class against its share of votes, in bins of equal width that hold images.

    Args:
        shares: (images, classes) shares of votes.
        labels: (images,) class indices.
        groups: one per image.
        bins: how many there are between 0 and 1.
    """
    confidence, right = shares.max(axis=1), shares.argmax(axis=1) == labels
    places = np.minimum((confidence * bins).astype(int), bins - 1)
    return [
        Bin(
            low=place / bins,
            high=(place + 1) / bins,
            images=int(own.sum()),
            confidence=float(confidence[own].mean()),
            accuracy=_share(right, own, groups),
        )
        for place in range(bins)
        if (own := places == place).any()
    ]


def calibration_error(bins: Sequence[Bin]) -> float:
    """Expected calibration error: mean gap of accuracy and vote share over bins, weighted by images."""
    total = sum(part.images for part in bins)
    gaps = (part.images * abs(part.accuracy.estimate - part.confidence) for part in bins)
    return sum(gaps) / total if total else float("nan")


def brier_score(shares: NDArray[np.float64], labels: Labels) -> float:
    """Mean squared distance of the vote shares from the truth, summed over classes: 0 is perfect, 2 the worst."""
    return float(np.mean(np.sum((shares - np.eye(shares.shape[1])[labels]) ** 2, axis=1))) if len(labels) else np.nan


def _share(hits: NDArray[np.bool_], of: NDArray[np.bool_], groups: Groups) -> Interval:
    return clustered(hits[of].astype(float), [group for group, chosen in zip(groups, of, strict=True) if chosen])
