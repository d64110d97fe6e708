"""Every registered defense on a problem of three colours: fitted, written, read back, certified, and refused."""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import titer
from defenses.tiny import CLASSES, data, images, judged
from images import brightness_encoder
from tiny_models import clip_directory
from titer.data import ClassText
from titer.defenses import DEFENSES, Defense
from titer.defenses.adapter import CONFIG, WEIGHTS, load_classifier
from titer.errors import GuaranteeError, InputError
from titer.evaluate.fitting import fit
from titer.features.stream import threads
from titer.models import Classifier, Encoder, load_model
from titer.models.classifier import Bank
from titer.registry import settings_of

QUICK: dict[str, Any] = {
    "epochs": 2, "steps": 2, "context": 2, "adapt_copies": 3, "members": 2, "views": 4, "width": 8, "depth": 2
}  # fmt: skip
"""Small values for settings that make a fit or an adaptation long, or a text too long; a method takes those it has."""

WAYS: dict[str, list[dict[str, Any]]] = {
    "advpt": [{"text": 2}],
    "advtp": [{"text": 2, "depth": 2}],
    "apt": [
        {"text": 2, "depth": 1, "class_specific": True, "prompting": "constant"},
        {"text": 3, "depth": 1, "position": "middle", "prompting": "perturbed"},
    ],
    "promptsmooth": [{"mode": mode} for mode in ("few-shot", "zero-shot", "combined", "offline", "bank")],
}
"""Settings under which a method is another method; every other one is tried as it comes."""

CASES = [(name, way) for name in DEFENSES for way in WAYS.get(name, [{}])]
SIGMA = 0.25


def method_of(name: str, **settings: Any) -> Defense:
    fields = {field.name for field in dataclasses.fields(DEFENSES[name])}  # type: ignore[arg-type]
    return DEFENSES.build(name, **{key: value for key, value in QUICK.items() if key in fields} | settings)


@dataclass(frozen=True)
class Case:
    """A fitted defense.

    Args:
        name: its registered name.
        method: with its settings.
        path: the adapter.
        encoder: that it was fitted on.
        before: image and text features of the encoder before the fit.
        random: states of the global generators before the fit and after it.
    """

    name: str
    method: Defense
    path: Path
    encoder: Encoder
    before: tuple[torch.Tensor, torch.Tensor]
    random: tuple[list[Any], list[Any]]

    def load(self, **changes: Any) -> Classifier:
        return load_classifier(self.path, self.encoder, replace(judged(data()), **changes))


def features_of(encoder: Encoder) -> tuple[torch.Tensor, torch.Tensor]:
    with torch.no_grad():
        return encoder.encode_image(images(encoder, 6)), encoder.encode_text(["a scan", "blood"])


def random_states() -> list[Any]:
    return [torch.random.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()]  # type: ignore[index]


def case_id(case: tuple[str, dict[str, Any]]) -> str:
    return " ".join([case[0], *map(str, case[1].values())])


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    with threads(1):
        yield


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    return load_model(clip_directory(tmp_path_factory.mktemp("clip")))


@pytest.fixture(scope="module", params=CASES, ids=case_id)
def case(request: pytest.FixtureRequest, encoder: Encoder, tmp_path_factory: pytest.TempPathFactory) -> Case:
    name, settings = request.param
    method, path = method_of(name, **settings), tmp_path_factory.mktemp("fit") / "prompts"
    before, states = features_of(encoder), random_states()
    fit(method, encoder, data(), out=path, shots=2, seed=3)
    return Case(name, method, path, encoder, before, (states, random_states()))


@pytest.mark.parametrize("name", DEFENSES)
def test_a_method_is_its_settings_and_explains_each(name: str) -> None:
    method = DEFENSES.build(name)
    assert dataclasses.is_dataclass(type(method))
    assert DEFENSES.build(name, **settings_of(method)) == method
    lines = [line for kind in type(method).__mro__ for line in (kind.__doc__ or "").splitlines()]
    heads = [line.split(":")[0] for line in lines if ":" in line]
    explained = {word.strip() for head in heads for word in head.split(",")}
    assert set(settings_of(method)) <= explained


def test_what_was_learned_gives_the_same_logits_when_read_back(case: Case) -> None:
    learned = case.method.classifier(case.encoder, CLASSES, load_file(case.path / WEIGHTS), "prompts")
    shown = images(case.encoder, 6)
    assert torch.equal(case.load()(shown), learned(shown))
    assert case.load().classes == ("red", "green", "blue")
    assert case.load().fingerprint == learned.fingerprint


def test_a_fit_is_decided_by_its_seed_and_its_images(case: Case, tmp_path: Path) -> None:
    fit(case.method, case.encoder, data(), out=tmp_path / "prompts", shots=2, seed=3)
    first, again = (load_file(path / WEIGHTS) for path in (case.path, tmp_path / "prompts"))
    assert first.keys() == again.keys()
    assert all(torch.equal(first[name], again[name]) for name in first)
    facts, repeated = (json.loads((path / CONFIG).read_text())["titer"] for path in (case.path, tmp_path / "prompts"))
    for part in (facts, repeated):
        part.pop("seconds")
    assert facts == repeated


def test_global_generators_are_left_alone(case: Case) -> None:
    assert case.random[0] == case.random[1]


def test_the_encoder_is_left_as_it_was(case: Case) -> None:
    """Also by one that changes the image tower: it makes an encoder of its own."""
    case.load()(images(case.encoder, 6))
    for before, after in zip(case.before, features_of(case.encoder), strict=True):
        assert torch.equal(before, after)


