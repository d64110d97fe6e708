"""Protocols: what is fitted and judged on what."""

from __future__ import annotations

import pytest

from titer.data import load_data
from titer.errors import InputError
from titer.evaluate.benchmarks import BENCHMARKS, CrossDataset, Shift, short_name


def test_base_to_new_fits_one_half_and_judges_both() -> None:
    benchmark = BENCHMARKS.build("base-to-new")
    assert benchmark.fitted_on("titer:phantoms") == "classes:base@titer:phantoms"
    base, new = benchmark.parts("titer:phantoms")
    assert (base.name, base.moved, new.name, new.moved) == ("base", False, "new", True)
    halves = [{text.label for text in load_data(part.data).classes} for part in (base, new)]
    assert halves[0] | halves[1] == {text.label for text in load_data("titer:phantoms").classes}
    assert not halves[0] & halves[1]
    assert base.data == benchmark.fitted_on("titer:phantoms")


def test_others_are_moved_to_unless_their_classes_are_the_same() -> None:
    for kind, moved in ((CrossDataset, True), (Shift, False)):
        benchmark = kind(on=("a/two", "three"))
        assert benchmark.fitted_on("a/one") == "a/one"
        assert [(part.name, part.data, part.moved) for part in benchmark.parts("a/one")] == [
            ("one", "a/one", False),
            ("two", "a/two", moved),
            ("three", "three", moved),
        ]
        with pytest.raises(InputError, match="on: expected the names of data sets"):
            kind().parts("a/one")


def test_sets_of_coops_layout_are_below_the_root_of_the_fits() -> None:
    benchmark = CrossDataset(on=("coop:dtd", "coop:EuroSAT@/other", "three"))
    parts = benchmark.parts("coop:ImageNet@/data/coop")
    assert [part.data for part in parts[1:]] == ["coop:dtd@/data/coop", "coop:EuroSAT@/other", "three"]
    assert [part.name for part in parts] == ["ImageNet-coop", "dtd-coop", "EuroSAT-other", "three"]
    with pytest.raises(InputError, match="on: 'coop:dtd' names no root, and titer:phantoms has none"):
        benchmark.parts("titer:phantoms")


@pytest.mark.parametrize(
    ("data", "name"),
    [
        ("../shared/data/brain_mri", "brain_mri"),
        ("titer:phantoms", "titer-phantoms"),
        ("corrupted:jpeg/3@../data/brain_mri", "jpeg-3-brain_mri"),
        ("coop:dtd@/data/coop", "dtd-coop"),
        ("classes:base@pooled:a/b,c/d", "base-d"),
        ("/", "data"),
    ],
)
def test_short_names_are_names_of_files(data: str, name: str) -> None:
    assert short_name(data) == name
