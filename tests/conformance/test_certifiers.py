"""Every registered certifier, on a half-space whose true radius is known in closed form."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy.stats import norm

from certify.driving import certificate, multinomial
from titer.certify import CERTIFIERS
from titer.errors import InputError
from titer.registry import settings_of

NAMES = list(CERTIFIERS)
SIGMA, ALPHA = 0.5, 0.05


def half_space(distance: float) -> list[float]:
    p = float(norm.cdf(distance / SIGMA))
    return [1 - p, p]


@pytest.mark.parametrize("name", NAMES)
def test_a_method_is_its_settings(name: str) -> None:
    method = CERTIFIERS.build(name)
    assert dataclasses.is_dataclass(method)
    assert CERTIFIERS.build(name, **settings_of(method)) == method
    with pytest.raises(InputError, match="did you mean 'alpha'"):
        CERTIFIERS.build(name, alhpa=0.1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        method.n = 3  # type: ignore[misc]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("distance", [0.1, 0.5, 1.0])
def test_no_radius_is_too_large_more_often_than_alpha(name: str, distance: float) -> None:
    method = CERTIFIERS.build(name, n=600, n0=20, alpha=ALPHA)
    found = [certificate(method.certify(SIGMA, ALPHA), multinomial(half_space(distance), seed)) for seed in range(400)]
    assert sum(one.prediction == 1 and one.radius > distance for one in found) <= 38
    assert sum(one.prediction == 1 for one in found) > 50
    for one in found:
        assert one.radius <= SIGMA * norm.ppf(ALPHA ** (1 / one.draws)) + 1e-12
        assert one.radius <= method.largest_radius(SIGMA, ALPHA) + 1e-12
        assert (one.prediction == -1) <= (one.radius == 0)


@pytest.mark.parametrize("name", NAMES)
def test_the_radius_scales_with_sigma(name: str) -> None:
    method = CERTIFIERS.build(name, n=2000, **({"tolerance": 0.1} if name == "anytime" else {}))
    small, large = (certificate(method.certify(sigma, 0.001), multinomial([0.05, 0.95], 0)) for sigma in (0.1, 1.0))
    assert large.radius == pytest.approx(10 * small.radius)


@pytest.mark.parametrize("name", NAMES)
def test_a_coin_is_not_certified(name: str) -> None:
    method = CERTIFIERS.build(name, n=500)
    answers = [
        certificate(method.certify(SIGMA, 0.001), multinomial([0.5, 0.5], seed)).prediction for seed in range(100)
    ]
    assert sum(np.array(answers) >= 0) <= 3
