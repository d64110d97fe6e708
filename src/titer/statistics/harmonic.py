"""Harmonic means of shares: what base-to-new protocols summarise by, since they punish the weakest part."""

from __future__ import annotations

from collections.abc import Sequence

from titer.statistics.intervals import Interval


def harmonic_mean(values: Sequence[float]) -> float:
    """Number of values by the sum of their inverses; 0 where one of them is 0."""
    return 0.0 if min(values) <= 0 else len(values) / sum(1 / value for value in values)


def share_of_level(parts: int, level: float = 0.95) -> float:
    """Level of each of several intervals that hold together at a level, whatever ties them (Bonferroni)."""
    return 1 - (1 - level) / parts


def harmonic(parts: Sequence[Interval]) -> Interval:
    """The harmonic mean of shares, between those of their ends: it rises in each of them.

    Args:
        parts: estimates with intervals that hold together; see ``share_of_level``.
    """
    return Interval(
        harmonic_mean([part.estimate for part in parts]),
        harmonic_mean([part.low for part in parts]),
        harmonic_mean([part.high for part in parts]),
    )
