"""`fit`: which images it takes, what it writes, what it refuses."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file

import titer
from tiny_models import clip_directory
from titer.data import load_all
from titer.data.splits import shots
from titer.defenses import Coop
from titer.defenses.adapter import load_classifier
from titer.errors import InputError
from titer.models import Encoder, load_model

QUICK = {"epochs": 2, "context": 2}


def two_splits(root: Path, train: int = 4, test: int = 3) -> Path:
    """Class folders of noise pictures; no two are alike."""
    random = np.random.default_rng(0)
    for split, count in (("train", train), ("test", test)):
        for label in ("brain", "lung"):
            (root / split / label).mkdir(parents=True)
            for index in range(count):
                pixels = random.integers(0, 256, (8, 8, 3), np.uint8)
                Image.fromarray(pixels).save(root / split / label / f"{index}.png")
    return root


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    return load_model(clip_directory(tmp_path_factory.mktemp("model") / "clip"))


def facts_in(path: Path) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads((path / "adapter_config.json").read_text())["titer"]
    return facts


def test_the_facts_of_a_fit_are_written(encoder: Encoder, tmp_path: Path) -> None:
    data = load_all(two_splits(tmp_path / "data"))
    fitted = titer.fit("coop", encoder, data, out=tmp_path / "out", shots=2, seed=5, settings=QUICK, command="typed")
    chosen = shots([example for example in data.examples if example.split == "train"], 2, 5)
    facts = facts_in(tmp_path / "out")
    assert facts["defense"] == "coop"
    assert facts["settings"] == {**dataclasses.asdict(Coop()), **QUICK}
    assert facts["encoder"] == {"name": encoder.name, "fingerprint": encoder.fingerprint, "size": 32}
    assert [entry["label"] for entry in facts["classes"]] == ["brain", "lung"]
    assert facts["data"] == {"name": "data", "split": "train", "left_out": 0}
    assert facts["ids"] == [example.id for example in chosen]
    assert facts["sha256"] == [data.digest(example) for example in chosen]
    assert (facts["shots"], facts["seed"], facts["allow"], facts["command"]) == (2, 5, [], "typed")
    assert len(facts["losses"]) == 2
    assert facts["versions"]["titer"] == titer.__version__
    assert (fitted.images, fitted.left_out, fitted.path) == (4, 0, tmp_path / "out")
    assert fitted.loss == pytest.approx(facts["losses"][-1], abs=1e-6)
    assert facts["seconds"] == pytest.approx(fitted.seconds, abs=1e-3)


def test_what_was_learned_can_be_loaded(encoder: Encoder, tmp_path: Path) -> None:
    data = load_all(two_splits(tmp_path / "data"))
    titer.fit("coop", encoder, data, out=tmp_path / "first", shots=1, settings=QUICK)
    test = titer.load_data(tmp_path / "data")
    assert load_classifier(tmp_path / "first", encoder, test).classes == ("brain", "lung")


def test_the_same_fit_learns_the_same(encoder: Encoder, tmp_path: Path) -> None:
    data = load_all(two_splits(tmp_path / "data"))
    learned = []
    for name in ("one", "two", "cached", "from cache"):
        cache = tmp_path / "cache" if "cache" in name else None
        titer.fit("coop", encoder, data, out=tmp_path / name, shots=2, settings=QUICK, cache=cache)
        learned.append(load_file(tmp_path / name / "adapter_model.safetensors")["context"])
    assert all(bool((learned[0] == other).all()) for other in learned)
    assert len(list((tmp_path / "cache").glob("*.npy"))) == 4


def test_images_the_model_has_seen_are_left_out_and_counted(encoder: Encoder, tmp_path: Path) -> None:
    data = load_all(two_splits(tmp_path / "data"))
    brains = [example for example in data.examples if example.split == "train" and example.label == 0]
    seen = frozenset(data.digest(example) for example in brains[:2])
    trained = dataclasses.replace(encoder, upstream=seen)
    fitted = titer.fit("coop", trained, data, out=tmp_path / "out", shots=None, settings=QUICK)
    assert (fitted.left_out, fitted.images) == (2, 6)
    assert facts_in(tmp_path / "out")["data"]["left_out"] == 2
    assert not seen & set(facts_in(tmp_path / "out")["sha256"])
    taken = titer.fit("coop", trained, data, out=tmp_path / "all", shots=None, settings=QUICK, allow=["upstream"])
    assert (taken.left_out, taken.images) == (0, 8)
    with pytest.raises(InputError, match=r"3 shots .* brain has 2, not counting 2 that the model was trained on"):
        titer.fit("coop", trained, data, out=tmp_path / "three", shots=3, settings=QUICK)


def test_without_labels_a_fit_has_no_shots(encoder: Encoder, tmp_path: Path) -> None:
    data = two_splits(tmp_path / "data")
    settings = {"mode": "zero-shot"}
    fitted = titer.fit("promptsmooth", encoder, data, out=tmp_path / "out", shots=1, settings=settings)
    assert (fitted.images, fitted.loss) == (8, None)
    assert facts_in(tmp_path / "out")["shots"] is None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"defense": "cop"}, "did you mean 'coop'"),
        ({"settings": {"epoch": 1}}, "unknown setting of defense 'coop': 'epoch'; did you mean 'epochs'"),
        ({"shots": 9}, "expected 9 shots of each class in split 'train', but brain has 4, lung has 4"),
        ({"shots": 0}, "shots: expected at least 1"),
        ({"seed": -1}, "seed: expected a whole number of at least 0, got -1"),
        ({"split": "trian"}, "there is no split 'trian'; expected one of test, train, all"),
        ({"split": "test"}, "split 'test' is the one that evaluation takes; expected a fit on train; --allow overlap"),
        ({"allow": ["everything"]}, "unknown allowance 'everything'"),
        ({"data": "no/such/folder"}, "no/such/folder"),
    ],
)
def test_a_mistake_is_refused_before_anything_is_written(
    options: dict[str, Any], words: str, encoder: Encoder, tmp_path: Path
) -> None:
    arguments = {"defense": "coop", "data": two_splits(tmp_path / "data"), "settings": QUICK, **options}
    with pytest.raises(InputError) as told:
        titer.fit(model=encoder, out=tmp_path / "out", **arguments)
    assert words in str(told.value)
    assert not (tmp_path / "out").exists()


def test_only_new_and_adapter_directories_are_written_to(encoder: Encoder, tmp_path: Path) -> None:
    data = two_splits(tmp_path / "data")
    for name, words in (("data", "is not empty and holds no adapter"), ("data/test/lung/0.png", "is a file")):
        with pytest.raises(InputError, match=words):
            titer.fit("coop", encoder, data, out=tmp_path / name, shots=1, settings=QUICK)
    for seed in (1, 2):
        titer.fit("coop", encoder, data, out=tmp_path / "again", shots=1, seed=seed, settings=QUICK)
    assert facts_in(tmp_path / "again")["seed"] == 2


def test_pictures_and_groups_of_the_test_split_are_refused(encoder: Encoder, tmp_path: Path) -> None:
    data = two_splits(tmp_path / "data")
    twin = (data / "train" / "lung" / "1.png").read_bytes()
    (data / "test" / "lung" / "0.png").write_bytes(twin)
    with pytest.raises(InputError, match=r"1 pictures of the fit are also in split 'test', such as test/lung/0\.png"):
        titer.fit("coop", encoder, data, out=tmp_path / "out", shots=None, settings=QUICK)
    assert (
        titer.fit("coop", encoder, data, out=tmp_path / "out", shots=None, settings=QUICK, allow=["overlap"]).images
        == 8
    )
