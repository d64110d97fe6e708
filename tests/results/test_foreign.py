"""Files of the field: their layouts as published, read and written."""

import csv
import json
import math
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from report.synthetic import write_run
from results.test_robustness import made
from titer.errors import InputError
from titer.results.foreign import ForeignRow, export_run, open_results, read_foreign, read_rows, rounded_down
from titer.results.store import Record
from titer.results.summary import certified_accuracy, noise_channels
from titer.results.totals import RADII, read_totals

HEADER = "idx\tlabel\tpredict\tradius\tcorrect\ttime\n"
COHEN = HEADER + (
    "0\t0\t0\t0.165\t1\t0:02:31.238689\n"
    "100\t2\t2\t0.978\t1\t0:02:28\n"
    "200\t4\t-1\t0.0\t0\t0:02:30.437045\n"
    "300\t6\t397\t0.423\t0\t1 day, 0:00:01.500000\n"
)
PLAIN_SECONDS = HEADER + "0\t3\t-1\t0.0\t0\t15.3\n20\t7\t7\t0.0734\t1\t15.4\n"
PROMPTSMOOTH = (
    HEADER
    + "0\t1\t1\t0.8\t1\t0:00:03.123456\n1\t0\t1\t0.2\t0\t0:00:03\n"
    + "".join(
        f"Total accuracy is {50.0 if at < 0.8 else 0.0} against radii {at}\n" for at in (0, 0.1, 0.25, 0.5, 0.75, 1)
    )
)
RUNNING_TOTAL = HEADER + "0\t5\t5\t0.4\t1\t0:00:09.1\n50\t6\t5\t0.3\t1\t0:00:09.2\n100\t7\t7\t0.1\t2\t0:00:09.3\n"


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_cohens_layout(tmp_path: Path) -> None:
    rows = read_rows(written(tmp_path / "sigma_0.25", COHEN))
    assert rows[0] == ForeignRow(index=0, label=0, prediction=0, radius=0.165, seconds=151.238689)
    assert [row.index for row in rows] == [0, 100, 200, 300]
    assert [row.seconds for row in rows[1:]] == [148.0, 150.437045, 86_401.5]
    assert rows[2].prediction == -1


def test_times_in_plain_seconds(tmp_path: Path) -> None:
    assert [row.seconds for row in read_rows(written(tmp_path / "sigma_1.00", PLAIN_SECONDS))] == [15.3, 15.4]


def test_prose_after_the_rows_is_passed_over(tmp_path: Path) -> None:
    assert len(read_rows(written(tmp_path / "sigma_0.25", PROMPTSMOOTH))) == 2


def test_a_running_total_is_not_taken_for_correct(tmp_path: Path) -> None:
    run = open_results(written(tmp_path / "log", RUNNING_TOTAL))
    assert run.certified_accuracy(0.0).estimate == pytest.approx(2 / 3)
    assert run.certified_accuracy(0.2).estimate == pytest.approx(1 / 3)


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_parts_that_were_put_together(newline: str, tmp_path: Path) -> None:
    """Ranks of a distributed run, header and all, behind a byte order mark."""
    text = (COHEN + HEADER + "400\t8\t8\t0.5\t1\t0:00:01\n").replace("\n", newline)
    path = tmp_path / "merged"
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert [row.index for row in read_rows(path)] == [0, 100, 200, 300, 400]


def test_a_restart_in_the_same_file(tmp_path: Path) -> None:
    run = read_foreign(written(tmp_path / "log", COHEN + "300\t6\t6\t0.2\t1\t0:00:01\n"))
    assert len(run.records) == 4
    assert run.records[-1]["prediction"] == 6
    assert run.info["warnings"] == ["1 images stand in the file more than once; their last line counts."]


def test_an_unfinished_last_line_is_left_out(tmp_path: Path) -> None:
    assert len(read_rows(written(tmp_path / "log", COHEN + "400\t8\t8\t0.9"))) == 4


