"""TPT: the views that are kept, the step by an independent loop, and what its certificates may say."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from defenses.tiny import CLASSES, images, task
from tiny_models import clip_directory
from titer.defenses import Tpt
from titer.defenses.test_time import _Tuning
from titer.errors import GuaranteeError, InputError
from titer.evaluate.voting import guarantees
from titer.features.views import CropAndFlip
from titer.models import Encoder, load_model
from titer.models.classifier import Classifier
from titer.models.prompts import sentences

METHOD = Tpt(words="a scan of", views=10, certain=0.3)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    return load_model(clip_directory(tmp_path_factory.mktemp("clip")))


@pytest.fixture(scope="module")
def classifier(encoder: Encoder) -> Classifier:
    return METHOD.classifier(encoder, CLASSES, METHOD.fit(task(encoder, labelled=False)).weights, "tpt")


def views_of(image: Tensor) -> Tensor:
    crop = CropAndFlip()
    return torch.stack([image, *(crop(image, "sample", 3, view) for view in range(1, METHOD.views))])


def test_before_an_image_is_shown_it_is_the_words_answer(encoder: Encoder, classifier: Classifier) -> None:
    texts = encoder.encode_text([f"a scan of {named.texts[0]}" for named in CLASSES])
    shown = images(encoder, 4)
    assert torch.allclose(classifier(shown), encoder.logit_scale * encoder.encode_image(shown) @ texts.T, atol=1e-4)


def test_the_views_of_lowest_entropy_are_kept(encoder: Encoder, classifier: Classifier) -> None:
    tuning = classifier.adaptation
    assert isinstance(tuning, _Tuning)
    features = encoder.encode_image(views_of(images(encoder, 1)[0]))
    predicted = classifier.head(features).softmax(dim=1)
    doubt = -(predicted * predicted.log()).sum(dim=1)
    kept = tuning.most_certain(features)
    assert len(kept) == 3
    assert torch.equal(kept, features[doubt.argsort()[:3]])


def test_the_head_is_one_step_of_adamw_on_their_mean_prediction(encoder: Encoder, classifier: Classifier) -> None:
    image = images(encoder, 1)[0]
    tuning = classifier.adaptation
    assert isinstance(tuning, _Tuning)
    kept = tuning.most_certain(encoder.encode_image(views_of(image)))
    texts = [named.texts[0] for named in CLASSES]
    places = sentences(encoder, texts, tuning.context.shape[0], "a scan of")
    context = tuning.context.clone().requires_grad_()
    mean = (encoder.logit_scale * kept @ places.features(context).T).softmax(dim=1).mean(dim=0)
    (gradient,) = torch.autograd.grad(-(mean * mean.log()).sum(), context)
    stepped = context.detach() * (1 - 5e-3 * 0.01) - 5e-3 * gradient / (gradient.abs() + 1e-8)
    expected = encoder.logit_scale * kept @ places.features(stepped).T
    found = tuning.to_image(encoder, image, "sample", 0.25, 3)(kept)
    assert torch.allclose(found, expected, atol=1e-3)


def test_an_image_is_tuned_from_the_start_whatever_came_before(encoder: Encoder, classifier: Classifier) -> None:
    first, second = images(encoder, 2)
    tuning = classifier.adaptation
    assert tuning is not None
    features = encoder.encode_image(images(encoder, 5, seed=1))
    alone = tuning.to_image(encoder, second, "b", 0.25, 3)(features)
    tuning.to_image(encoder, first, "a", 0.25, 3)
    assert torch.equal(tuning.to_image(encoder, second, "b", 0.25, 3)(features), alone)


def test_noise_plays_no_part(encoder: Encoder, classifier: Classifier) -> None:
    image = images(encoder, 1)[0]
    tuning = classifier.adaptation
    assert tuning is not None
    features = encoder.encode_image(images(encoder, 5, seed=1))
    quiet, loud = (tuning.to_image(encoder, image, "a", sigma, 3)(features) for sigma in (0.1, 1.0))
    assert torch.equal(quiet, loud)


@pytest.mark.parametrize("asked", [None, "fixed", "bank", "per-draw", "product"])
def test_only_a_conditional_certificate_is_possible(classifier: Classifier, asked: str | None) -> None:
    with pytest.raises(GuaranteeError, match=r"--guarantee conditional$"):
        guarantees({"tpt": classifier}, {} if asked is None else {"tpt": asked})
    assert guarantees({"tpt": classifier}, "conditional") == {"tpt": "conditional"}


@pytest.mark.parametrize(
    "settings", [{"views": 0}, {"steps": 0}, {"certain": 0.0}, {"certain": 1.5}, {"rate": 0.0}, {"words": " "}]
)
def test_values_that_cannot_work_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(InputError, match=next(iter(settings))):
        Tpt(**settings)  # type: ignore[arg-type]
