"""CoOp's layouts, made up with tiny pictures."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from data.making import ids, picture
from titer.data import load_all, load_data
from titer.data.coop import known_sets
from titer.errors import InputError

Splits = Mapping[str, list[Any]]
PETS: Splits = {  # the numbers are not in order of the names, and train comes last in the file
    "test": [
        ["great_pyrenees_2.jpg", 1, "great_pyrenees"],
        ["abyssinian_2.jpg", 2, "abyssinian"],
        ["pug_2.jpg", 0, "pug"],
    ],
    "val": [["pug_3.jpg", 0, "pug"]],
    "train": [
        ["pug_1.jpg", 0, "pug"],
        ["abyssinian_1.jpg", 2, "abyssinian"],
        ["great_pyrenees_1.jpg", 1, "great_pyrenees"],
    ],
}
WITH_JSON = [name for name, known in known_sets().items() if "split" in known]
OTHERS = {"FGVCAircraft", "ImageNet", "ImageNetV2", "ImageNetSketch", "ImageNetA", "ImageNetR"}


def written(root: Path, name: str, splits: object = PETS) -> Path:
    """A set with a JSON file of splits; its pictures exist where the file is what it should be."""
    known = known_sets()[name]
    folder = root / known["folder"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / known["split"]).write_text(json.dumps(splits), encoding="utf-8")
    if splits is PETS:
        for place, entry in enumerate(entry for entries in PETS.values() for entry in entries):
            picture(folder / known["pictures"] / entry[0], 20 * place)
    return root


def refusal(name: str) -> str:
    with pytest.raises(InputError) as caught:
        load_all(name)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_the_eleven_the_variants_and_the_medical_eleven_are_known() -> None:
    assert (len(WITH_JSON), set(known_sets()) - set(WITH_JSON)) == (9 + 11, OTHERS)
    assert all("{}" in known["template"] for known in known_sets().values())


@pytest.mark.parametrize("name", WITH_JSON)
def test_each_layout_with_a_json_file(tmp_path: Path, name: str) -> None:
    data = load_data(f"coop:{name}@{written(tmp_path, name)}")
    assert (data.name, len(data)) == (f"coop:{name}", 3)
    assert [text.label for text in data.classes] == ["pug", "great_pyrenees", "abyssinian"]
    template = known_sets()[name]["template"]
    assert data.classes[1].texts == (template.replace("{}", "great pyrenees"),)
    assert [data.read(example).pixels.shape for example in data.examples] == [(3, 4, 1)] * 3


def test_splits_labels_and_ids_are_those_of_the_file(tmp_path: Path) -> None:
    data = load_all(f"coop:OxfordPets@{written(tmp_path, 'OxfordPets')}")
    expected = {f"images/{path}": (split, number) for split, entries in PETS.items() for path, number, _ in entries}
    assert {example.id: (example.split, example.label) for example in data.examples} == expected
    assert data.classes[0].texts == ("a photo of a pug, a type of pet.",)


@pytest.mark.parametrize("name", ["OxfordPets", "oxford_pets", "oxfordpets", "Oxford-Pets"])
def test_a_name_in_any_spelling(tmp_path: Path, name: str) -> None:
    assert load_all(f"coop:{name}@{written(tmp_path, 'OxfordPets')}").name == "coop:OxfordPets"


def test_the_name_of_a_config(tmp_path: Path) -> None:
    assert load_all(f"coop:dtd@{written(tmp_path, 'DescribableTextures')}").name == "coop:DescribableTextures"


def test_base_and_new_are_halves_in_order_of_the_numbers(tmp_path: Path) -> None:
    four = {"test": [[f"{number}.jpg", number, name] for number, name in enumerate("dcba")]}
    root = written(tmp_path, "EuroSAT", four)
    assert [text.label for text in load_all(f"classes:base@coop:EuroSAT@{root}").classes] == ["d", "c"]
    assert [text.label for text in load_all(f"classes:new@coop:EuroSAT@{root}").classes] == ["b", "a"]


def test_two_classes_of_one_name_are_kept_apart(tmp_path: Path) -> None:
    splits = {"test": [["1.jpg", 0, "crane"], ["2.jpg", 1, "crane"], ["3.jpg", 2, "heron"]]}
    data = load_all(f"coop:Caltech101@{written(tmp_path, 'Caltech101', splits)}")
    assert [text.label for text in data.classes] == ["crane (0)", "crane (1)", "heron"]
    assert data.classes[0].texts == data.classes[1].texts == ("a photo of a crane.",)


def aircraft(root: Path, **files: str) -> Path:
    folder = root / "fgvc_aircraft"
    folder.mkdir(parents=True)
    lists = {
        "variants": "707-320\nA340-300\nDC-3\n",
        "images_variant_train": "0056978 A340-300\n1170301 707-320\n",
        "images_variant_val": "1025794 DC-3\n",
        "images_variant_test": "1514522 707-320\n0747566 DC-3\n",
        **files,
    }
    for name, text in lists.items():
        (folder / f"{name}.txt").write_text(text)
    for number in ("0056978", "1170301", "1025794", "1514522", "0747566"):
        picture(folder / "images" / f"{number}.jpg")
    return root


def test_aircraft_by_the_official_lists(tmp_path: Path) -> None:
    data = load_data(f"coop:fgvc_aircraft@{aircraft(tmp_path)}")
    assert [text.label for text in data.classes] == ["707-320", "A340-300", "DC-3"]
    assert data.classes[1].texts == ("a photo of a A340-300, a type of aircraft.",)
    assert {example.id: example.label for example in data.examples} == {
        "images/1514522.jpg": 0,
        "images/0747566.jpg": 2,
    }


def test_a_variant_that_is_not_listed(tmp_path: Path) -> None:
    root = aircraft(tmp_path, images_variant_val="1025794 DC-33\n")
    assert "unknown variant" in refusal(f"coop:FGVCAircraft@{root}")
    assert "did you mean 'DC-3'?" in refusal(f"coop:FGVCAircraft@{root}")


CLASSNAMES = "n01440764 tench\nn01443537 goldfish\nn02012849 crane\nn03126707 crane\nn04355933 sun_glass\n"


def imagenet(root: Path, folder: str, folders: Iterable[str], names: str = CLASSNAMES) -> Path:
    for place, inner in enumerate(folders):
        picture(root / folder / inner / f"{place}.JPEG")
    (root / folder / "classnames.txt").write_text(names)
    (root / folder / "README.txt").write_text("x")
    return root


def test_imagenet_by_wordnet_id(tmp_path: Path) -> None:
    wnids = CLASSNAMES.split()[::2]
    root = imagenet(tmp_path, "imagenet", [f"images/{split}/{wnid}" for split in ("train", "val") for wnid in wnids])
    data = load_data(f"coop:ImageNet@{root}")
    assert (len(data), len(load_data(f"coop:ImageNet@{root}", "train"))) == (5, 5)
    labels = ["tench", "goldfish", "crane (n02012849)", "crane (n03126707)", "sun_glass"]
    assert [text.label for text in data.classes] == labels
    assert [text.texts[0] for text in data.classes[2:]] == [
        "a photo of a crane.",
        "a photo of a crane.",
        "a photo of a sun glass.",
    ]
    assert [data.classes[example.label or 0].label for example in data.examples] == labels


def test_imagenet_without_its_training_images(tmp_path: Path) -> None:
    root = imagenet(tmp_path, "imagenet", ["images/val/n01440764", "images/val/n01443537"])
    assert {example.split for example in load_all(f"coop:ImageNet@{root}").examples} == {"test"}


@pytest.mark.parametrize(
    ("name", "folder", "inner"),
    [
        ("ImageNetA", "imagenet-adversarial", "imagenet-a"),
        ("ImageNetR", "imagenet-rendition", "imagenet-r"),
        ("ImageNetSketch", "imagenet-sketch", "images"),
    ],
)
def test_variants_have_the_classes_that_have_a_folder(tmp_path: Path, name: str, folder: str, inner: str) -> None:
    root = imagenet(tmp_path, folder, [f"{inner}/n04355933", f"{inner}/n01443537"])
    (tmp_path / folder / inner / "README.txt").write_text("not a class")
    data = load_all(f"coop:{name}@{root}")
    assert [text.label for text in data.classes] == ["goldfish", "sun_glass"]
    assert ids(data) == [f"{inner}/n01443537/1.JPEG", f"{inner}/n04355933/0.JPEG"]
    assert [example.label for example in data.examples] == [0, 1]


def test_v2_has_numbers_and_not_in_order_of_text(tmp_path: Path) -> None:
    names = "".join(f"n{number:08} name{number}\n" for number in range(11))
    base = "imagenetv2-matched-frequency-format-val"
    root = imagenet(tmp_path, "imagenetv2", [f"{base}/{number}" for number in (0, 10, 2)], names)
    data = load_all(f"coop:imagenet_v2@{root}")
    assert [text.label for text in data.classes] == ["name0", "name2", "name10"]
    assert {example.path.split("/")[1]: example.label for example in data.examples} == {"0": 0, "2": 1, "10": 2}


def test_classnames_of_imagenet_serve_its_variants(tmp_path: Path) -> None:
    imagenet(tmp_path, "imagenet-rendition", ["imagenet-r/n01440764", "imagenet-r/n01443537"])
    (tmp_path / "imagenet-rendition/classnames.txt").unlink()
    assert "classnames.txt is missing: get it from github.com/KaiyangZhou/CoOp" in refusal(f"coop:ImageNetR@{tmp_path}")
    (tmp_path / "imagenet").mkdir()
    (tmp_path / "imagenet/classnames.txt").write_text(CLASSNAMES)
    assert len(load_all(f"coop:ImageNetR@{tmp_path}").classes) == 2


def test_a_folder_that_is_no_class(tmp_path: Path) -> None:
    root = imagenet(tmp_path, "imagenet-adversarial", ["imagenet-a/n01440764", "imagenet-a/n99"])
    assert "unknown class folder" in refusal(f"coop:ImageNetA@{root}")


def test_names_and_places_that_are_wrong(tmp_path: Path) -> None:
    assert "did you mean 'EuroSAT'?" in refusal(f"coop:EuroSATT@{tmp_path}")
    assert "expected coop:NAME@ROOT" in refusal("coop:EuroSAT")
    assert "expected coop:NAME@ROOT" in refusal("coop:EuroSAT@")
    assert f"there is no folder {tmp_path / 'eurosat'}" in refusal(f"coop:EuroSAT@{tmp_path}")
    (tmp_path / "eurosat").mkdir()
    told = "split_zhou_EuroSAT.json is missing: get it from github.com/KaiyangZhou/CoOp (DATASETS.md) and put it into"
    assert refusal(f"coop:EuroSAT@{tmp_path}") == f"{told} {tmp_path / 'eurosat'}"
    (tmp_path / "BUSI").mkdir()
    assert "get it from github.com/HealthX-Lab/BiomedCoOp" in refusal(f"coop:BUSI@{tmp_path}")
    (tmp_path / "imagenet-sketch").mkdir()
    (tmp_path / "imagenet-sketch/classnames.txt").write_text(CLASSNAMES)
    assert "there is no folder" in refusal(f"coop:ImageNetSketch@{tmp_path}")


@pytest.mark.parametrize(
    ("splits", "expected"),
    [
        ([], "expected an object with lists train, val and test"),
        ({"training": []}, "expected an object with lists train, val and test"),
        ({"test": [["1.jpg", "0", "pug"]]}, "test, entry 1: expected [path, number, class name]"),
        ({"test": [["1.jpg", 0, "pug"], ["2.jpg", True, "pug"]]}, "test, entry 2: expected"),
        ({"test": [["1.jpg", 0]]}, "expected [path, number, class name]"),
        ({"test": [["1.jpg", 0, "pug"], ["2.jpg", 0, "cat"]]}, "the class 0 is called 'pug' and 'cat'"),
        ({"test": [["../../etc/passwd", 0, "pug"]]}, "is outside the data"),
        ({"test": [["/etc/passwd", 0, "pug"]]}, "is outside the data"),
        ({"test": []}, "no pictures of EuroSAT"),
        ({"test": [["1.jpg", 0, "pug"]]}, "at least two"),
    ],
)
def test_json_files_that_are_wrong(tmp_path: Path, splits: object, expected: str) -> None:
    assert expected in refusal(f"coop:EuroSAT@{written(tmp_path, 'EuroSAT', splits)}")


def test_a_json_file_that_is_none(tmp_path: Path) -> None:
    written(tmp_path, "EuroSAT")
    (tmp_path / "eurosat/split_zhou_EuroSAT.json").write_text("{")
    assert "is not valid JSON" in refusal(f"coop:EuroSAT@{tmp_path}")
