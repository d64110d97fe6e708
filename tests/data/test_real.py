"""Real pictures, where they lie beside the repository."""

from pathlib import Path

import pytest

from titer.data import describe, load_all, load_data

ROOT = Path(__file__).parents[3] / "shared" / "data"
COUNTS = {
    "mednist": (4771, 596, 1197),
    "brain_mri": (2400, 338, 413),
    "lung_histology": (2359, 188, 360),
    "blood_cells": (816, 336, 278),
    "cxr_nih": (620, 116, 263),
    "blood_smears_captions": (205, 87, 72),
}
SIZES = {"mednist": 64, "brain_mri": 128, "lung_histology": 128, "blood_cells": 96, "cxr_nih": 224, "cxr_covid": 224}
GREY = {"mednist", "brain_mri", "cxr_nih", "cxr_covid"}


def real(name: str) -> Path:
    if not (ROOT / name / "metadata.csv").exists():
        pytest.skip(f"no real images: {name} is not beside the repository")
    return ROOT / name


@pytest.mark.parametrize("name", COUNTS)
def test_counts(name: str) -> None:
    root = real(name)
    assert tuple(len(load_data(root, split)) for split in ("train", "val", "test")) == COUNTS[name]
    assert len(load_data(root, "all")) == sum(COUNTS[name])


@pytest.mark.parametrize("name", ["mednist", "brain_mri", "lung_histology", "blood_cells", "cxr_nih"])
def test_words_come_from_the_file(name: str) -> None:
    data = load_data(real(name))
    assert all("medical image of" not in text for each in data.classes for text in each.texts)
    assert all(data.counts.values())


@pytest.mark.parametrize("name", sorted(SIZES))
def test_pictures_are_of_the_stated_size(name: str) -> None:
    data = load_data(real(name), limit=12)
    for example in data.examples:
        side = SIZES[name]
        assert data.read(example).pixels.shape == (side, side, 1 if name in GREY else 3)


def test_pairs_have_captions() -> None:
    data = load_data(real("cxr_covid"), "train")
    assert all(example.caption for example in data.examples)


@pytest.mark.parametrize("name", ["blood_cells", "cxr_covid"])
def test_no_picture_and_no_group_crosses_splits(name: str) -> None:
    report = describe(load_all(real(name)))
    assert report.unreadable == {}
    assert report.identical == ()
    assert report.crossing == ()
