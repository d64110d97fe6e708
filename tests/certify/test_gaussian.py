import numpy as np
import pytest
from scipy.stats import norm

from certify.driving import certificate, fixed, multinomial
from titer.certify import ABSTAIN, Gaussian
from titer.errors import InputError

# "minimum votes for R > r" of 10,000 at alpha 0.001, from the PromptSmooth reference
MINIMUM_VOTES = {
    0.1: {0.1: 8526, 0.25: 9962},
    0.25: {0.1: 6702, 0.25: 8526, 0.5: 9818, 0.75: 9997},
    0.5: {0.1: 5946, 0.25: 7058, 0.5: 8526, 0.75: 9409, 1.0: 9818, 1.25: 9962, 1.5: 9997},
    1.0: {0.1: 5553, 0.25: 6139, 0.5: 7058, 0.75: 7863, 1.0: 8526, 1.25: 9038, 1.5: 9409, 1.75: 9660, 2.0: 9818, 2.5: 9962},
}  # fmt: skip


def radius(hits: int, n: int, sigma: float = 1.0) -> float:
    return certificate(Gaussian(n=n).certify(sigma, 0.001), fixed(hits, n)).radius


@pytest.mark.parametrize(("n", "largest", "fewest"), [(10_000, 3.19858, 5156), (100_000, 3.81146, 50_490)])
def test_published_extremes(n: int, largest: float, fewest: int) -> None:
    everything = certificate(Gaussian(n=n).certify(1.0, 0.001), fixed(n, n))
    assert everything.radius == pytest.approx(largest, abs=5e-6)
    assert everything.radius == Gaussian(n=n).largest_radius(1.0, 0.001)
    assert everything.p_lower == pytest.approx(0.001 ** (1 / n), abs=1e-12)
    assert certificate(Gaussian(n=n).certify(1.0, 0.001), fixed(fewest, n)).prediction == 1
    below = certificate(Gaussian(n=n).certify(1.0, 0.001), fixed(fewest - 1, n))
    assert (below.prediction, below.radius) == (ABSTAIN, 0.0)


def test_bound_of_all_votes() -> None:
    assert certificate(Gaussian().certify(1.0, 0.001), fixed(10_000, 10_000)).p_lower == pytest.approx(
        0.99930946, abs=5e-9
    )


@pytest.mark.parametrize(
    ("sigma", "at", "votes"), [(sigma, at, votes) for sigma, row in MINIMUM_VOTES.items() for at, votes in row.items()]
)
def test_minimum_votes_for_a_radius(sigma: float, at: float, votes: int) -> None:
    assert radius(votes, 10_000, sigma) > at >= radius(votes - 1, 10_000, sigma)


def test_at_most_86_violations_in_1000_on_a_half_space() -> None:
    """alpha = 0.05; a 1000-fold repetition exceeds 86 with probability below 1e-6."""
    distance, sigma, violations = 0.4, 0.5, 0
    p = float(norm.cdf(distance / sigma))
    for seed in range(1000):
        found = certificate(Gaussian(n=200, n0=20).certify(sigma, 0.05), multinomial([1 - p, p], seed))
        violations += found.prediction == 1 and found.radius > distance
    assert 10 <= violations <= 86


@pytest.mark.parametrize("distance", [0.3, 0.6, 1.0, 1.7, 2.5, 3.0, 3.4])
def test_median_radius_is_near_the_true_distance(distance: float) -> None:
    p = float(norm.cdf(distance))
    radii = [
        certificate(Gaussian(n=100_000).certify(1.0, 0.001), multinomial([1 - p, p], seed)).radius
        for seed in range(101)
    ]
    assert 0.95 * distance < np.median(radii) <= distance


@pytest.mark.parametrize("settings", [{"n": 0}, {"n0": 0}, {"alpha": 0.0}, {"alpha": 1.0}, {"alpha": -1.0}])
def test_wrong_settings_are_refused_by_name(settings: dict[str, float]) -> None:
    with pytest.raises(InputError, match=next(iter(settings))):
        Gaussian(**settings)  # type: ignore[arg-type]


def test_fewest_draws() -> None:
    assert Gaussian().fewest_draws(0.001) == 10
    assert Gaussian(n=10).largest_radius(1.0, 0.001) > 0 > Gaussian(n=9).largest_radius(1.0, 0.001)
