"""What a flag is worth: how many of the flagged are really bad depends on how many are bad at all."""

from __future__ import annotations

from titer.statistics.intervals import Interval

RATES = (0.0001, 0.001, 0.01, 0.05, 0.2)
"""Shares of bad pairs to think of, from rare poison to heavy noise."""


def precision(recall: float, false_alarms: float, rate: float) -> float:
    """Share of the flagged that are bad, by Bayes' rule; nan where nothing is flagged.

    Args:
        recall: share of the bad that are flagged.
        false_alarms: share of the good that are flagged.
        rate: share of all that are bad.
    """
    hits, misses = recall * rate, false_alarms * (1 - rate)
    return hits / (hits + misses) if hits + misses else float("nan")


def precisions(recall: Interval, false_alarms: float, rate: float) -> Interval:
    """The same at an estimated recall, between those of its ends: it rises with the recall."""
    return Interval(*(precision(value, false_alarms, rate) for value in (recall.estimate, recall.low, recall.high)))
