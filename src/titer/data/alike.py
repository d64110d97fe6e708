"""Pictures that show the same though their files differ: a difference hash, and its near neighbours in other splits."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_SIDE = 16
LENGTH = 2 * _SIDE**2
ALIKE = 0.8
"""Least cosine of two prints: about a tenth of the signs differ."""
_TOGETHER = 1024


def print_of(pixels: NDArray[np.float32]) -> NDArray[np.int8]:
    """Where a picture gets lighter to the right and downward, on a grid of 16 x 16 (dHash, both ways).

    Scaling, compression, brightness and contrast hardly change it; mirrored and rotated pictures are others. A flat place
    has 0 and counts for nothing.

    Args:
        pixels: (height, width, channels).

    Returns:
        (512,), -1, 0 or 1.
    """
    bands = pixels.transpose(
        2, 0, 1
    )  # their sum one by one is several times faster than NumPy's mean over a short axis
    grey = Image.fromarray(sum(bands[1:], bands[0]) / np.float32(len(bands)))
    across = np.asarray(grey.resize((_SIDE + 1, _SIDE), Image.Resampling.BOX))
    down = np.asarray(grey.resize((_SIDE, _SIDE + 1), Image.Resampling.BOX))
    steps = [np.diff(across, axis=1).ravel(), np.diff(down, axis=0).ravel()]
    signs: NDArray[np.int8] = np.sign(np.concatenate(steps)).astype(np.int8)
    return signs


def alike(prints: NDArray[np.int8], splits: Sequence[str]) -> list[tuple[int, int]]:
    """Each picture with the one of another split that it is most alike, where that is alike enough.

    Args:
        prints: (n, 512).
        splits: of each.

    Returns:
        Pairs of indices, the smaller first, each once, in order.
    """
    of = np.asarray(splits)
    pairs: set[tuple[int, int]] = set()
    for split in dict.fromkeys(splits):
        own, other = np.flatnonzero(of == split), np.flatnonzero(of != split)
        if not len(other):
            continue
        units = _units(prints[other])
        for start in range(0, len(own), _TOGETHER):
            some = own[start : start + _TOGETHER]
            cosines = _units(prints[some]) @ units.T
            best = cosines.argmax(axis=1)
            for row in np.flatnonzero(cosines[np.arange(len(some)), best] >= ALIKE):
                one, two = sorted((int(some[row]), int(other[best[row]])))
                pairs.add((one, two))
    return sorted(pairs)


def _units(prints: NDArray[np.int8]) -> NDArray[np.float32]:
    floats = prints.astype(np.float32)
    units: NDArray[np.float32] = floats / np.maximum(np.linalg.norm(floats, axis=1, keepdims=True), 1)
    return units
