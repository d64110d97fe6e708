"""What a fit writes, that it is read back bit for bit, and everything that is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import titer
from defenses.tiny import CLASSES, data, images, judged
from images import brightness_encoder
from tiny_models import clip_directory
from titer.data import ClassText, Data, Example
from titer.defenses import Coop, PromptSmooth
from titer.defenses.adapter import CONFIG, WEIGHTS, load_classifier, read_adapter, write_adapter
from titer.errors import InputError, PictureError
from titer.models import Encoder, load_model

SHARED = Coop(epochs=2, context=2, class_specific=False)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    return load_model(clip_directory(tmp_path_factory.mktemp("clip")))


@pytest.fixture
def path(encoder: Encoder, tmp_path: Path) -> Path:
    titer.fit(SHARED, encoder, data(), out=tmp_path / "prompts", shots=2, seed=7)
    return tmp_path / "prompts"


@pytest.fixture
def test_data() -> Data:
    return judged(data())


def changed(path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """The adapter with something in its configuration changed."""
    content = json.loads((path / CONFIG).read_text())
    change(content["titer"])
    (path / CONFIG).write_text(json.dumps(content))
    return path


def test_the_files_have_pefts_names_and_our_facts_stand_under_one_key(path: Path, encoder: Encoder) -> None:
    assert {file.name for file in path.iterdir()} == {WEIGHTS, CONFIG, "README.md"}
    assert (WEIGHTS, CONFIG) == ("adapter_model.safetensors", "adapter_config.json")
    content = json.loads((path / "adapter_config.json").read_text())
    assert content.keys() == {"titer"}
    facts = content["titer"]
    assert facts["defense"] == "coop"
    assert facts["settings"] == {**vars(SHARED)}
    assert facts["encoder"] == {"name": encoder.name, "fingerprint": encoder.fingerprint, "size": 32}
    assert facts["classes"] == [{"label": named.label, "texts": list(named.texts)} for named in CLASSES]
    assert (facts["shots"], facts["seed"], len(facts["ids"])) == (2, 7, 6)
    assert len(facts["sha256"]) == len(facts["groups"]) == 6
    assert facts["notes"]["template"] == "{}"
    assert {"titer", "torch"} <= facts["versions"].keys()


def test_weights_are_read_back_bit_for_bit(tmp_path: Path) -> None:
    weights = {
        "a": torch.randn(3, 4),
        "b": torch.tensor([1, 2]),
        "c": torch.randn(2, 6).T,
        "d": torch.randn(5).bfloat16(),
    }
    facts = {
        "defense": "coop", "settings": vars(Coop()), "encoder": {"name": "x", "fingerprint": "y"},
        "classes": [{"label": "é", "texts": ["t"]}],
    }  # fmt: skip
    write_adapter(tmp_path / "x", weights, facts)
    adapter = read_adapter(tmp_path / "x")
    assert adapter.weights.keys() == weights.keys()
    for name, tensor in weights.items():
        assert adapter.weights[name].dtype == tensor.dtype
        assert torch.equal(adapter.weights[name], tensor)
    assert adapter.facts == facts
    assert adapter.defense == Coop()
    assert adapter.classes == (ClassText("é", ("t",)),)
    assert adapter.encoder == ("x", "y")


def test_lists_of_settings_are_tuples_again(encoder: Encoder, tmp_path: Path) -> None:
    method = PromptSmooth(epochs=1, context=2, sigmas=(0.25, 0.5))
    titer.fit(method, encoder, data(), out=tmp_path / "x", shots=1)
    assert read_adapter(tmp_path / "x").defense == method


def test_the_classifier_is_the_one_that_was_fitted(path: Path, encoder: Encoder, test_data: Data) -> None:
    weights = load_file(path / WEIGHTS)
    fitted = SHARED.classifier(encoder, CLASSES, weights, "prompts")
    loaded = load_classifier(path, encoder, test_data)
    shown = images(encoder, 5)
    assert torch.equal(loaded(shown), fitted(shown))
    assert (loaded.name, loaded.fingerprint, loaded.classes) == ("prompts", fitted.fingerprint, fitted.classes)


def test_classes_are_matched_by_name(path: Path, encoder: Encoder, test_data: Data) -> None:
    order = [2, 0, 1]
    turned = replace(test_data, classes=tuple(CLASSES[place] for place in order))
    first, second = (load_classifier(path, encoder, each) for each in (test_data, turned))
    shown = images(encoder, 5)
    assert second.classes == ("blue", "red", "green")
    assert torch.equal(second(shown), first(shown)[:, order])
    assert second.fingerprint != first.fingerprint


def test_another_encoder_is_refused(path: Path, test_data: Data) -> None:
    other = brightness_encoder()
    with pytest.raises(
        InputError, match=r"fitted on another encoder \(.*\) than brightness \(.*\); fit it on this one"
    ):
        load_classifier(path, other, test_data)


def test_the_same_model_in_another_precision_is_another_encoder(path: Path, test_data: Data, tmp_path: Path) -> None:
    coarse = load_model(clip_directory(tmp_path / "again"), dtype="bfloat16")
    with pytest.raises(InputError, match="another encoder"):
        load_classifier(path, coarse, test_data)


OTHERS = (ClassText("cat", ("a scan",)), ClassText("dog", ("cells",)))


def test_a_shared_context_moves_to_other_classes_only_when_asked_and_says_so(path: Path, encoder: Encoder) -> None:
    pets = judged(data(classes=OTHERS, name="pets"))
    with pytest.raises(
        InputError, match=r"classes \['red', 'green', 'blue'\], pets has \['cat', 'dog'\]; --new-classes"
    ):
        load_classifier(path, encoder, pets)
    moved = load_classifier(path, encoder, pets, new_classes=True, allow=["overlap"])
    assert moved.classes == ("cat", "dog")
    assert moved.warnings[-1] == "moved to other classes than it was fitted on"
    expected = SHARED.classifier(encoder, OTHERS, load_file(path / WEIGHTS), "x")
    assert torch.equal(moved(images(encoder, 3)), expected(images(encoder, 3)))


def test_a_context_for_every_class_is_bound_to_them(encoder: Encoder, tmp_path: Path) -> None:
    titer.fit(replace(SHARED, class_specific=True), encoder, data(), out=tmp_path / "x", shots=1)
    with pytest.raises(InputError, match=r"is bound to the classes \['red', 'green', 'blue'\]"):
        load_classifier(tmp_path / "x", encoder, judged(data(classes=OTHERS)), new_classes=True)


def test_images_of_the_fit_are_not_judged_unless_allowed(path: Path, encoder: Encoder) -> None:
    """By bytes: here the same pictures in a data set of another name."""
    train = tuple(each for each in data().examples if each.split == "train")
    again = replace(data(name="renamed"), examples=train)
    with pytest.raises(InputError, match=r"was fitted on 6 of these images, such as train/.*; --allow overlap"):
        load_classifier(path, encoder, again)
    load_classifier(path, encoder, again, allow=["overlap"])


def test_other_images_of_the_fits_patients_are_not_judged_unless_allowed(
    path: Path, encoder: Encoder, test_data: Data
) -> None:
    group = read_adapter(path).facts["groups"][0]
    same = replace(test_data, examples=tuple(replace(each, group=group) for each in test_data.examples))
    with pytest.raises(InputError, match=rf"images of 1 of these groups .* '{group}'; --allow overlap"):
        load_classifier(path, encoder, same)
    load_classifier(path, encoder, same, allow=["overlap"])
    load_classifier(path, encoder, replace(same, name="elsewhere"))  # there the name is somebody else's


@pytest.mark.parametrize("fitted_on", ["questions:set", "classes:base@set", "questions:classes:new@set"])
def test_a_set_made_of_another_has_its_patients(fitted_on: str, path: Path, encoder: Encoder, test_data: Data) -> None:
    changed(path, lambda facts: facts["data"].update(name=fitted_on))
    group = read_adapter(path).facts["groups"][0]
    same = replace(test_data, examples=tuple(replace(each, group=group) for each in test_data.examples))
    for name in ("set", "questions:set"):
        with pytest.raises(InputError, match="--allow overlap"):
            load_classifier(path, encoder, replace(same, name=name))
    load_classifier(path, encoder, replace(same, name="another set"))


def test_a_picture_that_cannot_be_read_is_nobodys(path: Path, encoder: Encoder, test_data: Data) -> None:
    def digest(example: Example) -> str:
        raise PictureError(example.id)

    load_classifier(path, encoder, replace(test_data, digest=digest))


@pytest.mark.parametrize("missing", [WEIGHTS, CONFIG])
def test_a_directory_without_its_files_is_no_adapter(
    path: Path, encoder: Encoder, test_data: Data, missing: str
) -> None:
    (path / missing).unlink()
    with pytest.raises(InputError, match=f"expected 'zero-shot' or a directory written by titer fit; {missing}"):
        load_classifier(path, encoder, test_data)


def test_neither_a_file_nor_nothing_is_an_adapter(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for name in ("file", "nothing"):
        with pytest.raises(InputError, match="expected 'zero-shot' or a directory"):
            read_adapter(tmp_path / name)


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        (WEIGHTS, b"", "is damaged"),
        (WEIGHTS, b"not tensors at all", "is damaged"),
        (CONFIG, b"", "is damaged"),
        (CONFIG, b"[1]", "is damaged"),
        (CONFIG, b"\xff\xfe", "is damaged"),
        (CONFIG, b'{"titer": []}', "is damaged"),
        (CONFIG, b'{"peft_type": "LORA"}', "was not written by titer: there is no key 'titer'"),
    ],
)
def test_damaged_files_are_one_line(path: Path, file: str, content: bytes, words: str) -> None:
    (path / file).write_bytes(content)
    with pytest.raises(InputError, match=words) as caught:
        read_adapter(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["defense", "settings", "encoder", "classes"])
def test_a_fact_that_is_missing_is_named(path: Path, key: str) -> None:
    with pytest.raises(InputError, match=f"there is no key '{key}'"):
        read_adapter(changed(path, lambda facts: facts.pop(key)))


def test_unknown_methods_and_settings_are_named(path: Path) -> None:
    with pytest.raises(InputError, match="unknown setting of defense 'coop': 'contxt'; did you mean 'context'"):
        read_adapter(changed(path, lambda facts: facts["settings"].update(contxt=3)))
    with pytest.raises(InputError, match="unknown defense 'cop'; did you mean 'coop'"):
        read_adapter(changed(path, lambda facts: facts.update(defense="cop")))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_tensors_that_are_not_finite_are_refused(path: Path, value: float) -> None:
    save_file({"context": torch.full((2, 16), value)}, path / WEIGHTS)
    with pytest.raises(InputError, match="context holds nan or infinity"):
        read_adapter(path)


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ({}, "there is no tensor 'context'"),
        ({"context": torch.zeros(3, 16)}, r"context: expected shape \(2, 16\) or \(3, 2, 16\), got \(3, 16\)"),
        ({"context": torch.zeros(2, 8)}, r"got \(2, 8\)"),
        ({"context": torch.zeros(4, 2, 16)}, r"got \(4, 2, 16\)"),
        ({"context": torch.zeros(16)}, r"got \(16,\)"),
    ],
)
def test_tensors_of_other_shapes_are_refused(
    path: Path, encoder: Encoder, test_data: Data, weights: dict[str, torch.Tensor], words: str
) -> None:
    """More tokens than there are places for would otherwise be written over the class's words."""
    save_file(weights, path / WEIGHTS)
    with pytest.raises(InputError, match=f"{path}.*{words}"):
        load_classifier(path, encoder, test_data)


