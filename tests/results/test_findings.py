"""Areas under the curve from records whose numbers are known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from titer.errors import InputError
from titer.results.findings import MACRO, areas
from titer.results.store import Run

CLEAN = np.random.default_rng(0).random((40, 3))
TRUTH = np.random.default_rng(1).random((40, 3)) < CLEAN * np.array([1.0, 0.7, 0.0])  # nobody has the third


def records() -> list[dict[str, Any]]:
    known = [
        [None if (row + place) % 9 == 0 else bool(there) for place, there in enumerate(own)]
        for row, own in enumerate(TRUTH)
    ]
    return [
        {"sample_id": str(row), "prompts": "p", "attack": "pgd", "eps": 0.1, "findings": known[row],
         "clean_scores": list(CLEAN[row]), "scores": list(1 - CLEAN[row])}
        for row in range(40)
    ]  # fmt: skip


def test_each_area_and_their_mean() -> None:
    info = {"verb": "findings", "classes": [{"label": name} for name in ("a", "b", "nobody")]}
    mean, first, second, third = areas(Run(Path("run"), info, records(), []))
    kept = [np.array([(row + place) % 9 != 0 for row in range(40)]) for place in range(3)]
    expected = [roc_auc_score(TRUTH[kept[place], place], CLEAN[kept[place], place]) for place in range(2)]
    assert [first.clean.estimate, second.clean.estimate] == pytest.approx(expected)
    assert [first.attacked.estimate, second.attacked.estimate] == pytest.approx([1 - one for one in expected])
    assert (mean.finding, mean.there, mean.absent) == (MACRO, 2, 1)
    assert mean.clean.estimate == pytest.approx(np.mean(expected))
    assert (first.there, first.absent) == (TRUTH[kept[0], 0].sum(), (~TRUTH[kept[0], 0]).sum())
    assert np.isnan(third.clean.estimate)


def test_another_run_is_refused() -> None:
    with pytest.raises(InputError, match="was written by attack"):
        areas(Run(Path("run"), {"verb": "attack"}, records(), []))
