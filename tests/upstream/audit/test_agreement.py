"""Cosines, ranks and disagreement by hand."""

from __future__ import annotations

import numpy as np
import pytest

from titer.upstream.audit.agreement import disagreement, own_rank, pair
from titer.upstream.audit.pairs import Features, Floats
from upstream.audit.making import pairs, unit

NOTHING = np.zeros((4, 1))


def by_hand(images: list[list[float]], texts: list[list[float]]) -> Features:
    return Features(unit(np.array(images)), unit(np.array(texts)), NOTHING[: len(images)])


def test_the_pair_that_fits_least_is_first() -> None:
    made = by_hand([[1, 0], [1, 0], [0, 1]], [[1, 0], [1, 1], [1, 0]])
    assert pair(made) == pytest.approx([-1, -(0.5**0.5), 0])


def test_own_rank_by_hand() -> None:
    made = by_hand([[1, 0], [0, 1], [1, 0], [1, 1]], [[1, 0], [1, 0], [0, 1], [1, 0]])
    # caption 0 and 1 are the same words; others of an image are counted once each
    words = ["one", " ONE ", "two", "three"]
    # image 0: own 1, two 0, three 1 (a tie stands before) -> 1 of 2; all captions fit image 3 alike
    assert own_rank(made, words, 1000, 0).tolist() == [0.5, 1.0, 1.0, 1.0]


def test_own_rank_is_chance_where_captions_say_nothing_and_best_where_they_fit() -> None:
    random = np.random.default_rng(0)
    words = [f"caption {row}" for row in range(400)]
    images, texts = (unit(random.standard_normal((400, 8))) for _ in range(2))
    nothing: Floats = np.zeros((400, 1))
    assert np.median(own_rank(Features(images, texts, nothing), words, 100, 0)) == pytest.approx(0.5, abs=0.06)
    assert own_rank(Features(images, images, nothing), words, 100, 0).max() == 0


def test_what_is_drawn_does_not_depend_on_the_order() -> None:
    made = pairs(60)
    (features,) = made.features
    back = np.arange(60)[::-1]
    words = [f"{caption} {row % 40}" for row, caption in enumerate(made.captions)]
    turned = Features(features.images[back], features.texts[back], features.shifts[back])
    same = Features(features.images, features.texts[[words.index(word) for word in words]], features.shifts)
    other = Features(turned.images, same.texts[back], turned.shifts)
    assert own_rank(other, [words[row] for row in back], 7, 3) == pytest.approx(own_rank(same, words, 7, 3)[back])


def test_disagreement_is_of_standardised_cosines() -> None:
    first = by_hand([[1, 0]] * 3, [[1, 0], [1, 0], [0, 1]])  # cosines 1, 1, 0
    second = by_hand([[1, 0]] * 3, [[1, 0], [0, 1], [0, 1]])  # cosines 1, 0, 0
    spread = (2 / 9) ** 0.5
    standard = np.array([[1 / 3, 1 / 3, -2 / 3], [2 / 3, -1 / 3, -1 / 3]]) / spread
    assert disagreement(first, second) == pytest.approx(abs(standard[0] - standard[1]))
    assert disagreement(first, first).tolist() == [0, 0, 0]
    flat = by_hand([[1, 0]] * 3, [[1, 0]] * 3)
    assert np.isfinite(disagreement(first, flat)).all()
