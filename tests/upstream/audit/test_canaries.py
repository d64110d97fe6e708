"""Plantings: never too many together, groups kept, every pair before any is used again; and what is done to a pair."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from itertools import islice

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import titer
from titer.attacks import Random, Threat
from titer.data.example import Example
from titer.models import Encoder
from titer.upstream.audit.canaries import FAMILIES, Canary, fewest_together, plantings, wrong_caption

SIDE = 6


def example(name: str, label: int | None, caption: str) -> Example:
    return Example(name, f"{name}.png", label, caption, None, "train", {})


@pytest.mark.parametrize(("pairs", "canaries", "together"), [(50, 100, 2), (10_000, 100, 2), (205, 1000, 2),
                                                            (10_000, 1000, 25), (1000, 1000, 5)])  # fmt: skip
def test_how_many_together(pairs: int, canaries: int, together: int) -> None:
    assert fewest_together(pairs, canaries) == together


@given(st.lists(st.sampled_from([None, "a", "b", "c"]), min_size=3, max_size=30), st.integers(1, 4), st.integers(0, 99))
def test_plantings_of_any_groups(groups: list[str | None], together: int, seed: int) -> None:
    endless = plantings(groups, together, seed, "text")
    first: list[tuple[Canary, ...]] = []
    while not first or first[-1][0].again == 0:
        first.append(next(endless))
    repeated = first.pop()
    rows = [canary.row for planting in first for canary in planting]
    assert len(set(rows)) == len(rows)
    assert len(repeated) == len(first[0])
    assert [canary.row for canary in repeated] == [canary.row for canary in first[0]]
    assert (repeated[0].planting, repeated[0].again) == (0, 1)
    assert all(together <= len(planting) < 2 * together for planting in first[:-1])
    where = {canary.row: canary.planting for planting in first for canary in planting}
    for group in {group for group in groups if group is not None}:
        assert len({where[row] for row, own in enumerate(groups) if own == group and row in where}) == 1
        chosen = sum(own == group and row in where for row, own in enumerate(groups))
        assert chosen == min(together, groups.count(group))
    assert sum(group is None for group in groups) == sum(groups[row] is None for row in rows)


def test_plantings_differ_by_seed_and_family_only() -> None:
    groups = [None] * 40

    def some(seed: int, family: str) -> list[list[int]]:
        return [[canary.row for canary in planting] for planting in islice(plantings(groups, 2, seed, family), 5)]

    assert some(0, "text") == some(0, "text")
    assert some(0, "text") != some(1, "text")
    assert some(0, "text") != some(0, "untouched")


def test_a_wrong_caption_is_of_another_class_where_there_is_one() -> None:
    rows = [example("0", 0, "one"), example("1", 0, "two"), example("2", 1, "three"), example("3", None, "four")]
    found = {wrong_caption(rows, Canary("wrong-caption", 0, again, 0), 0) for again in range(9)}
    assert found == {"three"}
    assert {wrong_caption(rows, Canary("wrong-caption", 0, again, 3), 0) for again in range(30)} == {
        "one",
        "two",
        "three",
    }
    same = [example(str(row), 0, "One" if row % 2 else "two") for row in range(4)]
    assert {wrong_caption(same, Canary("wrong-caption", 0, again, 0), 0) for again in range(9)} == {"One"}


def encode_words(texts: Sequence[str]) -> Tensor:
    """Each word adds a vector of its own."""

    def vector(word: str) -> Tensor:
        return torch.randn(3, generator=torch.Generator().manual_seed(zlib.crc32(word.encode())))

    return torch.stack([torch.stack([vector(word) for word in text.lower().split()]).sum(dim=0) for text in texts])


def encoder() -> Encoder:
    weights = torch.randn(3, 3 * SIDE * SIDE, generator=torch.Generator().manual_seed(0))
    half = (0.5, 0.5, 0.5)
    return titer.wrap(
        lambda images: images.flatten(1) @ weights.T, encode_words, SIDE, half, half, fingerprint="linear"
    )


def after(name: str) -> tuple[Tensor, Tensor, list[str], list[str]]:
    """Images and captions before and after a family's noise."""
    images = torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    captions = ["a small mass with edema", "a benign nodule in the left lung"]
    noise, threat = FAMILIES[name].noise(3), Threat("linf", FAMILIES[name].epsilon or 1 / 255)
    assert noise is not None
    random = Random(0, name, ["one", "two"])
    found = noise(encoder(), images, [[caption] for caption in captions], ["a cyst", "edema"], threat, random)
    return images, found.images, captions, [swapped[0].text for swapped in found.texts]


@pytest.mark.parametrize("name", FAMILIES)
def test_families_do_what_they_say(name: str) -> None:
    if name == "untouched":
        assert FAMILIES[name].noise(3) is None
        return
    images, moved, captions, texts = after(name)
    distance = float((moved - images).abs().max())
    assert distance <= (FAMILIES[name].epsilon or 0) + 1e-6
    assert (distance > 0) == (FAMILIES[name].epsilon is not None)
    assert (texts == captions) == (name == "image-8/255")
    if name != "wrong-caption":
        model = encoder()
        before = (model.encode_image(images) * model.encode_text(captions)).sum(dim=1)
        assert ((model.encode_image(moved) * model.encode_text(texts)).sum(dim=1) < before).all()
