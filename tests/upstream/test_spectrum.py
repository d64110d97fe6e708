"""Singular values by hand: features at right angles, and one direction alone."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from titer.errors import InputError
from titer.upstream.spectrum import spectrum


def test_features_at_right_angles_use_every_direction_alike() -> None:
    found = spectrum(torch.eye(6), "none")
    assert found.entropy == pytest.approx(math.log(6))
    assert found.rank == pytest.approx(6)
    assert [found.first, found.five] == pytest.approx([1 / 6, 5 / 6])


def test_one_direction_alone() -> None:
    found = spectrum(torch.tensor([[2.0, 0.0], [3.0, 0.0]]), "none")
    assert [found.entropy, found.rank, found.first] == pytest.approx([0, 1, 1], abs=1e-9)


def test_two_values_by_hand() -> None:
    """Unit rows (1, 0), (1, 0), (0, 1): values sqrt(2) and 1."""
    found = spectrum(torch.tensor([[5.0, 0.0], [1.0, 0.0], [0.0, 2.0]]), "none")
    share = math.sqrt(2) / (1 + math.sqrt(2))
    assert found.first == pytest.approx(share)
    assert found.entropy == pytest.approx(-share * math.log(share) - (1 - share) * math.log(1 - share))


@pytest.mark.parametrize("centring", ["column", "row"])
def test_against_numpy(centring: str) -> None:
    features = np.random.default_rng(0).normal(size=(30, 8)) + 1
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    unit -= unit.mean(axis=0 if centring == "column" else 1, keepdims=True)
    shares = np.linalg.svd(unit, compute_uv=False)
    shares /= shares.sum()
    found = spectrum(torch.from_numpy(features), centring)  # type: ignore[arg-type]
    assert found.first == pytest.approx(shares[0])
    assert found.five == pytest.approx(shares[:5].sum())
    kept = shares[shares > 1e-12]
    assert found.entropy == pytest.approx(-(kept * np.log(kept)).sum(), abs=1e-9)


def test_centring_takes_a_common_direction_away() -> None:
    features = torch.randn(50, 8, generator=torch.Generator().manual_seed(0)) + 20
    assert spectrum(features, "none").first > 0.5 > spectrum(features, "column").first


def test_mistakes() -> None:
    with pytest.raises(InputError, match="two rows or more"):
        spectrum(torch.ones(1, 4))
    with pytest.raises(InputError, match="all features are alike"):
        spectrum(torch.ones(3, 4))
    with pytest.raises(InputError, match="did you mean 'column'"):
        spectrum(torch.eye(3), "colum")  # type: ignore[arg-type]
