"""The runner-up bound: valid where the popular shortcut is not, and never infinite."""

import itertools
import math

import numpy as np
import pytest
from certify.driving import certificate, multinomial
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import ndtri
from scipy.stats import multinomial as law

from titer.certify import ABSTAIN, Anytime, Gaussian
from titer.certify.runner_up import Buckets, buckets_of, helps, runner_up_radius
from titer.statistics.intervals import lower_bound, upper_bound


def invalid_radius(counts: np.ndarray, alpha: float) -> float:  # type: ignore[type-arg]
    """What must not be done: first and second of the same draws, alpha split in two."""
    second, first = np.sort(counts)[-2:]
    draws = int(counts.sum())
    return float((ndtri(lower_bound(int(first), draws, alpha / 2)) - ndtri(upper_bound(int(second), draws, alpha / 2))) / 2)


def overclaim(radius_of, probabilities: tuple[float, ...], draws: int) -> float:  # type: ignore[no-untyped-def]
    """Exact probability, over all outcomes, that the radius claimed exceeds the true one of the class claimed."""
    total = 0.0
    for first in range(draws + 1):
        for second in range(draws + 1 - first):
            counts = np.array([first, second, draws - first - second])
            claimed, top = radius_of(counts)
            rival = max(p for place, p in enumerate(probabilities) if place != top)
            truth = float(ndtri(probabilities[top]) - ndtri(rival)) / 2
            if claimed > max(truth, 0.0):
                total += float(law.pmf(counts, draws, probabilities))
    return total


def test_the_two_class_split_is_invalid_and_ours_is_not() -> None:
    """Three classes, the last two tied: which of them comes second is itself random, and each may be underrated."""
    alpha, worst_shortcut, worst_ours = 0.2, 0.0, 0.0
    for p_first, draws in itertools.product((0.34, 0.36, 0.4, 0.5), (10, 20, 30)):
        probabilities = (p_first, (1 - p_first) / 2, (1 - p_first) / 2)
        worst_shortcut = max(worst_shortcut, overclaim(lambda c: (invalid_radius(c, alpha), int(np.argmax(c))), probabilities, draws))
        for order in itertools.permutations(range(3)):
            buckets: Buckets = tuple((label,) for label in order)
            ours = overclaim(lambda c, b=buckets: (runner_up_radius(c, b, 1.0, alpha), b[0][0]), probabilities, draws)
            worst_ours = max(worst_ours, ours)
    assert worst_shortcut > alpha
    assert worst_ours <= alpha


def test_buckets_follow_the_selection_draws() -> None:
    assert buckets_of(np.array([0, 60, 40, 0, 0])) == ((1,), (2,), (0, 3, 4))
    assert buckets_of(np.array([30, 25, 24, 21])) == ((0,), (1,), (2,), (3,))
    assert buckets_of(np.array([3, 7])) == ((1,), (0,))


@given(st.lists(st.integers(0, 50), min_size=2, max_size=12).filter(lambda counts: sum(counts) > 0))
def test_buckets_hold_every_class_once_and_none_outweighs_the_second(counts0: list[int]) -> None:
    counts = np.array(counts0)
    buckets = buckets_of(counts)
    assert sorted(label for bucket in buckets for label in bucket) == list(range(len(counts)))
    assert counts[buckets[0][0]] == counts.max()
    assert all(counts[list(bucket)].sum() <= counts[buckets[1][0]] for bucket in buckets[1:])


def test_a_rival_without_votes_gives_no_infinite_radius() -> None:
    radius = runner_up_radius(np.array([1000, 0, 0]), ((0,), (1,), (2,)), 1.0, 0.001)
    assert math.isfinite(radius)
    assert radius <= ndtri(lower_bound(1000, 1000, 0.001))


def test_it_certifies_what_one_versus_rest_cannot() -> None:
    """Top class at 45 % of ten: below one half, but far above the second."""
    votes = [0.45, *[0.55 / 9] * 9]
    assert certificate(Gaussian().certify(1.0, 0.001), multinomial(votes, 0)).prediction == ABSTAIN
    found = certificate(Gaussian(bound="runner-up").certify(1.0, 0.001), multinomial(votes, 0))
    assert (found.prediction, found.bound) == (0, "runner-up")
    truth = float(ndtri(0.45) - ndtri(0.55 / 9)) / 2
    assert 0.85 * truth < found.radius < truth
    sequential = certificate(Anytime(bound="runner-up", radii=(0.0, 0.5, 2.0)).certify(1.0, 0.001), multinomial(votes, 0))
    assert (sequential.prediction, sequential.radius, sequential.bound) == (0, 0.5, "runner-up")
    assert sequential.p_lower < 0.45


def test_two_classes_always_take_the_plain_bound() -> None:
    assert not helps(np.array([60, 40]), 10_000, 0.001)
    assert not helps(np.array([98, 1, 1]), 10_000, 0.001)


def test_anytime_runner_up_keeps_alpha() -> None:
    """The true radius is just below what is asked: at most 86 of 1,000 at alpha 0.05."""
    probabilities = [0.42, 0.29, 0.29]
    truth = float(ndtri(0.42) - ndtri(0.29)) / 2
    method = Anytime(n0=50, n=1500, alpha=0.05, radii=(truth * 1.001,), bound="runner-up")
    claimed = [certificate(method.certify(1.0, 0.05), multinomial(probabilities, seed)) for seed in range(600)]
    assert sum(found.prediction == 0 for found in claimed) <= 52


@pytest.mark.parametrize("counts0", [[100, 0, 0], [40, 30, 30]])
def test_the_bound_is_chosen_from_selection_draws_alone(counts0: list[int]) -> None:
    procedure = Gaussian(n=1000, bound="runner-up").certify(1.0, 0.001)
    next(procedure)
    procedure.send(np.array(counts0))
    try:
        procedure.send(np.array([450, 300, 250]))
    except StopIteration as stop:
        assert stop.value.bound == ("runner-up" if counts0[0] == 40 else "one-vs-rest")
