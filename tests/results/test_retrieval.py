"""Ranks, recalls and success against values found by hand and by brute force."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from titer.errors import InputError
from titer.results.retrieval import packed, queries, ranks, recalls, swap_counts, unpacked
from titer.results.store import Record, Run

AXES = np.eye(4)


def record(place: int, attacked: int, captions: list[tuple[str, int, int]]) -> Record:
    """An image on one axis, attacked to another, with captions (words, axis, attacked axis)."""
    return {
        "sample_id": f"image {place}",
        "eps": 0.1,
        "features": packed(AXES[place]),
        "attacked_features": packed(AXES[attacked]),
        "captions": [
            {"id": f"{place}/{at}", "text": words, "changes": [], "features": packed(AXES[axis]),
             "attacked_features": packed(AXES[after])}
            for at, (words, axis, after) in enumerate(captions)
        ],
    }  # fmt: skip


def run_of(*records: Record) -> Run:
    return Run(Path("run"), {"verb": "retrieval", "settings": {"attack": "sga"}}, records, ())


def test_recalls_and_success_by_hand() -> None:
    run = run_of(
        record(0, 1, [("zero", 0, 0)]),  # found before, lost after
        record(1, 1, [("one", 1, 1), ("uno", 2, 1)]),  # found before and after
        record(2, 2, [("two", 3, 2)]),  # not found before, found after
    )
    image, text = recalls(run, depths=(1,))
    assert (image.direction, image.queries, image.items) == ("image to text", 3, 4)
    assert image.clean.estimate == pytest.approx(2 / 3)
    assert image.attacked.estimate == pytest.approx(2 / 3)
    assert image.of_right.estimate == pytest.approx(1 / 2)
    assert image.of_all.estimate == pytest.approx(1 / 3)
    assert image.drop.estimate == pytest.approx(0)
    assert (text.direction, text.queries, text.items) == ("text to image", 4, 3)


def test_a_caption_of_the_same_words_is_an_answer() -> None:
    run = run_of(record(0, 0, [("same", 1, 1)]), record(1, 1, [("same", 1, 1)]))
    image, text = queries(run)
    assert image.clean.tolist() == [1, 1]
    assert text.clean.tolist() == [1, 1]


def test_a_wrong_item_that_scores_the_same_stands_first() -> None:
    assert ranks(np.array([[0.5, 0.5]]), np.array([[True, False]])).tolist() == [2]


@given(st.integers(1, 5), st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_ranks_are_those_of_brute_force(rows: int, items: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    scores = random.integers(0, 4, (rows, items)).astype(float)
    right = random.random((rows, items)) < 0.4
    right[np.arange(rows), random.integers(items, size=rows)] = True
    for row, rank in enumerate(ranks(scores, right)):
        order = sorted(range(items), key=lambda item: (-scores[row, item], bool(right[row, item])))
        assert rank == 1 + next(at for at, item in enumerate(order) if right[row, item])


def test_features_are_kept_to_the_bit() -> None:
    features = np.random.default_rng(0).normal(size=7).astype(np.float32)
    assert (unpacked(packed(features)) == features).all()


def test_swaps_are_counted_by_meaning() -> None:
    one = record(0, 0, [("a", 0, 0), ("b", 0, 0)])
    one["captions"][0]["changes"] = [{"meaning": "changing"}]
    one["captions"][1]["cut"] = {"tokens": 90, "taken": 77}
    (counts,) = swap_counts(run_of(one))
    assert (counts.captions, counts.swapped, counts.changing, counts.preserving, counts.cut) == (2, 1, 1, 0, 1)


def test_another_run_is_refused() -> None:
    with pytest.raises(InputError, match="expected a run of retrieval"):
        recalls(Run(Path("run"), {"verb": "certify"}, (), ()))