def test_a_foreign_file_is_a_run(tmp_path: Path) -> None:
    run = read_foreign(written(tmp_path / "sigma_0.25", COHEN))
    assert run.info["verb"] == "certify"
    assert run.info["data"]["name"] == "sigma_0.25"
    assert len(run.info["classes"]) == 398
    assert {record["guarantee"] for record in run.records} == {"not recorded"}
    assert {record["sigma"] for record in run.records} == {0.25}
    assert certified_accuracy(run, 0.0).estimate == 0.5
    assert math.isnan(read_foreign(written(tmp_path / "log.tsv", COHEN)).records[0]["sigma"])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "holds no certificates"),
        (HEADER, "holds no certificates"),
        ("Total accuracy is 50.0 against radii 0\n", "holds no certificates"),
        ("idx\tlabel\tpredict\tcorrect\ttime\n0\t0\t0\t1\t0:00:01\n", "got idx label predict correct time"),
        ("0\t0\t0\t1\t0:00:01\n", "line 1 is no certificate"),
        (COHEN + "400\t8\teight\t0.9\t1\t0:00:01\n", "line 6 is no certificate"),
        (COHEN + "400\t8\t8\t0.9\t1\tsoon\n", "line 6 is no certificate"),
        (COHEN + "400\t8\t8\tnan\t1\t1.0\n", "line 6: prediction 8 with radius nan is impossible"),
        (COHEN + "400\t8\t8\t-0.5\t1\t1.0\n", "is impossible"),
        (COHEN + "400\t8\t-2\t0.0\t1\t1.0\n", "is impossible"),
    ],
)
def test_what_is_no_such_file(text: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=says):
        read_rows(written(tmp_path / "log", text))


def test_a_picture_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(b"\x89PNG\xff\xfe\x00")
    with pytest.raises(InputError, match="cannot be read as text"):
        open_results(path)


def test_a_directory_that_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no run"):
        open_results(tmp_path / "missing")


