"""The attacks against other people's on the same model, images and budget: robust accuracy within one point, never above."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from titer.attacks import Attack, Norm, Random, Threat
from titer.attacks.apgd import ApgdCe, ApgdDlr, ApgdT
from titer.attacks.ensemble import AutoAttack
from titer.attacks.fab import FabT
from titer.attacks.pgd import Fgsm, Pgd
from titer.attacks.square import Square
from titer.attacks.threat import length

foolbox = pytest.importorskip("foolbox", reason="foolbox is a development requirement")

IMAGES, SIDE, CLASSES = 120, 16, 5
POINT = 0.01 + 1e-6
BUDGETS: dict[Norm, float] = {"linf": 0.008, "l2": 0.16, "l1": 1.6}
ORDERS: dict[Norm, float] = {"linf": np.inf, "l2": 2, "l1": 1}


@cache
def network() -> nn.Module:
    """A small smooth convolutional network with fixed random weights: gradients are informative, not masked."""
    generator = torch.Generator().manual_seed(0)
    layers = nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.GELU(), nn.Conv2d(16, 16, 3, stride=2), nn.GELU(), nn.Flatten(), nn.Linear(576, CLASSES)
    )
    with torch.no_grad():
        for weights in layers.parameters():
            weights.copy_(torch.randn(weights.shape, generator=generator) / max(1, weights[0].numel()) ** 0.5)
        layers[-1].bias -= layers(images()).mean(dim=0)  # else nearly all answers are one class
    return layers.eval().requires_grad_(False)


@cache
def images() -> Tensor:
    return torch.rand(IMAGES, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


@cache
def labels() -> Tensor:
    found: Tensor = network()(images()).argmax(dim=1)
    return found


def right(images: Tensor) -> Tensor:
    right_ones: Tensor = network()(images).argmax(dim=1) == labels()
    return right_ones


def streams(seed: int = 0) -> Random:
    return Random(seed, "reference", [str(place) for place in range(IMAGES)])


def ours(attack: Attack, norm: Norm, seed: int = 0) -> float:
    found = attack(network(), images(), labels(), Threat(norm, BUDGETS[norm]), streams(seed))
    return float(right(found).float().mean())


def theirs(attack: Any, norm: Norm, seed: int = 0) -> float:
    torch.manual_seed(seed)
    model = foolbox.PyTorchModel(network(), bounds=(0, 1), device="cpu")
    return float(right(attack(model, images(), labels(), epsilons=BUDGETS[norm])[1]).float().mean())


def mean(values: list[float]) -> float:
    return float(np.mean(values))


def test_the_problem_is_neither_trivial_nor_hopeless() -> None:
    for norm in BUDGETS:
        assert 0.15 < ours(Pgd(), norm) < 0.85


def test_fgsm_is_that_of_foolbox() -> None:
    assert ours(Fgsm(), "linf") == pytest.approx(theirs(foolbox.attacks.LinfFastGradientAttack(), "linf"), abs=1e-6)
    assert ours(Fgsm(), "l2") == pytest.approx(theirs(foolbox.attacks.L2FastGradientAttack(), "l2"), abs=POINT)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_pgd_is_as_strong_as_that_of_foolbox(norm: Norm) -> None:
    reference = {"linf": foolbox.attacks.LinfPGD, "l2": foolbox.attacks.L2PGD}[norm](rel_stepsize=0.1, steps=40)
    seeds = range(3)
    expected = mean([theirs(reference, norm, seed) for seed in seeds])
    own = mean([ours(Pgd(steps=40, step=0.1), norm, seed) for seed in seeds])
    assert own <= expected + POINT
    last = mean([ours(Pgd(steps=40, step=0.1, keep="last"), norm, seed) for seed in seeds])
    assert last == pytest.approx(expected, abs=POINT)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_square_is_as_strong_as_that_of_art(norm: Norm) -> None:
    queries = 100
    square = {"max_iter": queries, "p_init": 0.8}
    assert ours(Square(queries=queries), norm) <= share(of_art("SquareAttack", norm, **square)) + POINT


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("loss", ["cross_entropy", "difference_logits_ratio"])
def test_auto_pgd_is_as_strong_as_that_of_art(norm: Norm, loss: str) -> None:
    auto = {"max_iter": 50, "nb_random_init": 1, "eps_step": 2 * BUDGETS[norm]}
    reference = share(of_art("AutoProjectedGradientDescent", norm, loss_type=loss, **auto))
    own: Attack = ApgdCe(steps=50) if loss == "cross_entropy" else ApgdDlr(steps=50)
    assert ours(own, norm) <= reference + POINT
    assert ours(ApgdT(steps=50), norm) <= reference + POINT


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_fab_comes_as_near_as_the_fast_minimum_norm_attack_of_foolbox(norm: Norm) -> None:
    reference = {
        "linf": foolbox.attacks.LInfFMNAttack,
        "l2": foolbox.attacks.L2FMNAttack,
        "l1": foolbox.attacks.L1FMNAttack,
    }
    model = foolbox.PyTorchModel(network(), bounds=(0, 1), device="cpu")
    theirs = reference[norm](steps=100)(model, images(), labels(), epsilons=None)[1]
    far = torch.where(right(theirs), float("inf"), length(theirs - images(), norm))
    _, near = FabT(steps=50).nearest(network(), images(), labels(), Threat(norm, 1e-9), streams())
    assert float(near.median()) <= 1.01 * float(far.median())
    assert share(near > BUDGETS[norm]) <= share(far > BUDGETS[norm]) + POINT


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_ensemble_is_as_strong_as_that_of_art(norm: Norm) -> None:
    """Auto-PGD and Square of ART, DeepFool of foolbox: ART's own ensemble, whose run needs a further package."""
    auto = {"max_iter": 50, "nb_random_init": 1, "eps_step": 2 * BUDGETS[norm]}
    deepfool = {"linf": foolbox.attacks.LinfDeepFoolAttack, "l2": foolbox.attacks.L2DeepFoolAttack}[norm]()
    model = foolbox.PyTorchModel(network(), bounds=(0, 1), device="cpu")
    holds = (
        of_art("AutoProjectedGradientDescent", norm, loss_type="cross_entropy", **auto)
        & of_art("AutoProjectedGradientDescent", norm, loss_type="difference_logits_ratio", **auto)
        & right(deepfool(model, images(), labels(), epsilons=BUDGETS[norm])[1])
        & of_art("SquareAttack", norm, max_iter=100, p_init=0.8)
    )
    assert ours(AutoAttack(steps=50, queries=100), norm) <= share(holds) + POINT


@cache
def classifier() -> Any:
    estimators = pytest.importorskip("art.estimators.classification", reason="ART is a development requirement")
    return estimators.PyTorchClassifier(
        network(), nn.CrossEntropyLoss(), (3, SIDE, SIDE), CLASSES, clip_values=(0, 1), device_type="cpu"
    )


def share(holds: Tensor) -> float:
    return float(holds.float().mean())


@cache
def of_art(name: str, norm: Norm, **settings: Any) -> Tensor:
    """Which images hold against an attack of ART, which draws from the global generator."""
    evasion = pytest.importorskip("art.attacks.evasion", reason="ART is a development requirement")
    np.random.seed(0)
    attack = getattr(evasion, name)(classifier(), norm=ORDERS[norm], eps=BUDGETS[norm], verbose=False, **settings)
    found = torch.from_numpy(attack.generate(images().numpy(), labels().numpy()))
    within = (length(found - images(), norm) <= BUDGETS[norm] * 1.001).view(-1, 1, 1, 1)
    return right(torch.where(within, found, images()))