def test_a_damaged_bank_is_found_before_a_run_starts(encoder: Encoder, test_data: Data, tmp_path: Path) -> None:
    method = PromptSmooth(mode="bank", members=2, epochs=1, context=2, sigmas=(0.25,))
    titer.fit(method, encoder, data(), out=tmp_path / "x", shots=1)
    weights = load_file(tmp_path / "x" / WEIGHTS)
    save_file({**weights, "centres": torch.zeros(2, 5)}, tmp_path / "x" / WEIGHTS)
    with pytest.raises(InputError, match="its tensors do not fit"):
        load_classifier(tmp_path / "x", encoder, test_data)


def test_a_sigma_outside_of_the_fits_is_a_warning_in_the_record(
    encoder: Encoder, test_data: Data, tmp_path: Path
) -> None:
    method = PromptSmooth(epochs=1, context=2, sigmas=(0.25, 0.5))
    titer.fit(method, encoder, data(), out=tmp_path / "x", shots=1)
    assert load_classifier(tmp_path / "x", encoder, test_data).sigmas == (0.25, 0.5)
    run = titer.certify(
        encoder, test_data, sigma=(0.1, 0.25, 0.3, 0.5, 1.0), prompts=[str(tmp_path / "x"), "zero-shot"], n=50,
        n0=50, alpha=0.05, seed=0, out=tmp_path / "run",
    )  # fmt: skip
    said = {(record["prompts"], record["sigma"]): record.get("warnings", []) for record in run.records}
    collapsed = said["x", 0.25]
    for sigma in (0.1, 1.0):
        assert f"fitted for sigma 0.25 to 0.5, certified at {sigma:g}" in said["x", sigma]
    for sigma in (0.25, 0.3, 0.5):
        assert said["x", sigma] == collapsed
    assert all(said["zero-shot", sigma] == [] for sigma in (0.1, 1.0))


