"""Learned contexts: the published recipe value by value, what a step sees, and what a fit leaves alone."""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from defenses.tiny import CLASSES, images, task
from tiny_models import clip_directory
from titer.data import ClassText
from titer.defenses import Coop, PromptSmooth, Task
from titer.defenses.coop import (
    RECIPES,
    Recipe,
    agreement_with,
    class_sentences,
    context_classifier,
    descend_context,
    learn_context,
    recipe_of,
    start_of,
)
from titer.errors import InputError
from titer.features.store import FeatureStore
from titer.models import Encoder, load_model
from titer.models.prompts import sentences
from titer.noise import BLOCK

QUICK = Recipe(
    context=2, class_specific=False, words="", template="{}", scale=None, epochs=3, learning_rate=0.01,
    optimiser="adam", warmup_rate=None, batch=None, copies=1, store=BLOCK, crops=False,
)  # fmt: skip


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    return load_model(clip_directory(tmp_path_factory.mktemp("clip")))


@pytest.fixture(scope="module")
def job(encoder: Encoder) -> Task:
    return task(encoder)


@pytest.fixture(scope="module")
def store(job: Task) -> FeatureStore:
    return job.store((0.25, 0.5), BLOCK)


def test_the_paper_setting_is_the_published_recipe() -> None:
    """CoOp's vit_b32_ep50 with five shared tokens: SGD 0.002, cosine, one warm-up epoch at 1e-5, 50 epochs, batch 32."""
    recipe = RECIPES["paper"]
    assert (recipe.optimiser, recipe.learning_rate, recipe.warmup_rate) == ("sgd", 0.002, 1e-5)
    assert (recipe.epochs, recipe.batch, recipe.context) == (50, 32, 5)
    assert (recipe.class_specific, recipe.words, recipe.template) == (False, "", "{}.")
    assert (recipe.crops, recipe.copies, recipe.store) == (True, 1, 50)  # a new view of each image in each epoch
    assert recipe.scale is None  # the model's own


@pytest.mark.parametrize("setting", RECIPES)
def test_a_recipe_can_be_carried_out(setting: str) -> None:
    recipe = RECIPES[setting]  # type: ignore[index]
    assert recipe.template.count("{}") == 1
    assert recipe.store % BLOCK == 0
    assert recipe.copies <= recipe.store


def test_what_is_given_stands_in_the_place_of_the_settings() -> None:
    assert recipe_of(Coop(setting="paper")) == RECIPES["paper"]
    given = recipe_of(
        Coop(setting="paper", context=3, epochs=7, class_specific=True, learning_rate=0.1, words="a scan of")
    )
    assert given == replace(
        RECIPES["paper"], context=3, epochs=7, class_specific=True, learning_rate=0.1, words="a scan of"
    )


def test_settings_of_adaptation_do_not_reach_the_recipe() -> None:
    assert recipe_of(PromptSmooth(adapt_copies=7, adapt_steps=2)) == RECIPES["own"]


def test_clean_copies_without_crops_are_all_alike_so_one_is_used() -> None:
    assert (Coop().recipe().copies, Coop().recipe().store) == (1, BLOCK)
    assert Coop(setting="paper").recipe() == RECIPES["paper"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"setting": "papr"}, "did you mean 'paper'"),
        ({"context": 0}, "context: expected at least 1, got 0"),
        ({"epochs": 0}, "epochs: expected at least 1, got 0"),
        ({"learning_rate": 0.0}, "learning rate: expected above 0, got 0"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, object], words: str) -> None:
    for method in (Coop, PromptSmooth):
        with pytest.raises(InputError, match=words):
            method(**settings)  # type: ignore[arg-type]


def test_a_random_start_is_normal_with_deviation_two_hundredths(encoder: Encoder) -> None:
    places = sentences(encoder, ["a"], 12)
    starts = torch.stack([start_of(places, QUICK, 3, seed) for seed in range(50)])
    assert starts.shape == (50, 12, 16)
    assert float(starts.std()) == pytest.approx(0.02, rel=0.03)
    assert float(starts.mean()) == pytest.approx(0, abs=0.001)
    assert torch.equal(start_of(places, QUICK, 3, 4), starts[4])


