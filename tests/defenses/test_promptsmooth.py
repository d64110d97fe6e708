"""The five modes: what each learns from, what it leaves alone, and which guarantee its classifier can have."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from defenses.tiny import CLASSES, images, task
from tiny_models import clip_directory
from titer.defenses import PromptSmooth
from titer.defenses.adaptation import DIRECTIONS, EntropyStep
from titer.defenses.coop import class_sentences
from titer.defenses.promptsmooth import Mode, _mean_entropy, _within
from titer.errors import InputError
from titer.evaluate.voting import guarantees
from titer.features.stream import noisy_features
from titer.models import Encoder, load_model
from titer.models.classifier import Bank
from titer.models.prompts import token_tower
from titer.noise import BLOCK

SIGMAS = (0.25, 0.5)
MODES: tuple[Mode, ...] = ("few-shot", "zero-shot", "combined", "offline", "bank")


def quick(mode: Mode, **settings: object) -> PromptSmooth:
    given: dict[str, object] = {"epochs": 3, "context": 2, "sigmas": SIGMAS, "members": 2, **settings}
    return PromptSmooth(mode=mode, **given)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    return load_model(clip_directory(tmp_path_factory.mktemp("clip")))


def test_the_paper_trains_on_four_noise_levels_and_steps_once_on_a_hundred_copies() -> None:
    paper = PromptSmooth(setting="paper")
    assert paper.noise == (0.25, 0.5, 0.75, 1.0)
    assert (paper.adapt_copies, paper.adapt_steps, paper.adapt_rate) == (100, 1, 5e-3)
    assert paper.recipe().epochs == 50
    assert PromptSmooth(sigmas=(0.3,), setting="paper").noise == (0.3,)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"mode": "zeroshot"}, "did you mean 'zero-shot'"),
        ({"sigmas": ()}, "sigmas: expected one or more"),
        ({"sigmas": (0.1, -0.2)}, "sigmas: expected one or more"),
        ({"adapt_copies": 0}, "adapt_copies: expected at least 1, got 0"),
        ({"adapt_steps": 0}, "adapt_steps: expected at least 1, got 0"),
        ({"adapt_rate": 0.0}, "adapt_rate: expected above 0, got 0"),
        ({"members": 0}, "members: expected at least 1, got 0"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        PromptSmooth(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", MODES)
def test_labels_are_needed_where_the_mode_says_so(encoder: Encoder, mode: Mode) -> None:
    method, unlabelled = quick(mode), task(encoder, labelled=False)
    assert method.needs_labels == (mode in ("few-shot", "combined", "bank"))
    if method.needs_labels:
        with pytest.raises(InputError, match="needs labelled images"):
            method.fit(unlabelled)
    else:
        assert method.fit(unlabelled).weights.keys() >= {"context"}


@pytest.mark.parametrize(
    ("mode", "guarantee"),
    [("few-shot", "fixed"), ("offline", "fixed"), ("bank", "bank"), ("zero-shot", None), ("combined", None)],
)
def test_only_what_is_fixed_before_the_image_is_seen_counts_as_fixed(
    encoder: Encoder, mode: Mode, guarantee: str | None
) -> None:
    method = quick(mode)
    classifier = method.classifier(encoder, CLASSES, method.fit(task(encoder)).weights, "x")
    if guarantee is None:
        assert classifier.adapts_to_input
        for asked in ("conditional", "per-draw", "product"):
            assert guarantees({"x": classifier}, asked) == {"x": asked}
        with pytest.raises(InputError, match="claim more than is proven"):
            guarantees({"x": classifier}, "fixed")
    else:
        assert not classifier.adapts_to_input
        assert guarantees({"x": classifier}, None) == {"x": guarantee}


def test_few_shot_learns_on_all_noise_levels_at_once(encoder: Encoder) -> None:
    """From a store whose copies have the sigmas in turn; the first loss is that of its first copies."""
    job, method = task(encoder), quick("few-shot", epochs=1)
    store = job.store(SIGMAS, method.recipe().store)
    assert np.unique(store.sigmas).tolist() == list(SIGMAS)
    fitted = method.fit(job)
    assert fitted.weights.keys() == {"context"}
    assert len(fitted.losses) == 1
    assert fitted.predictions is not None


def test_zero_shot_starts_from_the_words_and_learns_nothing(encoder: Encoder) -> None:
    method = PromptSmooth(mode="zero-shot", words="a brain scan", sigmas=SIGMAS)
    fitted, tower = method.fit(task(encoder, labelled=False)), token_tower(encoder)
    own = torch.tensor(tower.ids("a brain scan")[1:-1])
    assert torch.equal(fitted.weights["context"], tower.embedding.weight[own])
    assert fitted.weights["directions"].shape == (DIRECTIONS, len(own), tower.width)
    assert (fitted.losses, fitted.predictions) == ((), None)


def test_zero_shot_needs_noisy_copies_of_a_few_images_only(encoder: Encoder, tmp_path: Path) -> None:
    job = replace(task(encoder, per_class=7, labelled=False), cache=tmp_path)
    weights = quick("zero-shot").fit(job).weights
    assert len(list(tmp_path.iterdir())) == 16 < len(job.ids)
    assert torch.equal(quick("zero-shot").fit(replace(job, cache=None)).weights["directions"], weights["directions"])


def test_zero_shot_tunes_as_many_of_the_words_tokens_as_are_asked_for(encoder: Encoder) -> None:
    """The public code tunes as many tokens as there are words, of which "brain" is two here."""
    method = PromptSmooth(mode="zero-shot", words="a brain scan", context=3, sigmas=SIGMAS)
    fitted, tower = method.fit(task(encoder, labelled=False)), token_tower(encoder)
    own = tower.ids("a brain scan")[1:4]
    assert torch.equal(fitted.weights["context"], tower.embedding.weight[torch.tensor(own)])


def test_zero_shot_without_words_starts_from_a_medical_image_of(encoder: Encoder) -> None:
    """So the unadapted classifier is that of the sentence."""
    method = quick("zero-shot", context=None)
    classifier = method.classifier(encoder, CLASSES, method.fit(task(encoder)).weights, "x")
    texts = encoder.encode_text([f"a medical image of {named.texts[0]}" for named in CLASSES])
    features = encoder.encode_image(images(encoder, 4))
    assert torch.allclose(classifier.head(features), encoder.logit_scale * features @ texts.T, atol=1e-5)
    assert not method.class_bound


def test_combined_is_the_few_shot_context_and_the_zero_shot_step(encoder: Encoder) -> None:
    few, both = (quick(mode).fit(task(encoder)) for mode in ("few-shot", "combined"))
    assert torch.equal(few.weights["context"], both.weights["context"])
    assert both.losses == few.losses
    classifier = quick("combined").classifier(encoder, CLASSES, both.weights, "x")
    step = classifier.adaptation
    assert isinstance(step, EntropyStep)
    assert torch.equal(step.context, few.weights["context"])
    fixed = quick("few-shot").classifier(encoder, CLASSES, few.weights, "x")
    features = encoder.encode_image(images(encoder, 4))
    assert torch.equal(classifier.head(features), fixed.head(features))


@pytest.mark.parametrize("mode", ["zero-shot", "combined"])
def test_the_adapted_head_is_the_step_with_the_methods_settings(encoder: Encoder, mode: Mode) -> None:
    method = quick(mode, adapt_copies=20, adapt_steps=2, adapt_rate=0.03, class_specific=False)
    weights = method.fit(task(encoder)).weights
    classifier = method.classifier(encoder, CLASSES, weights, "x")
    assert classifier.adaptation is not None
    image, features = images(encoder, 1)[0], encoder.encode_image(images(encoder, 4)).detach()
    head = classifier.adaptation.to_image(encoder, image, "s", 0.5, 3)
    copies = noisy_features(encoder, image, "s", 0.5, 3, "adapt", 20)
    recipe = method._start_recipe() if mode == "zero-shot" else method.recipe()
    context = weights["context"].clone().requires_grad_()
    places, optimiser = class_sentences(encoder, CLASSES, recipe), torch.optim.AdamW([context], lr=0.03)
    for _ in range(2):
        mean = (encoder.logit_scale * copies @ places.features(context).T).softmax(dim=-1).mean(dim=0)
        optimiser.zero_grad()
        (-(mean * mean.log()).sum()).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    expected = encoder.logit_scale * features @ places.features(context.detach()).T
    assert torch.allclose(head(features), expected, atol=1e-3)
    assert not torch.allclose(head(features), classifier.head(features), atol=1e-2)


def test_other_settings_of_the_step_have_another_fingerprint(encoder: Encoder) -> None:
    weights = quick("zero-shot").fit(task(encoder)).weights
    found = {
        quick("zero-shot", **settings).classifier(encoder, CLASSES, weights, "x").fingerprint
        for settings in ({}, {"adapt_copies": 99}, {"adapt_steps": 2}, {"adapt_rate": 0.01})
    }
    assert len(found) == 4


def test_offline_learns_what_the_frozen_model_says_of_clean_images(encoder: Encoder) -> None:
    """Labels would change nothing: they are not looked at."""
    labelled, unlabelled = (quick("offline").fit(task(encoder, labelled=given)) for given in (True, False))
    assert torch.equal(labelled.weights["context"], unlabelled.weights["context"])
    assert labelled.notes["objective"] == "agreement with the clean prediction"


def test_offline_in_the_paper_setting_lowers_the_marginal_entropy(encoder: Encoder) -> None:
    method = PromptSmooth(mode="offline", setting="paper", epochs=3, context=2)
    fitted = method.fit(task(encoder, labelled=False))
    assert fitted.notes["objective"] == "marginal entropy"
    assert all(0 <= loss <= math.log(3) for loss in fitted.losses)


def test_the_entropy_of_a_batch_is_the_mean_over_images_of_marginal_ones() -> None:
    logits = torch.tensor([[[0.9, 0.1], [0.3, 0.7]], [[0.5, 0.5], [0.5, 0.5]]]).log()
    expected = (-(0.6 * math.log(0.6) + 0.4 * math.log(0.4)) + math.log(2)) / 2
    assert float(_mean_entropy(np.arange(2), np.arange(2), logits)) == pytest.approx(expected)


def test_a_member_of_a_bank_learns_from_the_copies_in_its_region_alone() -> None:
    inside = torch.tensor([[True, False, True], [False, False, True]])
    logits: Tensor = torch.randn(2, 2, 3, generator=torch.Generator().manual_seed(0))
    objective = _within(inside, torch.tensor([2, 0]))
    shown, copies = np.array([1, 0]), np.array([0, 2])
    # image 1 has copy 2 inside, image 0 both
    losses = -logits.log_softmax(dim=-1)
    expected = (losses[0, 1, 0] + losses[1, 0, 2] + losses[1, 1, 2]) / 3
    assert float(objective(shown, copies, logits)) == pytest.approx(float(expected))
    none = _within(torch.zeros(2, 3, dtype=torch.bool), torch.tensor([2, 0]))
    assert float(none(shown, copies, logits)) == 0


def test_a_bank_gives_each_draw_to_the_nearest_of_its_centres(encoder: Encoder) -> None:
    method = quick("bank", members=3)
    fitted = method.fit(task(encoder))
    bank = method.classifier(encoder, CLASSES, fitted.weights, "x")
    assert isinstance(bank, Bank)
    assert fitted.weights["centres"].norm(dim=1).tolist() == pytest.approx([1.0] * 3)
    features = encoder.encode_image(images(encoder, 9)).detach()
    member = (features @ fitted.weights["centres"].T).argmax(dim=1)
    assert torch.equal(bank.selector(features).argmax(dim=1), member)
    for row, place in enumerate(member.tolist()):
        one = features[row : row + 1]
        assert torch.allclose(bank.head(features)[row : row + 1], bank.members[place](one), atol=1e-5)


def test_more_members_than_noisy_copies_are_refused(encoder: Encoder) -> None:
    with pytest.raises(InputError, match=r"members: expected at most \d+, the number of noisy copies, got 1000000"):
        quick("bank", members=1_000_000).fit(task(encoder))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("seed", [1, 2**40])
def test_a_fit_is_decided_by_its_seed(encoder: Encoder, mode: Mode, seed: int) -> None:
    state, legacy = torch.random.get_rng_state(), np.random.get_state()[1].tolist()  # type: ignore[index]
    first, again = (quick(mode).fit(task(encoder, seed=seed)) for _ in range(2))
    assert first.weights.keys() == again.weights.keys()
    assert all(torch.equal(first.weights[name], again.weights[name]) for name in first.weights)
    assert first.losses == again.losses
    assert torch.equal(torch.random.get_rng_state(), state)
    assert np.random.get_state()[1].tolist() == legacy  # type: ignore[index]


def test_a_store_is_built_once_for_methods_that_share_it(encoder: Encoder, tmp_path: Path) -> None:
    job = replace(task(encoder), cache=tmp_path)
    quick("few-shot").fit(job)
    files = {file: file.stat().st_mtime_ns for file in tmp_path.iterdir()}
    quick("bank").fit(job)
    assert {file: file.stat().st_mtime_ns for file in tmp_path.iterdir()} == files
    assert len(files) == len(job.ids)
    assert PromptSmooth().recipe().store % BLOCK == 0
