"""Fast adaptive boundary attack: projections onto a plane inside of the box, and closed-form minimal distances."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog, minimize
from torch import Tensor

from titer.attacks import Norm, Random, Threat
from titer.attacks.fab import FabT, to_plane
from titer.attacks.threat import length
from titer.errors import InputError

NORMS: tuple[Norm, ...] = ("linf", "l2", "l1")
DUAL: dict[Norm, Norm] = {"linf": "l1", "l2": "l2", "l1": "linf"}


def numbers(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def gains(slope: Tensor, change: Tensor) -> Tensor:
    return (slope * change).flatten(1).sum(1)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), gain=st.floats(-6, 6), norm=st.sampled_from(NORMS))
def test_a_change_gains_what_is_asked_or_all_that_the_box_allows(seed: int, gain: float, norm: Norm) -> None:
    images = numbers(seed, 2, 3, 2, 2).mul(0.4).add(0.5).clamp(0, 1)
    slope, asked = numbers(seed + 1, 2, 3, 2, 2), torch.tensor([gain, -gain])
    change = to_plane(images, slope, asked, norm)
    shown = images + change
    assert float(shown.min()) >= -1e-6
    assert float(shown.max()) <= 1 + 1e-6
    up = slope * asked.sign().view(-1, 1, 1, 1)
    most = gains(up, torch.where(up > 0, 1 - images, -images))
    assert gains(up, change).tolist() == pytest.approx(torch.minimum(asked.abs(), most).tolist(), abs=1e-4)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("norm", NORMS)
def test_no_shorter_change_gains_as_much(norm: Norm, seed: int) -> None:
    """SciPy's linear and quadratic programs are the reference."""
    images = numbers(seed, 1, 3, 2, 2).mul(0.3).add(0.5).clamp(0, 1)
    slope = numbers(seed + 100, 1, 3, 2, 2)
    gain = torch.tensor([2.0])
    found = float(length(to_plane(images, slope, gain, norm), norm))
    flat, weight = images.flatten().double().numpy(), slope.flatten().double().numpy()
    bounds = list(zip(-flat, 1 - flat, strict=True))
    count = len(flat)
    if norm == "l2":
        plane = {"type": "eq", "fun": lambda change: change @ weight - 2.0}
        best = minimize(lambda change: change @ change, 0 * flat, bounds=bounds, constraints=[plane], tol=1e-12)
        shortest = best.fun**0.5
    else:  # change = plus - minus; the length is their sum, or a bound on each
        cost = [1.0] * (2 * count) if norm == "l1" else [0.0] * (2 * count) + [1.0]
        equal = [[*weight, *-weight] + ([] if norm == "l1" else [0.0])]
        each = [(0, high) for _, high in bounds] + [(0, -low) for low, _ in bounds]
        below = None
        if norm == "linf":
            each.append((0, None))
            below = [[float(row == entry) for entry in range(2 * count)] + [-1.0] for row in range(2 * count)]
        limits = None if below is None else [0.0] * (2 * count)
        shortest = linprog(cost, A_ub=below, b_ub=limits, A_eq=equal, b_eq=[2.0], bounds=each).fun
    assert found == pytest.approx(shortest, rel=1e-3)


@pytest.mark.parametrize("norm", NORMS)
def test_minimal_distances_of_a_linear_classifier_within_a_hundredth(norm: Norm) -> None:
    normals = numbers(5, 4, 3, 6, 6)
    images = torch.full((12, 3, 6, 6), 0.5) + 0.02 * numbers(6, 12, 3, 6, 6)

    def model(shown: Tensor) -> Tensor:
        return torch.einsum("bchw,kchw->bk", shown - 0.5, normals)

    logits = model(images)
    labels = logits.argmax(dim=1)
    duals = torch.stack([length(normals[label] - normals, DUAL[norm]) for label in labels])
    exact = torch.where(duals > 0, (logits.gather(1, labels[:, None]) - logits) / duals, float("inf")).amin(dim=1)
    random = Random(0, "fab", [str(place) for place in range(12)])
    nearest, distance = FabT().nearest(model, images, labels, Threat(norm, 1e-6), random)
    assert bool((model(nearest).argmax(dim=1) != labels).all())
    assert torch.allclose(distance, length(nearest - images, norm), rtol=1e-4)
    assert bool((distance >= exact * (1 - 1e-4)).all())
    assert bool((distance <= exact * 1.01).all())


