"""Threats: the nearest allowed image, held against convex programs; steepest directions against dual norms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import Tensor

from titer.attacks.threat import Norm, Threat, length, rising
from titer.errors import InputError

NORMS: tuple[Norm, ...] = ("linf", "l2", "l1")
DUAL: dict[Norm, Norm] = {"linf": "l1", "l2": "l2", "l1": "linf"}
SIDE = 2
ENTRIES = 3 * SIDE * SIDE
CLOSE = 2e-5  # float32 and the multiplier's last halving

norms = st.sampled_from(NORMS)
seeds = st.integers(0, 2**32 - 1)
sizes = st.sampled_from([0.01, 0.3, 2.0, 50.0])  # of changes: within the budget, around it, far outside of the box


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def clean_images(seed: int, count: int = 4) -> Tensor:
    """Images (count, 3, SIDE, SIDE), a third of whose entries lie on the edge of the box."""
    images = 1.5 * torch.rand(count, 3, SIDE, SIDE, generator=generator(seed)) - 0.25
    return images.clamp(0, 1)


def moved(clean: Tensor, size: float, seed: int) -> Tensor:
    return clean + size * torch.randn(clean.shape, generator=generator(seed + 1))


def budget(norm: Norm, seed: int) -> float:
    """From a small share of the box's diameter to more than all of it."""
    share = float(np.random.default_rng(seed).choice([0.01, 0.1, 0.4, 1.1]))
    widest = {"linf": 1.0, "l2": math.sqrt(ENTRIES), "l1": float(ENTRIES)}
    return share * widest[norm]


quick = settings(deadline=None, max_examples=60)


@quick
@given(norms, seeds, sizes)
def test_what_is_projected_is_allowed(norm: Norm, seed: int, size: float) -> None:
    clean, threat = clean_images(seed), Threat(norm, budget(norm, seed))
    found = threat.project(moved(clean, size, seed), clean)
    assert found.dtype == torch.float32
    assert bool(((found >= 0) & (found <= 1)).all())
    assert bool(threat.allows(found, clean).all())


@quick
@given(norms, seeds, sizes)
def test_what_is_allowed_stays_where_it_is(norm: Norm, seed: int, size: float) -> None:
    clean, threat = clean_images(seed), Threat(norm, budget(norm, seed))
    inside = threat.project(moved(clean, size, seed), clean)
    assert torch.allclose(threat.project(inside, clean), inside, atol=CLOSE)
    assert torch.equal(threat.project(clean, clean), clean)


@quick
@given(norms, seeds, sizes)
def test_no_allowed_image_is_nearer(norm: Norm, seed: int, size: float) -> None:
    """A point is the projection to a convex set exactly where no way from it into the set leads towards what was projected."""
    clean, threat = clean_images(seed), Threat(norm, budget(norm, seed))
    images = moved(clean, size, seed)
    found = threat.project(images, clean)
    left, most = (images - found).double(), 1 + float((images - found).norm())
    for other in (clean, *(threat.project(moved(clean, size, seed + step), clean) for step in (1, 2, 3))):
        towards = (left * (other - found)).flatten(1).sum(dim=1)
        assert float(towards.max()) <= CLOSE * most


@quick
@given(norms, seeds, sizes)
def test_projections_draw_no_two_images_apart(norm: Norm, seed: int, size: float) -> None:
    clean, threat = clean_images(seed), Threat(norm, budget(norm, seed))
    one, other = moved(clean, size, seed), moved(clean, size, seed + 1)
    after = length(threat.project(one, clean) - threat.project(other, clean), "l2")
    assert bool((after <= length(one - other, "l2") + CLOSE * (1 + size)).all())


@quick
@given(norms, seeds, sizes)
def test_a_row_is_projected_as_if_it_were_alone(norm: Norm, seed: int, size: float) -> None:
    clean, threat = clean_images(seed), Threat(norm, budget(norm, seed))
    images = moved(clean, size, seed)
    whole = threat.project(images, clean)
    rows = [threat.project(images[row : row + 1], clean[row : row + 1]) for row in range(len(images))]
    assert torch.equal(torch.cat(rows), whole)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("share", [0.1, 0.4])
@pytest.mark.parametrize("seed", range(3))
def test_the_nearest_image_is_that_of_a_convex_program(norm: Norm, share: float, seed: int) -> None:
    clean = clean_images(seed, 1)
    images = moved(clean, 0.7, seed)
    threat = Threat(norm, share * float(length(images - clean, norm)[0]))
    expected = nearest(images.double().numpy().ravel(), clean.double().numpy().ravel(), threat)
    found = threat.project(images, clean).double().numpy().ravel()
    assert np.abs(found - expected).max() < 2e-4  # of the program's own accuracy
    assert np.linalg.norm(found - images.numpy().ravel()) <= np.linalg.norm(expected - images.numpy().ravel()) + 1e-5


