"""A comparison as read from its directory."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from report.comparing import ZERO_SHOT, Method, write_study
from titer.errors import InputError
from titer.results.store import Record
from titer.results.study import is_study, read_study

FITTED = Method("few-shot", shots=(1, 4), seeds=(1, 2, 3), spoiled=5)


def test_arms_come_by_sigma_then_in_the_recipes_order_then_by_shots(tmp_path: Path) -> None:
    cells = {"main": {"sigmas": (0.1, 0.25)}}
    study = read_study(write_study(tmp_path / "s", FITTED, ZERO_SHOT, cells=cells))
    (cell,) = study.cells
    found = [(arm.sigma, arm.entry, arm.shots, len(arm.parts)) for arm in cell.arms]
    one = [("few-shot", 1, 3), ("few-shot", 4, 3), ("zero-shot", None, 1)]
    assert found == [(sigma, *rest) for sigma in (0.1, 0.25) for rest in one]
    assert cell.sigmas == (0.1, 0.25)
    assert [(arm.entry, arm.shots) for arm in cell.at(0.25)] == [("few-shot", 4), ("zero-shot", None)]
    assert study.cell("main") is cell
    assert study.cell("other") is None


def test_an_arm_is_the_mean_of_its_seeds_image_by_image(tmp_path: Path) -> None:
    study = read_study(write_study(tmp_path / "s", FITTED))
    arm = study.cells[0].arms[-1]
    assert [facts["seed"] for facts in arm.sets] == [1, 2, 3]
    lines = [json.loads(line) for line in (tmp_path / "s/runs/main-sigma0.25/samples.jsonl").read_text().splitlines()]
    for at in (0.0, 0.25):
        shares = [
            np.mean(
                [
                    line["radius"] >= at and line["prediction"] == line["label"]
                    for line in lines
                    if line["sample_id"] == sample and line["prompts"].startswith("few-shot-4")
                ]
            )
            for sample in arm.ids
        ]
        assert arm.certified(at).tolist() == pytest.approx(shares)
        assert arm.of_seed(1, at).tolist() == [
            line["radius"] >= at and line["prediction"] == line["label"]
            for line in lines
            if line["prompts"] == "few-shot-4-s2"
        ]
    assert arm.clean[:7].tolist() == pytest.approx([2 / 3, 1 / 3, 0, 0, 0, 1 / 3, 2 / 3])
    assert arm.labels.tolist() == [place % 3 for place in range(60)]
    assert arm.groups == [None] * 60


def test_seconds_and_bytes_are_medians_over_fits(tmp_path: Path) -> None:
    arm = read_study(write_study(tmp_path / "s", FITTED)).cells[0].arms[-1]
    assert arm.median_of_sets("fit_seconds") == 10 + 4 + 2
    assert arm.median_of_sets("bytes") == 1000
    assert arm.median("seconds") == 0.5
    assert arm.median("adapt_seconds") is None
    assert read_study(write_study(tmp_path / "z", ZERO_SHOT)).cells[0].arms[0].median_of_sets("bytes") is None


def test_collapsed_fits_are_counted(tmp_path: Path) -> None:
    method = Method("few-shot", shots=(1, 4), seeds=(1, 2, 3), collapsed=("few-shot-1-s1", "few-shot-1-s3"))
    one, four = read_study(write_study(tmp_path / "s", method)).cells[0].arms
    assert (one.collapsed, four.collapsed) == (2, 0)


def test_only_images_that_every_prompt_set_has_are_compared(tmp_path: Path) -> None:
    path = write_study(tmp_path / "s", FITTED, ZERO_SHOT)
    lines = (path / "runs/main-sigma0.25/samples.jsonl").read_text().splitlines()
    dropped = [line for line in lines if not ("003.png" in line and "few-shot-4-s2" in line)]
    unlabelled = [line.replace('"label": 1, "prompts": "zero', '"label": null, "prompts": "zero') for line in dropped]
    (path / "runs/main-sigma0.25/samples.jsonl").write_text("\n".join(unlabelled) + "\n")
    arms = read_study(path).cells[0].arms
    expected = tuple(f"test/{place:03d}.png" for place in range(60) if place != 3 and place % 3 != 1)
    assert {arm.ids for arm in arms} == {expected}
    assert {len(records) for arm in arms for records in arm.records} == {len(expected)}


def test_a_cell_that_is_not_finished_says_what_is_missing(tmp_path: Path) -> None:
    path = write_study(tmp_path / "s", FITTED, cells={"main": {"sigmas": (0.1, 0.25, 0.5)}, "late": {}})
    (path / "runs/main-sigma0.1/samples.jsonl").write_text("")
    for name in ("main-sigma0.5", "late-sigma0.25"):
        (path / "runs" / name / "run.json").unlink()
    main, late = read_study(path).cells
    assert main.missing == ("runs/main-sigma0.1", "runs/main-sigma0.5")
    assert main.sigmas == (0.25,)
    assert (late.missing, late.runs, late.arms) == (("runs/late-sigma0.25",), (), ())
    assert read_study(path).cell("late") is None


def test_groups_tie_images(tmp_path: Path) -> None:
    def grouped(place: int, record: Record) -> Record:
        return {**record, "group": f"patient {place // 2}"}

    arm = read_study(write_study(tmp_path / "s", FITTED, cells={"main": {"change": grouped}})).cells[0].arms[0]
    assert arm.groups == [f"patient {place // 2}" for place in range(60)]


def test_what_is_no_comparison_is_refused(tmp_path: Path) -> None:
    assert not is_study(tmp_path)
    with pytest.raises(InputError, match=r"holds no study\.json; expected a directory of titer run"):
        read_study(tmp_path)
    (tmp_path / "study.json").write_text("{")
    assert is_study(tmp_path)
    with pytest.raises(InputError, match=r"study\.json is not valid JSON"):
        read_study(tmp_path)
