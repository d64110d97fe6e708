"""Data sets by name."""

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest

import titer
from data.making import ids, pictures
from titer.data import load_all, load_data, phantoms
from titer.errors import InputError


def refusal(name: str | Path) -> str:
    with pytest.raises(InputError) as caught:
        load_data(name)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_the_phantoms() -> None:
    data = load_data("titer:phantoms", limit=20)
    assert (data.name, data.split, data.limit, len(data)) == ("titer:phantoms", "test", 20, 20)
    assert [(each.label, each.texts) for each in data.classes] == [(label, (text,)) for label, text in phantoms.CLASSES]
    assert set(data.counts.values()) <= {1, 2}
    assert all(each.id.startswith("test/") and each.path == each.id for each in data.examples)


def test_a_phantom_is_what_was_drawn() -> None:
    data = load_data("titer:phantoms", "val", limit=3)
    for example in data.examples:
        picture = data.read(example)
        drawn = phantoms.phantom("val", int(example.id.removeprefix("val/")))
        np.testing.assert_array_equal(picture.pixels, drawn.pixels)
        assert example.label == drawn.label
        assert picture.pixels.dtype == np.float32
        assert picture.pixels.ndim == 3
        assert picture.sha256 == hashlib.sha256(drawn.pixels.tobytes()).hexdigest()


def test_all_phantoms() -> None:
    everything = load_all("titer:phantoms")
    assert len(everything) == sum(phantoms.SIZES.values())
    assert len(set(ids(everything))) == len(everything)
    assert set(ids(load_data("titer:phantoms", "all"))) == set(ids(everything))


def test_the_front_door_is_the_same_function() -> None:
    assert titer.load_data is load_data


def test_limits_are_recorded_and_leave_classes_alone(tmp_path: Path) -> None:
    root = pictures(tmp_path, [f"{label}/{place}.png" for label in "abc" for place in range(4)])
    data = load_data(root, limit=2)
    assert (data.limit, len(data), len(data.classes)) == (2, 2, 3)
    with pytest.raises(InputError, match="at least 1"):
        load_data(root, limit=0)


def test_unknown_embedded_sets() -> None:
    assert "did you mean 'titer:phantoms'" in refusal("titer:phantom")


def test_nothing_there(tmp_path: Path) -> None:
    (tmp_path / "brain_mri").mkdir()
    (tmp_path / "table.csv").write_text("x")
    assert "did you mean" in refusal(tmp_path / "brain_mr")
    assert str(tmp_path / "brain_mri") in refusal(tmp_path / "brain_mr")
    assert str(tmp_path / "table.csv") in refusal(tmp_path / "tables.csv")
    assert "did you mean" not in refusal(tmp_path / "zzz")
    assert f"{tmp_path / 'zzz'} does not exist either" in refusal(tmp_path / "zzz" / "brain_mri")


def test_the_embedded_set_is_offered_to_who_forgets_its_prefix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "did you mean 'titer:phantoms'" in refusal("phantoms")


@pytest.mark.parametrize("name", ["", "a" * 300, "a\0b"])
def test_names_that_can_be_nothing(name: str) -> None:
    refusal(name)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_directory_that_may_not_be_read(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0)
    assert "cannot be read: Permission denied" in refusal(closed)