def nearest(image: NDArray[np.float64], clean: NDArray[np.float64], threat: Threat) -> NDArray[np.float64]:
    """The same by SciPy. For l1 the change is split into what rises and what falls, so that its length is linear."""
    own, epsilon = np.eye(len(clean)), threat.epsilon
    basis = np.hstack([own, -own]) if threat.norm == "l1" else own
    reach = epsilon if threat.norm == "linf" else 1.0
    up, down = np.minimum(1 - clean, reach), np.minimum(clean, reach)
    rooms = [*zip(0 * up, up, strict=True), *zip(0 * down, down, strict=True)]
    balls: dict[Norm, list[dict[str, object]]] = {
        "linf": [],
        "l2": [{"type": "ineq", "fun": lambda parts: epsilon**2 - parts @ parts, "jac": lambda parts: -2 * parts}],
        "l1": [{"type": "ineq", "fun": lambda parts: epsilon - parts.sum(), "jac": lambda parts: -np.ones_like(parts)}],
    }

    def gap(parts: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        short = clean + basis @ parts - image
        return float(short @ short), 2 * basis.T @ short

    solved = minimize(
        gap, np.zeros(basis.shape[1]), jac=True, method="SLSQP", constraints=balls[threat.norm],
        bounds=rooms if threat.norm == "l1" else list(zip(-down, up, strict=True)), options={"ftol": 1e-12, "maxiter": 300},
    )  # fmt: skip
    assert solved.success, solved.message
    return clean + basis @ np.asarray(solved.x, np.float64)


def test_no_budget_is_lost_on_entries_that_cannot_move() -> None:
    """Half of the entries are at the edge and pushed outward: the other half may have the whole length."""
    clean = torch.ones(1, 3, 2, 2)
    clean[0, :, 0] = 0.5
    images = clean + 1.0
    for threat, moves in ((Threat("l2", 0.3), 0.3 / 6**0.5), (Threat("l1", 0.3), 0.3 / 6)):
        found = threat.project(images, clean)
        assert torch.equal(found[0, :, 1], clean[0, :, 1])
        assert torch.allclose(found[0, :, 0] - 0.5, torch.tensor(moves), atol=1e-5)
        assert float(threat.distance(found, clean)[0]) == pytest.approx(0.3, rel=1e-4)


def test_l1_moves_few_entries_where_l2_moves_all() -> None:
    clean = torch.full((1, 3, 2, 2), 0.5)
    images = clean + torch.linspace(0.01, 0.4, ENTRIES).view_as(clean)
    sparse, dense = (threat.project(images, clean) != clean for threat in (Threat("l1", 0.1), Threat("l2", 0.1)))
    assert int(sparse.sum()) < ENTRIES // 2
    assert int(dense.sum()) == ENTRIES


@pytest.mark.parametrize("norm", NORMS)
def test_distance_is_the_norm_of_the_whole_change(norm: Norm) -> None:
    clean = clean_images(0)
    images = moved(clean, 0.3, 0)
    order = {"linf": np.inf, "l2": 2, "l1": 1}[norm]
    expected = [np.linalg.norm(row.numpy().ravel(), order) for row in images - clean]
    assert Threat(norm, 1.0).distance(images, clean).tolist() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("norm", NORMS)
def test_allowed_is_what_is_in_the_box_and_within_the_budget(norm: Norm) -> None:
    clean = torch.full((5, 3, 2, 2), 0.5)
    threat = Threat(norm, 0.1)
    images = clean.clone()
    images[1, 0, 0, 0] += 0.1  # the whole budget, in any norm
    images[2, 0, 0, 0] += 0.1001
    images[3, 0, 0, 0] = float("nan")
    clean[4], images[4] = 0.0, -1e-6
    assert threat.allows(images, clean).tolist() == [True, True, False, False, False]


@quick
@given(norms, seeds, st.sampled_from([1e-40, 1e-25, 1e-10, 1.0, 1e10, 1e30]))
def test_the_steepest_direction_has_length_one_whatever_the_gradients_size(norm: Norm, seed: int, size: float) -> None:
    gradient = size * torch.randn(4, 3, SIDE, SIDE, generator=generator(seed))
    assert length(Threat(norm, 1.0).steepest(gradient), norm).tolist() == pytest.approx([1.0] * 4, abs=1e-5)


@quick
@given(norms, seeds)
def test_along_the_steepest_direction_a_linear_function_grows_by_the_dual_norm(norm: Norm, seed: int) -> None:
    """For l1 here as well: a hundredth of so few entries is one of them."""
    gradient = torch.randn(4, 3, SIDE, SIDE, generator=generator(seed))
    grown = (gradient * Threat(norm, 1.0).steepest(gradient)).flatten(1).sum(dim=1)
    assert torch.allclose(grown, length(gradient, DUAL[norm]), rtol=1e-5)


def test_an_l1_step_moves_the_largest_hundredth_alike() -> None:
    gradient = torch.randn(2, 3, 20, 20, generator=generator(0))
    found = Threat("l1", 1.0).steepest(gradient).flatten(1)
    for row, slopes in zip(found, gradient.flatten(1), strict=True):
        largest = slopes.abs().topk(12).indices
        assert torch.equal(row.nonzero().flatten(), largest.sort().values)
        assert torch.allclose(row[largest], slopes[largest].sign() / 12)


@pytest.mark.parametrize("norm", NORMS)
def test_without_a_gradient_there_is_no_direction(norm: Norm) -> None:
    assert torch.equal(Threat(norm, 1.0).steepest(torch.zeros(2, 3, 2, 2)), torch.zeros(2, 3, 2, 2))


def test_budgets_rise_and_none_is_there_twice() -> None:
    assert rising("l2", [0.5, 0.1, 0.5]) == (Threat("l2", 0.1), Threat("l2", 0.5))
    assert rising("linf", 1) == (Threat("linf", 1.0),)
    with pytest.raises(InputError, match="eps: expected one or more budgets"):
        rising("l2", [])
    with pytest.raises(InputError, match="eps: expected a length above 0"):
        rising("l2", [0.1, 0.0])


@pytest.mark.parametrize("epsilon", [0.0, -0.1, float("inf"), float("nan")])
def test_a_budget_is_a_length_above_0(epsilon: float) -> None:
    with pytest.raises(InputError, match=r"eps: expected a length above 0 in \[0, 1\] pixels"):
        Threat("linf", epsilon)


def test_an_unknown_norm_names_the_nearest() -> None:
    with pytest.raises(InputError, match="unknown norm 'l22'; did you mean 'l2'"):
        Threat("l22", 0.1)  # type: ignore[arg-type]
