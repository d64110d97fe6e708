"""Anchor: what it minimises, by hand; its low-rank changes; and that it does what it is for."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from defenses.tiny import CLASSES, images
from tiny_models import clip_directory
from titer.attacks.attack import Random
from titer.attacks.pgd import climb
from titer.attacks.threat import Threat
from titer.defenses import Anchor, Task
from titer.defenses.learners import LowRank
from titer.defenses.tuning import Step
from titer.errors import InputError
from titer.models import Encoder, load_model
from titer.models.classifier import class_features
from titer.models.towers import vision_tower

EPS = 32 / 255


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    return load_model(clip_directory(tmp_path_factory.mktemp("clip")))


def task_on(encoder: Encoder, labels: list[int] | None = None, count: int = 6) -> Task:
    shown = images(encoder, count)
    return Task(encoder, CLASSES, [f"image {place}" for place in range(count)], labels, lambda place: shown[place], 3)


def tower_of(encoder: Encoder) -> nn.Module:
    tower = vision_tower(encoder)
    assert isinstance(tower, nn.Module)
    return tower


def changed(encoder: Encoder, rank: int = 2) -> LowRank:
    """Changes that are not zero."""
    learner = LowRank(encoder, CLASSES, "{}", {}, rank)
    chance = torch.Generator().manual_seed(1)
    learner.weights = {name: torch.randn(shape, generator=chance) / 10 for name, shape in learner.shapes.items()}
    return learner


def test_nothing_is_changed_at_the_start(encoder: Encoder) -> None:
    learner = LowRank(encoder, CLASSES, "{}", {}, 2)
    start, shown = learner.start(seed=0), images(encoder, 3)
    assert torch.equal(learner.image_features(start, shown), encoder.image_features(shown))
    assert not torch.equal(start[min(start)], learner.start(seed=1)[min(start)])


def linear_layers(encoder: Encoder) -> dict[str, nn.Linear]:
    return {name: module for name, module in tower_of(encoder).named_modules() if isinstance(module, nn.Linear)}


def test_a_changed_layer_is_its_matrix_plus_the_product_of_two(encoder: Encoder) -> None:
    learner, shown = changed(encoder), images(encoder, 3)
    merged = learner.encoder_of(learner.weights)
    own, after = linear_layers(encoder), linear_layers(merged)
    assert own
    for name, layer in own.items():
        expected = layer.weight + learner.weights[f"{name}.up"] @ learner.weights[f"{name}.down"]
        assert torch.allclose(after[name].weight, expected, atol=1e-6), name
    features = learner.image_features(learner.weights, shown)
    assert torch.allclose(merged.image_features(shown), features, atol=1e-5)
    assert not torch.allclose(encoder.image_features(shown), features, atol=1e-2)
    assert merged.fingerprint != encoder.fingerprint


def test_the_rank_is_at_most_a_layers_smaller_side_and_every_number_is_counted(encoder: Encoder) -> None:
    layers = linear_layers(encoder).values()
    for rank in (1, 2, 10_000):
        shapes = LowRank(encoder, CLASSES, "{}", {}, rank).shapes
        expected = sum(
            min(rank, layer.in_features, layer.out_features) * (layer.in_features + layer.out_features)
            for layer in layers
        )
        assert sum(rows * columns for rows, columns in shapes.values()) == expected


def test_a_tensor_of_another_rank_or_none_is_refused(encoder: Encoder) -> None:
    learner = changed(encoder, rank=2)
    with pytest.raises(InputError, match="expected shape"):
        LowRank(encoder, CLASSES, "{}", {}, 3).encoder_of(learner.weights)
    missing = dict(learner.weights)
    missing.pop(min(missing))
    with pytest.raises(KeyError):
        learner.encoder_of(missing)


def step_of(method: Anchor, encoder: Encoder, labels: list[int]) -> Step:
    task, learner = task_on(encoder, labels), changed(encoder)
    return Step(
        learner=learner,
        encoder=encoder,
        words=class_features(encoder, CLASSES),
        images=images(encoder, 6),
        labels=task.targets,
        known=task.features,
        inner=method.attack(),
        random=Random(7, "fit 0", task.ids),
    )


def test_the_objective_by_hand(encoder: Encoder) -> None:
    labels = [0, 1, 2, 0, 1, 2]
    method = Anchor(light=0.0, sigmas=(0.25,), smooth=0.5, supervised=0.03)
    step = step_of(method, encoder, labels)
    attacked = step.attacked_features
    noisy = step.learner.image_features(step.learner.weights, noisy_by_hand(step))
    known, size = step.known, sum(float(row @ row) for row in step.known) / 6
    by_hand = 0.0
    for weight, rows in ((1.0, attacked), (0.5, noisy)):
        distance = sum(float((row - at) @ (row - at)) for row, at in zip(rows, known, strict=True)) / 6
        answers = encoder.logit_scale * (rows / rows.norm(dim=1, keepdim=True)) @ step.class_features.T
        fitting = -sum(float(row.log_softmax(0)[label]) for row, label in zip(answers, labels, strict=True)) / 6
        by_hand += weight * (distance / size + 0.03 * fitting)
    assert float(method.objective(step)[0]) == pytest.approx(by_hand, rel=1e-4)


def noisy_by_hand(step: Step) -> torch.Tensor:
    """The copies of a step whose attack has drawn its start already: from the same streams, in the same order."""
    random = Random(7, "fit 0", [f"image {place}" for place in range(6)])
    random.within(step.images, Threat("linf", step.inner.eps))
    random.uniform()  # which sigma
    return step.images + 0.25 * random.normal(*step.images.shape[1:])


def test_in_another_light_what_is_known_is_of_the_changed_images(encoder: Encoder) -> None:
    step = step_of(Anchor(light=0.5), encoder, [0, 1, 2, 0, 1, 2])
    relit = step.relit(0.5)
    with torch.no_grad():
        assert torch.equal(relit.known, encoder.image_features(relit.images))
    assert float(relit.images.min()) >= 0
    assert float(relit.images.max()) <= 1
    moved = (relit.images - step.images).abs().flatten(1).mean(dim=1)
    assert len({round(float(each), 6) for each in moved}) == 6
    assert float(moved.min()) > 0


def test_each_change_of_light_by_hand(encoder: Encoder) -> None:
    """Contrast around the image's mean, brightness by half the amount, then gamma: three draws for each image."""
    step = step_of(Anchor(), encoder, [0, 1, 2, 0, 1, 2])
    random = Random(7, "fit 0", [f"image {place}" for place in range(6)])
    contrast, brightness, gamma = (random.uniform(low=-0.4, high=0.4) for _ in range(3))
    shown = step.relit(0.4).images
    for row, image in enumerate(step.images):
        changed = (image - image.mean()) * contrast[row].exp() + image.mean() + brightness[row] / 2
        assert torch.allclose(shown[row], changed.clamp(1e-4, 1) ** gamma[row].exp(), atol=1e-5)


