"""The arithmetic of rare things against figures known beforehand."""

from __future__ import annotations

import math

import pytest

from titer.statistics.base_rates import RATES, precision, precisions
from titer.statistics.intervals import Interval


@pytest.mark.parametrize(
    ("false_alarms", "expected"),
    [(0.01, ("0.9", "8", "48", "83", "96")), (0.001, ("8", "47", "90", "98", "99.6"))],
)
def test_precision_at_ninety_percent_recall(false_alarms: float, expected: tuple[str, ...]) -> None:
    for rate, said in zip(RATES, expected, strict=True):
        digits = len(said.partition(".")[2])
        assert f"{100 * precision(0.9, false_alarms, rate):.{digits}f}" == said


def test_precision_rises_with_recall_and_is_nothing_without_flags() -> None:
    found = precisions(Interval(0.5, 0.2, 0.9), 0.01, 0.01)
    assert (found.estimate, found.low, found.high) == tuple(precision(recall, 0.01, 0.01) for recall in (0.5, 0.2, 0.9))
    assert found.low < found.estimate < found.high
    assert precision(0.0, 0.01, 0.5) == 0
    assert math.isnan(precision(0.0, 0.0, 0.5))