def test_a_collapsed_fit_is_told_and_marked_in_every_record(encoder: Encoder, test_data: Data, tmp_path: Path) -> None:
    """A rate that throws the context far away leaves one class for all images."""
    method = PromptSmooth(setting="paper", epochs=2, learning_rate=1e4, context=2, sigmas=(0.25,))
    fitted = titer.fit(method, encoder, data(), out=tmp_path / "x", shots=1)
    assert len(fitted.warnings) == 1
    assert fitted.warnings[0].startswith("collapsed: ")
    assert load_classifier(tmp_path / "x", encoder, test_data).warnings == fitted.warnings
    run = titer.certify(
        encoder, test_data, sigma=0.25, prompts=[str(tmp_path / "x")], n=50, n0=50, alpha=0.05, seed=0,
        out=tmp_path / "run",
    )  # fmt: skip
    assert all(record["warnings"] == list(fitted.warnings) for record in run.records)


def test_a_fit_does_not_write_over_what_is_no_adapter(encoder: Encoder, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match=r"is not empty and holds no adapter; choose another --out"):
        titer.fit(SHARED, encoder, data(), out=tmp_path / "other", shots=1)
    with pytest.raises(InputError, match="is a file; --out needs a directory"):
        titer.fit(SHARED, encoder, data(), out=tmp_path / "other" / "thesis.txt", shots=1)
    assert (tmp_path / "other" / "thesis.txt").read_text() == "mine"


def test_a_fit_takes_the_place_of_an_earlier_one(path: Path, encoder: Encoder) -> None:
    titer.fit(SHARED, encoder, data(), out=path, shots=1, seed=8)
    assert read_adapter(path).facts["seed"] == 8


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot write to .*file/x"):
        write_adapter(tmp_path / "file" / "x", {"a": torch.zeros(1)}, {})
