"""Sets made of others: some classes, halves for base-to-new, and pools."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from data.making import picture, pictures
from titer.data import ClassText, Data, Example, Picture, load_data
from titer.data.derived import hashed_once, pooled, some_classes
from titer.data.load import load_all
from titer.errors import InputError


def made(name: str, labels: str, split: str = "test") -> Data:
    """A set with two images of each class, whose pixels are its class's place."""
    classes = tuple(ClassText(label, (f"a {label}",)) for label in labels.split())
    examples = tuple(
        Example(f"{place}-{copy}", f"{place}-{copy}.png", place, None, f"patient {place}", split, {"site": "a"})
        for place in range(len(classes))
        for copy in range(2)
    )
    read = lambda example: Picture(np.full((2, 2, 1), example.label / 10, np.float32), f"{name} {example.id}")  # noqa: E731
    return Data(name, "all", None, classes, examples, ("site",), read, lambda example: f"{name} {example.id}")


def test_halves_are_the_field_s_and_share_nothing() -> None:
    data = made("five", "e d c b a")
    base, new = some_classes(data, "base"), some_classes(data, "new")
    assert [text.label for text in base.classes] == ["e", "d", "c"]
    assert [text.label for text in new.classes] == ["b", "a"]
    assert [example.label for example in new.examples] == [0, 0, 1, 1]
    assert {example.id for example in base.examples} | {example.id for example in new.examples} == {
        example.id for example in data.examples
    }
    assert not {example.id for example in base.examples} & {example.id for example in new.examples}
    assert (base.name, new.name, base.source) == ("classes:base@five", "classes:new@five", "five")


def test_an_image_without_label_is_in_no_class() -> None:
    data = made("five", "a b c d")
    unlabelled = Example("x", "x.png", None, None, None, "test", {})
    more = Data(**{**vars(data), "examples": (*data.examples, unlabelled)})
    assert "x" not in {example.id for example in some_classes(more, "base").examples}


@given(st.lists(st.sampled_from("abcdefg"), min_size=2, unique=True))
def test_labels_keep_their_images_in_the_order_given(labels: list[str]) -> None:
    data = made("seven", "a b c d e f g")
    found = some_classes(data, "+".join(labels))
    assert [text.label for text in found.classes] == labels
    owner = {example.id: "abcdefg"[int(example.label or 0)] for example in data.examples}
    assert all(owner[example.id] == labels[int(example.label or 0)] for example in found.examples)
    assert len(found) == 2 * len(labels)


@pytest.mark.parametrize(
    ("labels", "which", "said"),
    [
        ("a b c", "base", "three has 3 classes: base-to-new needs two on each side"),
        ("a b c", "a+d", "unknown class of three 'd'"),
        ("a b c", "a", "expected at least two labels, each once, such as a+b"),
        ("a b c", "a+b+a", "expected at least two labels"),
        ("a b c", "", "unknown class of three ''"),
    ],
)
def test_wrong_classes(labels: str, which: str, said: str) -> None:
    with pytest.raises(InputError) as refused:
        some_classes(made("three", labels), which)
    assert said in str(refused.value)


def test_a_pool_has_every_image_under_its_set_s_name() -> None:
    left, right = made("left", "a b"), made("right", "b c d")
    pool = pooled([left, right])
    assert [text.label for text in pool.classes] == ["left/a", "left/b", "right/b", "right/c", "right/d"]
    assert [text.texts for text in pool.classes][1:3] == [("a b",), ("a b",)]
    assert len({example.id for example in pool.examples}) == len(pool) == 10
    for example in pool.examples:
        name, _, inner = example.id.partition("/")
        own = left if name == "left" else right
        expected = next(other for other in own.examples if other.id == inner)
        start = 0 if own is left else 2
        assert example.label == start + int(expected.label or 0)
        assert pool.read(example).pixels[0, 0, 0] == np.float32(int(expected.label or 0) / 10)
        assert pool.digest(example) == f"{name} {inner}"
        assert example.group == f"{name}/{expected.group}"
    assert pool.name == "pooled:left,right"


