from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import t as student
from statsmodels.stats.contingency_tables import mcnemar as reference_mcnemar
from statsmodels.stats.multitest import multipletests

from titer.statistics.comparisons import Comparison, holm, mcnemar, paired

Case = tuple[list[float], list[float], list[int], list[str | None]]

SHARES = st.sampled_from([0.0, 1 / 3, 2 / 3, 1.0])


@st.composite
def two_methods(draw: Callable[[st.SearchStrategy[Any]], Any]) -> Case:
    images = draw(st.integers(2, 30))
    values = [draw(st.lists(SHARES, min_size=images, max_size=images)) for _ in range(2)]
    labels = draw(st.lists(st.integers(0, 2), min_size=images, max_size=images))
    groups = draw(st.lists(st.sampled_from([None, "a", "b", "c"]), min_size=images, max_size=images))
    return values[0], values[1], labels, groups


@settings(max_examples=40, deadline=None)
@given(two_methods())
def test_the_other_way_round_is_the_same_comparison(case: Case) -> None:
    first, second, labels, groups = case
    one, other = paired(first, second, labels, groups), paired(second, first, labels, groups)
    assert (one.difference, one.low, one.high, one.p) == pytest.approx(
        (-other.difference, -other.high, -other.low, other.p)
    )
    assert one.low <= one.difference <= one.high


@settings(max_examples=40, deadline=None)
@given(two_methods())
def test_the_p_value_agrees_with_the_interval(case: Case) -> None:
    one = paired(*case)
    # an end of the interval at the edge of what is possible says nothing
    if one.p > 0.051:
        assert one.low <= 0 <= one.high
    if one.p < 0.049:
        assert one.low > 0 or one.high < 0


@settings(max_examples=20, deadline=None)
@given(two_methods())
def test_names_and_order_of_groups_do_not_matter_to_the_estimate(case: Case) -> None:
    first, second, labels, groups = case
    renamed = [None if group is None else group * 2 for group in groups]
    assert paired(first, second, labels, renamed) == paired(first, second, labels, groups)


def test_the_difference_is_class_balanced() -> None:
    labels = [0] * 8 + [1] * 2
    first = [1.0] * 4 + [0.0] * 4 + [1.0, 1.0]
    assert paired(first, [0.0] * 10, labels, [None] * 10).difference == (0.5 + 1.0) / 2


def test_independent_images_get_about_the_interval_of_a_paired_t_test() -> None:
    random = np.random.default_rng(0)
    first, second = random.random(200) < 0.7, random.random(200) < 0.5
    found = paired(first, second, np.zeros(200, int), [None] * 200)
    differences = first.astype(float) - second.astype(float)
    half = student.ppf(0.975, 199) * np.sqrt(differences.var(ddof=1) / 200 + 1 / 200**2)
    assert found.high - found.difference == pytest.approx(half, rel=0.03)
    assert found.high - found.difference >= half


def test_copies_of_an_image_are_no_new_evidence() -> None:
    random = np.random.default_rng(1)
    first, second, labels = random.random(20) < 0.8, random.random(20) < 0.4, np.arange(20) % 2
    alone = paired(first, second, labels, list(range(20)))
    ours, theirs, classes = (np.repeat(values, 5) for values in (first, second, labels))
    copied = paired(ours, theirs, classes, np.repeat(range(20), 5).tolist())
    assert (copied.images, copied.groups) == (100, 20)
    assert (copied.low, copied.high, copied.p) == pytest.approx((alone.low, alone.high, alone.p))


def test_two_methods_that_agree_on_every_image_are_not_equal_beyond_doubt() -> None:
    found = paired(np.ones(100), np.ones(100), np.arange(100) % 2, [None] * 100)
    assert (found.difference, found.p) == (0, 1)
    assert found.low == -found.high == pytest.approx(-student.ppf(0.975, 99) / 100)


def test_one_group_says_nothing() -> None:
    found = paired([1.0, 1.0], [0.0, 0.0], [0, 1], ["slide", "slide"])
    assert found == Comparison(difference=1.0, low=-1.0, high=1.0, p=1.0, images=2, groups=1)


def test_an_obvious_difference_is_found() -> None:
    found = paired(np.ones(60), np.zeros(60), np.arange(60) % 3, [None] * 60)
    assert found.low > 0.9
    assert found.p < 0.001


@pytest.mark.parametrize("grouped", [False, True])
def test_the_interval_holds_the_truth_as_often_as_it_says(grouped: bool) -> None:
    """150 comparisons of two equally good methods, each right on 60 % of images; of 25 groups of 4, or of 100 alone."""
    random = np.random.default_rng(2)
    labels, groups = np.arange(100) // 4 % 2, np.arange(100) // 4
    missed = 0
    for _ in range(150):
        ease = np.repeat(random.normal(size=(2, 25)), 4, axis=1) if grouped else np.zeros((2, 100))
        first, second = random.random((2, 100)) < 1 / (1 + np.exp(-0.4 - ease))
        missed += paired(first, second, labels, list(groups) if grouped else [None] * 100).p <= 0.05
    assert missed <= 150 * 0.05 + 2.3 * np.sqrt(150 * 0.05 * 0.95)


def test_no_images_are_refused() -> None:
    with pytest.raises(ValueError, match="as many labels and groups as values"):
        paired([], [], [], [])


def test_mcnemar_counts_only_where_the_answers_differ() -> None:
    first = [True] * 9 + [False] * 2 + [True] * 30
    second = [False] * 9 + [True] * 2 + [True] * 30
    assert mcnemar(first, second) == pytest.approx(134 / 2048)
    assert mcnemar(first, first) == 1


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_mcnemar_is_that_of_statsmodels(answers: list[tuple[bool, bool]]) -> None:
    first, second = np.array(answers).T
    table = [[sum((first == a) & (second == b)) for b in (True, False)] for a in (True, False)]
    expected = min(1.0, reference_mcnemar(table, exact=True).pvalue)
    assert mcnemar(first, second) == pytest.approx(expected)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_holm_is_that_of_statsmodels(ps: list[float]) -> None:
    adjusted = holm(ps)
    with patch("gc.collect"):  # multipletests collects garbage at every call: a quarter of a second each
        expected = multipletests(ps, method="holm")[1]
    assert adjusted == pytest.approx(expected)
    assert all(one >= p for one, p in zip(adjusted, ps, strict=True))
    assert all(adjusted[i] <= adjusted[j] for i, j in pairwise(np.argsort(ps)))


def test_holm_of_the_textbook() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []
