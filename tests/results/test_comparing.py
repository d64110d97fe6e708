"""Two runs, image by image."""

from dataclasses import replace
from pathlib import Path

import pytest

from report.synthetic import write_run
from results.test_robustness import GREY, made
from titer.errors import InputError
from titer.results.comparing import compare
from titer.results.store import Record, Run


def test_attacks_at_each_epsilon_that_both_have() -> None:
    weak = made("pgd", {GREY: set(range(8)), 2 * GREY: set(range(9))})
    strong = made("pgd", {GREY: {1}, 4 * GREY: {1, 2}}, prompts="coop")
    (row,) = compare(strong, replace(weak, path=Path("other")))
    assert (row.first, row.second, row.at, row.images) == ("coop", "zero-shot", "linf 1/255", 10)
    assert (row.first_share, row.second_share) == ("0.900", "0.200")
    assert row.difference.startswith("+0.700 (")
    assert float(row.p) < 0.05


def test_one_name_in_both_runs_is_told_apart_and_more_lines_are_corrected() -> None:
    two = {GREY: set(range(8)), 2 * GREY: set(range(8))}
    rows = compare(made("pgd", {GREY: {1}, 2 * GREY: {1}}), replace(made("square", two), path=Path("square")))
    assert [(row.first, row.second) for row in rows] == [("zero-shot (pgd)", "zero-shot (square)")] * 2
    (alone,) = compare(made("pgd", {GREY: {1}}), replace(made("square", {GREY: set(range(8))}), path=Path("square")))
    assert float(rows[0].p) == pytest.approx(2 * float(alone.p), rel=0.05)


def test_prompt_sets_of_one_run_with_each_other(tmp_path: Path) -> None:
    def worse(place: int, record: Record) -> Record:
        lost = record["prompts"] == "coop" and place % 2 == 0
        return {**record, "prediction": -1, "radius": 0.0} if lost else record

    run = write_run(tmp_path / "run", prompts=("zero-shot", "coop"), change=worse)
    rows = compare(run, run)
    assert {(row.first, row.second) for row in rows} == {("zero-shot", "coop")}
    assert rows[0].at == "sigma 0.25, r = 0"
    assert rows[0].images == 60
    assert all(float(row.first_share) > float(row.second_share) for row in rows[:2])
    alone = write_run(tmp_path / "alone")
    with pytest.raises(InputError, match="has one prompt set"):
        compare(alone, alone)


def test_runs_of_predict_are_compared_by_accuracy(tmp_path: Path) -> None:
    first, second = (write_run(tmp_path / name, verb="predict") for name in ("a", "b"))
    (row,) = compare(first, second)
    assert row.at == "sigma 0.25"
    assert row.difference.startswith("+0.000")


def test_what_cannot_be_compared_is_refused(tmp_path: Path) -> None:
    certified = write_run(tmp_path / "certified")
    with pytest.raises(InputError, match="nothing to compare"):
        compare(certified, made("pgd", {GREY: {1}}))
    conditional = write_run(tmp_path / "conditional", change=lambda _, record: {**record, "guarantee": "conditional"})
    with pytest.raises(InputError, match=r"are fixed, those of .* conditional"):
        compare(certified, conditional)
    relabelled = write_run(
        tmp_path / "relabelled", change=lambda _, record: {**record, "label": (record["label"] + 1) % 3}
    )
    with pytest.raises(InputError, match="another picture, or has another label"):
        compare(certified, relabelled)
    elsewhere = write_run(
        tmp_path / "elsewhere", change=lambda _, record: {**record, "sample_id": "other/" + record["sample_id"]}
    )
    with pytest.raises(InputError, match="no labelled image in common"):
        compare(certified, elsewhere)


def test_the_order_of_runs_changes_signs_only() -> None:
    first, second = made("pgd", {GREY: {1}}), replace(made("square", {GREY: {2, 3}}), path=Path("square"))

    def told(one: Run, two: Run) -> tuple[str, str]:
        (row,) = compare(one, two)
        return row.difference.split(" ")[0], row.p

    assert told(first, second) == ("+0.100", told(second, first)[1])
    assert told(second, first)[0] == "-0.100"


def test_radii_of_one_and_of_three_channels_are_not_compared(tmp_path: Path) -> None:
    def once(_: int, record: Record) -> Record:
        return {**record, "channels": 1}

    colour, grey = write_run(tmp_path / "colour"), write_run(tmp_path / "grey", change=once)
    for pair in ((colour, grey), (grey, colour)):
        with pytest.raises(
            InputError, match=r"zero-shot \(grey\) are of one channel, those of zero-shot \(colour\) of three"
        ):
            compare(*pair)
    assert compare(grey, write_run(tmp_path / "again", change=once))
