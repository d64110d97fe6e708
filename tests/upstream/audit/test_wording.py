"""The bigram model against counts by hand, and near-duplicates against sets."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from titer.upstream.audit import wording
from titer.upstream.audit.wording import crowds, far_apart, links, surprisal, words


def left_out(captions: list[str], row: int, smoothing: float) -> float:
    """The same by counting the other captions word by word."""
    others = [words(text) for place, text in enumerate(captions) if place != row]
    everything = {word for text in captions for word in words(text)}
    flat = [word for text in others for word in text]
    follows = [pair for text in others for pair in zip(["", *text], text, strict=False)]
    best = 0.0
    for first, word in zip(["", *words(captions[row])], words(captions[row]), strict=False):
        single = (flat.count(word) + 1) / (len(flat) + len(everything) + 1)
        before = sum(pair[0] == first for pair in follows)
        best = max(best, -math.log2((follows.count((first, word)) + smoothing * single) / (before + smoothing)))
    return best


CAPTIONS = ["a small mass", "a small mass", "a large mass", "the mass is large", "a small moss", "!"]


@pytest.mark.parametrize("smoothing", [0.5, 1.0, 3.0])
def test_surprisal_by_counting(smoothing: float) -> None:
    found = surprisal(CAPTIONS, smoothing)
    assert found == pytest.approx([left_out(CAPTIONS, row, smoothing) for row in range(len(CAPTIONS))])
    assert found[-1] == 0


@given(st.lists(st.lists(st.sampled_from("abc"), max_size=4).map(" ".join), min_size=1, max_size=6))
def test_surprisal_of_any_captions(captions: list[str]) -> None:
    assert surprisal(captions) == pytest.approx([left_out(captions, row, 1.0) for row in range(len(captions))])


def test_a_swapped_word_is_the_most_surprising() -> None:
    captions = [f"a {size} mass in the {side} lung" for size in ("small", "large") for side in ("left", "right")] * 5
    captions[7] = captions[7].replace("mass", "violin")
    assert surprisal(captions).argmax() == 7


def test_near_duplicates_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wording, "_ROWS", 2)
    captions = ["a b c d", "A b, c d!", "a b c d e", "x y", "a b c d", "?", "?"]
    pictures = np.array([[1.0, 0], [0, 1], [0, 1], [0, 1], [1, 0], [1, 0], [0, 1]])
    # 0 and 4 look the same; "a b c d e" has 4 of 5 words in common with "a b c d"; marks are no words
    assert crowds(captions, pictures, 0.8, 0.5).tolist() == [2, 2, 2, 0, 2, 0, 0]
    assert crowds(captions, pictures, 0.81, 0.5).tolist() == [1, 2, 0, 0, 1, 0, 0]


def test_links_are_the_rows_of_all_links() -> None:
    random = np.random.default_rng(0)
    captions = [" ".join(random.choice(list("abcde"), 3)) for _ in range(12)]
    pictures = random.standard_normal((12, 3))
    whole = links(captions, pictures, captions, pictures, 0.5, 0.1)
    sets = [set(words(text)) for text in captions]
    jaccard = np.array([[len(one & other) / len(one | other) for other in sets] for one in sets])
    assert (whole == ((jaccard >= 0.5) & (pictures @ pictures.T < 0.1))).all()
    assert (links(captions[3:5], pictures[3:5], captions, pictures, 0.5, 0.1) == whole[3:5]).all()
    assert 0 < whole.sum() < whole.size


def test_pictures_that_are_all_the_same_do_not_look_different() -> None:
    same = np.ones((5, 4)) / 2
    assert far_apart(same) == pytest.approx(1)
    assert crowds(["a"] * 5, same, 0.8, far_apart(same)).tolist() == [0] * 5
