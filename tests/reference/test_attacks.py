"""The attacks against other people's on the same model, images and budget: robust accuracy within one point, never above."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from titer.attacks import Attack, Norm, Random, Threat
from titer.attacks.pgd import Fgsm, Pgd
from titer.attacks.square import Square

foolbox = pytest.importorskip("foolbox", reason="foolbox is a development requirement")

IMAGES, SIDE, CLASSES = 120, 16, 5
POINT = 0.01 + 1e-6
BUDGETS: dict[Norm, float] = {"linf": 0.008, "l2": 0.16}


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


def ours(attack: Attack, norm: Norm, seed: int = 0) -> float:
    random = Random(seed, "reference", [str(place) for place in range(IMAGES)])
    return float(right(attack(network(), images(), labels(), Threat(norm, BUDGETS[norm]), random)).float().mean())


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
    own = mean([ours(Pgd(steps=40, step=0.1), norm, seed) for seed in seeds])
    assert own <= mean([theirs(reference, norm, seed) for seed in seeds]) + POINT
    last = mean([ours(Pgd(steps=40, step=0.1, keep="last"), norm, seed) for seed in seeds])
    assert last == pytest.approx(mean([theirs(reference, norm, seed) for seed in seeds]), abs=POINT)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_square_is_as_strong_as_that_of_art(norm: Norm) -> None:
    evasion = pytest.importorskip("art.attacks.evasion", reason="ART is a development requirement")
    from art.estimators.classification import PyTorchClassifier

    model = PyTorchClassifier(
        network(), nn.CrossEntropyLoss(), (3, SIDE, SIDE), CLASSES, clip_values=(0, 1), device_type="cpu"
    )
    queries = 100
    attack = evasion.SquareAttack(
        model, norm={"linf": np.inf, "l2": 2}[norm], eps=BUDGETS[norm], max_iter=queries, p_init=0.8, verbose=False
    )
    np.random.seed(0)  # ART draws from the global generator
    found = torch.from_numpy(attack.generate(images().numpy(), labels().numpy()))
    assert ours(Square(queries=queries), norm) <= float(right(found).float().mean()) + POINT
