"""One verb for every kind of directory: which page is written, and that kinds are not mixed."""

from __future__ import annotations

from pathlib import Path

import pytest

from report.comparing import ZERO_SHOT, write_study
from report.synthetic import write_run
from titer.errors import InputError
from titer.report.directories import report_on


def test_report_takes_comparisons_or_runs(tmp_path: Path) -> None:
    study, run = write_study(tmp_path / "s", ZERO_SHOT), write_run(tmp_path / "run").path
    assert "Comparison of defenses" in report_on([study], tmp_path / "a.html").read_text()
    assert "Robustness report" in report_on([run], tmp_path / "b.html").read_text()
    with pytest.raises(InputError, match=r"is a comparison and .*/run is not; give them pages of their own"):
        report_on([study, run], tmp_path / "c.html")
    with pytest.raises(InputError, match=r"/run is a run and .* is a comparison; give them pages of their own"):
        report_on([run, study], tmp_path / "c.html")
    with pytest.raises(InputError, match="--by sex: the page of a comparison is not broken down"):
        report_on([study], tmp_path / "c.html", by="sex")
    assert not (tmp_path / "c.html").exists()
