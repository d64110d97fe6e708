"""Heads: the probe is scikit-learn's regression, the residual starts from the zero-shot answer, shapes are checked."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from defenses.tiny import CLASSES, images, task
from tiny_models import clip_directory
from titer.defenses import LinearProbe, Residual, Task
from titer.errors import InputError
from titer.models import Encoder, load_model
from titer.models.classifier import zero_shot

QUICK = LinearProbe(sigmas=(0.1, 0.25), copies=4)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    return load_model(clip_directory(tmp_path_factory.mktemp("clip")))


@pytest.fixture(scope="module")
def job(encoder: Encoder) -> Task:
    return task(encoder)


def noisy(job: Task, copies: int) -> tuple[Tensor, Tensor]:
    """Features and labels of the first stored copies of each image."""
    store = job.store((0.1, 0.25), 200)
    rows = store.rows(np.arange(len(job.ids)), np.arange(copies)).flatten(0, 1)
    return rows, job.targets.repeat_interleave(copies)


def test_the_probe_answers_as_scikit_learn_does(encoder: Encoder, job: Task) -> None:
    weights = QUICK.fit(job).weights
    shown = images(encoder, 12)
    features, labels = noisy(job, 4)
    expected = LogisticRegression(C=10.0, max_iter=200).fit(features.numpy(), labels.numpy())
    logits = QUICK.classifier(encoder, CLASSES, weights, "probe")(shown)
    asked = encoder.encode_image(shown).numpy()
    assert torch.allclose(logits.softmax(dim=1), torch.from_numpy(expected.predict_proba(asked)).float(), atol=1e-3)


def test_two_classes_have_a_row_each(encoder: Encoder, job: Task) -> None:
    """scikit-learn keeps one row for two classes; the probability of the second is the logistic of it."""
    two = replace(job, classes=CLASSES[:2], labels=(job.targets % 2).tolist())
    weights = QUICK.fit(two).weights
    assert weights["weight"].shape == (2, encoder.dim)
    features, labels = noisy(two, 4)
    expected = LogisticRegression(C=10.0, max_iter=200).fit(features.numpy(), labels.numpy())
    found = (features @ weights["weight"].T + weights["bias"]).softmax(dim=1)
    assert torch.allclose(found, torch.from_numpy(expected.predict_proba(features.numpy())).float(), atol=1e-3)


def test_a_penalty_that_outweighs_the_data_leaves_the_prior(job: Task) -> None:
    weights = replace(QUICK, strength=1e-9).fit(job).weights
    assert float(weights["weight"].abs().max()) < 1e-4


def test_clean_images_are_one_copy_each(job: Task) -> None:
    probe = LinearProbe(images="clean")
    assert probe.noise == ()
    fitted = probe.fit(job)
    assert fitted.predictions is not None
    assert len(fitted.predictions) == len(job.ids)


def test_a_residual_of_zero_is_the_zero_shot_answer(encoder: Encoder) -> None:
    shown = images(encoder, 6)
    nothing = {"residual": torch.zeros(len(CLASSES), encoder.dim)}
    found = Residual().classifier(encoder, CLASSES, nothing, "residual")(shown)
    assert torch.allclose(found, zero_shot(encoder, CLASSES)(shown), atol=1e-5)


def test_a_residual_moves_the_class_feature_and_keeps_it_a_unit_vector(encoder: Encoder) -> None:
    shown, moved = images(encoder, 6), torch.randn(3, encoder.dim, generator=torch.Generator().manual_seed(0))
    logits = Residual(share=0.5).classifier(encoder, CLASSES, {"residual": moved}, "residual")(shown)
    texts = encoder.encode_text([named.texts[0] for named in CLASSES])
    expected = encoder.logit_scale * encoder.encode_image(shown) @ F.normalize(texts + 0.5 * moved, dim=-1).T
    assert torch.allclose(logits, expected, atol=1e-5)


def test_a_residual_fit_lowers_its_loss(job: Task) -> None:
    losses = Residual(sigmas=(0.1,), epochs=40).fit(job).losses
    assert losses[-1] < losses[0]


def test_the_mix_of_noise_is_the_default_and_is_recorded() -> None:
    assert LinearProbe().noise == Residual().noise == (0.1, 0.25, 0.5, 1.0)
    assert LinearProbe(sigmas=(0.5,)).noise == (0.5,)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"images": "nosy"}, "noisy"),
        ({"sigmas": ()}, "sigmas"),
        ({"sigmas": (-0.1,)}, "sigmas"),
        ({"copies": 0}, "copies"),
        ({"copies": 201}, "copies"),
        ({"strength": 0.0}, "strength"),
    ],
)
def test_values_that_cannot_work_are_refused(settings: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        LinearProbe(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["share", "scale", "epochs", "learning_rate", "copies"])
def test_a_residual_needs_positive_settings(name: str) -> None:
    with pytest.raises(InputError, match=name):
        Residual(**{name: 0})  # type: ignore[arg-type]


def test_weights_of_other_classes_are_refused(encoder: Encoder) -> None:
    with pytest.raises(InputError, match="expected a weight"):
        QUICK.classifier(encoder, CLASSES, {"weight": torch.zeros(2, encoder.dim), "bias": torch.zeros(2)}, "probe")
    with pytest.raises(InputError, match="expected vectors"):
        Residual().classifier(encoder, CLASSES, {"residual": torch.zeros(2, encoder.dim)}, "residual")
