"""What `titer check --data` finds out."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.making import picture, pictures
from titer.data import describe, describe_data, load_all, load_data


def test_counts_sizes_and_modes(tmp_path: Path) -> None:
    pictures(tmp_path, ["train/a/1.png", "train/a/2.png", "train/b/3.png", "test/b/4.png"])
    picture(tmp_path / "test/a/5.png", 99, size=(9, 2))
    report = describe(load_all(tmp_path))
    assert report.counts == {"train": {"a": 2, "b": 1}, "test": {"a": 1, "b": 1}}
    assert (report.images, report.sizes, report.modes) == (5, ((3, 4), (2, 9)), {"grey": 5})
    assert report.warnings == []


def test_mean_and_deviation_by_hand(tmp_path: Path) -> None:
    picture(tmp_path / "a/1.png", 51, size=(10, 10))
    picture(tmp_path / "b/2.png", 204, size=(1, 1))  # each picture counts once, whatever its size
    report = describe(load_all(tmp_path))
    assert report.mean == pytest.approx([0.5])
    assert report.deviation == pytest.approx([0.3])
    Image.new("RGB", (2, 2), (255, 0, 51)).save(tmp_path / "b/3.png")
    report = describe(load_all(tmp_path))
    assert report.mean == pytest.approx([2 / 3, 1 / 3, 0.4])
    values = np.array([[0.2] * 3, [0.8] * 3, [1, 0, 0.2]])
    assert report.deviation == pytest.approx(values.std(axis=0))
    assert report.modes == {"grey": 2, "colour": 1}


def test_a_checksum_is_of_the_files_and_their_places(tmp_path: Path) -> None:
    names = ["train/a/1.png", "train/b/2.png", "test/a/3.png", "test/b/4.png"]
    first = describe(load_all(pictures(tmp_path / "first", names))).checksum
    assert describe(load_all(pictures(tmp_path / "second", names))).checksum == first
    assert describe_data(tmp_path / "first")["checksum of the files"] == first
    shutil.copy(tmp_path / "first/train/a/1.png", tmp_path / "second/test/b/4.png")
    other = describe(load_all(tmp_path / "second")).checksum
    (tmp_path / "first/test/b/4.png").rename(tmp_path / "first/test/b/5.png")
    moved = describe(load_all(tmp_path / "first")).checksum
    (tmp_path / "first/test/b/5.png").write_bytes(b"nothing")
    broken = describe(load_all(tmp_path / "first")).checksum
    assert len({first, other, moved, broken}) == 4


def test_the_same_file_in_two_splits_or_under_two_labels(tmp_path: Path) -> None:
    for name in ("train/a/1.png", "test/a/2.png", "test/b/3.png"):
        picture(tmp_path / name, 7)
    picture(tmp_path / "train/b/4.png", 8)
    picture(tmp_path / "train/b/5.png", 8)
    report = describe(load_all(tmp_path))
    assert [set(found) for found in report.identical] == [{"train/a/1.png", "test/a/2.png", "test/b/3.png"}]
    assert report.contradicting == report.identical
    assert len(report.warnings) == 2


def test_groups_that_cross_splits(tmp_path: Path) -> None:
    rows = [
        "1.png,a,train,p1",
        "2.png,b,test,p1",
        "3.png,a,train,p2",
        "4.png,b,train,p2",
        "5.png,b,test,",
        "6.png,a,train,",
    ]
    (tmp_path / "metadata.csv").write_text("\n".join(["path,label,split,group", *rows]))
    report = describe(load_all(pictures(tmp_path, [f"{place}.png" for place in range(1, 7)])))
    assert report.crossing == ("p1",)
    assert report.warnings == ["1 groups are in more than one split, such as p1"]


def test_unreadable_pictures_are_told_and_counted(tmp_path: Path) -> None:
    pictures(tmp_path, ["a/1.png", "b/2.png"])
    for place in range(8):
        (tmp_path / f"a/bad{place}.png").write_bytes(b"")
    report = describe(load_all(tmp_path))
    assert len(report.unreadable) == 8
    assert report.unreadable["a/bad0.png"] == "the file is empty"
    assert report.warnings[0] == "cannot be read: a/bad0.png: the file is empty"
    assert report.warnings[-1] == "cannot be read: 3 more"


def test_what_is_said_does_not_depend_on_workers(tmp_path: Path) -> None:
    pictures(
        tmp_path,
        [f"{split}/{label}/{place}.png" for split in ("train", "test") for label in "ab" for place in range(5)],
    )
    (tmp_path / "train/a/bad.png").write_bytes(b"")
    (tmp_path / "test/b/bad.png").write_bytes(b"no picture")
    assert describe(load_all(tmp_path), workers=3) == describe(load_all(tmp_path))


def test_a_set_of_which_nothing_can_be_read(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("path,label\n1.png,a\n2.png,b\n3.png,\n")
    told = describe_data(tmp_path / "t.csv")
    assert told["smallest (height x width)"] == "none"
    assert told["counts"] == {"test": {"a": 1, "b": 1, "(no label)": 1}}
    assert told["images"] == 3


def test_the_document_is_json(tmp_path: Path) -> None:
    told = describe_data(pictures(tmp_path, ["a/1.png", "b/2.png"]))
    assert json.loads(json.dumps(told)) == told
    assert (told["images"], told["classes"], told["smallest (height x width)"]) == (2, 2, "3x4")


def test_every_picture_advances_the_bar(tmp_path: Path) -> None:
    steps: list[int] = []
    data = load_data(pictures(tmp_path, ["a/1.png", "b/2.png"]))
    (tmp_path / "a" / "1.png").unlink()
    describe(data, lambda: steps.append(1))
    assert len(steps) == 2


@pytest.mark.parametrize("split", ["train", "test"])
def test_phantoms_do_not_cross_splits(split: str) -> None:
    data = load_data("titer:phantoms", split, limit=32)
    report = describe(data)
    assert report.warnings == []
    assert set(report.modes) == {"grey", "colour"}
    assert len(report.mean) == len(report.deviation) == 3
