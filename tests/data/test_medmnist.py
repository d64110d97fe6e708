"""Files of MedMNIST's layout, made up."""

import hashlib
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.making import words
from titer.data import load_all, load_data
from titer.data.medmnist import medmnist
from titer.errors import InputError, PictureError

OFFICIAL = (
    ("pathmnist", 9),
    ("dermamnist", 7),
    ("octmnist", 4),
    ("pneumoniamnist", 2),
    ("retinamnist", 5),
    ("breastmnist", 2),
    ("bloodmnist", 8),
    ("tissuemnist", 8),
    ("organamnist", 11),
    ("organcmnist", 11),
    ("organsmnist", 11),
)


def written(file: Path, *, classes: int = 3, size: int = 28, colour: bool = False, **instead: Any) -> Path:
    """Splits of 6, 3 and 4 random pictures whose labels count upwards."""
    random = np.random.default_rng(0)
    arrays = {}
    for split, count in (("train", 6), ("val", 3), ("test", 4)):
        shape = (count, size, size, 3) if colour else (count, size, size)
        arrays[f"{split}_images"] = random.integers(0, 256, shape, np.uint8)
        arrays[f"{split}_labels"] = (np.arange(count, dtype=np.uint8) % classes)[:, None]
    np.savez_compressed(file, **{name: array for name, array in {**arrays, **instead}.items() if array is not None})
    return file


def refusal(file: Path) -> str:
    with pytest.raises(InputError) as caught:
        load_all(f"medmnist:{file}")
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("colour", [False, True])
def test_pictures_labels_and_ids_are_those_of_the_arrays(tmp_path: Path, colour: bool) -> None:
    file = written(tmp_path / "own.npz", colour=colour)
    with np.load(file) as arrays:
        images, labels = arrays["test_images"], arrays["test_labels"]
    data = load_data(f"medmnist:{file}", "test")
    assert (data.name, len(data), [text.label for text in data.classes]) == ("medmnist:own.npz", 4, ["0", "1", "2"])
    for index, example in enumerate(data.examples):
        assert (example.id, example.split, example.label) == (f"test/{index}", "test", labels[index, 0])
        picture = data.read(example)
        expected = images[index] if colour else images[index][..., None]
        np.testing.assert_array_equal(picture.pixels, expected.astype(np.float32) / np.float32(255))
        assert picture.pixels.dtype == np.float32
        assert picture.sha256 == data.digest(example) == hashlib.sha256(images[index].tobytes()).hexdigest()


@pytest.mark.parametrize(("name", "classes"), OFFICIAL)
def test_the_official_sets_have_their_words(tmp_path: Path, name: str, classes: int) -> None:
    data = load_data(f"medmnist:{written(tmp_path / f'{name}_64.npz', classes=2, size=64)}", "train")
    assert len(data.classes) == classes
    assert len({text.texts for text in data.classes}) == classes
    assert [example.label for example in data.examples] == [0, 1, 0, 1, 0, 1]


def test_a_class_has_the_number_that_medmnist_gives_it(tmp_path: Path) -> None:
    data = load_all(f"medmnist:{written(tmp_path / 'pathmnist.npz')}")
    assert (data.classes[8].label, data.classes[8].texts) == (
        "colorectal adenocarcinoma epithelium",
        ("a histology image of colorectal adenocarcinoma epithelium",),
    )
    organs = load_all(f"medmnist:{written(tmp_path / 'organcmnist.npz')}")
    assert organs.classes[4].texts == ("a coronal abdominal CT image of the left kidney",)


def test_words_of_another_file_lie_beside_it(tmp_path: Path) -> None:
    file = written(words(tmp_path, {"1": "one", "0": "none", "2": "two", "7": "seven"}) / "own.npz")
    data = load_data(f"medmnist:{file}", "val")
    assert [text.texts for text in data.classes] == [("one",), ("none",), ("two",), ("seven",)]
    assert [example.label for example in data.examples] == [1, 0, 2]


def test_words_that_miss_a_class(tmp_path: Path) -> None:
    assert "unknown label" in refusal(written(words(tmp_path, {"0": "none", "1": "one"}) / "own.npz"))


def test_a_split_is_unpacked_when_it_is_read_and_once(tmp_path: Path) -> None:
    large = np.zeros((64, 224, 224, 3), np.uint8)  # 9.6 million bytes, but a small file
    file = written(
        tmp_path / "own.npz", classes=2, colour=True, train_images=large, train_labels=np.arange(64)[:, None] % 2
    )
    tracemalloc.start()
    data = load_all(f"medmnist:{file}")
    of_test = next(example for example in data.examples if example.split == "test")
    data.read(of_test)
    assert tracemalloc.get_traced_memory()[1] < large.nbytes / 4
    for example in data.examples:
        data.digest(example)
    assert tracemalloc.get_traced_memory()[0] < large.nbytes * 1.5
    tracemalloc.stop()


