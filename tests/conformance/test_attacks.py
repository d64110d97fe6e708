"""Every registered attack obeys the contract on a problem whose answer is known; planted faults do not get through."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from titer.attacks import ATTACKS, Attack, Model, Norm, Random, Threat
from titer.attacks.losses import margin
from titer.attacks.threat import length

CLASSES, SIDE, BATCH = 4, 6, 5
QUICK: dict[str, dict[str, Any]] = {
    "apgd-ce": {"steps": 40},
    "apgd-dlr": {"steps": 40},
    "apgd-t": {"steps": 30},
    "autoattack": {"steps": 30, "queries": 20},
    "fab-t": {"steps": 40},
    "square": {"queries": 500},
    "smoothadv": {"sigma": 0.01},
}
REACH = {"fgsm": 1.02, "pgd": 1.1}
"""How far beyond the closed-form distance an attack must succeed; 1.05 unless said."""
WEAK: dict[tuple[str, Norm], float] = {
    ("fgsm", "l1"): 4.0,  # one step along the largest hundredth of the entries, here three of 108
    ("square", "linf"): 1.5,
    ("square", "l2"): 2.5,  # smooth bumps of at least 3 by 3 pixels, where the best change is noise
    ("square", "l1"): 6.0,  # and where it is a single entry
}
DUAL: dict[Norm, Norm] = {"linf": "l1", "l2": "l2", "l1": "linf"}


@cache
def weights() -> Tensor:
    return torch.randn(CLASSES, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(3))


def linear(images: Tensor) -> Tensor:
    """Logits without a matrix product, whose rounding would depend on the other rows."""
    return ((images[:, None] - 0.5) * weights()).flatten(2).sum(dim=2)


def problem() -> tuple[Tensor, Tensor]:
    """Images in the middle of the box, so that it does not bind, each with one other class nearby, and their answers."""
    logits = torch.full((BATCH, CLASSES), -4.0)
    for row in range(BATCH):
        logits[row, row % CLASSES] = 1.5 + 0.2 * row
        logits[row, (row + 1) % CLASSES] = 1.0
    inverse = torch.linalg.pinv(weights().flatten(1))
    images = 0.5 + (logits @ inverse.T).view(BATCH, 3, SIDE, SIDE)
    return images, linear(images).argmax(dim=1)


def distances(images: Tensor, labels: Tensor, norm: Norm) -> Tensor:
    """Distance (batch,) to the nearest other class: the gap of two logits by the dual norm of their difference."""
    logits, normal = linear(images), weights()
    gaps = logits.gather(1, labels[:, None]) - logits
    duals = torch.stack([length(normal[label] - normal, DUAL[norm]) for label in labels])
    return torch.where(duals > 0, gaps / duals, float("inf")).amin(dim=1)


def randomness(seed: int = 0) -> Random:
    return Random(seed, "conformance", [f"image {place}" for place in range(BATCH)])


def attacked(attack: Attack, threat: Threat, model: Model = linear, seed: int = 0) -> Tensor:
    images, labels = problem()
    return attack(model, images, labels, threat, randomness(seed))


def stays_within_the_threat(attack: Attack, norm: Norm) -> None:
    images, _ = problem()
    for epsilon in (0.001, 0.3, 30.0):
        found = attacked(attack, Threat(norm, epsilon))
        assert isinstance(found, Tensor), "an attack returns images and nothing else: it does not judge itself"
        assert found.shape == images.shape
        assert found.dtype == torch.float32
        assert bool(Threat(norm, epsilon).allows(found, images).all())


def raises_the_margin_of_every_row(attack: Attack, norm: Norm) -> None:
    images, labels = problem()
    near = float(distances(images, labels, norm).min())
    found = attacked(attack, Threat(norm, near))
    assert bool((margin(linear(found), labels) >= margin(linear(images), labels) - 1e-5).all())
    assert bool((margin(linear(found), labels) > margin(linear(images), labels)).any())


def breaks_what_can_be_broken(attack: Attack, norm: Norm, reach: float) -> None:
    images, labels = problem()
    for row, distance in enumerate(distances(images, labels, norm).tolist()):
        broken = linear(attacked(attack, Threat(norm, reach * distance))).argmax(dim=1) != labels
        assert bool(broken[row]), f"row {row} holds at {reach} times its distance {distance:.4g} ({norm})"


def leaves_its_input_alone(attack: Attack, norm: Norm) -> None:
    images, labels = problem()
    before = images.clone()
    attack(linear, images, labels, Threat(norm, 0.1), randomness())
    assert torch.equal(images, before)


def draws_only_from_its_own_streams(attack: Attack, norm: Norm) -> None:
    threat = Threat(norm, 0.05)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = attacked(attack, threat)
    assert torch.equal(torch.get_rng_state(), state), "the global generator was used"
    torch.manual_seed(2)
    assert torch.equal(attacked(attack, threat), first)


def does_not_look_at_neighbours(attack: Attack, norm: Norm) -> None:
    images, labels = problem()
    threat = Threat(norm, 0.9 * float(distances(images, labels, norm).median()))
    whole = attack(linear, images, labels, threat, randomness())
    rows = torch.tensor([2, 0])
    part = attack(linear, images[rows], labels[rows], threat, randomness().of(rows))
    assert torch.allclose(part, whole[rows], atol=1e-5)


def moves_the_features(attack: Attack, norm: Norm) -> None:
    """A single direction moves a linear map's values most: its leading singular vector, for l2."""
    images, _ = problem()
    moved = (linear(attacked(attack, Threat(norm, 0.05))) - linear(images)).norm(dim=1)
    if norm == "l2":
        farthest = 0.05 * torch.linalg.svdvals(weights().flatten(1))[0]
        assert bool(((0.9 * farthest <= moved) & (moved <= 1.001 * farthest)).all())
    assert bool((moved > 0).all())


