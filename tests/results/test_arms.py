"""Methods under attack as a comparison's runs show them, counted by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from report.comparing import ZERO_SHOT, Method, write_study
from titer.results.arms import side_by_side
from titer.results.store import Record
from titer.results.study import StudyCell, read_study

GREY = 1 / 255
FITTED = Method("coop", shots=(1, 4), seeds=(1, 2), spoiled=6)
PGD = {"broken": {GREY: 10, 2 * GREY: 30}}


def cells_of(path: Path, **cells: Any) -> dict[str, StudyCell]:
    write_study(path, ZERO_SHOT, FITTED, cells=cells)
    return {cell.name: cell for cell in read_study(path).cells}


def test_arms_under_attack_come_in_the_recipes_order_then_by_shots(tmp_path: Path) -> None:
    hit = cells_of(tmp_path / "s", hit={"attacks": {"pgd": PGD}})["hit"]
    assert [(arm.entry, arm.shots, arm.names, arm.attacks) for arm in hit.attacked] == [
        ("zero-shot", None, ("zero-shot",), ("pgd",)),
        ("coop", 1, ("coop-1-s1", "coop-1-s2"), ("pgd",)),
        ("coop", 4, ("coop-4-s1", "coop-4-s2"), ("pgd",)),
    ]
    assert (hit.arms, hit.norms, hit.missing) == ((), ("linf",), ())
    assert [arm.shots for arm in hit.strongest("linf")] == [None, 4]
    assert [run.path.name for run in hit.runs] == ["hit-pgd"]


def test_an_arm_is_the_mean_of_its_seeds_image_by_image(tmp_path: Path) -> None:
    """Seed 1 is wrong on images 0 to 5, seed 2 on 1 to 6; the next ten that are right are broken."""
    arm = cells_of(tmp_path / "s", hit={"attacks": {"pgd": PGD}})["hit"].attacked[-1]
    assert arm.budgets == (GREY, 2 * GREY)
    assert arm.clean.tolist() == [0.5, *[0.0] * 5, 0.5, *[1.0] * 53]
    # broken of seed 1: 6 to 15; of seed 2: 0 and 7 to 15
    assert arm.robust(GREY).tolist() == [*[0.0] * 16, *[1.0] * 44]
    assert arm.robust(2 * GREY).sum() == 60 - 6 - 30
    assert arm.of_seed(1, GREY).tolist() == [False] * 16 + [True] * 44
    assert arm.labels.tolist() == [place % 3 for place in range(60)]
    assert (arm.verdict, arm.seconds) == ("passed", 0.25)


def test_the_worst_case_is_over_all_attacks_of_the_cell_image_by_image(tmp_path: Path) -> None:
    other = {"broken": {GREY: 5, 2 * GREY: 5}, "skip": 10, "method": "square"}
    far = {"broken": {0.5: 50}, "norm": "l2"}
    hit = cells_of(tmp_path / "s", hit={"attacks": {"pgd": PGD, "square": other, "far": far}})["hit"]
    assert hit.norms == ("linf", "l2")
    worst = hit.strongest("linf")
    assert {arm.attacks for arm in worst} == {("pgd", "square")}
    # 12 wrong, 10 broken by pgd and the next 5 by square
    assert worst[0].robust(GREY).sum() == 60 - 12 - 15
    assert worst[0].robust(2 * GREY).sum() == 60 - 12 - 30
    assert {arm.attacks for arm in hit.strongest("l2")} == {("far",)}


def test_attacks_of_another_cell_count_where_they_saw_all_of_it(tmp_path: Path) -> None:
    """The few that the dear attack saw were attacked by the cheap one, too; not the other way round."""
    dear = {"broken": {GREY: 4}, "skip": 10, "images": range(30), "seeds": (1,), "method": "autoattack"}
    found = cells_of(tmp_path / "s", hit={"attacks": {"pgd": PGD}}, dear={"attacks": {"aa": dear}})
    assert {arm.attacks for arm in found["hit"].attacked} == {("pgd",)}
    (worst,) = [arm for arm in found["dear"].strongest("linf") if arm.entry == "coop"]
    assert (worst.attacks, worst.names, worst.budgets, len(worst.ids)) == (("aa", "pgd"), ("coop-4-s1",), (GREY,), 30)
    assert worst.robust(GREY).sum() == 30 - 6 - 14


def test_the_same_attack_in_two_cells_is_no_worst_case(tmp_path: Path) -> None:
    few = {**PGD, "seeds": (1,)}
    found = cells_of(tmp_path / "s", hit={"attacks": {"pgd": PGD}}, few={"attacks": {"pgd": few}})
    assert {arm.attacks for cell in found.values() for arm in cell.attacked} == {("pgd",)}


def test_failed_self_checks_of_any_fit_mark_the_arm(tmp_path: Path) -> None:
    marked = {**PGD, "checks": {"coop-4-s1": "passed", "coop-4-s2": "failed", "coop-1-s1": "passed"}}
    hit = cells_of(tmp_path / "s", hit={"attacks": {"pgd": marked}})["hit"]
    said = ["not made", "passed (1 of 2 fits checked)", "masking suspected: it hides"]
    assert [arm.verdict for arm in hit.attacked] == said


def test_an_interrupted_attack_is_read_as_far_as_all_fits_have_got(tmp_path: Path) -> None:
    path = tmp_path / "s"
    cells_of(path, hit={"attacks": {"pgd": PGD}}, late={"attacks": {"pgd": PGD}})
    file = path / "runs/hit-pgd/samples.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    kept = [line for line in lines if not (line["prompts"] == "coop-4-s2" and line["sample_id"] > "test/020.png")]
    file.write_text("".join(json.dumps(line) + "\n" for line in kept))
    (path / "runs/late-pgd/run.json").unlink()
    hit, late = read_study(path).cells
    assert {len(arm.ids) for arm in hit.attacked} == {21}
    assert (late.missing, late.attacked, late.strongest("linf")) == (("runs/late-pgd",), (), [])


def test_fits_for_one_sigma_are_by_themselves(tmp_path: Path) -> None:
    each = Method("each", "promptsmooth", per_sigma=True, seeds=(1, 2))
    path = write_study(tmp_path / "s", each, cells={"both": {"sigmas": (0.25,), "attacks": {"pgd": PGD}}})
    (arm,) = read_study(path).cells[0].attacked
    assert (arm.fitted_for, arm.names) == (0.25, ("each-sigma0.25-2-s1", "each-sigma0.25-2-s2"))


def test_side_by_side_are_the_same_fits_on_the_same_images(tmp_path: Path) -> None:
    few = {**PGD, "seeds": (2,), "images": range(10, 60)}
    found = cells_of(tmp_path / "s", main={}, hit={"attacks": {"pgd": few}})
    arms = {(arm.entry, arm.shots): arm for arm in found["main"].arms}
    (under,) = [arm for arm in found["hit"].attacked if arm.shots == 4]
    pair = side_by_side(arms["coop", 4], under)
    assert pair is not None
    certified, attacked = pair
    assert certified.names == attacked.names == ("coop-4-s2",)
    assert certified.ids == attacked.ids == tuple(f"test/{place:03d}.png" for place in range(10, 60))
    assert certified.labels.tolist() == attacked.labels.tolist()
    assert certified.clean.tolist() == attacked.clean.tolist()
    assert np.array_equal(
        certified.certified(0.25), arms["coop", 4].on(("coop-4-s2",), arms["coop", 4].ids).certified(0.25)[10:]
    )
    assert side_by_side(arms["coop", 1], under) is None


@pytest.mark.parametrize("what", ["fingerprint", "file"])
def test_what_only_shares_a_name_is_not_set_side_by_side(what: str, tmp_path: Path) -> None:
    def hashed(_: int, record: Record) -> Record:
        return {**record, "sha256": "other"}

    changed = {**PGD, "change": hashed} if what == "file" else PGD
    path = tmp_path / "s"
    cells_of(path, main={}, hit={"attacks": {"pgd": changed}})
    file = path / "runs/hit-pgd/run.json"
    if what == "fingerprint":
        file.write_text(file.read_text().replace("ab" * 32, "cd" * 32))
    main, hit = read_study(path).cells
    assert [side_by_side(arm, under) for arm in main.arms for under in hit.attacked] == [None] * 9
