import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import norm
from sklearn.metrics import balanced_accuracy_score, brier_score_loss, roc_auc_score

from titer.statistics.intervals import proportion
from titer.statistics.ranking import (
    auroc,
    balanced_accuracy,
    brier_score,
    calibration_error,
    class_results,
    macro_auroc,
    reliability,
)

LABELS = np.array([0, 0, 0, 0, 1, 1, 1, 2])
PREDICTIONS = np.array([0, 0, 1, -1, 1, 1, -1, 0])
ALONE: list[str | None] = [None] * 8


def one_hot(predictions: NDArray[np.int64], classes: int = 3) -> NDArray[np.float64]:
    return np.eye(classes)[predictions]


def test_sensitivity_and_specificity_by_hand() -> None:
    first, second, third = class_results(LABELS, PREDICTIONS, one_hot(PREDICTIONS), ALONE)
    assert [found.images for found in (first, second, third)] == [4, 3, 1]
    assert first.sensitivity == proportion(2, 4)  # the abstention counts against it
    assert first.specificity == proportion(3, 4)  # only the image of class 2 was called 0
    assert second.sensitivity == proportion(2, 3)
    assert second.specificity == proportion(4, 5)
    assert third.sensitivity == proportion(0, 1)
    assert third.specificity == proportion(7, 7)


def test_a_class_without_images() -> None:
    found = class_results(LABELS, PREDICTIONS, one_hot(PREDICTIONS, 4), ALONE)[3]
    assert found.images == 0
    assert math.isnan(found.sensitivity.estimate)
    assert math.isnan(found.auroc.estimate)
    assert found.specificity == proportion(8, 8)


def test_balanced_accuracy_agrees_with_scikit_learn() -> None:
    generator = np.random.default_rng(1)
    labels = generator.integers(0, 5, 300)
    predictions = np.where(generator.random(300) < 0.7, labels, generator.integers(0, 5, 300))
    found = balanced_accuracy(labels, predictions, [None] * 300)
    assert found.estimate == pytest.approx(balanced_accuracy_score(labels, predictions))
    assert found.low < found.estimate < found.high


def test_balanced_accuracy_is_not_certain_where_all_is_right() -> None:
    few = balanced_accuracy(LABELS, LABELS, ALONE)
    assert few.estimate == few.high == 1
    assert few.low < 0.6  # one image of a class says little
    many = np.repeat(np.arange(3), 100)
    assert balanced_accuracy(many, many, [None] * 300).low == pytest.approx(proportion(300, 300).low)


def test_balanced_accuracy_covers() -> None:
    """Five classes of unlike size and hardness."""
    generator, hard = np.random.default_rng(2), np.linspace(0.5, 1, 5)
    labels = np.repeat(np.arange(5), [5, 8, 11, 14, 17])
    covered = 0
    for _ in range(300):
        predictions = np.where(generator.random(len(labels)) < hard[labels], labels, -1)
        found = balanced_accuracy(labels, predictions, [None] * len(labels))
        covered += found.low <= hard.mean() <= found.high
    assert covered >= 0.93 * 300


def test_groups_widen_balanced_accuracy_and_auroc() -> None:
    generator = np.random.default_rng(3)
    labels = np.repeat(np.arange(40) % 2, 5)
    predictions = np.where(np.repeat(generator.random(40) < 0.8, 5), labels, 1 - labels)
    slides = np.repeat(np.arange(40), 5).tolist()
    alone, tied = (balanced_accuracy(labels, predictions, groups) for groups in ([None] * 200, slides))
    assert alone.high - alone.low < 0.6 * (tied.high - tied.low)
    scores = generator.normal(size=200) + labels
    alone, tied = (auroc(labels == 1, scores, groups) for groups in ([None] * 200, slides))
    assert alone.high - alone.low < 0.6 * (tied.high - tied.low)


def test_auroc_agrees_with_scikit_learn_ties_counted_half() -> None:
    own, scores = np.array([1, 1, 0, 0, 1], bool), np.array([0.9, 0.5, 0.5, 0.1, 0.1])
    found = auroc(own, scores, [None] * 5)
    assert found.estimate == roc_auc_score(own, scores) == 4 / 6
    assert 0 < found.low < found.estimate < found.high < 1


@pytest.mark.parametrize("own", [np.ones(4, bool), np.zeros(4, bool)])
def test_auroc_needs_both_sides(own: NDArray[np.bool_]) -> None:
    assert math.isnan(auroc(own, np.arange(4.0), [None] * 4).estimate)


