"""Base-to-new tables, against numbers counted by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from report.comparing import ZERO_SHOT, Method, write_study
from report.test_comparison import estimate
from titer.report.base_to_new import base_to_new_tables
from titer.report.comparison import compare_page
from titer.results.study import StudyResults, read_study

GREY = 1 / 255
COOP = Method("coop", shots=(4,), seeds=(1, 2), spoiled=3)


def halves(path: Path, *methods: Method) -> StudyResults:
    """Of 60 images ``zero-shot`` has 48 right and ``coop`` 57; one half loses 9 of them under attack, the other 30."""
    cells = {
        "hit-base": {"attacks": {"pgd": {"broken": {GREY: 9}}}},
        "hit-new": {"attacks": {"pgd": {"broken": {GREY: 30}}}},
    }
    write_study(path, *methods, cells=cells)
    told = json.loads((path / "study.json").read_text())
    for cell in told["cells"]:
        cell |= {"of": "hit", "part": cell["name"].removeprefix("hit-")}
    (path / "study.json").write_text(json.dumps(told))
    return read_study(path)


def test_harmonic_means_are_what_one_counts_by_hand(tmp_path: Path) -> None:
    (table,) = base_to_new_tables(halves(tmp_path, ZERO_SHOT, COOP))
    assert table.title == "Base to new (hit), linf 1/255"
    assert "60 and 60 images" in table.caption
    for row, clean, base, new in zip(table.rows, (48, 57), (39, 48), (18, 27), strict=True):
        assert [round(60 * estimate(value)) for value in row[2:6]] == [clean, base, clean, new]
        assert estimate(row[6]) == pytest.approx(clean / 60)
        assert estimate(row[7]) == pytest.approx(4 / (60 / clean + 60 / base + 60 / clean + 60 / new))
        low, high = row[7].interval.low, row[7].interval.high  # type: ignore[union-attr]
        assert 0 < low < estimate(row[7]) < high < 1


def test_the_page_shows_them_and_one_half_alone_has_none(tmp_path: Path) -> None:
    study = halves(tmp_path / "s", ZERO_SHOT, COOP)
    page = compare_page([study.path], tmp_path / "page.html").read_text()
    assert "Base to new classes" in page
    for half in ("base", "new"):
        assert f"Cell hit-{half}. Right under pgd" in page
    told = json.loads((study.path / "study.json").read_text())
    told["cells"].pop()
    (study.path / "study.json").write_text(json.dumps(told))
    assert base_to_new_tables(read_study(study.path)) == []
    assert "Base to new classes" not in compare_page([study.path], tmp_path / "page.html").read_text()
