import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import beta, norm

from certify.driving import Sampler, certificate, fixed, multinomial
from titer.certify import ABSTAIN, Anytime, Certificate
from titer.errors import InputError


def run(method: Anytime, p: float, sigma: float = 1.0, seed: int = 0) -> Certificate:
    return certificate(method.certify(sigma, method.alpha), multinomial([1 - p, p], seed))


def test_one_radius_is_decided_early_and_certified() -> None:
    found = run(Anytime(n=100_000, radii=(0.5,)), p=0.99)
    assert (found.prediction, found.radius) == (1, 0.5)
    assert found.draws < 200
    assert found.p_lower == pytest.approx(norm.cdf(0.5))


def test_one_radius_is_given_up_early() -> None:
    found = run(Anytime(n=100_000, radii=(1.5,)), p=0.8)
    assert (found.prediction, found.radius, found.decided) == (ABSTAIN, 0.0, ())
    assert found.refuted is not None
    assert [proof.radius for proof in found.refuted] == [1.5]
    assert found.draws < 2000


def test_curve_puts_the_image_between_two_radii() -> None:
    found = run(Anytime(n=100_000, radii=(0, 0.5, 1.0, 1.5, 2.0)), p=float(norm.cdf(1.2)))
    assert found.radius == 1.0
    assert found.decided is not None
    assert found.refuted is not None
    assert [proof.radius for proof in found.decided] == [0, 0.5, 1.0]
    assert [proof.radius for proof in found.refuted] == [1.5, 2.0]
    assert found.unsettled == ()


@pytest.mark.parametrize("distance", [0.2, 0.7, 1.3, 2.2])
@pytest.mark.parametrize("tolerance", [0.1, 0.3])
def test_tolerance_finds_the_radius_within_its_share(distance: float, tolerance: float) -> None:
    found = run(Anytime(n=1_000_000, tolerance=tolerance), p=float(norm.cdf(distance)))
    assert (1 - tolerance) * distance <= found.radius <= distance


def test_radii_beyond_the_cap_stay_open() -> None:
    method = Anytime(n=1000, radii=(0.0, 1.0, 5.0))
    found = run(method, p=1.0)
    assert found.radius == 1.0
    assert found.unsettled == (5.0,)
    assert found.draws < 1000
    assert 2.2 < method.largest_radius(1.0, 0.001) < 2.463


def test_the_shot_at_the_cap_proves_what_the_sequence_missed() -> None:
    """At 10,000 draws 6,000 hits: Clopper-Pearson .214, e-process .194, together .208 sigma (reference 2.2)."""
    for at, expected in ((0.207, True), (0.209, False)):
        found = certificate(Anytime(n=10_000, n0=100, radii=(at,)).certify(1.0, 0.001), _held_back(6_000))
        assert (found.prediction == 1) is expected


def _held_back(hits: int) -> Sampler:
    """Votes that show nothing before the last look."""
    state = {"draws": 0}

    def sample(count: int) -> NDArray[np.int64]:
        if count == 0:
            return np.zeros(2, np.int64)
        if "selected" not in state:
            state["selected"] = 1
            return np.array([0, count])
        state["draws"] += count
        if state["draws"] < 10_000:
            share = int(count * 0.6)
            state["hits"] = state.get("hits", 0) + share
            return np.array([count - share, share])
        return np.array([count - (hits - state["hits"]), hits - state["hits"]])

    return sample


def test_ceiling_at_ten_thousand_draws() -> None:
    """All votes agree: e-process 3.152 at alpha, together 3.144 sigma (reference 2.2)."""
    assert Anytime(n=10_000).largest_radius(1.0, 0.001) == pytest.approx(3.144, abs=2e-3)
    assert Anytime(n=100_000).largest_radius(1.0, 0.001) == pytest.approx(3.765, abs=2e-3)


@given(st.floats(0.05, 0.999), st.integers(0, 10_000))
def test_no_radius_exceeds_clopper_pearson_of_the_same_votes(p: float, seed: int) -> None:
    found = run(Anytime(n=3000, radii=(0.0, 0.1, 0.3, 0.6, 1.0, 1.5, 2.0, 2.5)), p=p, seed=seed)
    assert found.decided is not None
    for proof in found.decided:
        assert proof.radius <= norm.ppf(beta.ppf(0.001, proof.hits, proof.draws - proof.hits + 1)) + 1e-9
    assert found.radius <= norm.ppf(0.001 ** (1 / found.draws))
    assert (found.prediction == ABSTAIN) == (not found.decided)


@pytest.mark.parametrize("distance", [0.4, 1.0])
def test_violations_on_a_half_space(distance: float) -> None:
    """alpha = 0.05 at a radius that is just too large: at most 86 of 1,000."""
    p = float(norm.cdf(distance))
    method = Anytime(n0=20, n=2000, alpha=0.05, radii=(0.0, distance * 1.0001))
    violations = sum(run(method, p, seed=seed).radius > distance for seed in range(1000))
    assert 5 <= violations <= 86


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"radii": ()}, "radii"),
        ({"radii": (0.5, 0.1)}, "rising"),
        ({"radii": (0.1, 0.1)}, "once"),
        ({"radii": (-0.1,)}, "radii"),
        ({"tolerance": 0.0}, "tolerance"),
        ({"tolerance": 1.0}, "tolerance"),
        ({"bound": "runner-up", "alpha": 0.5}, "runner-up"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, object], word: str) -> None:
    with pytest.raises(InputError, match=word):
        Anytime(**settings)  # type: ignore[arg-type]


def test_votes_that_show_nothing_cost_the_whole_cap_and_abstain() -> None:
    found = certificate(
        Anytime(n=500, radii=(0.0,)).certify(1.0, 0.001), lambda count: np.array([count - count // 2, count // 2])
    )
    assert (found.prediction, found.radius, found.draws) == (ABSTAIN, 0.0, 500)
    assert found.unsettled == (0.0,)


def test_fewest_draws_can_certify_and_one_less_cannot() -> None:
    method = Anytime(n=12, radii=(0.0,))
    assert method.fewest_draws(0.001) == 12
    assert certificate(method.certify(1.0, 0.001), fixed(12, 12)).prediction == 1
    assert Anytime(n=11).largest_radius(1.0, 0.001) < 0
