"""The paper's zero-shot step against numbers worked out by hand, and the step for single draws against autograd."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from defenses.tiny import CLASSES, images
from tiny_models import clip_directory
from titer.defenses.adaptation import DIRECTIONS, EntropyStep, main_directions
from titer.defenses.objectives import marginal_entropy
from titer.features.stream import noisy_features, noisy_images
from titer.models import Encoder, load_model
from titer.models.prompts import Sentences, sentences
from titer.noise import BLOCK, NoiseStream

RATE, DECAY = 5e-3, 0.01  # the paper's rate; AdamW's own weight decay
SCALE = 20.0


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    return load_model(clip_directory(tmp_path_factory.mktemp("clip")))


@pytest.fixture(scope="module")
def places(encoder: Encoder) -> Sentences:
    return sentences(encoder, [named.texts[0] for named in CLASSES], 4, "a medical image of")


@pytest.fixture(scope="module")
def step(encoder: Encoder, places: Sentences) -> EntropyStep:
    context = places.embeddings() + 0.3 * torch.randn(4, 16, generator=torch.Generator().manual_seed(3))
    copies = noisy_features(encoder, images(encoder, 1)[0], "held out", 0.5, 0, "fit", 30)
    directions = main_directions(places, context, copies, SCALE)
    return EntropyStep(places, context, directions, SCALE, copies=100, steps=1, rate=RATE)


def copies_of(encoder: Encoder, seed: int, count: int = 100) -> Tensor:
    return noisy_features(encoder, images(encoder, 1, seed)[0], f"image {seed}", 0.5, 0, "adapt", count)


def entropy_at(step: EntropyStep, context: Tensor, copies: Tensor) -> Tensor:
    """Entropy of the mean softmax, written out."""
    mean = (SCALE * copies @ step.places.features(context).T).softmax(dim=-1).mean(dim=0)
    return -(mean * mean.log()).sum()


def contexts_seen(step: EntropyStep, copies: Tensor, monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Every context whose class features were asked for while adapting."""
    seen: list[Tensor] = []
    features = Sentences.features

    def recorded(self: Sentences, context: Tensor) -> Tensor:
        seen.append(context.detach().clone())
        return features(self, context)

    monkeypatch.setattr(Sentences, "features", recorded)
    step.adapted(copies)
    return seen


def test_one_step_from_zero_moments_is_weight_decay_and_the_sign_of_the_gradient(
    encoder: Encoder, step: EntropyStep, monkeypatch: pytest.MonkeyPatch
) -> None:
    """start * (1 - lr * wd) - lr * g / (|g| + 1e-8): both moments' corrections cancel in the first step."""
    copies = copies_of(encoder, 1)
    start = step.context.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(entropy_at(step, start, copies), start)
    before, after = contexts_seen(step, copies, monkeypatch)
    assert torch.equal(before, step.context)
    exact = step.context * (1 - RATE * DECAY) - RATE * gradient / (gradient.abs() + 1e-8)
    assert torch.allclose(after, exact, atol=2e-5)
    large = gradient.abs() > 1e-5
    assert large.float().mean() > 0.9
    signs = step.context * (1 - RATE * DECAY) - RATE * gradient.sign()
    assert torch.allclose(after[large], signs[large], atol=1e-5)


def test_the_answer_is_that_of_the_stepped_context(
    encoder: Encoder, step: EntropyStep, monkeypatch: pytest.MonkeyPatch
) -> None:
    copies = copies_of(encoder, 1)
    adapted = step.adapted(copies)
    after = contexts_seen(step, copies, monkeypatch)[-1]
    assert torch.equal(adapted, step.places.features(after))
    assert not torch.allclose(adapted, step.start, atol=1e-4)


