"""Accuracies from records whose numbers are known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from titer.errors import InputError
from titer.results.answered import (
    accuracies,
    as_prior,
    by_kind,
    by_question,
    ladder,
    over_prior,
    swapped_words,
    swaps,
    worst,
)
from titer.results.store import Run
from titer.statistics.intervals import proportion


def record(
    sample: str, kind: str, label: int | None, clean: int, after: int, eps: float, **more: Any
) -> dict[str, Any]:
    return {
        "sample_id": sample, "path": sample, "prompts": "f", "attack": "pgd", "eps": eps, "kind": kind, "label": label,
        "prior": 0, "clean_prediction": clean, "prediction": after, **more,
    }  # fmt: skip


RECORDS = [
    record("a", "closed", 0, 0, 1, 0.1), record("a", "closed", 0, 0, 0, 0.2),
    record("b", "closed", 1, 1, 1, 0.1), record("b", "closed", 1, 1, 0, 0.2),
    record("c", "open", 2, 2, 2, 0.1), record("c", "open", 2, 2, 2, 0.2),
    record("d", "open", None, 0, 0, 0.1), record("d", "open", None, 0, 0, 0.2),
    record("e", "open", 0, 1, 1, 0.1), record("e", "open", 0, 1, 1, 0.2),
]  # fmt: skip


def run(records: list[dict[str, Any]], verb: str = "answer") -> Run:
    return Run(Path("run"), {"verb": verb}, records, [])


def test_accuracies_by_kind_and_budget() -> None:
    found = {(row.eps, row.kind): row for row in accuracies(run(RECORDS))}
    assert list(found) == [(eps, kind) for eps in (0.1, 0.2) for kind in ("open", "closed", "all")]
    at = found[0.1, "all"]
    assert (at.questions, at.unseen) == (5, 1)
    assert at.clean == proportion(3, 5)
    assert at.attacked == proportion(2, 5)
    assert at.of_right == proportion(1, 3)
    assert at.of_all == proportion(1, 5)
    assert at.prior == proportion(2, 5)
    assert found[0.1, "open"].clean == proportion(1, 3)
    assert found[0.1, "closed"].of_right == proportion(1, 2)


def test_what_a_smaller_budget_breaks_stays_broken() -> None:
    found = {(row.eps, row.kind): row for row in accuracies(run(RECORDS))}
    assert found[0.2, "closed"].attacked == proportion(0, 2)


def test_questions_about_one_picture_are_not_independent() -> None:
    same = [record(f"{place}", "open", 0, place % 2, place % 2, 0.1, path="p", group=place // 4) for place in range(12)]
    apart = [record(f"{place}", "open", 0, place % 2, place % 2, 0.1) for place in range(12)]
    grouped, alone = (accuracies(run(records))[0].clean for records in (same, apart))
    assert grouped.estimate == alone.estimate == 0.5
    assert grouped != alone


def test_swaps_are_counted() -> None:
    change = {"start": 0, "word": "a", "replacement": "b", "meaning": "preserving"}
    records = [
        record("a", "open", 0, 0, 1, 0.1, changes=[change]), record("b", "open", 0, 0, 0, 0.1, changes=[change]),
        record("c", "open", 0, 1, 1, 0.1, changes=[]),
    ]  # fmt: skip
    (counts,) = swaps(run(records))
    assert (counts.attacked, counts.swapped, counts.broken) == (2, 2, 1)
    assert swaps(run(RECORDS)) == []


def test_several_attacks_together_break_what_any_of_them_breaks() -> None:
    parts = ladder(run(RECORDS))
    other = replace(parts[0], broken=frozenset({"c"}))
    found = {row.kind: row for row in by_kind(worst([parts[0], other]))}
    assert found["all"].attacked == proportion(1, 5)  # of a, b and c, which were right, only b holds
    assert (found["open"].attacked, found["closed"].attacked) == (proportion(0, 3), proportion(1, 2))


def test_each_wording_has_a_row() -> None:
    asked = [record(str(place), "open", 0, 0, place % 2, 0.1, question=f"Q{place // 4}") for place in range(10)]
    (part,) = ladder(run(asked))
    assert [(row.kind, row.questions) for row in by_question(part)] == [("Q0", 4), ("Q1", 4), ("Q2", 2)]
    assert by_question(part)[0].attacked == proportion(2, 4)


def test_no_look_is_compared_on_the_same_questions() -> None:
    (first, _) = ladder(run(RECORDS))
    same = over_prior(first)
    assert same.difference == pytest.approx(3 / 5 - 2 / 5)
    assert same.low < 0 < same.high
    assert as_prior(first) == 2  # a and d
    better = [record(str(place), "open", 1, 1, 1, 0.1) for place in range(40)]
    assert over_prior(ladder(run(better))[0]).low > 0.5


def test_the_most_harmful_swap_is_first() -> None:
    def swap(word: str) -> list[dict[str, Any]]:
        return [{"start": 0, "word": word, "replacement": "B", "meaning": "preserving"}]

    records = [record(str(place), "open", 0, 0, place % 2, eps, changes=swap("Lung" if place < 4 else "cell"))
               for place in range(10) for eps in (0.1, 0.2)]  # fmt: skip
    rows = [(row.word, row.replacement, row.questions, row.broken) for row in swapped_words(run(records))]
    assert rows == [("cell", "b", 6, 3), ("lung", "b", 4, 2)]


def test_a_run_of_something_else_is_refused() -> None:
    with pytest.raises(InputError, match="expected a run of questions"):
        accuracies(run(RECORDS, "attack"))