CHECKS: tuple[Callable[[Attack, Norm], None], ...] = (
    stays_within_the_threat,
    leaves_its_input_alone,
    draws_only_from_its_own_streams,
    does_not_look_at_neighbours,
)


def conform(attack: Attack, norm: Norm, reach: float) -> None:
    for check in CHECKS:
        check(attack, norm)
    if getattr(attack, "of_features", False):
        moves_the_features(attack, norm)
        return
    raises_the_margin_of_every_row(attack, norm)
    breaks_what_can_be_broken(attack, norm, reach)


def registered() -> list[tuple[str, Norm]]:
    return [(name, norm) for name in ATTACKS for norm in ATTACKS[name].norms]


@pytest.mark.parametrize(("name", "norm"), registered())
def test_registered_attacks_conform(name: str, norm: Norm) -> None:
    conform(ATTACKS.build(name, **QUICK.get(name, {})), norm, _reach(name, norm))


def _reach(name: str, norm: Norm) -> float:
    return WEAK.get((name, norm), REACH.get(name, 1.05))


@dataclass(frozen=True)
class Planted:
    """The steepest step on the linear model, which conforms, but for one fault."""

    fault: str = ""

    needs_gradient: ClassVar[bool] = True
    norms: ClassVar[tuple[Norm, ...]] = ("linf",)

    def __call__(self, model: Model, images: Tensor, labels: Tensor, threat: Threat, random: Random) -> Tensor:
        del random
        ahead = images.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(margin(model(ahead), labels).sum(), ahead)
        step = threat.epsilon * gradient.sign()
        if self.fault == "wrong sign":
            step = -step
        if self.fault == "wrong norm":
            step = step * 2.0
        if self.fault == "global randomness":
            step = step * (0.99 + 0.01 * torch.rand(()))
        if self.fault == "neighbours":
            step = step * (1 - 0.05 * float(labels.float().mean()))
        moved = images + step
        if self.fault in ("no projection", "wrong norm"):
            return moved.clamp(0, 1) if self.fault == "wrong norm" else images + 1.2 * step
        if self.fault == "leaves [0, 1]":
            return torch.minimum(torch.maximum(moved, images - threat.epsilon), images + threat.epsilon)
        if self.fault == "in place":
            images.copy_(moved.clamp(0, 1))
            return images
        if self.fault == "reports its own success":
            return threat.project(moved, images), torch.ones(len(images), dtype=torch.bool)  # type: ignore[return-value]
        return threat.project(moved, images)


FAULTS = (
    "no projection",
    "wrong norm",
    "wrong sign",
    "leaves [0, 1]",
    "global randomness",
    "neighbours",
    "in place",
    "reports its own success",
)


def test_the_planted_attack_conforms_without_a_fault() -> None:
    conform(Planted(), "linf", 1.02)


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_faults_are_caught(fault: str) -> None:
    with pytest.raises(AssertionError):
        conform(Planted(fault), "linf", 1.02)