def test_a_start_from_words_is_their_embeddings_for_every_class(encoder: Encoder) -> None:
    recipe = replace(QUICK, words="a medical image of", context=3, class_specific=True)
    places = class_sentences(encoder, CLASSES, recipe)
    assert torch.equal(start_of(places, recipe, 3, 0), places.embeddings().expand(3, -1, -1))


def test_words_are_tuned_token_by_token_as_many_as_are_asked_for(encoder: Encoder) -> None:
    """ "brain" is two tokens here, so two tokens of the words end within it."""
    for asked, tuned in ((2, 2), (3, 3), (99, 4)):
        places = class_sentences(encoder, CLASSES, replace(QUICK, words="a brain scan", context=asked))
        assert places.tokens == tuned
        whole = sentences(encoder, [f"a brain scan {named.texts[0]}" for named in CLASSES], 0)
        assert places.ids == whole.ids


def test_the_template_stands_around_the_classs_first_text(encoder: Encoder) -> None:
    twice = ClassText("x", ("first", "second"))
    places = class_sentences(encoder, [twice], replace(QUICK, template="{}.", context=1))
    assert places.ids[0][2:] == sentences(encoder, ["first."], 0).ids[0][1:]


def first_losses(recipe: Recipe, job: Task, store: FeatureStore) -> list[tuple[list[int], list[int]]]:
    """The images and copies of each step of a fit."""
    steps: list[tuple[list[int], list[int]]] = []

    def objective(shown: np.ndarray, copies: np.ndarray, logits: Tensor) -> Tensor:
        steps.append((shown.tolist(), copies.tolist()))
        return logits.sum() * 0

    descend_context(job, recipe, store, objective, "none")
    return steps


def test_steps_are_whole_batches_in_a_new_order_every_epoch(job: Task, store: FeatureStore) -> None:
    """Six images make one batch of four; two wait for the next epoch."""
    steps = first_losses(replace(QUICK, batch=4, epochs=12), job, store)
    assert [len(shown) for shown, _ in steps] == [4] * 12
    assert len({tuple(shown) for shown, _ in steps}) > 6
    assert {place for shown, _ in steps for place in shown} == set(range(6))
    halves = first_losses(replace(QUICK, batch=3, epochs=1), job, store)
    assert sorted(halves[0][0] + halves[1][0]) == list(range(6))


@pytest.mark.parametrize("batch", [None, 6, 32])
def test_fewer_images_than_a_batch_make_one_step(job: Task, store: FeatureStore, batch: int | None) -> None:
    assert [shown for shown, _ in first_losses(replace(QUICK, batch=batch), job, store)] == [list(range(6))] * 3


def test_stored_copies_are_used_once_each_before_any_is_used_again(job: Task, store: FeatureStore) -> None:
    steps = first_losses(replace(QUICK, epochs=15, copies=4), job, store)
    used = [copy for _, copies in steps[:12] for copy in copies]
    assert used == list(range(48))
    for _, copies in steps[12:]:
        assert len(set(copies)) == 4
        assert set(copies) <= set(range(BLOCK))


def test_the_first_step_follows_the_gradient_of_the_cross_entropy(
    encoder: Encoder, job: Task, store: FeatureStore
) -> None:
    """A plain SGD step by hand: logits are the model's scale times the cosine of stored and prompted features."""
    recipe = replace(QUICK, optimiser="sgd", epochs=1, learning_rate=0.1, copies=2)
    places = class_sentences(encoder, CLASSES, recipe)
    start = start_of(places, recipe, 3, job.seed).requires_grad_()
    rows = store.everything()[:, :2]
    logits = encoder.logit_scale * rows @ places.features(start).T
    loss = F.cross_entropy(logits.flatten(0, 1), job.targets.repeat_interleave(2))
    (gradient,) = torch.autograd.grad(loss, start)
    expected = start - 0.1 * (gradient + 5e-4 * start)
    found = descend_context(job, recipe, store, agreement_with(job.targets), "cross-entropy")
    assert torch.allclose(found.weights["context"], expected, atol=1e-6)
    assert list(found.losses) == pytest.approx([float(loss.detach())], rel=1e-5)


