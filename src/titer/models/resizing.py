"""How much longer resizing can make a change of a picture: it is linear, and this is its norm.

Pillow resizes one side after the other, each by a matrix: a channel X becomes A X B^T, a change D of it A D B^T. Its L2 norm is
at most norm(A) * norm(B) times that of D, the largest singular values, and for some D exactly that.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Resampling
from scipy.sparse import csr_array

Floats = NDArray[np.float64]

_TIGHT = 1e-6  # Pillow rounds to float32 after each side: norms are given larger by this share


@dataclass(frozen=True)
class Side:
    """What becomes of one side of a picture, in pixels.

    Args:
        length: of the side.
        before, padded: zeros in front of it, and its length with those in front and behind.
        made: what that is resized to.
        start, kept: the part of it that is cut out.
    """

    length: int
    before: int
    padded: int
    made: int
    start: int
    kept: int


@cache
def norm(side: Side, resample: int) -> float:
    """The largest singular value of the matrix (kept, length) that a side goes through, rounded up.

    Args:
        side: its lengths.
        resample: Pillow's number of the filter, one of ``FILTERS``.
    """
    found = matrix(side, resample)
    # the eigenvalues of A A^T, which is small, are the squares of A's singular values
    largest = math.sqrt(float(np.linalg.eigvalsh((found @ found.T).toarray())[-1]))
    return largest * (1 + _TIGHT)


def matrix(side: Side, resample: int) -> csr_array:
    """The matrix (kept, length) that a side goes through.

    As Pillow makes it (``precompute_coeffs`` in its ``Resample.c``): the filter, widened where the side shrinks, is centred on
    each new pixel, cut off at the picture's edges, and its weights are made to add up to 1.
    """
    scale = side.padded / side.made
    centers = (np.arange(side.start, side.start + side.kept) + 0.5) * scale
    support, shape = FILTERS[resample]
    wide = max(scale, 1.0)
    first = np.maximum((centers - support * wide + 0.5).astype(int), 0)
    last = np.minimum((centers + support * wide + 0.5).astype(int), side.padded)
    places = first[:, None] + np.arange((last - first).max())
    weights = shape((places - centers[:, None] + 0.5) / wide) * (places < last[:, None])
    weights /= weights.sum(axis=1, keepdims=True)
    rows = np.repeat(np.arange(side.kept), places.shape[1])
    columns = places.ravel() - side.before
    inside = (columns >= 0) & (columns < side.length)  # what falls on the zeros around the picture adds nothing
    cells = weights.ravel()[inside], (rows[inside], columns[inside])
    return csr_array(cells, shape=(side.kept, side.length))


def _box(x: Floats) -> Floats:
    return ((x > -0.5) & (x <= 0.5)).astype(float)


def _triangle(x: Floats) -> Floats:
    return 1 - np.minimum(np.abs(x), 1)


def _hamming(x: Floats) -> Floats:
    return np.where(np.abs(x) < 1, np.sinc(x) * (0.54 + 0.46 * np.cos(np.pi * x)), 0)


def _cubic(x: Floats) -> Floats:
    x = np.abs(x)
    near, far = (1.5 * x - 2.5) * x * x + 1, ((x - 5) * x + 8) * x * -0.5 + 2
    return np.where(x < 1, near, np.where(x < 2, far, 0))


def _lanczos(x: Floats) -> Floats:
    return np.where(np.abs(x) < 3, np.sinc(x) * np.sinc(x / 3), 0)


FILTERS: dict[int, tuple[float, Callable[[Floats], Floats]]] = {
    Resampling.BOX: (0.5, _box),
    Resampling.BILINEAR: (1.0, _triangle),
    Resampling.HAMMING: (1.0, _hamming),
    Resampling.BICUBIC: (2.0, _cubic),
    Resampling.LANCZOS: (3.0, _lanczos),
}
"""By Pillow's number: how far a filter reaches, in pixels of the smaller picture, and its shape. Others are not known here."""
