"""Attacks through noise, rounding and adaptation, on half-spaces, where the best image is known."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from titer.attacks import Norm, Random, Threat
from titer.attacks.adaptive import SmoothAdv, Smoothed, straight_through
from titer.attacks.attack import Model, ascend
from titer.attacks.losses import cross_entropy
from titer.attacks.pgd import Pgd
from titer.errors import InputError

SIDE = 4
IMAGES = torch.full((3, 3, SIDE, SIDE), 0.5)
LABELS = torch.zeros(3, dtype=torch.long)
NORMAL = torch.randn(3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


def half_space(images: Tensor) -> Tensor:
    """Class 0 on one side of a plane 0.3 away from the images."""
    position = torch.einsum("bchw,chw->b", images - 0.5, NORMAL) / NORMAL.norm()
    return torch.stack([10 * (position + 0.3), -10 * (position + 0.3)], dim=1)


def randomness(seed: int = 0, count: int = 3) -> Random:
    return Random(seed, "test", [f"image {place}" for place in range(count)])


def attacked(norm: Norm, epsilon: float, model: Model = half_space, **settings: Any) -> Tensor:
    return SmoothAdv(**settings)(model, IMAGES, LABELS, Threat(norm, epsilon), randomness())


def test_the_smoothed_model_is_the_mean_prediction() -> None:
    noise = 0.1 * torch.randn(7, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(2))
    found = Smoothed(half_space, noise)(IMAGES)
    mean = torch.stack([half_space(IMAGES + one).softmax(dim=1) for one in noise]).mean(dim=0)
    assert torch.allclose(found.exp(), mean, atol=1e-5)
    assert torch.allclose(cross_entropy(found, LABELS), -mean[:, 0].log(), atol=1e-5)  # SmoothAdv's loss


def test_the_smoothed_model_answers_a_part_of_a_batch_as_the_whole() -> None:
    noise = 0.1 * torch.randn(7, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(2))
    images = torch.rand(3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(3))
    model = Smoothed(half_space, noise)
    assert torch.allclose(model(images)[[2, 0]], model(images[[2, 0]]), atol=1e-6)


def test_against_a_half_space_it_walks_straight_to_the_plane() -> None:
    """By symmetry of the noise the smoothed half-space is the half-space: the best change is -epsilon * normal."""
    change = attacked("l2", 0.2, sigma=0.3) - IMAGES
    assert torch.allclose(change, (-0.2 * NORMAL / NORMAL.norm()).expand_as(change), atol=2e-4)


def test_linf_takes_the_signs() -> None:
    change = attacked("linf", 0.05, sigma=0.3) - IMAGES
    assert torch.allclose(change, (-0.05 * NORMAL.sign()).expand_as(change), atol=1e-6)


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("restarts", [1, 3])
def test_it_stays_within_the_threat(norm: Norm, restarts: int) -> None:
    images = torch.rand(3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(4))
    threat = Threat(norm, 0.7)
    found = SmoothAdv(restarts=restarts, steps=5)(half_space, images, LABELS, threat, randomness())
    assert bool(threat.allows(found, images).all())


def test_noise_comes_from_the_attacks_own_streams() -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = _noise_seen(randomness())
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(_noise_seen(randomness()), first)
    assert not torch.equal(_noise_seen(randomness(seed=1)), first)
    steps, draws = 2, 5
    assert first.shape == (steps * 3 * draws, 3, SIDE, SIDE)
    assert len(torch.unique(first.flatten(1), dim=0)) == len(first)  # neither steps nor images share a draw


def _noise_seen(random: Random) -> Tensor:
    seen: list[Tensor] = []

    def flat(images: Tensor) -> Tensor:
        seen.append(images.detach().clone())
        return half_space(images) * 0

    SmoothAdv(steps=2, draws=5)(flat, IMAGES, LABELS, Threat("l2", 0.1), random)
    return torch.cat(seen)


def test_expectation_finds_what_single_gradients_miss() -> None:
    """A staircase is flat almost everywhere, but for noise it is a slope, once its derivative is passed through."""
    steps = straight_through(lambda images: (images * 4).round() / 4)
    near = torch.full((1, 3, SIDE, SIDE), 0.5)

    def staircase(images: Tensor) -> Tensor:
        return half_space(steps(images))

    flat, _, _ = ascend(lambda images: half_space((images * 4).round() / 4), near, lambda logits: logits[:, 0])
    assert bool((flat == 0).all())
    found = SmoothAdv(sigma=0.2, draws=32)(staircase, near, LABELS[:1], Threat("l2", 0.6), randomness(count=1))
    noise = 0.2 * torch.randn(2000, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(5))
    assert (
        float(Smoothed(staircase, noise)(found).exp()[0, 0]) < 0.5 < float(Smoothed(staircase, noise)(near).exp()[0, 0])
    )


def test_straight_through_rounds_forward_and_is_the_identity_backward() -> None:
    images = torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(6)).requires_grad_()
    found = straight_through(torch.round)(images)
    assert torch.equal(found, images.round())
    (gradient,) = torch.autograd.grad((found * NORMAL).sum(), images)
    assert torch.equal(gradient, NORMAL.expand_as(images))
    with pytest.raises(InputError, match="keeps the shape"):
        straight_through(lambda images: images[:1])(images)


def test_an_attack_that_needs_no_noise_sees_the_smoothed_model_too() -> None:
    noise = 0.3 * torch.randn(64, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(7))
    found = Pgd(steps=20)(Smoothed(half_space, noise), IMAGES, LABELS, Threat("l2", 0.2), randomness())
    along = torch.einsum("bchw,chw->b", found - IMAGES, NORMAL) / NORMAL.norm()
    assert torch.allclose(along, torch.tensor(-0.2), atol=0.02)  # 64 draws are not quite symmetric


def test_it_adapts_again_at_every_step_and_holds_the_state_for_the_gradient() -> None:
    """The state is the side on which the image lies; with the state held, the logit grows in one direction only."""
    states: list[Tensor] = []

    def deployed(images: Tensor) -> Model:
        assert not images.requires_grad
        states.append(images.clone())
        return half_space

    SmoothAdv(steps=4).follow(deployed, IMAGES, LABELS, Threat("l2", 0.2), randomness())
    assert len(states) == 4
    assert all(not torch.equal(before, after) for before, after in itertools.pairwise(states))


def test_of_several_images_the_strongest_is_taken_row_by_row() -> None:
    shift = 0.2 * NORMAL / NORMAL.norm()
    first = torch.stack([IMAGES[0] + shift, IMAGES[0] - shift])
    second = torch.stack([IMAGES[0], IMAGES[0]])
    found = SmoothAdv(sigma=0.01).strongest(lambda images: half_space, [first, second], LABELS[:2], randomness(count=2))  # noqa: ARG005
    assert torch.equal(found, torch.stack([second[0], first[1]]))


@pytest.mark.parametrize("name", ["draws", "steps", "restarts", "step", "sigma"])
def test_wrong_settings_are_one_line(name: str) -> None:
    with pytest.raises(InputError, match=f"{name}: expected"):
        SmoothAdv(**{name: 0})
    with pytest.raises(InputError, match="sigma: expected"):
        SmoothAdv(sigma=math.nan)