def test_a_scale_of_the_loss_takes_the_place_of_the_models(job: Task, store: FeatureStore) -> None:
    seen: list[Tensor] = []

    def objective(shown: np.ndarray, copies: np.ndarray, logits: Tensor) -> Tensor:  # noqa: ARG001
        seen.append(logits.detach())
        return logits.sum() * 0

    for scale in (None, 40.0):
        descend_context(job, replace(QUICK, scale=scale, epochs=1), store, objective, "none")
    assert torch.allclose(seen[1] / 40, seen[0] / job.encoder.logit_scale, atol=1e-6)


def test_a_fit_learns_its_shots(job: Task, encoder: Encoder) -> None:
    recipe = replace(QUICK, class_specific=True, epochs=150, learning_rate=0.03, context=4)
    fitted = learn_context(job, recipe, (0.0,))
    assert fitted.losses[-1] < 0.5 * fitted.losses[0]
    classifier = context_classifier(encoder, CLASSES, recipe, fitted.weights["context"], "x")
    answers = classifier(torch.stack([job.image(place) for place in range(6)])).argmax(dim=1)
    assert answers.tolist() == job.targets.tolist()
    assert fitted.predictions is not None
    assert fitted.predictions.tolist() == job.targets.repeat_interleave(BLOCK).tolist()
    assert fitted.notes == {"objective": "cross-entropy", "template": "{}"}


def test_a_fit_is_decided_by_its_seed(encoder: Encoder) -> None:
    method, state = Coop(epochs=3, context=2), torch.random.get_rng_state()
    first, again, other = (method.fit(task(encoder, seed=seed)).weights["context"] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other, atol=1e-3)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_clean_features_need_no_noise(encoder: Encoder, job: Task) -> None:
    kept = job.store((0.0,), BLOCK).everything()
    clean = encoder.encode_image(torch.stack([job.image(place) for place in range(6)])).detach()
    assert torch.allclose(job.clean, clean, atol=1e-5)
    assert torch.allclose(kept, clean[:, None].expand_as(kept), atol=1e-3)


def test_the_classifier_is_the_nearest_prompted_text(encoder: Encoder) -> None:
    context = torch.randn(2, 16, generator=torch.Generator().manual_seed(0))
    classifier = context_classifier(encoder, CLASSES, QUICK, context, "mine")
    shown = images(encoder, 4)
    texts = class_sentences(encoder, CLASSES, QUICK).features(context)
    expected = encoder.logit_scale * encoder.encode_image(shown) @ texts.T
    assert torch.allclose(classifier(shown), expected, atol=1e-5)
    assert classifier.classes == ("red", "green", "blue")
    assert (classifier.name, classifier.adapts_to_input) == ("mine", False)


def test_another_context_or_another_name_of_a_class_has_another_fingerprint(encoder: Encoder) -> None:
    context = torch.zeros(2, 16)
    renamed = [dataclasses.replace(CLASSES[0], label="crimson"), *CLASSES[1:]]
    found = {
        context_classifier(encoder, classes, QUICK, value, name).fingerprint
        for classes, value, name in [
            (CLASSES, context, "a"), (CLASSES, context, "b"), (CLASSES, context + 1, "a"), (renamed, context, "a")
        ]
    }  # fmt: skip
    assert len(found) == 3  # the name a directory happens to have is no part of it


def test_a_context_is_bound_to_its_classes_only_where_each_has_its_own() -> None:
    assert Coop(class_specific=True).class_bound
    assert not Coop(class_specific=False).class_bound
    assert not Coop(setting="paper").class_bound


def test_labels_are_needed(encoder: Encoder) -> None:
    with pytest.raises(InputError, match="needs labelled images"):
        Coop(epochs=1).fit(task(encoder, labelled=False))


def test_the_encoder_is_left_as_it_was(encoder: Encoder, job: Task, tmp_path: Path) -> None:
    shown = images(encoder, 3)
    before = encoder.encode_image(shown), encoder.encode_text(["a scan"])
    learn_context(replace(job, cache=tmp_path), replace(QUICK, words="a scan of"), (0.25,))
    assert torch.equal(encoder.encode_image(shown), before[0])
    assert torch.equal(encoder.encode_text(["a scan"]), before[1])
