import math
from itertools import pairwise

import numpy as np
import pytest
from crossing import crossing_probability
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate
from scipy.stats import beta

from titer.statistics.sequences import exceeds, falls_short, log_evidence, looks, lower_limit, upper_limit


@pytest.mark.parametrize(("hits", "draws", "p0"), [(60, 80, 0.6), (100, 100, 0.5), (995, 1000, 0.977), (7, 30, 0.1)])
def test_evidence_is_the_mixture_it_claims_to_be(hits: int, draws: int, p0: float) -> None:
    def integrand(q: float) -> float:
        ratio = hits * math.log(q / p0) + (draws - hits) * (math.log1p(-q) - math.log1p(-p0)) if q < 1 else -math.inf
        return float(math.exp(ratio) * beta.pdf(q, 0.5, 0.5))

    if hits == draws:  # the prior is singular at 1, where this likelihood is not
        samples = beta.ppf(np.linspace(beta.cdf(p0, 0.5, 0.5), 1, 200_001)[:-1] + 1e-7, 0.5, 0.5)
        mixture = float(np.mean((samples / p0) ** hits))
        assert log_evidence(hits, draws, p0) == pytest.approx(math.log(mixture), rel=1e-3)
        return
    mixture, _ = integrate.quad(integrand, p0, 1, points=[hits / draws], limit=500)
    expected = math.log(mixture / beta.sf(p0, 0.5, 0.5))
    assert log_evidence(hits, draws, p0) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("p0", [0.5, 0.6, 0.8, 0.9, 0.977, 0.99, 0.999])
def test_crossing_probability_is_at_most_alpha(p0: float) -> None:
    """Exact, up to 20,000 draws, looking after every one of them."""
    probability = crossing_probability(p0, cap=20_000, alpha=0.001)
    assert 0.0003 < probability <= 0.001


def test_the_underflow_trap() -> None:
    """k/n = .9 against .9987: the survival function underflows, and a floor would have certified."""
    assert log_evidence(90_000, 100_000, 0.9987) == -math.inf
    assert not exceeds(90_000, 100_000, 0.9987, 0.001)
    assert falls_short(90_000, 100_000, 0.9987, 0.001)


@given(st.integers(1, 100_000), st.data(), st.sampled_from([0.05, 0.001, 1e-6]))
def test_limits_are_the_edge_of_what_is_proven(draws: int, data: st.DataObject, alpha: float) -> None:
    hits = data.draw(st.integers(0, draws))
    low, high = lower_limit(hits, draws, alpha), upper_limit(hits, draws, alpha)
    assert 0 <= low <= hits / draws <= high <= 1
    assert high > 0
    if low > 0:
        assert exceeds(hits, draws, low, alpha)
        below = low * np.linspace(0.01, 1, 50)
        assert exceeds(hits, draws, below, alpha).all()  # a limit proves all that is below it
    beyond = low + (hits / draws - low) * np.linspace(1e-3, 1, 50)
    assert not exceeds(hits, draws, beyond, alpha).any()


@given(st.integers(1, 5000), st.floats(0.01, 0.99))
def test_more_hits_are_more_evidence(draws: int, p0: float) -> None:
    hits = np.arange(math.floor(draws * p0) + 1, draws + 1)
    assert (np.diff(log_evidence(hits, draws, p0)) >= -1e-9).all()


@given(st.integers(1, 200_000), st.integers(1, 100))
def test_looks_rise_to_the_cap(cap: int, step: int) -> None:
    counts = list(looks(cap, step))
    assert counts[-1] == cap
    assert all(earlier < later for earlier, later in pairwise(counts))
    assert all(count % step == 0 for count in counts[:-1])
    assert len(counts) <= 16 + 9 * math.log(max(2, cap / step))
