"""Runs of retrieval under attack: what is recorded, and that nothing but the settings changes it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import titer
from attacks.test_words import TABLE, Narrow, encode_words
from images import timeless
from titer.attacks import Random, Threat
from titer.attacks.pairs import PAIR_ATTACKS, Attacked, Sga
from titer.errors import InputError, RunError
from titer.evaluate.retrieval import attack_pairs, execute, plan_retrieval
from titer.models import Encoder
from titer.results.retrieval import recalls, unpacked
from titer.results.store import Run

SIDE, EPS = 6, 8 / 255
CAPTIONS = ["a large mass", "benign lump", "a big node", "malignant mass", "large"]


def encoder() -> Encoder:
    weights = torch.randn(3, 3 * SIDE * SIDE, generator=torch.Generator().manual_seed(0))
    half = (0.5, 0.5, 0.5)
    return titer.wrap(
        lambda images: images.flatten(1) @ weights.T, encode_words, SIDE, half, half, fingerprint="linear"
    )


@pytest.fixture
def data(tmp_path: Path) -> Path:
    root = tmp_path / "data"
    root.mkdir()
    rows = ["file_name,caption,group"]
    random = np.random.default_rng(0)
    for place in range(12):
        Image.fromarray(random.integers(0, 256, (SIDE, SIDE, 3), np.uint8)).save(root / f"{place}.png")
        rows.append(f"{place}.png,{CAPTIONS[place % 5]},patient {place // 2}")
    rows.append("3.png,another mass,patient 1")
    (root / "metadata.csv").write_text("\n".join(rows) + "\n")
    return root


@pytest.fixture
def words(tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "words.toml").write_text(TABLE)
    return {"source": {"name": "synonyms", "path": str(tmp_path / "words.toml")}}


def run(data: Path, out: Path, words: dict[str, Any], name: str = "sga", **options: Any) -> Run:
    judged = options.pop("model", None) or encoder()
    return attack_pairs(judged, data, name, out=out, settings={"steps": 3, "swap": words}, **{"eps": EPS, **options})


@pytest.mark.parametrize("name", PAIR_ATTACKS)
def test_records_hold_what_the_docs_say(name: str, data: Path, tmp_path: Path, words: dict[str, Any]) -> None:
    found = run(data, tmp_path / "run", words, name, seed=2)
    assert (found.info["verb"], found.info["status"], found.info["seed"]) == ("retrieval", "done", 2)
    assert found.info["settings"]["swap"]["meaning"] == "preserving"
    assert set(found.info["success"]) == {"of_right", "of_all", "drop"}
    assert len(found.records) == 12
    one = next(record for record in found.records if record["sample_id"] == "3.png")
    assert [caption["id"] for caption in one["captions"]] == ["3.png", "3.png#2"]
    assert (one["attack"], one["norm"], one["eps"], one["group"]) == (name, "linf", EPS, "patient 1")
    assert one["linf"] <= EPS + 1e-6
    text = encoder().encode_text([one["captions"][1]["text"]])[0].numpy()
    assert np.allclose(unpacked(one["captions"][1]["features"]), text, atol=1e-6)
    assert {row.k for row in recalls(found)} == {1, 5, 10}


def test_what_is_killed_goes_on_to_the_same_records(data: Path, tmp_path: Path, words: dict[str, Any]) -> None:
    whole = run(data, tmp_path / "whole", words, eps=[EPS / 2, EPS])
    cut_short = run(data, tmp_path / "cut", words, eps=[EPS / 2, EPS], workers=1)
    lines = (cut_short.path / "samples.jsonl").read_bytes().split(b"\n")
    (cut_short.path / "samples.jsonl").write_bytes(b"\n".join([*lines[:5], lines[5][:40]]))
    again = run(data, tmp_path / "cut", words, eps=[EPS / 2, EPS], workers=2)
    assert len(whole.records) == 24
    assert timeless(whole) == timeless(cut_short) == timeless(again)


def test_other_settings_do_not_go_on_with_it(data: Path, tmp_path: Path, words: dict[str, Any]) -> None:
    run(data, tmp_path / "run", words)
    with pytest.raises(InputError, match=r"settings.swap.meaning was"):
        run(data, tmp_path / "run", {**words, "meaning": "changing"})


def test_a_long_caption_is_cut_with_a_note(data: Path, tmp_path: Path, words: dict[str, Any]) -> None:
    table = data / "metadata.csv"
    table.write_text(table.read_text().replace("0.png,a large mass", "0.png,a large mass in one of the lungs"))
    found = run(data, tmp_path / "run", words, model=replace(encoder(), text_tower=Narrow()))
    notes = {record["sample_id"]: record["captions"][0].get("cut") for record in found.records}
    assert notes["0.png"] == {"tokens": 8, "taken": 4}
    assert notes["1.png"] is None


def test_a_row_without_caption_or_picture_fails_alone(data: Path, tmp_path: Path, words: dict[str, Any]) -> None:
    table = data / "metadata.csv"
    table.write_text(table.read_text().replace("0.png,a large mass", "0.png,", 1))
    (data / "1.png").write_bytes(b"no picture")
    found = run(data, tmp_path / "run", words)
    assert {failure["sample_id"] for failure in found.failures} == {"0.png", "1.png"}
    assert len(found.records) == 10


def test_data_without_captions_are_refused(words: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no captions"):
        attack_pairs(encoder(), "titer:phantoms", out=tmp_path / "run", settings={"swap": words}, limit=4)


def test_an_attack_that_leaves_its_budget_ends_the_run(
    data: Path, tmp_path: Path, words: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def far(_: Sga, encoder: Encoder, images: Tensor, texts: Any, threat: Threat, random: Random) -> Attacked:
        del encoder, texts, threat, random
        return Attacked(1 - images, ())

    monkeypatch.setattr(Sga, "__call__", far)
    with pytest.raises(RunError, match="left its budget"):
        execute(plan_retrieval(encoder(), data, "sga", settings={"swap": words}), tmp_path / "run")
