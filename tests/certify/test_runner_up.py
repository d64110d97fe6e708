"""The runner-up bound: valid where the popular shortcut is not, and never infinite."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import ndtri
from scipy.stats import multinomial as law

from certify.driving import certificate, multinomial
from titer.certify import ABSTAIN, Anytime, Gaussian
from titer.certify.runner_up import helps, runner_up_radius
from titer.statistics.intervals import lower_bound, upper_bound


def named_radius(counts: NDArray[np.int64], first: int, second: int, alpha: float) -> float:
    """What must not be done: only the class that came second in the selection draws is bounded."""
    draws = int(counts.sum())
    lower = lower_bound(int(counts[first]), draws, alpha / 2)
    return float((ndtri(lower) - ndtri(upper_bound(int(counts[second]), draws, alpha / 2))) / 2)


def test_naming_the_runner_up_is_invalid_and_ours_is_not() -> None:
    """Three classes, the last two nearly tied: 20 selection draws often name the wrong one."""
    probabilities, alpha, generator = np.array([0.4, 0.31, 0.29]), 0.05, np.random.default_rng(0)
    truth = float(ndtri(0.4) - ndtri(0.31)) / 2
    named = ours = chosen = 0
    while chosen < 1000:
        selection, estimation = generator.multinomial(20, probabilities), generator.multinomial(20_000, probabilities)
        first, second = (int(label) for label in np.argsort(-selection, kind="stable")[:2])
        if first == 0:
            chosen += 1
            named += named_radius(estimation, first, second, alpha) > truth
            ours += runner_up_radius(estimation, first, 1.0, alpha) > truth
    assert named > 250
    assert ours <= 86


@pytest.mark.parametrize(
    "probabilities", [(0.5, 0.5, 0.0), (0.4, 0.3, 0.3), (0.34, 0.33, 0.33), (0.5, 0.05, 0.45), (0.8, 0.1, 0.1)]
)
@pytest.mark.parametrize("alpha", [0.01, 0.2])
def test_overclaim_is_at_most_alpha_by_enumeration(probabilities: tuple[float, ...], alpha: float) -> None:
    draws = 40
    for candidate in range(3):
        rival = max(p for label, p in enumerate(probabilities) if label != candidate)
        truth = float(ndtri(probabilities[candidate]) - ndtri(rival)) / 2
        total = 0.0
        for first in range(draws + 1):
            for second in range(draws + 1 - first):
                counts = np.array([first, second, draws - first - second])
                if runner_up_radius(counts, candidate, 1.0, alpha) > max(truth, 0.0):
                    total += float(law.pmf(counts, draws, probabilities))
        assert total <= alpha


def test_a_rival_without_votes_gives_no_infinite_radius() -> None:
    radius = runner_up_radius(np.array([1000, 0, 0]), 0, 1.0, 0.001)
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
    sequential = certificate(
        Anytime(bound="runner-up", radii=(0.0, 0.5, 2.0)).certify(1.0, 0.001), multinomial(votes, 0)
    )
    assert (sequential.prediction, sequential.radius, sequential.bound) == (0, 0.5, "runner-up")
    assert 0.35 < sequential.p_lower < 0.45


def test_two_classes_always_take_the_plain_bound() -> None:
    assert not helps(np.array([60, 40]), 10_000, 0.001)
    assert not helps(np.array([99, 1, 0]), 10_000, 0.001)


def test_anytime_runner_up_keeps_alpha() -> None:
    """The true radius is just below what is asked: at most 22 of 200 at alpha 0.05."""
    probabilities = [0.42, 0.29, 0.29]
    truth = float(ndtri(0.42) - ndtri(0.29)) / 2
    method = Anytime(n0=50, n=1500, alpha=0.05, radii=(truth * 1.001,), bound="runner-up")
    claimed = [certificate(method.certify(1.0, 0.05), multinomial(probabilities, seed)) for seed in range(200)]
    assert sum(found.prediction == 0 for found in claimed) <= 22


@pytest.mark.parametrize("counts0", [[100, 0, 0], [40, 30, 30]])
def test_the_bound_is_chosen_from_selection_draws_alone(counts0: list[int]) -> None:
    procedure = Gaussian(n=1000, bound="runner-up").certify(1.0, 0.001)
    next(procedure)
    procedure.send(np.array(counts0))
    with pytest.raises(StopIteration) as stop:
        procedure.send(np.array([450, 300, 250]))
    assert stop.value.value.bound == ("runner-up" if counts0[0] == 40 else "one-vs-rest")