def test_light_changes_what_is_learned(encoder: Encoder) -> None:
    none, lit = (Anchor(epochs=2, rank=2, light=light).fit(task_on(encoder)).weights for light in (0.0, 0.5))
    assert any(not torch.equal(none[name], lit[name]) for name in none)


def test_without_labels_it_learns_the_same_whatever_they_are(encoder: Encoder) -> None:
    method = Anchor(epochs=2, rank=2)
    assert not method.needs_labels
    without = method.fit(task_on(encoder)).weights
    with_some = method.fit(task_on(encoder, [2, 2, 1, 0, 0, 1])).weights
    assert all(torch.equal(without[name], with_some[name]) for name in without)
    supervised = replace(method, supervised=0.1)
    assert supervised.needs_labels
    first, second = (supervised.fit(task_on(encoder, labels)).weights for labels in ([0, 1, 2] * 2, [2, 1, 0] * 2))
    assert any(not torch.equal(first[name], second[name]) for name in first)


def test_attacked_and_noisy_features_stay_nearer_to_the_clean_ones_than_before(encoder: Encoder) -> None:
    method = Anchor(epochs=30, eps=EPS, sigmas=(1.0,), learning_rate=0.003)
    task = task_on(encoder)
    tuned = method.classifier(encoder, CLASSES, method.fit(task).weights, "anchor").encoder
    shown = images(encoder, 6)
    before, after = drifted(encoder, shown, task.features), drifted(tuned, shown, task.features)
    assert after[0] < 0.8 * before[0], (before, after)
    assert after[1] < 0.8 * before[1], (before, after)


def drifted(encoder: Encoder, shown: torch.Tensor, known: torch.Tensor) -> tuple[float, float]:
    """Mean squared distance from the frozen clean features: attacked by another attack than in training, and noisy."""

    def distance(features: torch.Tensor) -> torch.Tensor:
        return (features - known).square().sum(dim=1)

    ids = [f"image {place}" for place in range(len(shown))]
    threat, random = Threat("linf", EPS), Random(1, "attack", ids)
    start = random.within(shown, threat)
    _, (attacked, _) = climb(encoder.image_features, shown, start, distance, distance, threat, 20, 0.1)
    noisy = shown + torch.randn(shown.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = [float(distance(encoder.image_features(rows)).mean()) for rows in (attacked, noisy)]
    return found[0], found[1]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"rank": 0}, "rank: expected at least 1"),
        ({"supervised": -1.0}, "supervised: expected at least 0"),
        ({"inner": "cross-entropy"}, "expected distance, kl or embedding"),
        ({"sigmas": ()}, "sigmas: expected one or more"),
        ({"smooth": -0.5}, "smooth: expected at least 0"),
    ],
)
def test_wrong_settings(settings: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        Anchor(**settings)  # type: ignore[arg-type]
