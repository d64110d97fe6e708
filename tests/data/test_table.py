"""Tables: CSV, JSON lines, Parquet."""

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pyarrow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pyarrow import parquet

from data.making import ids, picture, pictures, words
from titer.data import load_data
from titer.data.table import table_rows
from titer.errors import InputError, PictureError

Rows = Sequence[Mapping[str, object]]


def write_csv(file: Path, rows: Rows) -> Path:
    with file.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return file


def write_jsonl(file: Path, rows: Rows) -> Path:
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return file


def write_parquet(file: Path, rows: Rows) -> Path:
    parquet.write_table(pyarrow.Table.from_pylist([dict(row) for row in rows]), file)
    return file


WRITERS: dict[str, Callable[[Path, Rows], Path]] = {
    ".csv": write_csv,
    ".jsonl": write_jsonl,
    ".parquet": write_parquet,
}


def refusal(file: Path, content: str | bytes) -> str:
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(InputError) as caught:
        load_data(file)
    return str(caught.value)


@pytest.mark.parametrize("suffix", WRITERS)
def test_the_three_kinds_read_alike(tmp_path: Path, suffix: str) -> None:
    file = WRITERS[suffix](
        tmp_path / f"table{suffix}",
        [
            {"path": "x/1.png", "label": "b", "caption": "says, é", "split": "test", "group": "p1", "site": "A"},
            {"path": "x/2.png", "label": "a", "caption": None, "split": "train", "group": None, "site": "B"},
            {"path": "x/3.png", "label": None, "caption": "no label", "split": "test", "group": "p1", "site": None},
        ],
    )
    data = load_data(file)
    assert data.name == f"table{suffix}"
    assert [each.label for each in data.classes] == ["a", "b"]
    first, third = data.examples
    assert (first.id, first.label, first.caption, first.group, first.attributes) == (
        "x/1.png",
        1,
        "says, é",
        "p1",
        {"site": "A"},
    )
    assert (third.label, third.caption, third.attributes) == (None, "no label", {})
    assert load_data(file, "train").examples[0].group is None
    assert data.columns == ("site",)


def test_no_picture_is_opened_and_a_missing_one_stays(tmp_path: Path) -> None:
    file = write_csv(tmp_path / "t.csv", [{"path": "gone.png", "label": "a"}, {"path": "1.png", "label": "b"}])
    picture(tmp_path / "1.png")
    data = load_data(file)
    assert ids(data) == ["1.png", "gone.png"]
    assert data.read(data.examples[0]).pixels.shape == (3, 4, 1)
    with pytest.raises(PictureError, match="does not exist"):
        data.read(data.examples[1])


def test_a_directory_with_metadata_is_read_by_it(tmp_path: Path) -> None:
    words(pictures(tmp_path, ["a/1.png", "b/2.png", "c/3.png"]), {"y": "why", "x": "ex"})
    write_csv(
        tmp_path / "metadata.csv", [{"file_name": "a/1.png", "label": "x"}, {"file_name": "b/2.png", "label": "y"}]
    )
    data = load_data(tmp_path)
    assert data.name == tmp_path.name
    assert [(each.id, each.label) for each in data.examples] == [("a/1.png", 1), ("b/2.png", 0)]
    assert [each.label for each in data.classes] == ["y", "x"]


def test_pairs_need_no_label(tmp_path: Path) -> None:
    data = load_data(write_csv(tmp_path / "t.csv", [{"path": "1.png", "caption": "a tibia"}]))
    assert data.classes == ()
    assert data.examples[0].label is None


def test_repeated_paths_get_numbers_in_row_order(tmp_path: Path) -> None:
    rows = [{"path": name, "caption": caption} for name, caption in (("1.png", "x"), ("./1.png", "y"), ("2.png", "z"))]
    data = load_data(write_csv(tmp_path / "t.csv", [*rows, {"path": "1.png", "caption": "w"}]))
    assert [(each.id, each.caption) for each in data.examples] == [
        ("1.png", "x"),
        ("1.png#2", "y"),
        ("1.png#3", "w"),
        ("2.png", "z"),
    ]


def test_ids_of_the_table(tmp_path: Path) -> None:
    rows = [{"id": "s1", "path": "1.png", "label": "a"}, {"id": "", "path": "1.png", "label": "b"}]
    assert ids(load_data(write_csv(tmp_path / "t.csv", rows))) == ["1.png", "s1"]


@pytest.mark.parametrize(
    "content",
    ["id,path,label\ns1,1.png,a\ns1,2.png,b\n", "path,label\n1.png,a\n1.png,b\n1.png#2,b\n"],
)
def test_ids_given_twice(tmp_path: Path, content: str) -> None:
    assert "is given to 2 rows" in refusal(tmp_path / "t.csv", content)