def test_an_image_within_the_budget_is_not_searched_further() -> None:
    asked = []

    def model(shown: Tensor) -> Tensor:
        asked.append(len(shown))
        rise = shown.flatten(1).sum(1)
        return torch.stack([torch.full_like(rise, 6.3), rise, rise - 1], dim=1)

    images, labels = torch.full((1, 3, 2, 2), 0.5), torch.zeros(1, dtype=torch.long)
    random = Random(0, "fab", ["only"])
    FabT(steps=3).nearest(model, images, labels, Threat("linf", 0.1), random)
    few = len(asked)
    FabT(steps=3).nearest(model, images, labels, Threat("linf", 1e-3), random)
    assert few == 1 + 2 * 3  # towards the first class only
    assert len(asked) - few == 1 + 2 * 2 * 3


def test_up_a_ladder_each_image_is_searched_once() -> None:
    normals, asked = numbers(5, 4, 3, 6, 6), []

    def model(shown: Tensor) -> Tensor:
        asked.append(len(shown))
        return torch.einsum("bchw,kchw->bk", shown - 0.5, normals)

    images = torch.full((12, 3, 6, 6), 0.5) + 0.02 * numbers(6, 12, 3, 6, 6)
    labels, streams = model(images).argmax(dim=1), Random(0, "fab", [str(place) for place in range(12)])
    attack, active = FabT(steps=10), torch.ones(12, dtype=torch.bool)
    ladder = attack.ladder(4, "linf")
    _, far = attack.nearest(model, images, labels, Threat("linf", 1e-6), streams)
    for place, epsilon in enumerate(far.sort().values[[1, 4, 7, 10]].tolist()):
        shot = images[active], labels[active], Threat("linf", epsilon), streams.of(active)
        alone = attack(model, *shot)
        asked.clear()
        found = ladder(model, *shot)
        assert torch.allclose(found, alone, atol=1e-6)
        assert len(asked) == (2 if place else 2 + 1 + 3 * 2 * 10)
        wrong = model(found).argmax(dim=1) != labels[active]
        active[active.clone()] = ~wrong
        assert int(active.sum()) == (10, 7, 4, 1)[place]


def test_an_image_that_joins_later_is_searched_then() -> None:
    normals = numbers(5, 4, 3, 6, 6)

    def model(shown: Tensor) -> Tensor:
        return torch.einsum("bchw,kchw->bk", shown - 0.5, normals)

    images = torch.full((6, 3, 6, 6), 0.5) + 0.02 * numbers(6, 6, 3, 6, 6)
    labels, streams = model(images).argmax(dim=1), Random(0, "fab", [str(place) for place in range(6)])
    ladder, some = FabT(steps=10).ladder(4, "l2"), torch.tensor([1, 4])
    ladder(model, images[some], labels[some], Threat("l2", 1e-3), streams.of(some))
    found = ladder(model, images, labels, Threat("l2", 1.0), streams)
    assert (model(found).argmax(dim=1) != labels).all()


def test_more_searches_start_within_half_of_the_distance_that_is_known() -> None:
    """So that a ladder's first budget, however small, does not hold all searches near the clean image."""
    starts = []

    def model(shown: Tensor) -> Tensor:
        starts.append(shown.detach().clone())
        rise = shown.flatten(1).mean(1)
        return torch.stack([torch.full_like(rise, 0.7), rise], dim=1)

    images, labels = torch.full((1, 3, 2, 2), 0.5), torch.zeros(1, dtype=torch.long)
    attack = FabT(steps=1, restarts=2)
    _, distance = attack.nearest(model, images, labels, Threat("linf", 1e-3), Random(0, "fab", ["only"]))
    assert 0.2 <= float(distance[0]) <= 0.22
    moved = float((starts[3] - images).abs().max())  # the clean answer, then a gradient and an answer for each search
    assert 0.02 < moved <= 0.11


def test_settings_out_of_range_are_refused() -> None:
    for wrong in ({"steps": 0}, {"targets": 0}, {"overshoot": 0.9}, {"pull": 0.0}, {"bias": 1.5}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            FabT(**wrong)
