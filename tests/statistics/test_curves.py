import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from titer.statistics.curves import average_certified_radius, certified, certified_accuracy, curve
from titer.statistics.intervals import proportion

CORRECT = [True, True, True, False, False]
RADIUS = [0.0, 0.25, 0.5, 0.75, 0.0]  # the last two: a confident mistake, an abstention


def test_all_images_are_the_denominator() -> None:
    assert certified_accuracy(CORRECT, RADIUS, 0.0) == proportion(3, 5)
    assert certified_accuracy(CORRECT, RADIUS, 0.3) == proportion(1, 5)
    assert certified_accuracy(CORRECT, RADIUS, 0.6) == proportion(0, 5)


def test_cohens_and_promptsmooths_conventions_differ_at_the_radius_itself() -> None:
    assert certified(CORRECT, RADIUS, 0.25).tolist() == [False, True, True, False, False]
    assert certified(CORRECT, RADIUS, 0.25, strict=True).tolist() == [False, False, True, False, False]
    assert certified_accuracy(CORRECT, RADIUS, 0.0, strict=True) == proportion(2, 5)


def test_curve_falls_and_its_bands_hold_it() -> None:
    generator = np.random.default_rng(0)
    right, radius = generator.random(200) < 0.8, generator.random(200)
    drawn = curve(right, radius, np.linspace(0, 1.2, 25).tolist())
    estimates = [part.estimate for part in drawn.intervals]
    assert estimates == sorted(estimates, reverse=True)
    assert all(part.low <= part.estimate <= part.high for part in drawn.intervals)
    assert estimates[0] == right.mean()
    assert estimates[-1] == 0
    assert drawn.intervals[-1].high > 0  # nothing certified among 200 is not "never"


def test_strict_curve() -> None:
    assert [part.estimate for part in curve(CORRECT, RADIUS, [0, 0.25, 0.5], strict=True).intervals] == [0.4, 0.2, 0.0]


def test_groups_widen_the_band() -> None:
    right, radius = np.repeat([True, True, False, True, False, True], 10), np.full(60, 0.5)
    alone = certified_accuracy(right, radius, 0.25)
    tied = certified_accuracy(right, radius, 0.25, np.repeat(np.arange(6), 10).tolist())
    assert tied.estimate == alone.estimate
    assert tied.low < alone.low < alone.high < tied.high


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 4)), min_size=1, max_size=40))
def test_average_radius_is_the_area_under_the_curve(images: list[tuple[bool, float]]) -> None:
    right, radius = zip(*images, strict=True)
    steps = sorted({0.0, *radius})
    area = sum((end - start) * certified_accuracy(right, radius, end).estimate for start, end in pairwise(steps))
    assert average_certified_radius(right, radius) == pytest.approx(area)


def test_no_images_is_nan() -> None:
    assert math.isnan(average_certified_radius([], []))
    assert math.isnan(certified_accuracy([], [], 0.1).estimate)
