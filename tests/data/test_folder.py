"""Class-per-folder data."""

import os
from pathlib import Path

import pytest

from data.making import ids, pictures, words
from titer.data import load_data
from titer.errors import InputError


def refusal(root: Path, split: str = "test") -> str:
    with pytest.raises(InputError) as caught:
        load_data(root, split)
    return str(caught.value)


def test_splits_and_classes(tmp_path: Path) -> None:
    pictures(tmp_path, ["train/b/1.png", "train/a/2.jpg", "val/a/3.tif", "test/b/4.bmp", "test/c/5.gif"])
    test = load_data(tmp_path)
    assert [each.label for each in test.classes] == ["a", "b", "c"]
    assert [(each.id, each.path, each.label, each.split) for each in test.examples] == [
        ("test/b/4.bmp", "test/b/4.bmp", 1, "test"),
        ("test/c/5.gif", "test/c/5.gif", 2, "test"),
    ]
    assert test.counts == {"a": 0, "b": 1, "c": 1}
    assert ids(load_data(tmp_path, "train")) == ["train/a/2.jpg", "train/b/1.png"]
    assert len(load_data(tmp_path, "all")) == 5
    assert test.read(test.examples[0]).pixels.shape == (3, 4, 1)


def test_without_splits_everything_is_test(tmp_path: Path) -> None:
    pictures(tmp_path, ["a/1.png", "b/2.png", "all/3.png"])
    assert ids(load_data(tmp_path)) == ["a/1.png", "all/3.png", "b/2.png"]
    assert "expected one of test, all" in refusal(tmp_path, "train")


def test_the_name_is_the_directorys_last_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = pictures(tmp_path / "scans", ["a/1.png", "b/2.png"])
    assert load_data(root).name == "scans"
    assert load_data(f"{root}/").name == "scans"
    (tmp_path / "link").symlink_to(root)
    assert load_data(tmp_path / "link").name == "link"
    monkeypatch.chdir(root)
    assert load_data(".").name == "scans"
    monkeypatch.chdir(root / "a")
    assert load_data("..").name == "scans"


def test_ids_do_not_depend_on_where_the_root_is(tmp_path: Path) -> None:
    names = ["a/1.png", "b/deep/er/2.png"]
    one, other = (load_data(pictures(tmp_path / place, names)) for place in ("x", "y/z"))
    assert ids(one) == ids(other) == names


def test_folders_inside_a_class_belong_to_it(tmp_path: Path) -> None:
    data = load_data(pictures(tmp_path, ["a/p1/1.png", "a/p2/1.png", "b/1.png"]))
    assert [(each.id, each.label) for each in data.examples] == [("a/p1/1.png", 0), ("a/p2/1.png", 0), ("b/1.png", 1)]


def test_litter_is_left_out(tmp_path: Path) -> None:
    litter = ["a/.hidden.png", "a/._1.png", ".cache/x.png", "__MACOSX/a/1.png", "a/.thumbs/1.png", "a/__MACOSX/1.png"]
    pictures(tmp_path, ["a/1.png", "b/2.PNG", *litter])
    for name in ("a/.DS_Store", "a/Thumbs.db", "a/notes.txt", "README.txt"):
        (tmp_path / name).write_bytes(b"x")
    assert ids(load_data(tmp_path)) == ["a/1.png", "b/2.PNG"]


def test_links_are_followed_and_loops_end(tmp_path: Path) -> None:
    elsewhere = pictures(tmp_path / "elsewhere", ["1.png", "sub/2.png"])
    root = pictures(tmp_path / "root", ["b/3.png"])
    (root / "a").symlink_to(elsewhere)
    (root / "b" / "again").symlink_to(elsewhere / "sub")
    (root / "b" / "up").symlink_to(root / "b")
    (root / "b" / "gone.png").symlink_to(root / "nothing")
    assert ids(load_data(root)) == ["a/1.png", "a/sub/2.png", "b/3.png", "b/again/2.png", "b/gone.png"]


def test_a_folder_with_a_pictures_name_is_no_picture(tmp_path: Path) -> None:
    pictures(tmp_path, ["a/1.png", "b/x.png/2.png"])
    assert ids(load_data(tmp_path)) == ["a/1.png", "b/x.png/2.png"]


def test_words(tmp_path: Path) -> None:
    words(pictures(tmp_path, ["a/1.png", "b/2.png"]), {"b": "a b", "a": "an a"})
    data = load_data(tmp_path)
    assert [each.texts for each in data.classes] == [("a b",), ("an a",)]
    assert [each.label for each in data.examples] == [1, 0]


def test_an_empty_folder(tmp_path: Path) -> None:
    assert "no pictures in" in refusal(tmp_path)
    (tmp_path / "a").mkdir()
    assert "no pictures in" in refusal(tmp_path)


def test_a_class_without_images_in_any_split(tmp_path: Path) -> None:
    pictures(tmp_path, ["train/a/1.png", "train/b/2.png", "test/a/3.png"])
    (tmp_path / "train" / "c").mkdir()
    assert "class 'c' has no images" in refusal(tmp_path)


def test_a_class_without_images_in_one_split_is_allowed(tmp_path: Path) -> None:
    pictures(tmp_path, ["train/a/1.png", "train/b/2.png", "test/a/3.png"])
    (tmp_path / "test" / "b").mkdir()
    assert load_data(tmp_path).counts == {"a": 1, "b": 0}


def test_one_class_only(tmp_path: Path) -> None:
    assert "only one class, 'a'" in refusal(pictures(tmp_path, ["a/1.png", "a/2.png"]))


def test_pictures_in_no_class_folder(tmp_path: Path) -> None:
    assert "lie in no class folder" in refusal(pictures(tmp_path, ["1.png"]))


def test_a_table_that_was_not_named(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("path,label\n")
    assert "name the table itself (labels.csv)" in refusal(tmp_path)


@pytest.mark.parametrize(("found", "meant"), [("Training", "train"), ("valid", "val"), ("Test", "test")])
def test_folders_that_look_like_splits_are_not_taken_for_classes(tmp_path: Path, found: str, meant: str) -> None:
    pictures(tmp_path, [f"{found}/a/1.png", f"{found}/b/2.png"])
    text = refusal(tmp_path)
    assert f"{found!r}" in text
    assert f"rename it {meant!r}" in text


def test_a_class_may_have_such_a_name(tmp_path: Path) -> None:
    pictures(tmp_path, ["valid/1.png", "invalid/2.png"])
    assert [each.label for each in load_data(tmp_path).classes] == ["invalid", "valid"]


def test_file_names_that_are_no_text(tmp_path: Path) -> None:
    pictures(tmp_path, ["a/1.png", "b/2.png"])
    try:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/a/\xff.png")).write_bytes(b"x")
    except OSError:
        pytest.skip("this file system only takes names in UTF-8")
    assert "not valid Unicode" in refusal(tmp_path)
