"""Captions made of labels: varied, the same on every machine, and true."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from data.making import pictures, words
from titer.data import load_data, phantoms
from titer.data.captions import PHRASES, captioned
from titer.errors import InputError


def test_a_caption_says_the_words_of_the_class_in_many_ways(tmp_path: Path) -> None:
    names = [f"{split}/{label}/{place}.png" for split in ("train", "test") for label in "ab" for place in range(100)]
    words(pictures(tmp_path, names), {"a": "a lung", "b": ["a heart", "the heart"]})
    data = load_data(f"captioned:{tmp_path}", "train")
    said = {example.caption for example in data.examples if example.label == 0}
    assert said <= {phrase.format("a lung") for phrase in PHRASES}
    assert len(said) >= 20
    assert {text for example in data.examples if example.label == 1 for text in ("a heart", "the heart")
            if text in str(example.caption)} == {"a heart", "the heart"}  # fmt: skip
    assert data.source == load_data(tmp_path, "train").source


def test_no_two_phrases_are_one() -> None:
    assert len(set(PHRASES)) == len(PHRASES) >= 20
    assert all(phrase.count("{}") == 1 for phrase in PHRASES)


def test_it_is_a_function_of_the_id(tmp_path: Path) -> None:
    names = [f"{label}/{place}.png" for label in "ab" for place in range(5)]
    data = load_data(pictures(tmp_path, names))
    whole = {example.id: example.caption for example in captioned(data).examples}
    some = captioned(replace(data, examples=data.examples[3:]))
    assert all(whole[example.id] == example.caption for example in some.examples)


def test_phantoms_have_captions_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(phantoms, "SIZES", {"train": 1, "val": 200, "test": 1})  # to draw all takes most of a minute
    captions = {example.id: example.caption for example in load_data("captioned:titer:phantoms", "val").examples}
    assert captions["val/7"] == phantoms.phantom("val", 7).caption
    assert len(set(captions.values())) > 50


def test_without_labels(tmp_path: Path) -> None:
    pictures(tmp_path, ["a.png"])
    (tmp_path / "metadata.csv").write_text("file_name,caption\na.png,a lung\n")
    with pytest.raises(InputError, match="no labels to make captions of"):
        load_data(f"captioned:{tmp_path}")
