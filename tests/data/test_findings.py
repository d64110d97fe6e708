"""Several labels for an image: which cells say what, which images a fit gets, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from data.making import pictures
from titer.cli.main import run
from titer.data import load_data
from titer.data.load import load_all
from titer.data.phantoms import FINDINGS, caption_of, findings_of
from titer.data.shots import select
from titer.data.splits import finding_shots
from titer.errors import InputError

TABLE = """file_name,split,age,edema,effusion,rare
a.png,train,40,1,0,0
b.png,train,50,0,1.0,0
c.png,train,60,-1,,0
d.png,train,70,Yes,no,0
e.png,test,80,false,TRUE,1
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    pictures(tmp_path / "scans", [f"{name}.png" for name in "abcde"])
    (tmp_path / "scans" / "metadata.csv").write_text(TABLE)
    return tmp_path / "scans"


def test_cells_say_there_not_there_or_not_known(root: Path) -> None:
    data = load_all(f"multilabel:edema+effusion@{root}")
    assert data.name == "multilabel:edema+effusion@scans"
    assert data.source == "scans"
    assert not data.exclusive
    assert [(text.label, text.texts) for text in data.classes] == [("edema", ("edema",)), ("effusion", ("effusion",))]
    assert [each.findings for each in data.examples] == [
        (True, False), (False, True), (None, None), (True, False), (False, True),
    ]  # fmt: skip
    assert {each.label for each in data.examples} == {None}
    assert load_data(f"multilabel:edema+effusion@{root}", "train").counts == {"edema": 2, "effusion": 1}


def test_unnamed_all_columns_are_taken_that_say_nothing_else(root: Path) -> None:
    data = load_all(f"multilabel:{root}")
    assert [text.label for text in data.classes] == ["edema", "effusion", "rare"]  # and not the age
    assert data.examples == load_all(f"multilabel:edema+effusion+rare@{root}").examples


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("multilabel:edema+efusion@", "unknown column of scans 'efusion'; did you mean 'effusion'"),
        ("multilabel:edema+edema@", "each once"),
        ("multilabel:age@", "a.png: expected 1, 0, -1 or nothing in the column 'age', got '40'"),
    ],
)
def test_mistakes_are_one_line(name: str, words: str, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["check", "--data", f"{name}{root}"]) == 2
    told = capsys.readouterr().err
    assert words in told
    assert len(told.strip().splitlines()) == 1


def test_a_table_without_such_columns(root: Path) -> None:
    (root / "metadata.csv").write_text("file_name,age\na.png,40\n")
    with pytest.raises(InputError, match=r"expected columns that say 1 or 0.* has the columns age"):
        load_all(f"multilabel:{root}")
    with pytest.raises(InputError, match="expected a column 'label', 'caption' or 'question'"):
        load_all(root)


def test_shots_are_of_each_finding_with_and_without(root: Path) -> None:
    data = load_all(f"multilabel:edema+effusion@{root}")
    train = [each for each in data.examples if each.split == "train"]
    one = finding_shots(train, 1, 0)
    assert {each.findings[0] for each in one} >= {True, False}
    assert {each.id for each in one} <= {each.id for each in finding_shots(train, 2, 0)}
    assert "c.png" not in {each.id for each in finding_shots(train, None, 0)}  # nothing is known of it
    assert [each.id for each in select(data, count=None, seed=0).data.examples] == ["a.png", "b.png", "d.png"]
    with pytest.raises(InputError, match="nothing can be learned of 'rare' in split 'train': no known image has it"):
        select(load_all(f"multilabel:edema+rare@{root}"), count=None, seed=0)


def test_phantoms_have_findings_whatever_their_class() -> None:
    data = load_data("multilabel:titer:phantoms", "test")
    assert [text.label for text in data.classes] == list(FINDINGS)
    assert data.source == "titer:phantoms"
    for example in data.examples[::40]:
        split, index = example.id.split("/")
        assert example.findings == tuple(findings_of(caption_of(split, int(index))).values())
    shares = {label: number / len(data) for label, number in data.counts.items()}
    assert all(0.05 < share < 0.6 for share in shares.values()), shares
    assert max(sum(bool(there) for there in each.findings) for each in data.examples) >= 3


@pytest.mark.parametrize(
    ("caption", "found"),
    [
        ("a chest radiograph with a large pleural effusion on the right", {"lung_opacity", "large", "right"}),
        ("a blood smear with a lymphocyte, one round nucleus, and no red blood cells", {"white_cell", "nuclei"}),
        ("a blood smear with seven red blood cells and no white cell", {"red_cells"}),
        ("a chest radiograph with clear lungs", set()),
    ],
)
def test_a_caption_names_its_findings(caption: str, found: set[str]) -> None:
    assert {name for name, there in findings_of(caption).items() if there} == found


def test_check_counts_each_finding(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["check", "--data", f"multilabel:edema+effusion@{root}", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["data"]
    assert told["images"] == 5
    assert told["counts"] == {"train": {"edema": 2, "effusion": 1}, "test": {"edema": 0, "effusion": 1}}
