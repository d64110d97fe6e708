import math
from pathlib import Path

import pytest

from report.synthetic import write_run
from titer.errors import InputError
from titer.results.store import Record
from titer.results.summary import cells, certified_accuracy, largest_provable, one_cell, overview, radii_shown
from titer.statistics.intervals import proportion


def test_certified_accuracy_counts_all_labelled_images(tmp_path: Path) -> None:
    def change(place: int, record: Record) -> Record:
        return {**record, "label": None if place < 10 else record["label"]}

    run = write_run(tmp_path / "run", change=change)
    hits = sum(r["label"] == r["prediction"] and r["radius"] >= 0.1 for r in run.records)
    assert certified_accuracy(run, 0.1) == run.certified_accuracy(0.1) == proportion(hits, 50)


def test_it_respects_groups(tmp_path: Path) -> None:
    alone = write_run(tmp_path / "alone")
    tied = write_run(tmp_path / "tied", change=lambda place, record: {**record, "group": f"patient {place // 20}"})
    narrow, wide = alone.certified_accuracy(0.1), tied.certified_accuracy(0.1)
    assert narrow.estimate == wide.estimate
    assert wide.high - wide.low != narrow.high - narrow.low


def test_the_part_meant_must_be_said(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", prompts=("zero-shot", "other"), sigmas=(0.1, 0.25))
    assert [cell.title for cell in cells(run)] == [
        "zero-shot, sigma 0.1",
        "other, sigma 0.1",
        "zero-shot, sigma 0.25",
        "other, sigma 0.25",
    ]
    assert one_cell(run, "other", 0.1).title == "other, sigma 0.1"
    with pytest.raises(
        InputError, match=r"4 parts of .* match; name prompts and sigma of one of: zero-shot, sigma 0.1"
    ):
        certified_accuracy(run, 0.1)
    with pytest.raises(InputError, match="0 parts"):
        certified_accuracy(run, 0.1, sigma=0.5)


def test_what_has_no_certified_accuracy(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    for radius in (-0.1, math.nan):
        with pytest.raises(InputError, match="radius: expected at least 0"):
            certified_accuracy(run, radius)
    with pytest.raises(InputError, match="is a predict run"):
        certified_accuracy(write_run(tmp_path / "predict", verb="predict"), 0.1)
    unlabelled = write_run(tmp_path / "unlabelled", change=lambda _, record: {**record, "label": None})
    assert math.isnan(certified_accuracy(unlabelled, 0.1).estimate)


def test_attack_runs_are_not_cells(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", verb="attack", change=lambda _, r: {"sample_id": r["sample_id"], "eps": 0.1})
    with pytest.raises(InputError, match="written by attack"):
        list(cells(run))


def test_radii_shown_are_those_that_draws_can_prove(tmp_path: Path) -> None:
    grid = write_run(tmp_path / "grid", certifier="anytime", sigmas=(0.1, 0.25), radii=(0, 0.1, 0.25, 0.5, 1))
    low, high = cells(grid)
    assert radii_shown(low) == [0.0, 0.1]
    assert radii_shown(high) == [0.0, 0.1, 0.25, 0.5]
    assert largest_provable(high) == pytest.approx(0.25 * 2.463, abs=1e-3)  # n = 1,000
    free = write_run(tmp_path / "free", certifier="anytime", tolerance=0.05)
    assert radii_shown(one_cell(free)) == [0.0, 0.1, 0.25, 0.5]


def test_one_radius_is_not_an_abstention(tmp_path: Path) -> None:
    for name, radii, asks in (("one", (0.25,), True), ("zero", (0.0,), False), ("grid", (0.0, 0.25), False)):
        assert one_cell(write_run(tmp_path / name, certifier="anytime", radii=radii)).asks_one_radius == asks
    assert not one_cell(write_run(tmp_path / "gaussian")).asks_one_radius


def test_overview_has_a_row_per_part(tmp_path: Path) -> None:
    rows = overview(write_run(tmp_path / "run", sigmas=(0.1, 0.25), certifier="anytime"))
    assert [(row.prompts, row.sigma, row.images, row.mean_draws) for row in rows] == [
        ("zero-shot", 0.1, 60, 1100),
        ("zero-shot", 0.25, 60, 1100),
    ]
    assert rows[0].certified.startswith("0.1: 0.")
    assert " to " in rows[0].accuracy


def test_overview_without_labels_or_radii(tmp_path: Path) -> None:
    unlabelled = write_run(tmp_path / "unlabelled", change=lambda _, record: {**record, "label": None})
    assert (overview(unlabelled)[0].accuracy, overview(unlabelled)[0].certified) == ("-", "")
    assert overview(write_run(tmp_path / "predict", verb="predict"))[0].certified == ""
