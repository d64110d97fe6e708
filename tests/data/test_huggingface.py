"""Objects of the datasets library, by a stand-in of what is used of it, and of the library itself where it is installed."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image as Pillow

import titer
from images import brightness_encoder
from titer.data import load_data
from titer.data.classes import Wording
from titer.errors import InputError, PictureError


@dataclass(frozen=True)
class Image:
    decode: bool = True


@dataclass(frozen=True)
class ClassLabel:
    names: tuple[str, ...]


@dataclass(frozen=True)
class Value:
    dtype: str = "string"


@dataclass(frozen=True)
class List:
    feature: Any


@dataclass(frozen=True)
class Table:
    """What is used of a `datasets.Dataset`: rows hold decoded pictures until the column is cast."""

    features: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]
    split: str | None = None
    info: Any = dataclasses.field(default_factory=lambda: SimpleNamespace(dataset_name="smears"))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: int | str) -> Any:
        if isinstance(key, str):
            return [row[key] for row in self.rows]
        return {name: self._shown(name, value) for name, value in self.rows[key].items() if name in self.features}

    def _shown(self, name: str, value: Any) -> Any:
        return "decoded" if self.features[name] == Image(decode=True) else value

    def with_format(self, kind: str | None) -> Table:
        assert kind is None
        return self

    def select_columns(self, names: Sequence[str]) -> Table:
        return dataclasses.replace(self, features={name: self.features[name] for name in names})

    def cast_column(self, name: str, kind: Any) -> Table:
        return dataclasses.replace(self, features={**self.features, name: kind})


def png(value: int) -> bytes:
    stream = io.BytesIO()
    Pillow.fromarray(np.full((8, 8), value, np.uint8)).save(stream, "PNG")
    return stream.getvalue()


FEATURES: Mapping[str, Any] = {
    "image": Image(),
    "label": ClassLabel(("dark_field", "bright_field", "none_there")),
    "caption": Value(),
    "group": Value(),
    "age": Value("int64"),
    "boxes": List(Value("int64")),
}


def row(value: int, label: int, **more: Any) -> dict[str, Any]:
    picture = {"bytes": png(value), "path": "cells.png"}
    return {"image": picture, "label": label, "caption": None, "group": None, "age": None, "boxes": [1], **more}


def test_columns_classes_and_pictures() -> None:
    data = load_data(Table(FEATURES, [row(51, 1, caption="pale", group="p1", age=61), row(0, 0), row(9, -1)]))
    assert (data.name, data.split, data.columns) == ("smears", "test", ("age",))
    assert [(text.label, text.texts) for text in data.classes] == [
        ("dark_field", ("a medical image of dark field",)),
        ("bright_field", ("a medical image of bright field",)),
        ("none_there", ("a medical image of none there",)),
    ]
    first, second, third = data.examples
    assert (first.id, first.path, first.label, first.caption, first.group) == ("test/0", "test/0", 1, "pale", "p1")
    assert [each.attributes for each in data.examples] == [{"age": "61"}, {}, {}]
    assert (second.label, second.caption, third.label) == (0, None, None)
    picture = data.read(first)
    assert picture.pixels.shape == (8, 8, 1)
    assert picture.pixels == pytest.approx(0.2)
    assert picture.sha256 == data.digest(first) == hashlib.sha256(png(51)).hexdigest()


def test_splits_limits_and_words_are_as_everywhere() -> None:
    parts = {"train": Table(FEATURES, [row(51, 1)] * 3), "validation": Table(FEATURES, [row(0, 0)])}
    assert len(load_data(parts, split="train", limit=2).examples) == 2
    assert [each.id for each in load_data(parts, split="val").examples] == ["val/0"]
    with pytest.raises(InputError, match="train"):
        load_data(parts)
    (each,) = load_data(Table(FEATURES, [row(1, 0)], split="train[:10%]"), split="train").examples
    assert each.split == "train"


def test_ids_labels_without_names_and_pictures_in_files(tmp_path: Path) -> None:
    (tmp_path / "1.png").write_bytes(png(51))
    features = {"picture": Image(), "label": Value(), "id": Value("int64"), "text": Value()}
    stored = {"bytes": None, "path": str(tmp_path / "1.png")}
    rows = [{"picture": stored, "label": label, "id": 7 - place, "text": "t"} for place, label in enumerate("ba")]
    data = load_data(Table(features, rows))
    assert [(text.label, text.texts) for text in data.classes] == [
        ("a", ("a medical image of a",)),
        ("b", ("a medical image of b",)),
    ]
    assert [(each.id, each.path, each.label, each.caption) for each in data.examples] == [
        ("6", "test/1", 0, "t"),
        ("7", "test/0", 1, "t"),
    ]
    assert data.read(data.examples[0]).pixels == pytest.approx(0.2)
    assert data.digest(data.examples[0]) == hashlib.sha256(png(51)).hexdigest()


def test_a_row_without_a_picture_fails_alone() -> None:
    data = load_data(Table(FEATURES, [row(1, 0), row(1, 1) | {"image": None}]))
    assert data.read(data.examples[0]).pixels.shape == (8, 8, 1)
    for reading in (data.read, data.digest):
        with pytest.raises(PictureError, match="the row has no picture"):
            reading(data.examples[1])


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (lambda: 7, "or a Dataset or DatasetDict of the datasets library, got an object of the type int"),
        (lambda: SimpleNamespace(features={}), "got a streamed dataset; load it without streaming=True"),
        (lambda: Table(FEATURES, []), "has no rows"),
        (dict, "has no rows"),
        (lambda: Table({"label": Value()}, [{"label": "a"}]), "expected one column of pictures, .* got none of label"),
        (lambda: Table({"a": Image(), "b": Image(), "label": Value()}, [{}]), "got several of a, b, label"),
        (lambda: Table({"image": Image(), "x": Value()}, [{"x": 1}]), "'caption', 'text' or 'question', got image, x"),
        (lambda: Table({**FEATURES, "label": List(Value())}, [row(1, 0)]), "expected one value for 'label' in a row"),
        (
            lambda: {"a": Table(FEATURES, [row(1, 0)]), "b": Table({"image": Image()}, [row(1, 0)])},
            "different columns",
        ),
        (lambda: Table({**FEATURES, "label": Value()}, [row(1, 5)]), "only one class, '5'"),
        (lambda: Table({**FEATURES, "id": Value()}, [row(1, 0, id="x"), row(1, 1, id="x")]), "is given to 2 rows"),
    ],
)
def test_what_is_refused(given: Callable[[], Any], says: str) -> None:
    with pytest.raises(InputError, match=says) as caught:
        load_data(given())
    assert "\n" not in str(caught.value)


def test_it_is_certified_and_fitted_on(tmp_path: Path) -> None:
    parts = {
        split: Table(FEATURES, [row(start + place, place % 3) for place in range(6)])
        for split, start in (("train", 60), ("test", 120))
    }
    two = Wording({"dark_field": "dark", "bright_field": "bright", "none_there": "x"})
    data = load_data(parts, limit=2, wording=two)
    run = titer.certify(brightness_encoder(), data, sigma=0.1, n=200, out=tmp_path / "run")
    assert [record["sample_id"] for record in run.records] == [each.id for each in data.examples]
    assert run.info["data"]["name"] == "smears"
    found = titer.fit("linear-probe", brightness_encoder(), parts, out=tmp_path / "probe", shots=None)  # type: ignore[arg-type]
    assert found.images == 6


@pytest.mark.skipif(importlib.util.find_spec("datasets") is None, reason="the datasets library is not installed")
def test_the_library_itself(tmp_path: Path) -> None:
    import datasets  # type: ignore[import-not-found,unused-ignore]

    features = datasets.Features(
        image=datasets.Image(), label=datasets.ClassLabel(names=["dark", "bright"]), age=datasets.Value("int64")
    )
    rows = {"image": [{"bytes": png(51), "path": None}] * 3, "label": [1, 0, -1], "age": [61, None, 7]}
    part = datasets.Dataset.from_dict(rows, features=features)
    data = load_data(datasets.DatasetDict({"validation": part, "test": part.with_format("numpy")}))
    assert [(each.id, each.label, each.attributes) for each in data.examples] == [
        ("test/0", 1, {"age": "61"}),
        ("test/1", 0, {}),
        ("test/2", None, {"age": "7"}),
    ]
    assert data.read(data.examples[0]).pixels == pytest.approx(0.2)
    assert data.digest(data.examples[0]) == hashlib.sha256(png(51)).hexdigest()
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    for label in "ab":
        (tmp_path / label / "1.png").write_bytes(png(51))
    folder = datasets.load_dataset("imagefolder", data_dir=str(tmp_path), split="train", cache_dir=str(tmp_path / "c"))
    read = load_data(folder, split="train")
    assert [text.label for text in read.classes] == ["a", "b"]
    assert read.read(read.examples[1]).sha256 == hashlib.sha256(png(51)).hexdigest()
    with pytest.raises(InputError, match="streamed"):
        load_data(part.to_iterable_dataset())
