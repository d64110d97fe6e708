"""Every noise that `craft` takes: within its threat, a row alone decides its row, and controls ask no model."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from attacks.test_pairs import BATCH, TEXTS, encoder, images, words
from titer.attacks import Random, Threat
from titer.attacks.pairs import Attacked
from titer.errors import InputError
from titer.upstream.noises import NOISES, build_noise, check_norm, noise_names, noise_settings

__all__ = ["words"]
OTHERS = ("benign lump", "a large mass", "benign")
THREAT = Threat("linf", 0.05)
SWAPS = ("co-attack", "random-word", "sep", "sga")


def settings(name: str, words: dict[str, Any]) -> dict[str, Any]:
    return {"swap": words} if name in SWAPS else {}


def noised(
    name: str, words: dict[str, Any], rows: slice = slice(None), threat: Threat = THREAT, **more: Any
) -> Attacked:
    random = Random(0, "test", [f"image {row}" for row in range(BATCH)][rows])
    noise = build_noise(name, **settings(name, words), **more)
    return noise(encoder(), images()[rows], TEXTS[rows], OTHERS[rows], threat, random)


def cosine_with(found: Tensor, texts: tuple[str, ...]) -> Tensor:
    return (encoder().encode_image(found) * encoder().encode_text(texts)).sum(dim=1)


@pytest.mark.parametrize("name", noise_names())
def test_within_the_threat_and_a_row_alone_decides_its_row(name: str, words: dict[str, Any]) -> None:
    together, alone = noised(name, words), noised(name, words, slice(1, 2))
    assert bool(THREAT.allows(together.images, images()).all())
    assert torch.allclose(together.images[1:2], alone.images, atol=1e-6)
    assert together.texts[1:2] == alone.texts
    assert [len(captions) for captions in together.texts] == [2, 1, 2]


def test_targeted_moves_towards_the_other_caption_and_keeps_its_own(words: dict[str, Any]) -> None:
    found = noised("targeted", words)
    assert bool((cosine_with(found.images, OTHERS) > cosine_with(images(), OTHERS) + 1e-3).all())
    assert [[text.text for text in own] for own in found.texts] == [list(own) for own in TEXTS]


def test_random_noise_has_full_length() -> None:
    middle = torch.full((BATCH, 3, 6, 6), 0.5)
    for threat in (THREAT, Threat("l2", 0.3)):
        random = Random(0, "test", ["a", "b", "c"])
        found = build_noise("random-noise")(encoder(), middle, TEXTS, OTHERS, threat, random)
        assert torch.allclose(threat.distance(found.images, middle), torch.tensor(threat.epsilon), rtol=1e-4)
    assert set(torch.unique((noise_of_linf(middle) / 0.05).round()).tolist()) == {-1.0, 1.0}


def noise_of_linf(middle: Tensor) -> Tensor:
    random = Random(0, "test", ["a", "b", "c"])
    return build_noise("random-noise")(encoder(), middle, TEXTS, OTHERS, THREAT, random).images - middle


def test_random_word_changes_one_word_that_has_candidates_and_leaves_the_picture(words: dict[str, Any]) -> None:
    found = noised("random-word", words)
    assert torch.equal(found.images, images())
    changed = [text for own in found.texts for text in own]
    assert all(len(text.changes) == 1 for text in changed)
    assert all(text.changes[0].replacement in text.text for text in changed)


def test_wrong_caption_is_the_other_one(words: dict[str, Any]) -> None:
    found = noised("wrong-caption", words)
    assert [{text.text for text in own} for own in found.texts] == [{other} for other in OTHERS]
    assert all(text.changes[0].meaning == "changing" for own in found.texts for text in own)


def test_words_that_change_the_meaning_are_allowed_unless_said_otherwise() -> None:
    assert noise_settings(build_noise("sga"))["swap"]["meaning"] == "any"
    assert noise_settings(build_noise("random-word", swap={"meaning": "preserving"}))["swap"]["meaning"] == "preserving"
    assert len(noise_settings(build_noise("random-word"))["swap"]["source"]["fingerprint"]) == 64


def test_mistakes() -> None:
    with pytest.raises(InputError, match="did you mean 'targeted'"):
        build_noise("targetted")
    with pytest.raises(InputError, match="expected a norm of linf, l2, got 'l1'"):
        check_norm("random-noise", build_noise("random-noise"), "l1")
    with pytest.raises(InputError, match="steps"):
        build_noise("targeted", steps=0)
    assert set(NOISES) <= set(noise_names())
