"""The page of a comparison: its numbers against those counted by hand from samples.jsonl, and what it must not leave out."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest
from statsmodels.stats.multitest import multipletests

from report.comparing import ZERO_SHOT, Method, write_study
from report.test_page import _FETCHING, page
from titer.report.arms import (
    HEADLINE,
    Pair,
    accuracy_table,
    best,
    certified_share,
    cost_table,
    difference_text,
    headline_cell,
    headline_table,
    mixture_table,
    p_text,
    paired_table,
    pairs,
    shots_table,
)
from titer.report.comparison import Section, compare_page, section
from titer.report.plots import arm_figure
from titer.report.tables import MISSING, Share, Table, Value
from titer.results.arms import Arm
from titer.results.store import Record
from titer.results.study import StudyCell, read_study

COOP = Method("coop", baseline=True, shots=(1, 4), seeds=(1, 2, 3), spoiled=9, collapsed=("coop-1-s2",))
SMOOTH = Method("few-shot", "promptsmooth", shots=(1, 4), seeds=(1, 2, 3), spoiled=3)
ADAPTED = Method("adapted", "promptsmooth", guarantee="conditional", shots=(None,), spoiled=1)
BANK = Method("bank", "promptsmooth", guarantee="bank", shots=(4,), seeds=(1,))
ALL = (ZERO_SHOT, COOP, SMOOTH, ADAPTED, BANK)
SIGMAS = {"main": {"sigmas": (0.1, 0.25, 0.5)}}
ONE_RADIUS = {"certifier": "anytime", "radii": (0.25,)}


def cell_of(path: Path, name: str = "main") -> StudyCell:
    cell = read_study(path).cell(name)
    assert cell is not None
    return cell


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_study(tmp_path_factory.mktemp("study") / "s", *ALL, cells=SIGMAS)


@pytest.fixture(scope="module")
def told(written: Path) -> Section:
    return section(read_study(written))


def lines_of(path: Path, prompts: str, sigma: float = 0.25) -> list[Record]:
    file = path / "runs" / f"main-sigma{sigma:g}" / "samples.jsonl"
    lines: list[Record] = [json.loads(line) for line in file.read_text().splitlines()]
    return [line for line in lines if line["prompts"] == prompts]


def by_hand(path: Path, names: list[str], radius: float | None, sigma: float = 0.25) -> float:
    """Class-balanced share, mean over prompt sets; without a radius, of the answers without noise."""
    per_class: dict[int, list[bool]] = {}
    for name in names:
        for line in lines_of(path, name, sigma):
            right = line["clean_prediction"] == line["label"]
            if radius is not None:
                right = line["prediction"] == line["label"] and line["radius"] >= radius
            per_class.setdefault(line["label"], []).append(right)
    return float(np.mean([np.mean(hits) for hits in per_class.values()]))


def row(table: Table, name: str) -> dict[str, Value]:
    (found,) = [one for one in table.rows if str(one[0]).startswith(name)]
    return dict(zip(table.columns, found, strict=True))


def estimate(value: Value) -> float:
    assert isinstance(value, Share)
    assert value.interval.low <= value.interval.estimate <= value.interval.high
    return value.interval.estimate


def fits(name: str, seeds: tuple[int, ...] = (1, 2, 3)) -> list[str]:
    return [f"{name}-s{seed}" for seed in seeds]


def test_the_accuracy_table_is_what_one_counts_by_hand(written: Path) -> None:
    table = accuracy_table(cell_of(written), 0.25)
    assert table.columns == ("method", "guarantee", "fitted on", "clean", "r ≥ 0", "r ≥ 0.1", "r ≥ 0.25", "r ≥ 0.5")
    sets = {
        "zero-shot": ["zero-shot"],
        "coop": fits("coop-4"),
        "few-shot": fits("few-shot-4"),
        "adapted": ["adapted-s1"],
    }
    for name, own in sets.items():
        found = row(table, name)
        assert estimate(found["clean"]) == pytest.approx(by_hand(written, own, None))
        for radius in (0.0, 0.1, 0.25, 0.5):
            assert estimate(found[f"r ≥ {radius:g}"]) == pytest.approx(by_hand(written, own, radius))
    assert [str(one[1]) for one in table.rows] == ["fixed", "fixed", "fixed", "conditional", "bank", "fixed"]
    assert [str(one[2]) for one in table.rows] == [
        MISSING, "4 shots, 3 fits", "4 shots, 3 fits", "no labels, 1 fit", "4 shots, 1 fit", MISSING,
    ]  # fmt: skip


def test_a_radius_that_the_draws_cannot_prove_has_no_column(written: Path) -> None:
    assert accuracy_table(cell_of(written), 0.1).columns[4:] == ("r ≥ 0", "r ≥ 0.1")


def test_a_constant_answer_stands_beside_every_method(written: Path, told: Section) -> None:
    for table in (accuracy_table(cell_of(written), 0.25), headline_table(cell_of(written))):
        assert table.rows[-1][:3] == ("constant answer", "fixed", MISSING)
        assert set(table.rows[-1][3:]) == {"33 %"}
    assert "right and certified at radius 0.25: a constant answer 33 %; zero-shot" in told.verdicts[0]


def test_a_constant_answer_knows_only_classes_that_have_images(tmp_path: Path) -> None:
    def two(place: int, record: Record) -> Record:
        return {**record, "label": place % 2}

    table = accuracy_table(cell_of(write_study(tmp_path / "s", ZERO_SHOT, cells={"main": {"change": two}})), 0.25)
    assert table.rows[-1][3] == "50 %"


def test_the_headline_has_a_column_for_every_sigma(written: Path) -> None:
    table = headline_table(cell_of(written))
    assert table.columns == ("method", "guarantee", "fitted on", "clean", "sigma 0.1", "sigma 0.25", "sigma 0.5")
    found = row(table, "few-shot")
    assert found["sigma 0.1"] == MISSING  # 1,000 draws prove no radius of 0.25 there
    for sigma in (0.25, 0.5):
        assert estimate(found[f"sigma {sigma:g}"]) == pytest.approx(by_hand(written, fits("few-shot-4"), 0.25, sigma))
    assert estimate(found["clean"]) == pytest.approx(by_hand(written, fits("few-shot-4"), None))
    assert "Gaussian certifier, 1,000 draws, alpha 0.001 for each image." in table.caption


def test_the_cell_that_decides_one_radius_is_the_headline(tmp_path: Path) -> None:
    path = write_study(tmp_path / "s", ZERO_SHOT, SMOOTH, cells={"curves": {}, "headline": ONE_RADIUS})
    study = read_study(path)
    assert headline_cell(study.cells).name == "headline"
    found = section(study)
    assert found.parts[0].tables[0].columns[-1] == "sigma 0.25"
    assert "at most 1,000 draws" in found.parts[0].tables[0].caption
    assert [part.title for part in found.parts if part.title.startswith("Certified accuracy against")] == [
        "Certified accuracy against radius"
    ]


def test_of_several_cells_that_of_the_most_images_is_the_headline(tmp_path: Path) -> None:
    path = write_study(tmp_path / "s", ZERO_SHOT, SMOOTH, cells={"few": {"images": 9}, "curves": {}})
    assert headline_cell(read_study(path).cells).name == "curves"


def test_what_a_reader_wants_first_comes_first(tmp_path: Path) -> None:
    each = Method("each", "promptsmooth", shots=(4,), per_sigma=True)
    path = write_study(tmp_path / "s", ZERO_SHOT, SMOOTH, each, cells={"curves": {}, "costly": {}})
    study = read_study(path)
    titles = [part.title for part in section(study).parts]
    assert titles == [
        "Certified accuracy at radius 0.25",
        "Certified accuracy against radius: cell curves",
        "Certified accuracy against radius: cell costly",
        "Shots: cell curves",
        "Shots: cell costly",
        "Costs",
        "One fit for all noise levels, or one for each",
    ]
    text = page(compare_page([path], tmp_path / "page.html")).text
    said = ["right and certified", *titles, "Which guarantee the radii carry", "Settings of the methods", "Made by"]
    places = [text.index(words) for words in said]
    assert places == sorted(places)


def test_paired_tests_are_of_the_mean_over_fits(written: Path) -> None:
    (first,) = [
        pair for pair in pairs(cell_of(written), HEADLINE) if (pair.arm.entry, pair.arm.sigma) == ("coop", 0.25)
    ]
    expected = by_hand(written, fits("coop-4"), 0.25) - by_hand(written, ["zero-shot"], 0.25)
    assert first.other.entry == "zero-shot"
    assert first.comparison.difference == pytest.approx(expected)
    right = [
        [line["prediction"] == line["label"] and line["radius"] >= 0.25 for line in lines_of(written, name)]
        for name in ("coop-4-s1", "zero-shot")
    ]
    only = [sum(a and not b for a, b in zip(*pair, strict=True)) for pair in (right, right[::-1])]
    assert first.mcnemar == pytest.approx(binomtest(only[0], sum(only)).pvalue)


def test_every_sound_method_is_tested_against_zero_shot_and_the_best_baseline(written: Path) -> None:
    cell = cell_of(written)
    baselines = [arm for arm in cell.at(0.25) if arm.facts["baseline"]]
    strongest = best(baselines, lambda arm: certified_share(arm, HEADLINE))
    assert strongest is not None
    assert strongest.entry == "coop"
    found = [(pair.arm.entry, pair.other.entry) for pair in pairs(cell, HEADLINE) if pair.arm.sigma == 0.25]
    assert found == [
        ("coop", "zero-shot"), ("few-shot", "zero-shot"), ("few-shot", "coop"), ("bank", "zero-shot"), ("bank", "coop"),
    ]  # fmt: skip


def test_holm_runs_over_all_comparisons_of_the_table(written: Path) -> None:
    table = paired_table(cell_of(written))
    assert table is not None
    shown = [pair for pair in pairs(cell_of(written), HEADLINE) if pair.arm.sigma > 0.1]
    assert f"Holm's correction runs over all {len(table.rows)} comparisons of this table." in table.caption
    assert len(table.rows) == len(shown) == 10
    adjusted = multipletests([pair.comparison.p for pair in shown], method="holm")[1]
    for one, pair, p in zip(table.rows, shown, adjusted, strict=True):
        assert one == expected_row(pair, p)


def expected_row(pair: Pair[Arm], p: float) -> tuple[Any, ...]:
    shares = [100 * by_class(arm.certified(HEADLINE), arm.labels) for arm in (pair.arm, pair.other)]
    return (
        pair.arm.entry, pair.other.entry, f"{pair.arm.sigma:g}", f"{shares[0]:.0f} %", f"{shares[1]:.0f} %",
        difference_text(pair.comparison), p_text(p), p_text(pair.mcnemar or 0),
    )  # fmt: skip


def by_class(values: Any, labels: Any) -> float:
    return float(np.mean([values[labels == label].mean() for label in np.unique(labels)]))


def test_mcnemar_is_left_out_where_images_share_groups(tmp_path: Path) -> None:
    def grouped(place: int, record: Record) -> Record:
        return {**record, "group": f"slide {place // 4}"}

    path = write_study(tmp_path / "s", ZERO_SHOT, SMOOTH, cells={"main": {"change": grouped}})
    table = paired_table(cell_of(path))
    assert table is not None
    assert table.rows[0][-1] == MISSING
    assert "It is one comparison." in table.caption
    assert "15 groups" in section(read_study(path)).facts
    assert pairs(cell_of(path), HEADLINE)[0].comparison.groups == 15


def test_conditional_rows_are_marked_and_in_no_curve_and_no_test(written: Path, told: Section) -> None:
    assert row(accuracy_table(cell_of(written), 0.25), "adapted")["guarantee"] == "conditional"
    assert row(cost_table([cell_of(written)]), "adapted")["method"] == "adapted (conditional)"
    figures = [figure for part in told.parts for figure in part.figures]
    assert len(figures) == 2
    assert not any("adapted" in figure.svg or "adapted" in figure.words for figure in figures)
    assert all("few-shot" in figure.svg and "constant answer" in figure.svg for figure in figures)
    assert "adapted" not in {pair.arm.entry for pair in pairs(cell_of(written), 0.25)}
    assert any(alarm.startswith("Rows marked conditional do not hold for a deployed pipeline") for alarm in told.alarms)
    assert "conditional" in dict(told.guarantees)
    assert not any("adapted" in verdict for verdict in told.verdicts)


def test_a_method_looks_the_same_in_every_figure(tmp_path: Path) -> None:
    path = write_study(tmp_path / "s", ZERO_SHOT, SMOOTH, BANK, cells={"curves": {}, "costly": {}})
    whole = read_study(path)
    alone = [arm for arm in whole.cells[1].arms if arm.entry == "bank"]
    drawn = arm_figure(alone, list(whole.info["entries"]))
    assert "var(--line-2)" in drawn  # the third method of the recipe
    assert "var(--line-0)" not in drawn


def test_without_conditional_rows_there_is_no_such_warning(tmp_path: Path) -> None:
    found = section(read_study(write_study(tmp_path / "s", ZERO_SHOT, SMOOTH)))
    assert found.alarms == ()
    assert [name for name, _ in found.guarantees] == ["fixed"]


def test_the_verdict_says_plainly_when_nothing_is_above_the_best_baseline(tmp_path: Path) -> None:
    weak = Method("few-shot", "promptsmooth", spoiled=40)
    probe = Method("probe", "linear-probe", baseline=True)
    (said,) = section(read_study(write_study(tmp_path / "s", ZERO_SHOT, probe, weak))).verdicts
    assert said.endswith("No method is above the best baseline.")
    assert "; the best baseline, probe, " in said
    (other,) = section(read_study(write_study(tmp_path / "t", ZERO_SHOT, SMOOTH))).verdicts
    share = 100 * by_hand(tmp_path / "t", fits("few-shot-4"), 0.25)
    assert f"the best sound method, few-shot, {share:.0f} % (" in other
    assert "baseline" not in other


def test_shots_show_the_mean_and_the_spread_of_the_fits(written: Path) -> None:
    table = shots_table(cell_of(written))
    assert table is not None
    assert table.columns == ("method", "sigma", "1 shot", "4 shots")
    (found,) = [one for one in table.rows if one[:2] == ("few-shot", "0.25")]
    each = [100 * by_hand(written, [name], 0.25) for name in fits("few-shot-4")]
    assert found[3] == f"{np.mean(each):.0f} ({min(each):.0f} to {max(each):.0f})"
    assert {one[0] for one in table.rows} == {"coop", "few-shot"}


def test_all_shots_are_the_most_and_have_a_column_of_their_own(tmp_path: Path) -> None:
    poor = Method("coop", baseline=True, shots=("all", 4, 16), spoiled=9)
    whole = write_study(tmp_path / "s", ZERO_SHOT, poor)
    table = shots_table(cell_of(whole))
    assert table is not None
    assert table.columns == ("method", "sigma", "4 shots", "16 shots", "all shots")
    (said,) = {arm.sets[0]["shots"] for arm in read_study(whole).cells[0].at(0.25) if arm.entry == "coop"}
    assert said == "all"
    assert "all shots, 1 fit" in str(compare_page([whole], tmp_path / "page.html").read_text())


def test_collapsed_fits_are_marked_wherever_they_count(tmp_path: Path) -> None:
    poor = Method(
        "coop", baseline=True, shots=(1, 4), seeds=(1, 2, 3), collapsed=("coop-1-s2", "coop-4-s1", "coop-4-s3")
    )
    path = write_study(tmp_path / "s", ZERO_SHOT, poor)
    cell, mark = cell_of(path), "(collapsed: 2 of 3 fits)"
    shown = shots_table(cell)
    tests = paired_table(cell)
    assert shown is not None
    assert tests is not None
    for table in (accuracy_table(cell, 0.25), headline_table(cell), cost_table([cell]), tests):
        assert row(table, "coop")[table.columns[0]] == f"coop {mark}"
    assert str(shown.rows[0][2]).endswith("(collapsed: 1 of 3 fits)")
    assert str(shown.rows[0][3]).endswith(mark)
    (alarm,) = section(read_study(path)).alarms
    assert alarm.startswith("coop, 3 of 6 fits: coop-1-s2 collapsed: the loss stayed at ln 3; coop-4-s1 collapsed")


def test_warnings_of_records_are_said_once_for_each_method(tmp_path: Path) -> None:
    def warned(_: int, record: Record) -> Record:
        own = record["prompts"].startswith("few-shot")
        return {**record, "warnings": ["fitted for sigma 0.5 to 1, certified at 0.25"]} if own else record

    path = write_study(tmp_path / "s", ZERO_SHOT, SMOOTH, cells={"main": {"change": warned}})
    assert section(read_study(path)).alarms == ("few-shot: fitted for sigma 0.5 to 1, certified at 0.25.",)


def test_an_unfinished_comparison_says_so(tmp_path: Path) -> None:
    cells = {"main": {"sigmas": (0.25, 0.5), "status": "interrupted", "failures": 2}}
    path = write_study(tmp_path / "s", ZERO_SHOT, SMOOTH, cells=cells)
    (path / "runs/main-sigma0.5/run.json").unlink()
    said = section(read_study(path)).alarms
    assert "Cell main is not finished: runs/main-sigma0.5 missing." in said
    assert "main-sigma0.25 is interrupted; its rows are of the images that all methods have." in said
    assert "2 images of main-sigma0.25 failed and are in no number." in said


def test_costs_are_medians(written: Path) -> None:
    table = cost_table([cell_of(written)])
    assert row(table, "few-shot") == {
        "method": "few-shot", "fit (s)": "16.0", "adapting (s per image)": MISSING, "certifying (s per image)": "0.50",
        "bytes": "1,000",
    }  # fmt: skip
    assert row(table, "adapted")["adapting (s per image)"] == "0.125"
    assert row(table, "zero-shot")["fit (s)"] == row(table, "zero-shot")["bytes"] == MISSING


def test_one_mixed_fit_is_compared_with_one_for_each_sigma(tmp_path: Path) -> None:
    settings = {"mode": "few-shot"}
    mixed = Method("mixed", "promptsmooth", seeds=(1, 2), spoiled=4, settings=settings)
    other = Method("other", "promptsmooth", seeds=(1, 2), settings={"mode": "offline"})
    each = Method("each", "promptsmooth", seeds=(1, 2), per_sigma=True, settings=settings)
    path = write_study(tmp_path / "s", other, mixed, each, cells={"main": {"sigmas": (0.25, 0.5)}})
    table = mixture_table(cell_of(path))
    assert table is not None
    assert [one[:2] for one in table.rows] == [("mixed / each", "0.25"), ("mixed / each", "0.5")]
    found = dict(zip(table.columns, table.rows[0], strict=True))
    shares = [by_hand(path, fits(name, (1, 2)), 0.25) for name in ("mixed-2", "each-sigma0.25-2")]
    assert [estimate(found[name]) for name in ("mixed", "each")] == pytest.approx(shares)
    assert str(found["difference"]).startswith(f"{100 * (shares[0] - shares[1]):+.1f} (")
    assert (found["fit (s), mixed"], found["fit (s), each"]) == ("13.5", "27.0")
    assert (found["bytes, mixed"], found["bytes, each"]) == ("1,000", "2,000")
    assert mixture_table(cell_of(write_study(tmp_path / "t", other, mixed))) is None


def test_a_grid_of_decided_radii_is_shown_as_decided(tmp_path: Path) -> None:
    cells = {"main": {"certifier": "anytime", "radii": (0.0, 0.2, 0.3)}}
    path = write_study(tmp_path / "s", ZERO_SHOT, SMOOTH, cells=cells)
    assert accuracy_table(cell_of(path), 0.25).columns[4:] == ("r ≥ 0", "r ≥ 0.2", "r ≥ 0.3")
    assert paired_table(cell_of(path)) is None
    assert section(read_study(path)).verdicts == ()


def test_the_page_needs_nothing_from_outside(written: Path, tmp_path: Path) -> None:
    found = page(compare_page([written], tmp_path / "new" / "page.html"))
    assert not {tag for tag, _ in found.tags} & _FETCHING
    for attributes in (attributes for _, attributes in found.tags):
        for name in ("src", "href", "xlink:href", "srcset", "action"):
            assert (attributes.get(name) or "#").startswith("#")
    assert "url(" not in found.text
    assert len(found.attributes("caption")) == len(found.attributes("table"))
    figures = [attributes for attributes in found.attributes("figure") if attributes.get("class") == "figure"]
    assert all(attributes["role"] == "img" and attributes["aria-label"] for attributes in figures)
    assert "titer run lesions.toml --out study" in found.text


def test_names_cannot_write_html(tmp_path: Path) -> None:
    bad = "<script>alert(1)</script>"
    study = write_study(tmp_path / "s", ZERO_SHOT, SMOOTH)
    (study / "study.json").write_text((study / "study.json").read_text().replace("Lesions", bad))
    found = page(compare_page([study], tmp_path / "page.html"))
    assert "script" not in {tag for tag, _ in found.tags}
    assert bad in found.text


def test_several_data_sets_get_an_overview(written: Path, tmp_path: Path) -> None:
    other = write_study(tmp_path / "other", ZERO_SHOT, SMOOTH)
    (other / "study.json").write_text((other / "study.json").read_text().replace('"lesions"', '"moles"'))
    text = page(compare_page([written, other], tmp_path / "page.html")).text
    assert "All data sets, at r = 0.25" in text
    assert len(re.findall(r"moles 0\.25 constant answer fixed 33 %", text)) == 1
