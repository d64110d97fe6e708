"""The classes of a set and the words shown for them."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from data.making import pictures, words
from titer.data import load_all, load_data
from titer.data.classes import Wording, class_texts
from titer.errors import InputError

NOWHERE = Path("nowhere/classes.json")


def labels(file: Path, present: Sequence[str | None]) -> list[str]:
    return [each.label for each in class_texts(file, present)]


def refusal(file: Path, present: Sequence[str | None]) -> str:
    with pytest.raises(InputError) as caught:
        class_texts(file, present)
    return str(caught.value)


def test_without_a_file_classes_are_sorted_and_put_into_the_template() -> None:
    classes = class_texts(NOWHERE, ["squamous_cell", None, "benign", "benign"])
    assert [(each.label, each.texts) for each in classes] == [
        ("benign", ("a medical image of benign",)),
        ("squamous_cell", ("a medical image of squamous cell",)),
    ]


def test_a_template_of_ones_own() -> None:
    classes = class_texts(NOWHERE, ["a", "b"], template="a {} seen at {}")
    assert classes[0].texts == ("a a seen at a",)


def test_braces_in_a_label_are_only_letters() -> None:
    assert class_texts(NOWHERE, ["{0}", "b"])[1].texts == ("a medical image of {0}",)


def test_whole_numbers_are_sorted_as_numbers() -> None:
    assert labels(NOWHERE, ["10", "9", "-1", "0"]) == ["-1", "0", "9", "10"]
    assert labels(NOWHERE, ["10", "9", "x"]) == ["10", "9", "x"]


def test_labels_of_one_value_keep_a_fixed_order() -> None:
    """Labels come as a set, whose order changes from process to process."""
    assert labels(NOWHERE, ["1", "00001", "01", "0001", "001"]) == ["00001", "0001", "001", "01", "1"]


def test_the_files_order_and_words_win(tmp_path: Path) -> None:
    words(tmp_path, {"z": "a scan of z", "a": ["one text", "another"], "unseen": "nothing"})
    classes = class_texts(tmp_path / "classes.json", ["a", "z"])
    assert [each.label for each in classes] == ["z", "a", "unseen"]
    assert classes[0].texts == ("a scan of z",)
    assert classes[1].texts == ("one text", "another")


def test_a_file_with_a_byte_order_mark(tmp_path: Path) -> None:
    file = tmp_path / "classes.json"
    file.write_text('{"a": "é", "b": "ß"}', encoding="utf-8-sig")
    assert class_texts(file, [])[0].texts == ("é",)


def test_a_label_that_the_file_does_not_name(tmp_path: Path) -> None:
    words(tmp_path, {"glioma": "a glioma", "meningioma": "a meningioma"})
    text = refusal(tmp_path / "classes.json", ["glioma", "Glioma"])
    assert "'Glioma'" in text
    assert "did you mean 'glioma'" in text


def test_one_class_only(tmp_path: Path) -> None:
    assert "only one class, 'a': expected at least two" in refusal(NOWHERE, ["a", "a"])
    words(tmp_path, {"a": "text"})
    assert "only one class" in refusal(tmp_path / "classes.json", ["a"])


def test_no_labels_are_no_classes() -> None:
    assert class_texts(NOWHERE, [None, None]) == ()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("{", "is not valid"),
        ("[" * 100_000, "is not valid"),
        ("[]", "expected an object"),
        ("{}", "got nothing"),
        ('["a", "b"]', "got list"),
        ('{"a": "x", "a": "y"}', "'a' is given twice"),
        ('{"a": "x", "b": ""}', "class 'b' needs a text"),
        ('{"a": "x", "b": []}', "class 'b' needs a text"),
        ('{"a": "x", "b": ["y", 1]}', "class 'b' needs a text"),
        ('{"a": "x", "b": 7}', "got 7"),
    ],
)
def test_malformed_files(tmp_path: Path, content: str, expected: str) -> None:
    file = tmp_path / "classes.json"
    file.write_text(content)
    assert expected in refusal(file, [])


def test_a_file_in_another_encoding(tmp_path: Path) -> None:
    file = tmp_path / "classes.json"
    file.write_bytes('{"a": "é"}'.encode("latin-1"))
    assert "is not valid" in refusal(file, [])


def test_words_may_be_given_in_the_place_of_the_sets_own(tmp_path: Path) -> None:
    root = words(pictures(tmp_path, ["train/ADI/1.png", "test/ADI/2.png", "test/TUM/3.png"]), {"ADI": "x", "TUM": "y"})
    wording = Wording({"TUM": "a tumour", "unseen": ["b", "c"], "ADI": "fat"}, "a tile of {}.")
    data = load_all(root, wording)
    assert [(each.label, each.texts) for each in data.classes] == [
        ("TUM", ("a tile of a tumour.",)),
        ("unseen", ("a tile of b.", "a tile of c.")),
        ("ADI", ("a tile of fat.",)),
    ]
    assert {each.id: each.label for each in data.examples} == {
        "test/ADI/2.png": 2, "test/TUM/3.png": 0, "train/ADI/1.png": 2,
    }  # fmt: skip
    assert load_data(root, limit=1, wording=wording).examples[0].id == "test/TUM/3.png"
    assert load_data(root, limit=1).examples[0].id == "test/ADI/2.png"


def test_given_words_equal_a_file_with_the_same_words(tmp_path: Path) -> None:
    names = ["test/b/1.png", "test/a/2.png", "test/a/3.png"]
    given = load_data(pictures(tmp_path / "x" / "set", names), wording=Wording({"b": "words of b", "a": "words of a"}))
    of_file = load_data(words(pictures(tmp_path / "y" / "set", names), {"b": "words of b", "a": "words of a"}))
    assert (given.classes, given.examples) == (of_file.classes, of_file.examples)


def test_a_given_template_alone_is_put_around_the_labels(tmp_path: Path) -> None:
    data = load_all(pictures(tmp_path, ["10/1.png", "9/1.png", "2_b/1.png"]), Wording(template="a scan of {}"))
    assert [each.texts for each in data.classes] == [("a scan of 10",), ("a scan of 2 b",), ("a scan of 9",)]


def test_the_embedded_set_can_be_reworded() -> None:
    own = load_all("titer:phantoms")
    labels = [each.label for each in own.classes]
    turned = load_all("titer:phantoms", Wording({label: f"words of {label}" for label in labels[::-1]}))
    assert turned.classes[0].texts == (f"words of {labels[-1]}",)
    assert [labels[each.label or 0] for each in own.examples] == [
        turned.classes[each.label or 0].label for each in turned.examples
    ]


def test_given_words_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"template: expected a text with \{\} for the class's words, got 'a tile'"):
        Wording({"a": "x", "b": "y"}, "a tile")
    with pytest.raises(InputError, match="classes: expected at least two to tell apart, got 1"):
        Wording({"a": "x"})
    with pytest.raises(InputError, match="classes: class 'b' needs a text or a list of texts, got 7"):
        Wording({"a": "x", "b": 7})
    with pytest.raises(
        InputError, match=r"unknown label of set \(it is not in the given classes\): 'ADI'; did you mean 'ADI_'"
    ):
        load_all(pictures(tmp_path / "set", ["ADI/1.png", "b/1.png"]), Wording({"ADI_": "fat", "b": "y"}))


def test_a_class_may_be_called_differently_in_two_layouts() -> None:
    """Its label is the one that the data have; a label with a bar in it stays whole where the data have that."""
    both = Wording({"NC|0": "benign", "G3|1": "grade three"}, "a {} gland")
    for known, found in ((("NC", "G3"), ["NC", "G3"]), (("1", "0"), ["0", "1"]), ((), ["NC", "G3"])):
        assert [text.label for text in both.classes(known)] == found
    assert both.classes(("0", "1"))[0].texts == ("a benign gland",)
    assert [text.label for text in both.classes(("NC|0",))] == ["NC|0", "G3"]
