"""Certified accuracy against radius, from arrays."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from titer.statistics.intervals import Interval, clustered


def certified(correct: ArrayLike, radius: ArrayLike, at: float, strict: bool = False) -> NDArray[np.bool_]:
    """Which images count as certified at a radius.

    Args:
        correct: whether the prediction is the label; an abstention is not.
        radius: certified radius of each image.
        at: the radius asked for.
        strict: ``radius > at`` (PromptSmooth's convention) instead of ``radius >= at`` (Cohen's).
    """
    radius = np.asarray(radius, float)
    return np.asarray(correct, bool) & ((radius > at) if strict else (radius >= at))


def certified_accuracy(
    correct: ArrayLike,
    radius: ArrayLike,
    at: float,
    groups: Sequence[Hashable | None] | None = None,
    strict: bool = False,
) -> Interval:
    """Share of *all* images that are right and certified at a radius; abstentions and mistakes count against it.

    Args:
        correct: whether the prediction is the label; an abstention is not.
        radius: certified radius of each image. Of a run that decided a grid of radii, the largest one decided.
        at: the radius asked for.
        groups: one per image, where images share patients or slides.
        strict: ``radius > at`` (PromptSmooth's convention) instead of ``radius >= at`` (Cohen's). On a grid of decided
            radii the two differ by a whole step at every radius of the grid.
    """
    hits = certified(correct, radius, at, strict)
    return clustered(hits.astype(float), [None] * len(hits) if groups is None else groups)


@dataclass(frozen=True)
class Curve:
    """Certified accuracy at rising radii, with pointwise intervals."""

    radii: tuple[float, ...]
    intervals: tuple[Interval, ...]


def curve(
    correct: ArrayLike,
    radius: ArrayLike,
    radii: Sequence[float],
    groups: Sequence[Hashable | None] | None = None,
    strict: bool = False,
) -> Curve:
    """Certified accuracy at each of ``radii``; the other arguments are those of ``certified_accuracy``."""
    return Curve(tuple(radii), tuple(certified_accuracy(correct, radius, at, groups, strict) for at in radii))


def average_certified_radius(correct: ArrayLike, radius: ArrayLike) -> float:
    """Mean of the radius, counting 0 for images that are not right."""
    radius = np.asarray(radius, float)
    return float(np.mean(np.where(np.asarray(correct, bool), radius, 0.0))) if len(radius) else float("nan")
