import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom
from statsmodels.stats.proportion import proportion_confint

from titer.statistics.intervals import clustered, group_codes, lower_bound, proportion, upper_bound


def test_published_values() -> None:
    assert lower_bound(10_000, 10_000, 0.001) == pytest.approx(0.99930946, abs=5e-9)
    assert lower_bound(0, 100, 0.001) == 0
    assert upper_bound(100, 100, 0.001) == 1
    assert upper_bound(0, 100, 0.001) == pytest.approx(1 - 0.001 ** (1 / 100))


@pytest.mark.parametrize("draws", [1, 7, 30, 60])
@pytest.mark.parametrize("alpha", [0.001, 0.05])
def test_coverage_by_enumeration(draws: int, alpha: float) -> None:
    hits = np.arange(draws + 1)
    lower = np.array([lower_bound(int(k), draws, alpha) for k in hits])
    upper = np.array([upper_bound(int(k), draws, alpha) for k in hits])
    for p in np.linspace(0, 1, 201):
        chance = binom.pmf(hits, draws, p)
        assert chance[lower > p].sum() <= alpha + 1e-12
        assert chance[upper < p].sum() <= alpha + 1e-12


@given(st.integers(1, 100_000), st.data())
def test_agreement_with_statsmodels(draws: int, data: st.DataObject) -> None:
    hits = data.draw(st.integers(0, draws))
    low, high = proportion_confint(hits, draws, alpha=0.002, method="beta")
    assert lower_bound(hits, draws, 0.001) == pytest.approx(low, abs=1e-12)
    assert upper_bound(hits, draws, 0.001) == pytest.approx(high, abs=1e-12)


@given(st.integers(2, 2000), st.data())
def test_bounds_rise_with_hits_and_alpha(draws: int, data: st.DataObject) -> None:
    hits = data.draw(st.integers(0, draws - 1))
    assert lower_bound(hits, draws, 0.01) < lower_bound(hits + 1, draws, 0.01)
    assert (
        lower_bound(hits, draws, 0.001)
        <= lower_bound(hits, draws, 0.01)
        <= hits / draws
        <= upper_bound(hits, draws, 0.01)
    )


def test_proportion_is_exact_and_empty_is_nan() -> None:
    found = proportion(8, 10)
    assert (found.estimate, found.low, found.high) == pytest.approx((0.8, 0.44390, 0.97479), abs=1e-5)
    assert math.isnan(proportion(0, 0).estimate)


def test_single_samples_are_a_proportion() -> None:
    values = [1, 0, 1, 1, 0, 1, 1, 1]
    assert clustered(values, [None] * 8) == proportion(6, 8)
    assert clustered(values, list("abcdefgh")) == proportion(6, 8)


def test_clusters_widen_the_interval_and_cover() -> None:
    """20 tiles of each of 25 slides, all alike within a slide: the independent interval covers half as often as it says."""
    generator, covered, naive = np.random.default_rng(0), 0, 0
    groups = np.repeat(np.arange(25), 20)
    for _ in range(400):
        values = np.repeat(generator.random(25) < 0.7, 20)
        found, plain = clustered(values, groups.tolist()), proportion(int(values.sum()), len(values))
        covered += found.low <= 0.7 <= found.high
        naive += plain.low <= 0.7 <= plain.high
    assert covered >= 0.9 * 400
    assert naive < 0.7 * 400


@pytest.mark.parametrize("share", [0.5, 0.9, 0.97])
def test_one_shared_group_among_many_alone_covers(share: float) -> None:
    """Where a symmetric interval fails: near 1, with next to no clustering."""
    generator, covered = np.random.default_rng(1), 0
    groups = [*range(99), 0]
    for _ in range(400):
        found = clustered((generator.random(100) < share).astype(float), groups)
        covered += found.low <= share <= found.high
    assert covered >= 0.93 * 400


def test_partly_alike_groups_cover() -> None:
    """Eight tiles of each of 25 slides whose chances differ from slide to slide."""
    generator, covered = np.random.default_rng(2), 0
    groups = np.repeat(np.arange(25), 8)
    for _ in range(400):
        chance = generator.beta(0.7 * 1.5, 0.3 * 1.5, 25)
        found = clustered((generator.random((25, 8)) < chance[:, None]).ravel().astype(float), groups.tolist())
        covered += found.low <= 0.7 <= found.high
    assert covered >= 0.93 * 400


def test_all_alike_counts_groups_not_images() -> None:
    groups = np.repeat(np.arange(12), 30).tolist()
    assert clustered([1] * 360, groups) == proportion(12, 12)
    assert clustered([0] * 360, groups).high == pytest.approx(proportion(0, 12).high)
    assert clustered([1] * 30, ["one slide"] * 30) == proportion(1, 1)


def test_groups_of_unlike_kinds_stay_apart() -> None:
    assert group_codes([1, "1", None, None, 1, "alone"]).tolist() == [0, 1, 2, 3, 0, 4]


@given(st.lists(st.sampled_from([0.0, 1.0]), min_size=1, max_size=30), st.integers(1, 10))
def test_clustered_stays_within_bounds(values: list[float], groups: int) -> None:
    found = clustered(values, [place % groups for place in range(len(values))])
    assert 0 <= found.low <= found.estimate <= found.high <= 1
