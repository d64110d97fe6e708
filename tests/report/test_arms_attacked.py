"""Tables of a comparison's attacks, against numbers counted by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from statsmodels.stats.multitest import multipletests

from report.comparing import ZERO_SHOT, Method, write_study
from report.test_comparison import by_class, estimate
from report.test_page import page
from titer.report.arms import certified_share
from titer.report.arms_attacked import (
    attack_cost_table,
    attack_paired_table,
    attack_verdict,
    beside_table,
    pairs_under_attack,
    robust_table,
)
from titer.report.comparison import compare_page, section
from titer.report.tables import MISSING
from titer.results.store import Record
from titer.results.study import StudyCell, StudyResults, read_study
from titer.statistics.ranking import balanced_mean

GREY = 1 / 255
PROBE = Method("linear-probe", "linear-probe", baseline=True, shots=(1, 4), seeds=(1, 2), spoiled=6)
COOP = Method("coop", shots=(1, 4), seeds=(1, 2), spoiled=3)
PGD = {"broken": {GREY: 9, 2 * GREY: 30}}
SQUARE = {"broken": {GREY: 3, 2 * GREY: 3}, "skip": 9, "method": "square"}


def study(path: Path, **cells: Any) -> StudyResults:
    return read_study(write_study(path, ZERO_SHOT, PROBE, COOP, cells=cells))


def hit(path: Path, **attacks: Any) -> StudyCell:
    return study(path, hit={"attacks": attacks or {"pgd": PGD}}).cells[0]


def test_accuracy_under_attack_is_what_one_counts_by_hand(tmp_path: Path) -> None:
    """Three classes in turn: of every three images in a row one is of each, so class-balanced is plain here."""
    table = robust_table(hit(tmp_path / "s"), "linf")
    assert table.columns == ("method", "fitted on", "attack", "clean", "1/255", "2/255", "self-checks")
    assert [line[:3] for line in table.rows] == [
        ("zero-shot", MISSING, "pgd"),
        ("linear-probe", "1 shot, 2 fits", "pgd"),
        ("linear-probe", "4 shots, 2 fits", "pgd"),
        ("coop", "1 shot, 2 fits", "pgd"),
        ("coop", "4 shots, 2 fits", "pgd"),
        ("constant answer", MISSING, MISSING),
    ]
    assert [[round(60 * estimate(value)) for value in line[3:6]] for line in table.rows[:-1]] == [
        [48, 39, 18], [54, 45, 24], [54, 45, 24], [57, 48, 27], [57, 48, 27],
    ]  # fmt: skip
    assert {line[6] for line in table.rows[:-1]} == {"passed"}
    assert table.rows[-1][3:] == ("33 %", "33 %", "33 %", MISSING)
    assert "60 images" in table.caption


def test_intervals_respect_groups(tmp_path: Path) -> None:
    def grouped(place: int, record: Record) -> Record:
        return {**record, "group": f"patient {place // 4}"}

    alone, tied = (
        robust_table(hit(tmp_path / name, pgd={**PGD, **more}), "linf").rows[0][4]
        for name, more in (("s", {}), ("t", {"change": grouped}))
    )
    assert estimate(alone) == estimate(tied) == pytest.approx(39 / 60)
    assert tied.interval.high - tied.interval.low > 1.3 * (alone.interval.high - alone.interval.low)  # type: ignore[union-attr]


def test_several_attacks_get_a_worst_case(tmp_path: Path) -> None:
    table = robust_table(hit(tmp_path / "s", pgd=PGD, square=SQUARE), "linf")
    found = {str(line[2]): line for line in table.rows if line[0] == "coop" and str(line[1]).startswith("4")}
    assert list(found) == ["pgd", "square", "worst case of pgd, square"]
    assert [round(60 * estimate(line[4])) for line in found.values()] == [48, 54, 45]


def test_pairs_are_those_of_certificates_under_the_strongest_attack(tmp_path: Path) -> None:
    cell = hit(tmp_path / "s", pgd=PGD, square=SQUARE)
    found = {(pair.arm.entry, pair.other.entry): pair for pair in pairs_under_attack(cell, "linf", GREY)}
    assert list(found) == [("linear-probe", "zero-shot"), ("coop", "zero-shot"), ("coop", "linear-probe")]
    pair = found["coop", "linear-probe"]
    assert pair.arm.shots == pair.other.shots == 4
    assert pair.arm.attacks == ("pgd", "square")
    difference = pair.arm.robust(GREY) - pair.other.robust(GREY)
    assert pair.comparison.difference == pytest.approx(by_class(difference, pair.arm.labels)) == pytest.approx(3 / 60)
    assert pair.mcnemar is not None


def test_holm_runs_over_all_budgets(tmp_path: Path) -> None:
    cell = hit(tmp_path / "s")
    table = attack_paired_table(cell, "linf")
    assert table is not None
    pairs = [pair for at in (GREY, 2 * GREY) for pair in pairs_under_attack(cell, "linf", at)]
    corrected = multipletests([pair.comparison.p for pair in pairs], method="holm")[1]
    assert [line[2] for line in table.rows] == ["1/255"] * 3 + ["2/255"] * 3
    assert "all 6 comparisons" in table.caption
    shown = [line[6] for line in table.rows]
    assert shown == [_p(value) for value in corrected]
    found = dict(zip(table.columns, table.rows[1], strict=True))
    assert (found["method"], found["robust"], found["the other"]) == ("coop", "80 %", "65 %")
    assert str(found["difference"]).startswith("+15.0 (")
    lone = read_study(write_study(tmp_path / "t", ZERO_SHOT, cells={"hit": {"attacks": {"pgd": PGD}}})).cells[0]
    assert attack_paired_table(lone, "linf") is None


def _p(value: float) -> str:
    return "< .001" if value < 0.001 else f"{value:.3f}".lstrip("0") if value < 1 else "1"


def test_the_verdict_is_at_the_smallest_budget_of_the_strongest_attack(tmp_path: Path) -> None:
    said = attack_verdict(hit(tmp_path / "s", pgd=PGD, square=SQUARE), "linf")
    assert said.startswith(
        "Right under worst case of pgd, square, linf 1/255: a constant answer 33 %; zero-shot 60 % ("
    )
    assert "the best baseline, linear-probe, 70 % (" in said
    assert "the best method, coop, 75 % (" in said
    assert "No method" not in said


def test_certificates_stand_beside_attacks_on_the_same_fits_and_images(tmp_path: Path) -> None:
    few = {**PGD, "seeds": (2,), "images": range(12, 60)}
    found = study(tmp_path / "s", main={"sigmas": (0.1, 0.25)}, hit={"attacks": {"pgd": few}})
    main, attacked = found.cells
    table = beside_table(main, attacked, "linf")
    assert table is not None
    assert table.columns == (
        "method", "fitted on", "guarantee", "self-checks", "sigma", "clean", "attacked, 1/255", "attacked, 2/255",
        "certified, r ≥ 0.1", "certified, r ≥ 0.25", "certified, r ≥ 0.5",
    )  # fmt: skip
    assert [line[:5] for line in table.rows] == [
        (name, fitted, "fixed", "passed", sigma)
        for sigma in ("0.1", "0.25")
        for name, fitted in (("zero-shot", MISSING), ("linear-probe", "4 shots, 1 fit"), ("coop", "4 shots, 1 fit"))
    ]
    assert [line[9] for line in table.rows[:3]] == [MISSING] * 3
    line = table.rows[5]
    assert [round(48 * estimate(value)) for value in line[5:8]] == [48, 39, 18]
    records = [r for r in attacked.runs[0].records if r["prompts"] == "coop-4-s2"]
    assert len({record["sample_id"] for record in records}) == 48
    arm = next(arm for arm in main.at(0.25) if arm.entry == "coop")
    own = arm.on(("coop-4-s2",), {record["sample_id"] for record in records})
    for value, radius in zip(line[8:], (0.1, 0.25, 0.5), strict=True):
        assert estimate(value) == certified_share(own, radius).interval.estimate
        assert estimate(value) == balanced_mean(own.certified(radius), own.labels, own.groups).estimate
    assert "48 images that both have" in table.caption
    assert beside_table(attacked, main, "linf") is None


def test_costs_of_attacks(tmp_path: Path) -> None:
    cells = study(tmp_path / "s", hit={"attacks": {"pgd": PGD}}, other={"attacks": {"square": SQUARE}}).cells
    table = attack_cost_table(cells, with_fits=True)
    assert table.columns == ("method", "fit (s)", "bytes", "pgd (s per image)", "square (s per image)")
    assert table.rows[0] == ("zero-shot", MISSING, MISSING, "0.250", "0.250")
    assert table.rows[2][:3] == ("coop", "15.5", "1,000")
    assert attack_cost_table(cells, with_fits=False).columns[1:] == ("pgd (s per image)", "square (s per image)")


def test_a_study_of_attacks_alone_gives_a_page(tmp_path: Path) -> None:
    found = study(tmp_path / "s", hit={"attacks": {"pgd": PGD}})
    told = section(found)
    assert "60 images of 3 classes" in told.facts
    assert [part.title for part in told.parts] == ["Accuracy under attack", "Costs of attacks"]
    assert (told.guarantees, told.alarms, len(told.verdicts)) == ((), (), 1)
    text = page(compare_page([tmp_path / "s"], tmp_path / "page.html")).text
    assert "Smoothed classifiers" not in text
    assert "Which guarantee" not in text
    assert "accuracy under attack is an upper bound" in text
    assert "eps = 1/255, 2/255" in text
    both = page(compare_page([tmp_path / "s", write_study(tmp_path / "t", ZERO_SHOT)], tmp_path / "both.html")).text
    assert "All data sets, at r = 0.25" in both
    assert "Smoothed classifiers" in both
    twice = compare_page([tmp_path / "s", tmp_path / "s"], tmp_path / "twice.html").read_text()
    assert "All data sets" not in twice


def test_a_page_without_attacks_does_not_speak_of_them(tmp_path: Path) -> None:
    text = page(compare_page([write_study(tmp_path / "s", ZERO_SHOT)], tmp_path / "page.html")).text
    assert "attack" not in text.replace("adversarial", "")


def test_a_study_with_both_has_a_part_for_each_and_one_for_both(tmp_path: Path) -> None:
    told = section(study(tmp_path / "s", main={}, hit={"attacks": {"pgd": PGD}}, more={"attacks": {"square": SQUARE}}))
    titles = [part.title for part in told.parts]
    assert titles[0] == "Clean, attacked and certified"
    assert titles[-3:] == ["Accuracy under attack: cell hit", "Accuracy under attack: cell more", "Costs of attacks"]
    assert [table.title for table in told.parts[0].tables] == [
        "Attacked (hit, linf) and certified (main)",
        "Attacked (more, linf) and certified (main)",
    ]
    assert len(told.verdicts) == 3


def test_doubts_and_methods_left_out_are_alarms(tmp_path: Path) -> None:
    checks = {"coop-4-s2": "failed", **dict.fromkeys(("coop-4-s1", "coop-1-s1", "coop-1-s2", "zero-shot"), "passed")}
    path = tmp_path / "s"
    study(
        path,
        hit={"attacks": {"pgd": {**PGD, "checks": checks}}},
        bare={"attacks": {"square": {**SQUARE, "checks": {}}}},
    )
    told = json.loads((path / "study.json").read_text())
    told["prompts"]["coop-9-s9"] = {"entry": "coop", "shots": 9, "seed": 9, "sigma": None, "adapts": True}
    (path / "study.json").write_text(json.dumps(told))
    said = section(read_study(path)).alarms
    assert "coop, 4 shots, 2 fits, cell hit, pgd: masking suspected: it hides. Do not trust these numbers." in said
    assert "Cell bare, square: no self-checks were made; nothing says whether the attack was strong." in said
    left = (
        "not attacked, since they adapt to each image they are shown: coop. titer challenge attacks their certificates."
    )
    assert f"Cell hit: {left}" in said
