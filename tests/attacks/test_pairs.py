"""Attacks on image and caption together, on a linear image tower and hand-set words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import titer
from attacks.test_words import TABLE, encode_words
from titer.attacks import Norm, Random, Threat
from titer.attacks.pairs import PAIR_ATTACKS, Attacked, PairAttack, build_pair_attack, recorded_settings
from titer.errors import InputError
from titer.models import Encoder

SIDE, BATCH = 6, 3
TEXTS = (("a large mass", "a mass"), ("benign lump",), ("a big node", "large"))


def encoder() -> Encoder:
    weights = torch.randn(3, 3 * SIDE * SIDE, generator=torch.Generator().manual_seed(0))
    half = (0.5, 0.5, 0.5)
    return titer.wrap(
        lambda images: images.flatten(1) @ weights.T, encode_words, SIDE, half, half, fingerprint="linear"
    )


def images() -> Tensor:
    shown = torch.rand(BATCH, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    shown[0, :, :2], shown[1, :, :2] = 0.0, 1.0
    return shown


@pytest.fixture
def words(tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "words.toml").write_text(TABLE)
    return {"source": {"name": "synonyms", "path": str(tmp_path / "words.toml")}}


def attacked(attack: PairAttack, threat: Threat, rows: slice = slice(None), seed: int = 0) -> Attacked:
    random = Random(seed, "test", [f"image {row}" for row in range(BATCH)][rows])
    return attack(encoder(), images()[rows], TEXTS[rows], threat, random)


def cosines(found: Attacked) -> Tensor:
    shown = encoder().encode_image(found.images)
    texts = [encoder().encode_text([text.text for text in captions]) for captions in found.texts]
    return torch.stack([(own @ shown[row]).mean() for row, own in enumerate(texts)])


def clean_cosines() -> Tensor:
    shown = encoder().encode_image(images())
    return torch.stack([(encoder().encode_text(own) @ shown[row]).mean() for row, own in enumerate(TEXTS)])


@pytest.mark.parametrize("name", PAIR_ATTACKS)
@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_the_image_stays_within_the_threat(name: str, norm: Norm, words: dict[str, Any]) -> None:
    for epsilon in (0.01, 20.0):
        found = attacked(build_pair_attack(name, swap=words), Threat(norm, epsilon))
        assert bool(Threat(norm, epsilon).allows(found.images, images()).all())
        assert [len(captions) for captions in found.texts] == [2, 1, 2]


@pytest.mark.parametrize("name", PAIR_ATTACKS)
def test_a_row_knows_neither_its_neighbours_nor_its_place(name: str, words: dict[str, Any]) -> None:
    attack, threat = build_pair_attack(name, swap=words), Threat("linf", 0.05)
    together, alone = attacked(attack, threat), attacked(attack, threat, slice(1, 2))
    assert torch.allclose(together.images[1:2], alone.images, atol=1e-6)
    assert together.texts[1:2] == alone.texts
    again = attacked(attack, threat)
    assert torch.equal(together.images, again.images)
    assert not torch.equal(together.images, attacked(attack, threat, seed=1).images)


def test_sga_lowers_the_cosine_of_every_pair_and_more_than_either_half(words: dict[str, Any]) -> None:
    threat = Threat("linf", 0.05)
    found = {
        halves: cosines(attacked(build_pair_attack("sga", swap=words, halves=halves), threat))
        for halves in ("both", "image", "text")
    }
    assert bool((found["both"] < clean_cosines()).all())
    assert float(found["both"].mean()) < min(float(found["image"].mean()), float(found["text"].mean()))


@pytest.mark.parametrize("name", ["sep", "co-attack"])
def test_the_others_move_features_away_from_the_clean_ones(name: str, words: dict[str, Any]) -> None:
    found = attacked(build_pair_attack(name, swap=words), Threat("linf", 0.05))
    moved, clean = encoder().encode_image(found.images), encoder().encode_image(images())
    assert bool(((moved * clean).sum(dim=1) < 1 - 1e-3).all())


@pytest.mark.parametrize("name", PAIR_ATTACKS)
def test_one_half_leaves_the_other_alone(name: str, words: dict[str, Any]) -> None:
    threat = Threat("linf", 0.05)
    text = attacked(build_pair_attack(name, swap=words, halves="text"), threat)
    assert torch.equal(text.images, images())
    image = attacked(build_pair_attack(name, swap=words, halves="image"), threat)
    assert not any(caption.changes for captions in image.texts for caption in captions)


@pytest.mark.parametrize("name", PAIR_ATTACKS)
def test_settings_are_recorded_with_what_identifies_the_words(name: str, words: dict[str, Any]) -> None:
    recorded = recorded_settings(build_pair_attack(name, steps=3, swap={**words, "meaning": "any"}))
    assert recorded["steps"] == 3
    assert recorded["swap"]["meaning"] == "any"
    assert recorded["swap"]["source"]["name"] == "synonyms"
    assert len(recorded["swap"]["source"]["fingerprint"]) == 64


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("sgaa", {}, "did you mean 'sga'"),
        ("sga", {"stepps": 3}, "did you mean 'steps'"),
        ("sga", {"steps": 0}, "steps: expected at least 1"),
        ("sga", {"scales": (0.0,)}, "scales"),
        ("sep", {"start": "clean"}, "unknown start"),
        ("co-attack", {"own": -1.0}, "own, cross"),
        ("sga", {"swap": "any"}, "swap.meaning"),
    ],
)
def test_wrong_settings_are_one_line(name: str, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        build_pair_attack(name, **settings)
