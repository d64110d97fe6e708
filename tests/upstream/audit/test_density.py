"""Densities against loops written from the formulas, and what happens where points coincide."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from titer.upstream.audit import density
from titer.upstream.audit.density import Neighbours, dao, k_distance, lid, moved, neighbours, slof
from titer.upstream.audit.pairs import Floats

K = 4


def points(count: int = 30, dim: int = 3, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).standard_normal((count, dim))


def by_hand(cloud: Floats, k: int) -> tuple[list[float], list[float], list[float], list[float]]:
    """r_k, SLOF, DAO and LID by loops over the formulas."""
    distances = [
        sorted((math.dist(one, other), place) for place, other in enumerate(cloud) if other is not one) for one in cloud
    ]
    distances = [
        sorted((math.dist(cloud[row], cloud[other]), other) for other in range(len(cloud)) if other != row)[:k]
        for row in range(len(cloud))
    ]
    reach = [near[-1][0] for near in distances]
    dimension = [-k / sum(math.log(far / near[-1][0]) for far, _ in near) for near in distances]
    outlier = [sum(reach[row] / reach[n] for _, n in near) / k for row, near in enumerate(distances)]
    aware = [
        sum(dimension[n] * math.log(reach[row] / reach[n]) for _, n in near) / k for row, near in enumerate(distances)
    ]
    return reach, outlier, aware, dimension


def test_formulas_by_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(density, "_ROWS", 7)
    cloud = points()
    near = neighbours(cloud, K)
    reach, outlier, aware, dimension = by_hand(cloud, K)
    assert k_distance(near) == pytest.approx(reach)
    assert slof(near) == pytest.approx(outlier)
    assert lid(near, 1000) == pytest.approx(dimension)
    assert dao(near, 1000) == pytest.approx(aware)


def test_on_a_line_by_hand() -> None:
    near = neighbours(np.array([[0.0], [1.0], [3.0], [7.0]]), 2)
    assert near.places.tolist() == [[1, 2], [0, 2], [1, 0], [2, 1]]
    assert k_distance(near).tolist() == [3, 2, 3, 6]
    assert slof(near) == pytest.approx([(3 / 2 + 1) / 2, (2 / 3 + 2 / 3) / 2, (3 / 2 + 1) / 2, (6 / 3 + 6 / 2) / 2])
    assert lid(near, 100)[0] == pytest.approx(-2 / math.log(1 / 3))


@pytest.mark.parametrize("name", ["k-distance", "slof", "dao"])
def test_a_planted_outlier_is_first(name: str) -> None:
    cloud = np.vstack([points(), [[9.0, 9.0, 9.0]]])
    near = neighbours(cloud, K)
    score = {"k-distance": k_distance(near), "slof": slof(near), "dao": dao(near, 3)}[name]
    assert score.argmax() == len(cloud) - 1


def test_points_that_coincide_give_numbers_and_are_no_outliers() -> None:
    cloud = np.vstack([points(), np.zeros((3 * K, 3)), [[9.0, 9.0, 9.0]]])
    near = neighbours(cloud, K)
    for score in (k_distance(near), slof(near), dao(near, 3), lid(near, 3)):
        assert np.isfinite(score).all()
    assert slof(near)[30:-1] == pytest.approx(np.ones(3 * K))
    assert dao(near, 3)[30:-1] == pytest.approx(np.zeros(3 * K))
    same = neighbours(np.zeros((9, 3)), K)
    assert slof(same).tolist() == [1] * 9
    assert dao(same, 3).tolist() == [0] * 9


@given(st.integers(0, 10_000), st.integers(1, 4))
def test_moving_points_gives_what_looking_again_gives(seed: int, count: int) -> None:
    random = np.random.default_rng(seed)
    cloud = points(20, 2, seed)
    rows = np.sort(random.choice(20, count, replace=False))
    after = cloud.copy()
    after[rows] = random.standard_normal((count, 2))
    found, again = moved(neighbours(cloud, K + count), after, rows, K), neighbours(after, K)
    assert found.distances == pytest.approx(again.distances)
    assert (found.places == again.places).all()


def test_moving_more_points_than_were_looked_at_is_an_error() -> None:
    with pytest.raises(ValueError, match="to a depth of 6"):
        moved(neighbours(points(), K), points(), np.array([0, 1]), K)


def test_distances_are_exact() -> None:
    """The matrix product would give 0 or 1e-8 here."""
    cloud = np.array([[1.0, 0.0], [1.0, 1e-10], [0.0, 1.0]])
    found: Neighbours = neighbours(cloud, 1)
    assert found.distances[0, 0] == pytest.approx(1e-10)
