"""Pairs made by hand: pictures and captions around a few centres of one space."""

from __future__ import annotations

import numpy as np

from titer.upstream.audit.pairs import Features, Floats, Pairs

NAMES = ("mass", "cyst", "node")


def unit(values: Floats) -> Floats:
    return np.asarray(values / np.linalg.norm(values, axis=1, keepdims=True), float)


def features(count: int, dim: int = 6, seed: int = 0) -> Features:
    """Image and caption near the centre of their class, ``count`` pairs of three classes in turn."""
    random = np.random.default_rng(seed)
    centres = np.eye(dim)[np.arange(count) % 3]
    images, texts = (unit(centres + 0.1 * random.standard_normal((count, dim))) for _ in range(2))
    return Features(images, texts, 0.1 + 0.02 * random.random((count, 4)))


def pairs(count: int, encoders: int = 1, seed: int = 0) -> Pairs:
    random = np.random.default_rng(seed)
    captions = tuple(f"a {NAMES[row % 3]} of {random.integers(1, 9)} cm" for row in range(count))
    return Pairs(captions, tuple(features(count, seed=seed + place) for place in range(encoders)))
