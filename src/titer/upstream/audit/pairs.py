"""The pairs that are ranked, as arrays: what their captions say and where encoders put them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Places = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Features:
    """What one encoder makes of the pairs.

    Args:
        images: (pairs, dim) unit features.
        texts: (pairs, dim) unit features.
        shifts: (pairs, transforms) how far each weak transform moves the image's feature.
    """

    images: Floats
    texts: Floats
    shifts: Floats

    @property
    def cosines(self) -> Floats:
        """(pairs,) of each image and its own caption."""
        return np.asarray(np.sum(self.images * self.texts, axis=1), float)

    @property
    def joint(self) -> Floats:
        """(pairs, 2 dim) image and caption side by side."""
        return np.hstack([self.images, self.texts])


@dataclass(frozen=True, eq=False)
class Pairs:
    """Images with a caption each.

    Args:
        captions: one a pair.
        features: of one or two encoders.
        residuals: (pairs,) share of each image's energy that a small blur takes away.
        surprisals: (pairs,) highest surprisal of a token by a masked language model, where there is one.
    """

    captions: tuple[str, ...]
    features: tuple[Features, ...]
    residuals: Floats
    surprisals: Floats | None = None

    def __len__(self) -> int:
        return len(self.captions)

    def replaced(self, rows: Places, others: Pairs) -> Pairs:
        """These pairs with others in the place of some rows.

        Args:
            rows: which are replaced.
            others: as many pairs.
        """
        captions = list(self.captions)
        for row, caption in zip(rows.tolist(), others.captions, strict=True):
            captions[row] = caption
        features = tuple(
            Features(*(_set(getattr(own, name), rows, getattr(new, name)) for name in ("images", "texts", "shifts")))
            for own, new in zip(self.features, others.features, strict=True)
        )
        residuals = _set(self.residuals, rows, others.residuals)
        if self.surprisals is None or others.surprisals is None:
            return Pairs(tuple(captions), features, residuals)
        return Pairs(tuple(captions), features, residuals, _set(self.surprisals, rows, others.surprisals))


def _set(values: Floats, rows: Places, others: Floats) -> Floats:
    after = values.copy()
    after[rows] = others
    return after


def same_words(captions: Sequence[str]) -> Places:
    """Captions as whole numbers, equal ones (but for case and white space) alike, from 0 in order of appearance."""
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(" ".join(text.lower().split()), len(numbers)) for text in captions], np.int64)