def test_cohen_export_reads_back(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", images=30)
    (path,) = export_run(run, "cohen", tmp_path / "new" / "out.tsv")
    lines = path.read_text().splitlines()
    assert lines[0] == HEADER.strip()
    assert lines[1].split("\t")[0] == "0"
    assert lines[1].endswith("\t0:00:00.500000")
    rows = read_rows(path)
    assert [row.index for row in rows] == list(range(30))
    for row, record in zip(rows, run.records, strict=True):
        assert (row.label, row.prediction) == (record["label"], record["prediction"])
        assert record["radius"] - 1e-6 < row.radius <= record["radius"]
    for at in (0.0, 0.1, 0.3):
        assert read_foreign(path).certified_accuracy(at) == run.certified_accuracy(at)


@settings(max_examples=40)
@given(st.lists(st.tuples(st.booleans(), st.floats(0, 3.2)), min_size=1, max_size=20))
def test_a_promptsmooth_file_reads_back(drawn: list[tuple[bool, float]]) -> None:
    """Rows, radii that never grew, and totals with R > r that agree with the rows."""

    def change(place: int, record: Record) -> Record:
        right, radius = drawn[place]
        return {**record, "label": 1, "prediction": 1 if right else 2, "radius": radius}

    with tempfile.TemporaryDirectory() as directory:
        run = write_run(Path(directory, "run"), images=len(drawn), change=change)
        (path,) = export_run(run, "promptsmooth", Path(directory, "kather", f"samples_{len(drawn)}", "sigma_0.25"))
        rows, totals, read = read_rows(path), read_totals(path.read_text().splitlines()), read_foreign(path)
    assert [row.prediction for row in rows] == [1 if right else 2 for right, _ in drawn]
    assert all(radius - 1e-6 < row.radius <= radius for row, (_, radius) in zip(rows, drawn, strict=True))
    for at in RADII:
        strict = sum(right and row.radius > at for row, (right, _) in zip(rows, drawn, strict=True))
        assert totals[at] == 100 * strict / len(drawn)
        assert 100 * read.certified_accuracy(at).estimate >= totals[at] - 1e-9
    assert read.info["data"]["name"] == "kather"
    assert read.info["warnings"] == ["Sigma is taken from the file's name."]


def test_a_promptsmooth_file_counts_radii_above_r_and_rounds_them_down(tmp_path: Path) -> None:
    radii = (0.25, 0.2500004, 0.79955012)
    run = write_run(
        tmp_path / "run", images=3, change=lambda k, record: {**record, "label": 0, "prediction": 0, "radius": radii[k]}
    )
    (path,) = export_run(run, "promptsmooth", tmp_path / "sigma_0.25")
    lines = path.read_text().splitlines()
    assert lines[0] + "\n" == HEADER
    assert [line.split("\t")[3] for line in lines[1:4]] == ["0.250000", "0.250000", "0.799550"]
    assert len(lines) == 1 + 3 + 11
    assert lines[6] == "Total accuracy is 33.333333333333336 against radii 0.25"


def test_totals_need_measured_radii_and_labels(tmp_path: Path) -> None:
    grid = write_run(tmp_path / "grid", images=3, certifier="anytime")
    with pytest.raises(InputError, match="--certifier gaussian or --tolerance, or --to cohen"):
        export_run(grid, "promptsmooth", tmp_path / "out")
    nameless = write_run(tmp_path / "run", images=3, change=lambda _, record: {**record, "label": None})
    with pytest.raises(InputError, match="without labels there are no totals"):
        export_run(nameless, "promptsmooth", tmp_path / "out")
    measured = write_run(tmp_path / "tolerance", images=3, certifier="anytime", tolerance=0.05)
    assert len(export_run(measured, "promptsmooth", tmp_path / "out")) == 1


def test_totals_of_a_wrong_option_n_are_told(tmp_path: Path) -> None:
    """PromptSmooth divides by --n (500), whatever the number of its rows."""
    run = read_foreign(written(tmp_path / "sigma_0.25", PROMPTSMOOTH.replace("is 50.0", "is 0.2")))
    assert run.info["warnings"][1].startswith("The file says 0.2 % certified with R > 0, its 2 rows give 50 %.")


@pytest.mark.parametrize("folder", ["samples_500", "samples500"])
def test_the_data_set_is_read_from_the_published_layout(folder: str, tmp_path: Path) -> None:
    path = tmp_path / "plip" / "kather" / folder / "sigma_0.5"
    path.parent.mkdir(parents=True)
    run = read_foreign(written(path, PROMPTSMOOTH))
    assert run.info["data"]["name"] == "kather"
    assert run.records[0]["sigma"] == 0.5
    assert run.info["warnings"] == ["Sigma is taken from the file's name."]


def test_failed_images_keep_their_place(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", images=3, failures=2)
    (path,) = export_run(run, "cohen", tmp_path / "out.tsv")
    assert [row.index for row in read_rows(path)] == [2, 3, 4]


def test_every_prompt_set_and_sigma_has_its_file(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", images=4, prompts=("zero-shot", "a photo of {}"), sigmas=(0.1, 0.25))
    written = export_run(run, "cohen", tmp_path / "out.tsv")
    assert [path.name for path in written] == [
        "out.zero-shot.sigma_0.1.tsv",
        "out.a_photo_of___.sigma_0.1.tsv",
        "out.zero-shot.sigma_0.25.tsv",
        "out.a_photo_of___.sigma_0.25.tsv",
    ]
    assert read_foreign(written[2]).records[0]["sigma"] == 0.25


def test_prompt_sets_of_the_same_file_name_are_refused(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", images=4, prompts=("a b", "a+b"))
    with pytest.raises(InputError, match="too alike"):
        export_run(run, "cohen", tmp_path / "out.tsv")


def test_images_without_a_label(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", images=3, change=lambda _, record: {**record, "label": None})
    (path,) = export_run(run, "cohen", tmp_path / "out.tsv")
    assert [row.label for row in read_rows(path)] == [None] * 3


def test_csv_holds_every_field(tmp_path: Path) -> None:
    def change(place: int, record: Record) -> Record:
        return {**record, "attributes": {"sex": "f" if place else None}, "group": "p, 1"}

    run = write_run(tmp_path / "run", images=2, certifier="anytime", change=change)
    (path,) = export_run(run, "csv", tmp_path / "out.csv")
    with path.open(newline="") as stream:
        first, second = csv.DictReader(stream)
    assert set(first) == (set(run.records[0]) - {"attributes"}) | {"attributes.sex"}
    assert json.loads(first["counts"]) == run.records[0]["counts"]
    assert json.loads(first["decided"]) == run.records[0]["decided"]
    assert float(second["radius"]) == run.records[1]["radius"]
    assert (first["attributes.sex"], second["attributes.sex"], first["group"]) == ("", "f", "p, 1")


def test_latex_table(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", certifier="anytime", sigmas=(0.1, 0.25), prompts=("a_b ~{}",))
    (path,) = export_run(run, "latex", tmp_path / "out.tex")
    text = path.read_text()
    rows = [line for line in text.splitlines() if line.startswith("a")]
    assert r"a\_b \textasciitilde{}\{\}" in rows[0]
    assert rows[0].count("--") == 2  # 1,000 draws prove no radius of 0.25 at sigma 0.1
    share = run.certified_accuracy(0.25, sigma=0.25)
    assert f"{100 * share.estimate:.1f} [{100 * share.low:.1f}, {100 * share.high:.1f}]" in rows[1]
    assert text.count("{tabular}") == 2


def test_latex_table_of_an_attack(tmp_path: Path) -> None:
    run = made("pgd", {1 / 255: {1, 2}, 2 / 255: {1, 2, 3}}, data={"name": "lesions"})
    (path,) = export_run(run, "latex", tmp_path / "out.tex")
    text = path.read_text()
    assert "& clean & 1/255 & 2/255" in text
    (row,) = (line for line in text.splitlines() if line.startswith("zero-shot"))
    first = run.robust_accuracy(1 / 255)
    assert f"& 80.0 [{100 * first.low:.1f}, {100 * first.high:.1f}] & 70.0 [" in row
    assert "% self-checks of zero-shot: not made" in text


def test_a_file_of_one_channel_radii_says_so_in_its_name(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", change=lambda _, record: {**record, "channels": 1})
    for layout in ("cohen", "promptsmooth"):
        with pytest.raises(
            InputError, match=r"expected a file name with 'one_channel' in it, such as out_one_channel\.tsv"
        ):
            export_run(run, layout, tmp_path / "out.tsv")
    (path,) = export_run(run, "cohen", tmp_path / "out_one_channel.tsv")
    assert noise_channels(open_results(path)) == 1
    (latex,) = export_run(run, "latex", tmp_path / "out.tex")
    assert "% noise was drawn once for all channels" in latex.read_text()
    (table,) = export_run(run, "csv", tmp_path / "out.csv")
    assert {row["channels"] for row in csv.DictReader(table.open(encoding="utf-8"))} == {"1"}


def test_what_cannot_be_exported(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", images=2)
    with pytest.raises(InputError, match=r"unknown format 'cohn'; did you mean 'cohen'\?"):
        export_run(run, "cohn", tmp_path / "out")
    with pytest.raises(InputError, match="is a run of predict"):
        export_run(write_run(tmp_path / "predict", verb="predict"), "cohen", tmp_path / "out")
    with pytest.raises(InputError, match="no finished samples"):
        export_run(write_run(tmp_path / "empty", images=0, failures=1), "csv", tmp_path / "out")
    with pytest.raises(InputError, match="cannot write"):
        export_run(run, "csv", tmp_path)


@pytest.mark.parametrize(
    ("radius", "text"), [(0.3, "0.300000"), (0.7999999, "0.799999"), (1 - 1e-16, "0.999999"), (0.0, "0.000000")]
)
def test_radii_round_down(radius: float, text: str) -> None:
    assert rounded_down(radius) == text


@given(st.floats(0, 100), st.integers(1, 8))
def test_a_radius_read_back_is_never_larger(radius: float, digits: int) -> None:
    assert radius - 10.0**-digits <= float(rounded_down(radius, digits)) <= radius