@pytest.mark.parametrize("turned", [False, True])
def test_auroc_of_separated_classes_is_not_certain(turned: bool) -> None:
    own = np.arange(20) >= 10
    found = auroc(own, np.arange(20.0) * (-1 if turned else 1), [None] * 20)
    ends = (1 - found.high, 1 - found.low) if turned else (found.low, found.high)
    assert found.estimate == (0 if turned else 1)
    assert ends == pytest.approx((0.8002, 1.0), abs=1e-4)


@pytest.mark.parametrize("shift", [0.5, 1.5, 3.0, 4.0])
def test_auroc_covers(shift: float) -> None:
    generator, own, covered = np.random.default_rng(4), np.arange(100) < 10, 0
    for _ in range(200):
        found = auroc(own, generator.normal(size=100) + shift * own, [None] * 100)
        covered += found.low <= norm.cdf(shift / math.sqrt(2)) <= found.high
    assert covered >= 0.92 * 200


def test_reliability_of_a_calibrated_and_of_an_overconfident_classifier() -> None:
    generator = np.random.default_rng(5)
    top = generator.uniform(0.5, 1, 4000)
    labels = (generator.random(4000) > top).astype(np.int64)  # class 0 with probability `top`
    bins = reliability(np.column_stack([top, 1 - top]), labels, [None] * 4000)
    assert sum(part.images for part in bins) == 4000
    assert [part.low for part in bins] == [0.5, 0.6, 0.7, 0.8, 0.9]
    assert all(part.low <= part.confidence <= part.high for part in bins)
    assert calibration_error(bins) < 0.03
    certain = reliability(np.tile([1.0, 0.0], (4000, 1)), labels, [None] * 4000)
    assert calibration_error(certain) == pytest.approx(np.mean(labels == 1))
    assert certain[0].accuracy == proportion(int((labels == 0).sum()), 4000)


def test_calibration_error_by_hand() -> None:
    shares = np.array([[0.65, 0.35], [0.62, 0.38], [0.05, 0.95]])
    bins = reliability(shares, np.array([0, 1, 1]), [None] * 3)
    assert calibration_error(bins) == pytest.approx((2 * abs(0.5 - 0.635) + abs(1 - 0.95)) / 3)


def test_brier_score_agrees_with_scikit_learn() -> None:
    shares, labels = np.array([[0.9, 0.1], [0.4, 0.6], [0.3, 0.7]]), np.array([0, 0, 1])
    assert brier_score(shares, labels) == pytest.approx(2 * brier_score_loss(labels, shares[:, 1]))


def test_nothing_to_rank() -> None:
    none = np.zeros(0, np.int64)
    assert math.isnan(balanced_accuracy(none, none, []).estimate)
    assert math.isnan(calibration_error([]))
    assert math.isnan(brier_score(np.zeros((0, 2)), none))


def several(seed: int, images: int = 60) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    random = np.random.default_rng(seed)
    truth = (random.random((images, 3)) < (0.5, 0.3, 0.2)).astype(float)
    scores = np.round(random.normal(size=(images, 3)) + (1.0, 0.5, 2.0) * truth, 1)  # with ties
    truth[random.random((images, 3)) < 0.1] = np.nan
    return truth, scores


def test_the_mean_area_is_that_of_scikit_learn() -> None:
    truth, scores = several(0)
    known = ~np.isnan(truth)
    expected = [roc_auc_score(truth[known[:, k], k], scores[known[:, k], k]) for k in range(3)]
    found = macro_auroc(truth, scores, [None] * 60)
    assert found.estimate == pytest.approx(np.mean(expected))
    with_constant = np.column_stack([truth, np.ones(60)]), np.column_stack([scores, np.zeros(60)])
    assert macro_auroc(*with_constant, [None] * 60) == found  # a finding that all have says nothing
    assert math.isnan(macro_auroc(np.ones((4, 2)), np.zeros((4, 2)), [None] * 4).estimate)


def test_the_mean_areas_interval_covers_and_counts_groups_once() -> None:
    """Of 200 samples the interval holds the true mean at least 190 times; images of one group count as one."""
    true = np.mean([norm.cdf(shift / math.sqrt(2)) for shift in (1.0, 0.5, 2.0)])
    found = [macro_auroc(*several(seed), [None] * 60) for seed in range(200)]
    assert 190 <= sum(one.low <= true <= one.high for one in found) <= 200
    assert np.mean([one.high - one.low for one in found]) < 0.25
    truth, scores = several(1)
    groups = [str(place) for place in range(60)]
    twice = macro_auroc(np.repeat(truth, 2, axis=0), np.repeat(scores, 2, axis=0), np.repeat(groups, 2).tolist())
    once = macro_auroc(truth, scores, groups)
    assert twice.estimate == pytest.approx(once.estimate)
    assert (twice.low, twice.high) == pytest.approx((once.low, once.high), abs=0.01)
