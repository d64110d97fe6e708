"""Do image and caption belong together? Cosines of the two under one encoder, and where two encoders disagree."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from titer.upstream.audit.pairs import Features, Floats, Places, same_words

_TINY = 1e-12


def pair(features: Features) -> Floats:
    """(pairs,) minus the cosine of image and own caption (CLIP score: Hessel et al., EMNLP 2021, arXiv 2104.08718)."""
    return -features.cosines


def own_rank(features: Features, captions: Sequence[str], count: int, seed: int) -> Floats:
    """(pairs,) share of other captions that fit the image at least as well as its own: 0 is best, about 1/2 is chance.

    Args:
        features: of the pairs.
        captions: of the pairs; equal ones count as the same and once. Two different ones at least.
        count: most captions to compare with, drawn from all that differ.
        seed: of the draw; a caption's lot does not depend on the others.
    """
    words = same_words(captions)
    chosen = _drawn(captions, words, count, seed)
    scores = features.images @ features.texts[chosen].T
    other = words[:, None] != words[chosen]
    before = np.count_nonzero(other & (scores >= features.cosines[:, None]), axis=1)
    return np.asarray(before / np.count_nonzero(other, axis=1), float)


def _drawn(captions: Sequence[str], words: Places, count: int, seed: int) -> Places:
    """Rows of different captions, those first by SHA-256 of (seed, caption)."""
    first = np.unique(words, return_index=True)[1]

    def lot(row: int) -> str:
        return hashlib.sha256(f"{seed}\x00{captions[row]}".encode()).hexdigest()

    return np.array(sorted(first.tolist(), key=lot)[:count], np.int64)


def disagreement(first: Features, second: Features) -> Floats:
    """(pairs,) distance of the two encoders' cosines, each standardised over the pairs.

    What was noised against one encoder looks wrong to it, and less so to one of another family.
    """
    return np.asarray(np.abs(_standard(first.cosines) - _standard(second.cosines)), float)


def _standard(values: Floats) -> Floats:
    return np.asarray((values - values.mean()) / max(float(values.std()), _TINY), float)