def test_one_spelling_of_a_path(tmp_path: Path) -> None:
    rows = [
        {"path": name, "label": "ab"[place % 2]}
        for place, name in enumerate(["x//1.png", r"x\2.png", "./x/y/../3.png"])
    ]
    rows.append({"path": f"{tmp_path}/x/4.png", "label": "a"})
    assert ids(load_data(write_csv(tmp_path / "t.csv", rows))) == ["x/1.png", "x/2.png", "x/3.png", "x/4.png"]


@pytest.mark.parametrize("place", ["/etc/1.png", "../1.png", "x/../../1.png", "..", r"C:\scans\1.png", "..\\1.png"])
def test_paths_that_lead_out_are_refused(tmp_path: Path, place: str) -> None:
    text = refusal(tmp_path / "t.csv", f"path,label\n1.png,a\n{place},b\n")
    assert "row 2" in text
    assert "is outside the data" in text


def test_paths_that_lead_out_are_taken_where_that_is_allowed(tmp_path: Path) -> None:
    """By ``..``, by a whole path, and where the table's directory is a link; no path of the machine is in the records."""
    (tmp_path / "scans").mkdir()
    Image.new("L", (4, 4), 51).save(tmp_path / "scans" / "1.png")
    (tmp_path / "real" / "tables").mkdir(parents=True)
    (tmp_path / "tables").symlink_to(tmp_path / "real" / "tables")
    whole = tmp_path / "scans" / "1.png"
    (tmp_path / "tables" / "t.csv").write_text(f"path,label\n../../scans/1.png,a\n{whole},b\n")
    data = load_data(tmp_path / "tables" / "t.csv", allow=["outside-paths"])
    assert ids(data) == ["../../scans/1.png", "../../scans/1.png#2"]
    assert [float(data.read(each).pixels.mean()) for each in data.examples] == pytest.approx([0.2, 0.2])
    text = refusal(tmp_path / "again.csv", "path,label\n../scans/1.png,a\nx.png,b\n")
    assert text.endswith("--allow outside-paths accepts that")
    pooled = f"pooled:{tmp_path / 'again.csv'},titer:phantoms"
    with pytest.raises(InputError, match=r"row 1: .*/scans/1\.png. is outside the data"):
        load_data(pooled)
    assert load_data(pooled, allow=["outside-paths"])
    with pytest.raises(InputError, match="unknown allowance 'outside'; did you mean 'outside-paths'"):
        load_data(tmp_path / "again.csv", allow=["outside"])


def test_a_spreadsheets_csv(tmp_path: Path) -> None:
    """A byte order mark, blank lines, cells beyond the header's end, spaces, quoted line breaks."""
    file = tmp_path / "t.csv"
    text = ' path , label ,site\r\n1.png, a ,x,,\r\n\r\n,,\r\n"2.png","b","two\nlines"\r\n'
    file.write_text(text, encoding="utf-8-sig", newline="")
    data = load_data(file)
    assert [(each.id, each.attributes) for each in data.examples] == [
        ("1.png", {"site": "x"}),
        ("2.png", {"site": "two\nlines"}),
    ]
    assert [each.label for each in data.classes] == ["a", "b"]


def test_an_index_column_without_a_name_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(",path,label\n0,1.png,a\n1,2.png,b\n")
    assert load_data(tmp_path / "t.csv").columns == ()


def test_other_columns_are_attributes_in_order(tmp_path: Path) -> None:
    text = "zone,path,file_name,label,question,answer,empty\nz,orig,1.png,a,what?,that,\nz,orig,2.png,b,,,\n"
    (tmp_path / "t.csv").write_text(text)
    data = load_data(tmp_path / "t.csv")
    assert data.columns == ("zone", "path", "question", "answer", "empty")
    assert data.examples[0].attributes == {"zone": "z", "path": "orig", "question": "what?", "answer": "that"}


def test_numbers_become_text(tmp_path: Path) -> None:
    rows: Rows = [
        {"path": "1.png", "label": 10, "age": 61.5},
        {"path": "2.png", "label": 9, "age": 60.0},
        {"path": "3.png"},
    ]
    for suffix in (".jsonl", ".parquet"):
        data = load_data(WRITERS[suffix](tmp_path / f"t{suffix}", rows))
        assert [each.label for each in data.classes] == ["9", "10"]
        assert [each.attributes.get("age") for each in data.examples] == ["61.5", "60", None]


