from pathlib import Path

import pytest

from report.synthetic import CLASSES, write_run
from titer.errors import InputError
from titer.report.tables import (
    Line,
    Share,
    Table,
    answers_table,
    certified_table,
    class_table,
    lines,
    radius_text,
    settings_table,
    subgroup_table,
)
from titer.results.store import Record
from titer.statistics.intervals import Interval, proportion


def only(path: Path, **options: object) -> Line:
    (line,) = lines([write_run(path, **options)])  # type: ignore[arg-type]
    return line


def column(table: Table, name: str) -> list[object]:
    return [row[table.columns.index(name)] for row in table.rows]


def test_certified_accuracy_with_its_count(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    hits = sum(r["label"] == r["prediction"] and r["radius"] >= 0.25 for r in run.records)
    table = certified_table(lines([run]))
    assert column(table, "r ≥ 0.25") == [Share(proportion(hits, 60), 60, hits)]
    assert column(table, "r ≥ 0.25")[0] == Share(run.certified_accuracy(0.25), 60, hits)
    average = sum(r["radius"] for r in run.records if r["label"] == r["prediction"]) / 60
    assert average - 0.001 < float(str(column(table, "average radius")[0])) <= average


def test_radii_that_the_draws_cannot_prove_are_left_blank(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", certifier="anytime", sigmas=(0.1, 0.5))
    low, high = column(certified_table(lines([run])), "r ≥ 0.5")
    assert low == "–"
    assert isinstance(high, Share)


def test_shares_are_said_as_finely_as_the_images_allow() -> None:
    share = Share(Interval(0.1234, 0.05, 0.25), images=50, hits=6)
    assert (share.text, share.range, share.count) == ("12 %", "5 to 25", "6 of 50")
    fine = Share(Interval(0.1234, 0.05, 0.25), images=500, percent=False)
    assert (fine.text, fine.range, fine.count) == ("0.123", "0.050 to 0.250", "")
    assert Share(Interval(0.1234, 0.05, 0.25), images=500).text == "12.3 %"


@pytest.mark.parametrize(("radius", "text"), [(0.25, "0.25"), (1.0, "1"), (0.0, "0"), (0.12345678, "0.123456")])
def test_radii_are_never_rounded_up(radius: float, text: str) -> None:
    assert radius_text(radius) == text


def test_abstention_or_not_certified(tmp_path: Path) -> None:
    grid = only(tmp_path / "grid", certifier="anytime")
    one = only(tmp_path / "one", certifier="anytime", radii=(0.25,))
    silent = sum(record["prediction"] < 0 for record in grid.cell.records)
    assert column(answers_table([grid]), "no answer")[0] == Share(proportion(silent, 60), 60, silent)
    table = answers_table([one])
    silent = sum(record["prediction"] < 0 for record in one.cell.records)
    assert "no answer" not in table.columns
    assert column(table, "not certified at r") == [Share(proportion(silent, 60), 60, silent)]
    assert column(table, "right") == ["–"]  # accuracy without the radius was not asked for
    both = answers_table([grid, one])
    assert (column(both, "no answer")[1], column(both, "not certified at r")[0]) == ("–", "–")


def test_open_radii_are_those_that_could_have_been_decided(tmp_path: Path) -> None:
    def change(place: int, record: Record) -> Record:
        return {**record, "open": [0.5, 1.0] if place < 5 else [1.0]}

    line = only(tmp_path / "run", certifier="anytime", radii=(0, 0.5, 1.0), change=change)
    assert column(answers_table([line]), "left open at the cap") == ["5"]
    assert column(answers_table([only(tmp_path / "gaussian")]), "left open at the cap") == ["–"]


def test_classes(tmp_path: Path) -> None:
    line = only(tmp_path / "run")
    table = class_table(line)
    assert table is not None
    assert column(table, "class") == [*CLASSES, "balanced accuracy"]
    assert column(table, "images") == ["20", "20", "20", "60"]
    hits = sum(record["prediction"] == record["label"] == 0 for record in line.cell.records)
    assert column(table, "sensitivity")[0] == Share(proportion(hits, 20), 20)
    assert "calibration error" in table.caption


def test_a_class_without_images_has_no_sensitivity(tmp_path: Path) -> None:
    table = class_table(only(tmp_path / "run", change=lambda _, record: {**record, "label": 0}))
    assert table is not None
    assert column(table, "sensitivity")[1:3] == ["–", "–"]
    assert column(table, "AUROC")[:3] == ["–"] * 3


def test_no_classes_without_labels_or_counts(tmp_path: Path) -> None:
    assert class_table(only(tmp_path / "unlabelled", change=lambda _, r: {**r, "label": None})) is None
    assert class_table(only(tmp_path / "foreign", change=lambda _, r: _without(r))) is None


def _without(record: Record) -> Record:
    return {name: value for name, value in record.items() if name != "counts"}


def test_subgroups(tmp_path: Path) -> None:
    def change(place: int, record: Record) -> Record:
        return {**record, "attributes": {"sex": ("f", "m", None)[place % 3], "site": 1}}

    line = only(tmp_path / "run", change=change)
    table = subgroup_table(line, "sex")
    assert column(table, "sex") == ["(empty)", "f", "m"]
    assert column(table, "images") == ["20"] * 3
    own = [r for r in line.cell.records if r["attributes"]["sex"] == "f"]
    hits = sum(r["prediction"] == r["label"] and r["radius"] >= 0.25 for r in own)
    assert column(table, "certified at r ≥ 0.25")[1] == Share(proportion(hits, 20), 20, hits)
    with pytest.raises(InputError, match=r"column 'age' \(they carry: sex, site\); certify with --by age"):
        subgroup_table(line, "age")
    with pytest.raises(InputError, match=r"\(they carry: none\)"):
        subgroup_table(only(tmp_path / "plain"), "sex")


def test_names_tell_parts_apart(tmp_path: Path) -> None:
    first = write_run(tmp_path / "first", sigmas=(0.5, 0.1), prompts=("zero-shot", "learned"))
    assert [line.title for line in lines([first])] == [
        "zero-shot, sigma 0.1",
        "learned, sigma 0.1",
        "zero-shot, sigma 0.5",
        "learned, sigma 0.5",
    ]
    again, other = (
        write_run(tmp_path / "again"),
        write_run(tmp_path / "other", model={"name": "plip", "fingerprint": "1"}),
    )
    assert [line.name for line in lines([write_run(tmp_path / "same"), again])] == [
        "zero-shot (same)",
        "zero-shot (again)",
    ]
    assert [line.name for line in lines([again, other])] == ["zero-shot · titer:tiny", "zero-shot · plip"]
    adapted = write_run(tmp_path / "adapted", change=lambda _, r: {**r, "guarantee": "conditional"})
    assert lines([adapted])[0].name == "zero-shot (conditional)"


def test_settings_leave_nothing_out(tmp_path: Path) -> None:
    table = settings_table(write_run(tmp_path / "run", certifier="anytime", failures=1))
    rows = {row[0]: row[1] for row in table.rows}
    assert rows["command"] == "titer certify --model titer:tiny --data lesions"
    assert rows["model fingerprint"] == "4ecb57d6" * 8
    assert rows["radii"] == "0.0, 0.1, 0.25, 0.5"
    assert rows["seed"] == "7"
    assert rows["images"] == "60 done, 1 failed, 61 expected"
    assert rows["class benign"] == "a picture of benign"
    assert rows["versions"] == "titer 0.1.0, torch 2.13.0"