def test_a_file_may_hold_one_split(tmp_path: Path) -> None:
    absent: dict[str, Any] = dict.fromkeys(["train_images", "train_labels", "val_images", "val_labels"])
    assert len(medmnist(str(written(tmp_path / "own.npz", **absent)))) == 4


def test_what_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "own.npz"
    assert "expected medmnist:FILE.npz" in refusal(tmp_path / "none.npz")
    file.write_bytes(b"PK not really")
    assert "not a readable npz" in refusal(file)
    np.savez(file, images=np.zeros(3))
    assert "expected arrays such as test_images and test_labels, got images" in refusal(file)
    assert "test_images but no test_labels" in refusal(written(file, test_labels=None))
    assert "expected 4 whole numbers, got uint8 (3, 1)" in refusal(
        written(file, test_labels=np.zeros((3, 1), np.uint8))
    )
    assert "whole numbers, got float64" in refusal(written(file, test_labels=np.zeros((4, 1))))
    assert "expected 8-bit pictures" in refusal(written(file, test_images=np.zeros((4, 28, 28), np.float32)))
    assert "volumes are not read" in refusal(written(file, test_images=np.zeros((4, 28, 28, 28), np.uint8)))
    assert "the label 9 is none of the 2 classes" in refusal(
        written(tmp_path / "pneumoniamnist.npz", classes=2, test_labels=np.full((4, 1), 9))
    )


def several(file: Path, count: int, **instead: Any) -> Path:
    random = np.random.default_rng(1)
    labels = {
        f"{split}_labels": random.integers(0, 2, (size, count))
        for split, size in (("train", 6), ("val", 3), ("test", 4))
    }
    return written(file, **{**labels, **instead})


def test_several_labels_for_a_picture_are_findings(tmp_path: Path) -> None:
    data = medmnist(str(several(tmp_path / "chestmnist_224.npz", 14)))
    with np.load(tmp_path / "chestmnist_224.npz") as arrays:
        expected = [tuple(map(bool, row)) for row in arrays["val_labels"]]
    assert not data.exclusive
    assert [text.label for text in data.classes][:3] == ["atelectasis", "cardiomegaly", "effusion"]
    assert [each.findings for each in data.examples if each.split == "val"] == expected
    assert {each.label for each in data.examples} == {None}
    few = load_all(f"multilabel:effusion+atelectasis@medmnist:{tmp_path / 'chestmnist_224.npz'}")
    assert [each.findings for each in few.examples if each.split == "val"] == [(row[2], row[0]) for row in expected]
    own = load_data(f"medmnist:{several(tmp_path / 'own.npz', 3)}", "test")
    assert [text.label for text in own.classes] == ["0", "1", "2"]


def test_what_several_labels_cannot_be(tmp_path: Path) -> None:
    chest = tmp_path / "chestmnist.npz"
    assert "expected 0 or 1 for each of 14 labels" in refusal(several(chest, 14, test_labels=np.full((4, 14), 2)))
    assert "expected 14 labels for each picture in every split, got 5" in refusal(several(chest, 5))
    mixed = np.zeros((4, 1), np.uint8)
    assert "expected 14 labels for each picture in every split, got 1 and 14" in refusal(
        several(chest, 14, test_labels=mixed)
    )
    name = f"medmnist:{several(chest, 14)}"
    for made, told in (
        (
            f"classes:mass+nodule@{name}",
            "has several labels for an image; a choice of classes needs one class for each",
        ),
        (f"captioned:{name}", "a caption made of it needs one"),
        (f"pooled:{name},titer:phantoms", "a pool needs one"),
        (f"multilabel:mas+nodule@{name}", "did you mean 'mass'"),
    ):
        with pytest.raises(InputError, match=told):
            load_all(made)


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    objects = np.array([{"a": 1}] * 4, dtype=object)
    assert "Object arrays cannot be loaded" in refusal(written(tmp_path / "own.npz", test_labels=objects))


def test_pictures_damaged_after_the_labels(tmp_path: Path) -> None:
    file = written(tmp_path / "own.npz")
    data = load_data(f"medmnist:{file}", "test")
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(PictureError, match="test_images cannot be read"):
        data.read(data.examples[0])