def test_a_row_does_not_know_its_neighbours(case: Case) -> None:
    """Draws must be independent in f, or votes are not."""
    first, other = images(case.encoder, 8), 5 * images(case.encoder, 8, seed=1)
    mixed = torch.cat([first[:1], other[1:]])
    classifier = case.load()
    with torch.no_grad():
        together, apart = classifier(first), classifier(mixed)
        assert together.shape == (8, 3)
        assert torch.isfinite(together).all()
        assert torch.allclose(together[0], apart[0], atol=1e-4)
        assert torch.allclose(classifier(first[:1])[0], together[0], atol=1e-4)
        if isinstance(classifier, Bank):
            features = [classifier.encoder.encode_image(rows) for rows in (first, mixed)]
            for head in (classifier.selector, *classifier.members):
                assert torch.allclose(head(features[0])[0], head(features[1])[0], atol=1e-4)


def test_classes_are_matched_by_name(case: Case) -> None:
    order = [2, 0, 1]
    shown = images(case.encoder, 6)
    turned = case.load(classes=tuple(CLASSES[place] for place in order))
    assert turned.classes == ("blue", "red", "green")
    assert torch.equal(turned(shown), case.load()(shown)[:, order])


def test_another_encoder_is_refused(case: Case) -> None:
    with pytest.raises(InputError, match="was fitted on another encoder"):
        load_classifier(case.path, brightness_encoder(), judged(data()))


def test_other_classes_are_refused_or_moved_to_when_asked(case: Case) -> None:
    others = judged(data(classes=[ClassText("cat", ("a scan",)), ClassText("dog", ("cells",))], name="pets"))
    others = replace(others, digest=lambda example: example.path)
    with pytest.raises(InputError, match="is bound to the classes" if case.method.class_bound else "--new-classes"):
        load_classifier(case.path, case.encoder, others)
    if not case.method.class_bound:
        moved = load_classifier(case.path, case.encoder, others, new_classes=True)
        assert moved.classes == ("cat", "dog")
        assert moved(images(case.encoder, 2)).shape == (2, 2)
        assert any("moved to other classes" in words for words in moved.warnings)


def test_damaged_tensors_are_refused_before_a_run_starts(case: Case, tmp_path: Path) -> None:
    """One at a time: missing, of another shape, not finite."""
    weights = load_file(case.path / WEIGHTS)
    (tmp_path / CONFIG).write_bytes((case.path / CONFIG).read_bytes())
    for name, tensor in weights.items():
        others = {key: value for key, value in weights.items() if key != name}
        damages = [others, {**others, name: torch.zeros(*(side + 1 for side in tensor.shape), dtype=tensor.dtype)}]
        if tensor.is_floating_point():
            damages.append({**others, name: torch.full_like(tensor, torch.nan)})
        for damaged in damages:
            save_file(damaged, tmp_path / WEIGHTS)
            with pytest.raises(InputError) as caught:
                load_classifier(tmp_path, case.encoder, judged(data()))
            assert "\n" not in str(caught.value)
            assert str(tmp_path) in str(caught.value)


def guarantees_of(classifier: Classifier) -> tuple[str, ...]:
    """What its certificates may say; of one that adapts the first is conditional, and none goes without saying."""
    if classifier.adaptation is None:
        return ("bank",) if isinstance(classifier, Bank) else ("fixed",)
    return tuple(getattr(classifier.adaptation, "guarantees", ("conditional", "per-draw", "product")))


def test_records_say_what_is_proven(case: Case, tmp_path: Path) -> None:
    classifier = case.load()
    options: dict[str, Any] = {
        "sigma": SIGMA, "prompts": [str(case.path)], "n": 50, "n0": 50, "alpha": 0.05, "seed": 1, "workers": 1,
        "images": False,
    }  # fmt: skip
    offered = guarantees_of(classifier)
    for guarantee in offered:
        asked = guarantee if classifier.adapts_to_input else None
        run = titer.certify(case.encoder, judged(data()), out=tmp_path / guarantee, guarantee=asked, **options)
        assert [record["guarantee"] for record in run.records] == [guarantee] * 3
        assert {record["prompts"] for record in run.records} == {"prompts"}
        assert all(sum(record["counts"]) == record["draws"] for record in run.records)
    refused = {"fixed", "conditional", "per-draw", "product", "bank"} - set(offered)
    for claim in [*sorted(refused), *([None] if classifier.adapts_to_input else [])]:
        with pytest.raises(GuaranteeError):
            titer.certify(case.encoder, judged(data()), out=tmp_path / "no", guarantee=claim, **options)
    assert not (tmp_path / "no").exists()


def test_an_adapted_head_belongs_to_its_image_alone(case: Case) -> None:
    """What an image before it has left behind must not be seen."""
    classifier = case.load()
    if classifier.adaptation is None:
        return
    shown = images(case.encoder, 2)
    features = classifier.encoder.encode_image(images(case.encoder, 5, seed=2)).detach()

    def adapted(place: int) -> torch.Tensor:
        assert classifier.adaptation is not None
        head = classifier.adaptation.to_image(classifier.encoder, shown[place], f"image {place}", SIGMA, 4)
        return head(features).detach()

    alone = adapted(1)
    assert not torch.equal(adapted(0), alone)
    assert torch.equal(adapted(1), alone)


def test_the_answer_to_a_single_draw_is_a_function_of_that_draw(case: Case) -> None:
    classifier = case.load()
    if "per-draw" not in guarantees_of(classifier) or classifier.adaptation is None:
        return
    features = classifier.encoder.encode_image(images(case.encoder, 8)).detach()
    other = classifier.encoder.encode_image(images(case.encoder, 8, seed=1)).detach()
    mixed = torch.cat([features[:1], other[1:]])
    together, apart = (classifier.adaptation.to_copies(rows[:, None], rows) for rows in (features, mixed))
    assert torch.allclose(together[0], apart[0], atol=1e-4)