def test_further_steps_are_adamws(encoder: Encoder, step: EntropyStep, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two more steps with moments written out: betas 0.9 and 0.999, corrected for their start at zero."""
    copies = copies_of(encoder, 2)
    seen = contexts_seen(replace(step, steps=3), copies, monkeypatch)
    context, first, second = step.context.clone(), torch.zeros(4, 16), torch.zeros(4, 16)
    for number in (1, 2, 3):
        at = context.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(entropy_at(step, at, copies), at)
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient.square()
        moved = (first / (1 - 0.9**number)) / ((second / (1 - 0.999**number)).sqrt() + 1e-8)
        context = context * (1 - RATE * DECAY) - RATE * moved
    assert len(seen) == 4 + 3  # the three hand-made ones were seen as well
    assert torch.allclose(seen[3], context, atol=1e-4)


def test_a_step_lowers_the_entropy_of_the_mean_prediction(encoder: Encoder, step: EntropyStep) -> None:
    for seed in (1, 2, 3):
        copies = copies_of(encoder, seed)
        before, after = (
            float(marginal_entropy(SCALE * copies @ features.T)) for features in (step.start, step.adapted(copies))
        )
        assert after < before <= math.log(3) + 1e-6


def test_every_image_starts_afresh(encoder: Encoder, step: EntropyStep) -> None:
    """Neither the context nor the moments of image A are left when B comes."""
    first, second = copies_of(encoder, 1), copies_of(encoder, 2)
    alone = replace(step, steps=3).adapted(second)
    shared, before = replace(step, steps=3), step.context.clone()
    assert not torch.allclose(shared.adapted(first), alone, atol=1e-5)
    assert torch.equal(shared.adapted(second), alone)
    assert torch.equal(shared.context, before)


def test_an_image_is_shown_through_its_own_noisy_copies(encoder: Encoder, step: EntropyStep) -> None:
    """A hundred copies at the certified sigma, in pixels before normalisation, unclipped, of the purpose adapt."""
    image = images(encoder, 1, seed=4)[0]
    blocks = [noisy_images(image, "x", 0.25, NoiseStream(7, "adapt"), block) for block in range(100 // BLOCK)]
    copies = torch.cat([encoder.encode_image(block) for block in blocks]).detach()
    head = step.to_image(encoder, image, "x", 0.25, 7)
    features = encoder.encode_image(images(encoder, 5, seed=9)).detach()
    assert torch.allclose(head(features), SCALE * features @ step.adapted(copies).T, atol=1e-5)
    for other in (("y", 0.25, 7), ("x", 0.5, 7), ("x", 0.25, 8)):
        assert not torch.equal(step.to_image(encoder, image, *other)(features), head(features))


def test_the_closed_form_gradient_is_autograds(encoder: Encoder, step: EntropyStep) -> None:
    """Of the marginal entropy at class features moved along the secants."""
    for count in (1, 2, 7):
        copies = torch.stack([copies_of(encoder, seed, count) for seed in range(5)])
        moves = torch.zeros(5, DIRECTIONS, requires_grad=True)
        moved = step.start + torch.einsum("rkd,br->bkd", step.secants, moves)
        entropies = marginal_entropy(SCALE * torch.einsum("btd,bkd->btk", copies, moved))
        (expected,) = torch.autograd.grad(entropies.sum(), moves)
        assert expected.norm(dim=1).min() > 1e-4
        assert torch.allclose(step._gradient(copies), expected, atol=1e-5, rtol=1e-4)


def test_secants_are_the_change_of_class_features_per_unit_of_a_direction(step: EntropyStep) -> None:
    for way, secant in zip(step.directions, step.secants, strict=True):
        ahead, behind = (step.places.features(step.context + side * 1e-3 * way) for side in (1, -1))
        assert torch.allclose(secant, (ahead - behind) / 2e-3, atol=0.02 * float(secant.abs().max()) + 2e-4)


def test_a_draw_moves_by_the_length_of_a_first_step_against_its_gradient(encoder: Encoder, step: EntropyStep) -> None:
    copies = copies_of(encoder, 1, 1)[None]
    gradient = step._gradient(copies)[0]
    move = -RATE * math.sqrt(4 * 16) * gradient / gradient.norm()
    moved = F.normalize(step.start + torch.einsum("rkd,r->kd", step.secants, move), dim=-1)
    assert step.length == pytest.approx(RATE * 8)
    assert torch.allclose(step.to_copies(copies, copies[0]), SCALE * copies[0] @ moved.T, atol=1e-5)


def test_a_draws_answer_is_a_function_of_the_draw_alone(encoder: Encoder, step: EntropyStep) -> None:
    """Neither its neighbours, nor their number or order, nor the clean image can change it."""
    features = copies_of(encoder, 1, 50)
    together = step.to_copies(features[:, None], features)
    for row in (0, 17, 49):
        one = features[row : row + 1]
        assert torch.allclose(step.to_copies(one[:, None], one), together[row : row + 1], atol=1e-5)
    order = torch.randperm(50, generator=torch.Generator().manual_seed(0))
    turned = step.to_copies(features[order][:, None], features[order])
    assert torch.allclose(turned, together[order], atol=1e-5)
    mixed = torch.cat([features[:1], copies_of(encoder, 2, 49)])
    assert torch.allclose(step.to_copies(mixed[:, None], mixed)[0], together[0], atol=1e-5)


def test_a_draws_step_lowers_its_entropy(encoder: Encoder, step: EntropyStep) -> None:
    features = copies_of(encoder, 1, 50)
    before = marginal_entropy(SCALE * (features @ step.start.T)[:, None])
    after = marginal_entropy(step.to_copies(features[:, None], features)[:, None])
    assert (after < before + 1e-4).all()
    assert (before - after).mean() > 0


def test_a_draw_may_have_copies_of_its_own(encoder: Encoder, step: EntropyStep) -> None:
    features = copies_of(encoder, 1, 6)
    own = torch.stack([copies_of(encoder, seed, 4) for seed in range(6)])
    logits = step.to_copies(own, features)
    assert logits.shape == (6, 3)
    changed = own.clone()
    changed[2:] = changed[2:].flip(0)
    assert torch.allclose(step.to_copies(changed, features)[:2], logits[:2], atol=1e-5)


def test_a_draw_that_is_certain_stays_where_it_is(step: EntropyStep) -> None:
    """Its gradient vanishes; the step must not divide by its length."""
    features = step.start[:1] * 1.0
    sure = replace(step, scale=1e6)
    logits = sure.to_copies(features[:, None], features)
    assert torch.isfinite(logits).all()
    assert int(logits.argmax()) == 0


def test_directions_are_orthonormal_and_lead_where_the_entropy_pulls(encoder: Encoder, places: Sentences) -> None:
    context, copies = places.embeddings(), copies_of(encoder, 1, 20)
    directions = main_directions(places, context, copies, SCALE)
    flat = directions.flatten(1)
    assert directions.shape == (DIRECTIONS, 4, 16)
    assert torch.allclose(flat @ flat.T, torch.eye(DIRECTIONS), atol=1e-4)
    gradients = []
    for row in copies:
        at = context.clone().requires_grad_()
        mean = (SCALE * row @ places.features(at).T).softmax(dim=-1)
        gradients.append(torch.autograd.grad(-(mean * mean.log()).sum(), at)[0].flatten())
    kept = torch.stack(gradients) @ flat.T
    lost = torch.stack(gradients).square().sum() - kept.square().sum()
    assert float(lost / kept.square().sum()) < 0.01


def test_nothing_touches_the_tower_or_the_global_generator(encoder: Encoder, step: EntropyStep, tmp_path: Path) -> None:
    state, before = torch.random.get_rng_state(), encoder.encode_text(["a scan"])
    copies = copies_of(encoder, 1, 10)
    step.adapted(copies)
    step.to_copies(copies[:, None], copies)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(encoder.encode_text(["a scan"]), before)
    assert load_model(clip_directory(tmp_path / "again")).fingerprint == encoder.fingerprint
