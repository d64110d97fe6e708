"""Harmonic means and their intervals."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import hmean

from titer.statistics.harmonic import harmonic, harmonic_mean, share_of_level
from titer.statistics.intervals import Interval, proportion


@given(st.lists(st.floats(1e-3, 1.0), min_size=1, max_size=6))
def test_it_is_scipys(values: list[float]) -> None:
    assert harmonic_mean(values) == pytest.approx(float(hmean(values)))


def test_nothing_makes_up_for_a_zero() -> None:
    assert harmonic_mean([1.0, 0.0, 1.0]) == 0
    assert harmonic([Interval(0.5, 0.4, 0.6), Interval(0.0, 0.0, 0.1)]) == Interval(0.0, 0.0, harmonic_mean([0.6, 0.1]))


def test_by_hand() -> None:
    assert harmonic_mean([0.5, 1.0]) == pytest.approx(2 / 3)
    assert harmonic_mean([0.8, 0.4, 0.6, 0.2]) == pytest.approx(4 / (1.25 + 2.5 + 1 / 0.6 + 5))


def test_parts_share_what_may_go_wrong() -> None:
    assert share_of_level(4) == pytest.approx(0.9875)
    assert share_of_level(1, 0.9) == pytest.approx(0.9)


def test_the_interval_covers_the_true_mean_at_least_as_often_as_it_says() -> None:
    random, true, images = np.random.default_rng(0), (0.9, 0.3, 0.7, 0.1), 25
    expected, covered = harmonic_mean(true), 0
    for _ in range(400):
        parts = [proportion(int(random.binomial(images, share)), images, share_of_level(4)) for share in true]
        found = harmonic(parts)
        covered += found.low <= expected <= found.high
    assert covered >= 0.95 * 400