def test_files_are_hashed_once_and_none_before_it_is_asked_for() -> None:
    data, asked = made("two", "a b"), list[str]()

    def digest(example: Example) -> str:
        asked.append(example.id)
        return data.digest(example)

    once = hashed_once(replace(data, digest=digest))
    assert not asked
    found = [once.digest(example) for _ in range(3) for example in data.examples[:2]]
    assert found == 3 * [data.digest(example) for example in data.examples[:2]]
    assert asked == ["0-0", "0-1"]


def test_pools_of_one_or_of_one_name_are_refused() -> None:
    for parts in ([], [made("left", "a b")], [made("left", "a b"), made("left", "c d")]):
        with pytest.raises(InputError, match="at least two data sets of different names"):
            pooled(parts)
    unlabelled = Data(**{**vars(made("bare", "a b")), "classes": ()})
    with pytest.raises(InputError, match="bare has no labels"):
        pooled([made("left", "a b"), unlabelled])


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    for name, labels in (("one", "a b c"), ("two", "c d")):
        for split in ("train", "test"):
            for label in labels.split():
                (tmp_path / name / split / label).mkdir(parents=True)
                Image.new("L", (4, 4), 10).save(tmp_path / name / split / label / "x.png")
    return tmp_path


def test_names_reach_them_and_nest(folders: Path) -> None:
    name = f"classes:new@pooled:{folders / 'one'},{folders / 'two'}"
    data = load_data(name, "test")
    assert data.name == "classes:new@pooled:one,two"
    assert [text.label for text in data.classes] == ["two/c", "two/d"]
    assert [example.id for example in data.examples] == ["two/test/c/x.png", "two/test/d/x.png"]
    assert data.read(data.examples[0]).pixels.shape == (4, 4, 1)
    assert len(load_all(name)) == 4


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("classes:base", "expected classes:base@DATA"),
        ("classes:base@/nowhere/at/all", "there is no data set at /nowhere/at/all"),
        ("classes:base@", "the name of the data set is empty"),
        ("pooled:", "the name of the data set is empty"),
        ("pooled:titer:phantoms,titer:phantoms", "of different names"),
    ],
)
def test_wrong_names(name: str, said: str) -> None:
    with pytest.raises(InputError) as refused:
        load_data(name)
    assert said in str(refused.value)


def test_a_part_to_train_on_is_nested_by_group_and_leaves_other_splits_whole(tmp_path: Path) -> None:
    lines = ["file_name,label,split,group"]
    for place in range(300):
        picture(tmp_path / f"{place}.png", place % 255)
        lines.append(f"{place}.png,{place % 2},{'test' if place < 60 else 'train'},patient {place // 3}")
    (tmp_path / "metadata.csv").write_text("\n".join(lines) + "\n")
    some, more, whole = (
        {each.id: each for each in load_data(name, "all").examples}
        for name in (f"train:0.3@{tmp_path}", f"train:0.8@{tmp_path}", str(tmp_path))
    )
    assert some.keys() < more.keys()
    trained = {key for key, each in whole.items() if each.split == "train"}
    groups = {each.group for each in more.values() if each.split == "train"}
    assert {each.id for each in whole.values() if each.split == "train" and each.group in groups} <= more.keys()
    assert whole.keys() - trained <= some.keys()
    assert 0.7 < len(more.keys() & trained) / len(trained) < 0.9


@pytest.mark.parametrize("text", ["1.2", "0", "most"])
def test_no_share(text: str, tmp_path: Path) -> None:
    pictures(tmp_path, ["a/1.png", "b/2.png"])
    with pytest.raises(InputError, match="expected a share above 0 and below 1"):
        load_data(f"train:{text}@{tmp_path}")
    with pytest.raises(InputError, match="expected train:SHARE@DATA"):
        load_data(f"train:{tmp_path}")