def test_missing_numbers_are_absent(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text(
        '{"path": "1.png", "label": NaN}\n{"path": "2.png", "label": 1}\n{"path": "3.png", "label": 2}\n'
    )
    assert [each.label for each in load_data(tmp_path / "t.jsonl").examples] == [None, 0, 1]


def test_json_lines_may_hold_unicode_separators_and_lists(tmp_path: Path) -> None:
    rows: Rows = [
        {"path": "1.png", "caption": "one\u2028two\x85three"},
        {"path": "2.png", "box": [1, 2], "caption": "x"},
    ]
    data = load_data(write_jsonl(tmp_path / "t.jsonl", rows))
    assert data.examples[0].caption == "one\u2028two\x85three"
    assert data.examples[1].attributes == {"box": "[1, 2]"}


def test_pictures_inside_a_parquet_file_are_left_alone(tmp_path: Path) -> None:
    rows = [{"path": f"{place}.png", "label": str(place), "bytes": b"x", "image": {"bytes": b"x"}} for place in (0, 1)]
    data = load_data(write_parquet(tmp_path / "t.parquet", rows))
    assert data.columns == ()
    assert len(data) == 2


def test_labels_outside_classes_json(tmp_path: Path) -> None:
    words(tmp_path, {"a": "x", "b": "y"})
    assert "'c'" in refusal(tmp_path / "t.csv", "path,label\n1.png,a\n2.png,c\n")


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("t.csv", "", "has no rows"),
        ("t.csv", "path,label\n", "has no rows"),
        ("t.csv", "image,label\n1.png,a\n", "expected a column 'file_name' or 'path', got image, label"),
        ("t.csv", "path;label\n1.png;a\n", "expected a column 'file_name' or 'path', got path;label"),
        (
            "t.csv",
            "path,diagnosis\n1.png,a\n",
            "expected a column 'label', 'caption' or 'question', got path, diagnosis",
        ),
        ("t.csv", "path,label\n,a\n", "row 1 has no path"),
        ("t.csv", "path,label\n1.png\n", "line 2: expected 2 cells as in the header, got 1"),
        ("t.csv", "path,label\n1.png,a,b\n", "line 2: expected 2 cells as in the header, got 3"),
        ("t.csv", "path,label,label\n1.png,a,b\n", "the column 'label' is there 2 times"),
        ("t.csv", "path,label\n1.png,é\n".encode("latin-1"), "is not a readable CSV file in UTF-8"),
        ("t.csv", "path,label\n1.png," + "a" * 200_000, "is not a readable CSV file"),
        ("t.csv", "path,label\n1.png,a\n2.png,a\n", "only one class, 'a'"),
        ("t.jsonl", "", "has no rows"),
        ("t.jsonl", "\n{\n", "line 2 is not valid JSON"),
        ("t.jsonl", "[" * 100_000, "line 1 is not valid JSON"),
        ("t.jsonl", "[1]\n", "line 1: expected an object, got list"),
        ("t.jsonl", b"\xff\n", "is not in UTF-8"),
        ("t.jsonl", '{"path": "1.png", "label": ["a"]}\n', "row 1: expected one value for 'label', got ['a']"),
        ("t.jsonl", '{"path": "1.png", "label": "a"}\n{"label": "b"}\n', "row 2 has no path"),
        ("t.jsonl", '{"path": "\\ud800", "caption": "x"}\n', "not valid Unicode"),
        (
            "t.jsonl",
            '{"path": "1.png", "label": "a"}\n{"path": "2.png"}\n{"path": "3.png", "label": 3}\n',
            "labels are of several types (a text in row 1, a number in row 3); expected one",
        ),
        (
            "t.jsonl",
            '{"path": "1.png", "label": 0}\n{"path": "2.png", "label": true}\n',
            "a number in row 1, true or false in row 2",
        ),
        ("t.parquet", "nonsense", "is not a readable Parquet file"),
        ("t.parquet", "", "is not a readable Parquet file"),
        ("t.txt", "path,label\n", "expected a directory or a table (.csv, .jsonl, .parquet)"),
    ],
)
def test_malformed_tables(tmp_path: Path, name: str, content: str | bytes, expected: str) -> None:
    assert expected in refusal(tmp_path / name, content)


CELLS = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), max_size=8)
RECORDS = st.lists(
    st.fixed_dictionaries(
        {
            "path": st.from_regex(r"[a-z]{1,3}(/[a-z]{1,3})?\.png", fullmatch=True),
            "label": CELLS,
            "split": st.sampled_from(["train", "val", "test", ""]),
            "site": CELLS,
        }
    ),
    min_size=1,
    max_size=8,
)


@settings(deadline=None)
@given(RECORDS, st.sampled_from(sorted(WRITERS)))
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, records: Rows, suffix: str) -> None:
    file = WRITERS[suffix](tmp_path_factory.getbasetemp() / f"any{suffix}", records)
    rows, attributes = table_rows(file)
    assert attributes == ("site",)
    for row, record in zip(rows, records, strict=True):
        assert row.path == record["path"]
        assert row.label == (str(record["label"]).strip() or None)
        assert row.split == (record["split"] or "test")
        assert row.attributes.get("site") == (str(record["site"]).strip() or None)


@settings(deadline=None)
@given(st.sampled_from(sorted(WRITERS)), st.binary(max_size=200))
def test_any_bytes_are_rows_or_a_refusal(tmp_path_factory: pytest.TempPathFactory, suffix: str, content: bytes) -> None:
    file = tmp_path_factory.getbasetemp() / f"bytes{suffix}"
    file.write_bytes(b"path,label\n" + content if suffix == ".csv" else content)
    try:
        table_rows(file)
    except InputError:
        refusal(file, file.read_bytes())
