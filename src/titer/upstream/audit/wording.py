"""Is the caption odd? One surprising word, or nearly the same words below pictures that look different."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from sklearn.feature_extraction.text import CountVectorizer

from titer.upstream.audit.pairs import Floats

_BEGINNING = ""
_ROWS = 128  # compared with all at a time
_APART = 1e-6  # a picture's cosine with itself is not exactly 1


@lru_cache(maxsize=2**18)
def words(caption: str) -> tuple[str, ...]:
    """Words and numbers in lower case."""
    return tuple(re.findall(r"[^\W_]+", caption.lower()))


def surprisal(captions: Sequence[str], smoothing: float = 1.0) -> Floats:
    """(captions,) highest surprisal of a word, in bits, by a bigram model of the other captions.

    Each caption is left out of the counts that judge it, once: an equal caption of another pair stays in. With the
    previous word v, P(w | v) = (c(v w) + s P(w)) / (c(v) + s), and P(w) = (c(w) + 1) / (all words + vocabulary + 1)
    (Dirichlet smoothing, MacKay and Peto, 1995). A caption without words has surprisal 0.

    Args:
        captions: one a pair.
        smoothing: s, above 0.
    """
    followed = {caption: Counter(pairwise([_BEGINNING, *words(caption)])) for caption in captions}
    double = Counter[tuple[str, str]]()
    for caption, times in Counter(captions).items():
        for found, often in followed[caption].items():
            double[found] += times * often
    before, single = _ends(double, 0), _ends(double, 1)
    vocabulary, total = len(single) + 1, single.total()

    def highest(own: Counter[tuple[str, str]]) -> float:
        own_before, own_single, rest = _ends(own, 0), _ends(own, 1), total - own.total() + vocabulary

        def share(first: str, word: str) -> float:
            alone = (single[word] - own_single[word] + 1) / rest
            together = double[first, word] - own[first, word]
            return (together + smoothing * alone) / (before[first] - own_before[first] + smoothing)

        return max((-math.log2(share(*found)) for found in own), default=0.0)

    surprising = {caption: highest(own) for caption, own in followed.items()}
    return np.array([surprising[caption] for caption in captions])


def _ends(double: Counter[tuple[str, str]], place: int) -> Counter[str]:
    """How often each word stands first (0) or second (1)."""
    found = Counter[str]()
    for both, often in double.items():
        found[both[place]] += often
    return found


def crowds(captions: Sequence[str], images: Floats, alike: float, far: float) -> Floats:
    """(pairs,) near-duplicates: how many other pairs have nearly this caption below a picture that looks different.

    Args:
        captions: one a pair.
        images: (pairs, dim) unit features.
        alike: least share of words that two captions have in common (Jaccard) to be nearly the same.
        far: cosine below which two pictures look different.
    """
    parts = np.split(np.arange(len(captions)), range(_ROWS, len(captions), _ROWS))
    counted = [
        np.count_nonzero(links([captions[row] for row in part], images[part], captions, images, alike, far), axis=1)
        for part in parts
    ]
    return np.concatenate(counted).astype(float)


def links(
    captions: Sequence[str], images: Floats, others: Sequence[str], pictures: Floats, alike: float, far: float
) -> NDArray[np.bool_]:
    """(captions, others) which two have nearly the same caption below pictures that look different."""
    if not any(map(words, captions)):
        return np.zeros((len(captions), len(others)), np.bool_)
    table = CountVectorizer(analyzer=words, binary=True, dtype=np.float64)
    first, second = table.fit_transform(captions), table.transform(others)
    common = (first @ second.T).toarray()
    either = first.sum(axis=1).A1[:, None] + np.array([len(set(words(text))) for text in others]) - common
    near = (common > 0) & (common >= alike * either)
    return np.asarray(near & (images @ pictures.T < far - _APART), np.bool_)


def far_apart(images: Floats, most: int = 1000) -> float:
    """The median cosine of two pictures, of at most so many pictures evenly spread over the set."""
    some = images[:: max(1, math.ceil(len(images) / most))]
    return float(np.median((some @ some.T)[np.triu_indices(len(some), 1)]))
