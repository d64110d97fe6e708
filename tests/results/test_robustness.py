"""Robust accuracy, success rate and worst case, by hand."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from titer.errors import InputError
from titer.results.robustness import check_budgets, length_text, meant, overview, restricted, stands, worst
from titer.results.store import Run
from titer.statistics.intervals import proportion

GREY = 1 / 255


def made(
    name: str,
    broken: Mapping[float, set[int]],
    *,
    wrong: frozenset[int] = frozenset(),
    prompts: str = "zero-shot",
    **info: Any,
) -> Run:
    """A run over ten images of class 0: which are broken at each epsilon, and which are wrong without attack."""
    records = [
        {
            "sample_id": str(place), "label": 0, "prompts": prompts, "attack": name, "norm": "linf", "eps": epsilon,
            "clean_prediction": int(place in wrong), "prediction": int(place in wrong or place in hit),
        }
        for epsilon, hit in broken.items()
        for place in range(10)
    ]  # fmt: skip
    details = {
        "verb": "attack", "settings": {"attack": name, "norm": "linf"}, "prompts": {prompts: "x"},
        "identity": {"model": "m", "prompts": {prompts: "x"}, "classes": []}, **info,
    }  # fmt: skip
    return Run(Path(name), details, records, ())


def test_shares_are_of_all_images_and_success_of_those_that_were_right() -> None:
    run = made("pgd", {GREY: {1, 2}}, wrong=frozenset({0}))
    (stand,) = stands(run)
    assert stand.clean == proportion(9, 10)
    assert stand.robust == proportion(7, 10) == run.robust_accuracy() == run.robust_accuracy(GREY, "zero-shot")
    assert stand.success == proportion(2, 9)


def test_the_part_meant_must_be_said() -> None:
    run = made("pgd", {GREY: {1}, 2 * GREY: {1, 2}})
    with pytest.raises(InputError, match=r"2 parts .* one of: zero-shot at 1/255; zero-shot at 2/255"):
        run.robust_accuracy()
    with pytest.raises(InputError, match="expected a run of attack"):
        stands(Run(Path("x"), {"verb": "certify"}, (), ()))


def test_the_worst_case_is_image_by_image_and_grows_with_epsilon() -> None:
    first = made("pgd", {GREY: {1, 2}, 2 * GREY: {1, 2}})
    second = made("square", {GREY: {2, 3}, 2 * GREY: {4}})
    low, high = worst([first, second])
    assert low.attack == "pgd+square"
    assert low.robust == proportion(7, 10)
    assert high.robust == proportion(6, 10)


def test_no_worst_case_of_different_models() -> None:
    other = made("square", {GREY: {1}}, identity={"model": "n", "prompts": {"zero-shot": "x"}, "classes": []})
    with pytest.raises(InputError, match="differ in model"):
        worst([made("pgd", {GREY: {1}}), other])


def test_failed_checks_mark_the_numbers() -> None:
    def check(verdict: str) -> dict[str, str]:
        return {"prompts": "zero-shot", "check": "strength grows with steps", "verdict": verdict, "detail": ""}

    assert overview(made("pgd", {GREY: {1}}))[0].checks == "not made"
    assert overview(made("pgd", {GREY: {1}}, checks=[check("passed")]))[0].checks == "passed"
    marked = overview(made("pgd", {GREY: {1}}, checks=[check("failed")]))[0].checks
    assert marked == "masking suspected: strength grows with steps"


def test_lengths_are_said_in_grey_levels_where_they_are_such() -> None:
    assert length_text(0.5 * GREY, "linf") == "0.5/255"
    assert length_text(4 * GREY, "linf") == "4/255"
    assert length_text(0.25, "l2") == "0.25"
    assert (meant(4), meant(8.0)) == ("4/255", "8/255")


def test_a_restricted_run_has_no_more_than_it_was_asked_for() -> None:
    run = made("pgd", {GREY: {1}, 2 * GREY: {1, 2}}, prompts="one")
    kept = restricted(run, ["one", "two"], {"1", "3"})
    assert {record["sample_id"] for record in kept.records} == {"1", "3"}
    assert [stand.robust.estimate for stand in stands(kept)] == [0.5, 0.5]
    assert restricted(run, ["two"], {"1"}).info["identity"]["prompts"] == {}
    assert worst([kept, restricted(run, ["one"], {"1"})])[0].robust.estimate == 0


def test_whole_grey_levels_are_refused_as_linf_budgets() -> None:
    check_budgets("--eps", (4.0,), "l2")
    check_budgets("--eps", (4 * GREY,), "linf")
    with pytest.raises(InputError, match=r"--eps: 4 is the whole range of \[0, 1\] pixels; probably 4/255 was meant"):
        check_budgets("--eps", (GREY, 4.0), "linf")
