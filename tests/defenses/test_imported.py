"""Contexts of someone else's checkpoint, taken over by coop and promptsmooth in the place of learning."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import titer
from tiny_models import clip_directory
from titer.cli.main import run
from titer.defenses import Coop, PromptSmooth
from titer.defenses.adaptation import EntropyStep
from titer.defenses.adapter import load_classifier
from titer.errors import InputError
from titer.evaluate.fitting import Fit, fit
from titer.models import load_model
from titer.models.encoder import Encoder
from titer.models.prompts import token_tower

CLASSES = {"ADI": "tissue", "TUM": "cells"}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    return load_model(clip_directory(tmp_path_factory.mktemp("clip")), device="cpu")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of a test split only, as in the published subsets."""
    root = tmp_path_factory.mktemp("kather") / "images"
    chance = np.random.default_rng(0)
    for label in CLASSES:
        (root / "test" / label).mkdir(parents=True)
        for index in range(3):
            pixels = chance.integers(0, 256, (32, 32, 3), np.uint8)
            Image.fromarray(pixels).save(root / "test" / label / f"{index}.png")
    (root / "classes.json").write_text(json.dumps(CLASSES))
    return root


def checkpoint(path: Path, *shape: int) -> Path:
    context = 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(3))
    torch.save({"state_dict": {"ctx": context}, "epoch": 50}, path)
    return path


def imported(encoder: Encoder, data: Path, out: Path, file: Path, name: str = "promptsmooth", **settings: Any) -> Fit:
    return fit(
        name,
        encoder,
        data,
        out=out,
        settings={"checkpoint": str(file), "setting": "paper", **settings},
        command="typed",
    )


@pytest.mark.parametrize("name", ["coop", "promptsmooth"])
def test_an_imported_context_takes_the_places_of_the_x_in_the_published_sentence(
    name: str, data: Path, tmp_path: Path
) -> None:
    """CoOp's sentence is "X X X X X tissue.": with a BPE tokenizer, tokens 1 to 5 and then the class's own."""
    encoder, file = load_model("titer:tiny", device="cpu"), checkpoint(tmp_path / "model.pth.tar-50", 5, 128)
    imported(encoder, data, tmp_path / "out", file, name)
    classifier = load_classifier(tmp_path / "out", encoder, titer.load_data(data))
    tower, context = token_tower(encoder), torch.load(file, weights_only=True)["state_dict"]["ctx"]
    ids = [tower.ids("X " * 5 + f"{text}.") for text in CLASSES.values()]
    assert all(len(set(sentence[1:6])) == 1 and sentence[6] != sentence[5] for sentence in ids)
    features = F.normalize(torch.randn(7, encoder.dim, generator=torch.Generator().manual_seed(0)), dim=-1)
    with torch.no_grad():
        with tower.injection.of(context, 1):
            expected = F.normalize(tower.features(ids), dim=-1)
        assert torch.allclose(classifier.head(features), encoder.logit_scale * features @ expected.T, atol=1e-4)


def test_an_import_says_where_it_comes_from_and_uses_no_image(encoder: Encoder, data: Path, tmp_path: Path) -> None:
    """The published subsets have no train split; none is asked for."""
    file = checkpoint(tmp_path / "model.pth.tar-50", 5, 16)
    fitted = imported(encoder, data, tmp_path / "out", file)
    assert (fitted.images, fitted.left_out, fitted.loss, fitted.warnings) == (0, 0, None, ())
    facts = json.loads((tmp_path / "out" / "adapter_config.json").read_text())["titer"]
    assert facts["notes"]["imported"] == {
        "file": "model.pth.tar-50", "sha256": hashlib.sha256(file.read_bytes()).hexdigest(), "epoch": 50,
    }  # fmt: skip
    assert facts["notes"]["template"] == "{}."
    assert (facts["ids"], facts["sha256"], facts["shots"], facts["losses"]) == ([], [], None, [])
    assert facts["data"] == {"name": "images", "split": None, "left_out": 0}
    assert [entry["texts"] for entry in facts["classes"]] == [["tissue"], ["cells"]]
    classifier = load_classifier(tmp_path / "out", encoder, titer.load_data(data))
    assert classifier.sigmas == (0.25, 1.0)  # the noise of the published training
    assert not classifier.adapts_to_input


def test_a_class_specific_context_is_bound_to_the_order_of_the_classes(
    encoder: Encoder, data: Path, tmp_path: Path
) -> None:
    file = checkpoint(tmp_path / "model.pth.tar-50", 2, 4, 16)
    imported(encoder, data, tmp_path / "out", file, "coop", context=4, class_specific=True)
    classifier = load_classifier(tmp_path / "out", encoder, titer.load_data(data))
    assert classifier.classes == ("ADI", "TUM")
    assert Coop(setting="paper", class_specific=True, checkpoint="x").class_bound


@pytest.mark.parametrize(
    ("shape", "settings", "says"),
    [
        ((4, 16), {}, "holds 4 learned tokens, there are places for 5; expected context=4"),
        ((5, 12), {}, "its tokens are 12 wide, those of this model's text tower 16"),
        ((2, 5, 16), {}, "expected class_specific=true"),
        ((3, 5, 16), {"class_specific": True}, "holds contexts of 3 classes, the data set has 2"),
        ((5, 16), {"setting": "own"}, "checkpoint: expected setting paper"),
        ((5, 16), {"mode": "bank"}, "checkpoint: expected with mode few-shot or combined, got bank"),
        ((5, 16), {"mode": "zero-shot"}, "checkpoint: expected with mode few-shot or combined, got zero-shot"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused(
    shape: tuple[int, ...], settings: dict[str, Any], says: str, encoder: Encoder, data: Path, tmp_path: Path
) -> None:
    file = checkpoint(tmp_path / "model.pth.tar-50", *shape)
    with pytest.raises(InputError, match=says):
        imported(encoder, data, tmp_path / "out", file, **settings)
    assert not (tmp_path / "out").exists()


def test_what_needs_images_and_labels() -> None:
    def needs(method: Coop | PromptSmooth) -> tuple[bool, bool]:
        return method.needs_images, method.needs_labels

    assert needs(Coop()) == needs(PromptSmooth()) == (True, True)
    assert (
        needs(Coop("paper", checkpoint="x")) == needs(PromptSmooth(setting="paper", checkpoint="x")) == (False, False)
    )
    # unlabelled images give the directions of per-draw steps
    assert needs(PromptSmooth("combined", setting="paper", checkpoint="x")) == (True, False)


def test_combined_starts_from_the_imported_context(encoder: Encoder, data: Path, tmp_path: Path) -> None:
    file = checkpoint(tmp_path / "model.pth.tar-50", 5, 16)
    root = tmp_path / "images"
    shutil.copytree(data / "test", root / "test")
    shutil.copytree(data / "test", root / "train")
    fit(
        PromptSmooth("combined", "paper", checkpoint=str(file), sigmas=(0.25,)), encoder, root, out=tmp_path / "out",
        allow=("overlap",),
    )  # fmt: skip
    facts = json.loads((tmp_path / "out" / "adapter_config.json").read_text())["titer"]
    assert (len(facts["ids"]), facts["shots"]) == (6, None)
    classifier = load_classifier(tmp_path / "out", encoder, titer.load_data(root), allow=("overlap",))
    assert classifier.adapts_to_input
    assert isinstance(classifier.adaptation, EntropyStep)
    assert torch.equal(classifier.adaptation.context, torch.load(file, weights_only=True)["state_dict"]["ctx"])


def test_the_command_line_imports(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, file = clip_directory(tmp_path / "clip"), checkpoint(tmp_path / "model.pth.tar-50", 5, 16)
    told = ["fit", "promptsmooth", "--model", str(model), "--data", str(data), "--set", "setting=paper"]
    assert run([*told, "--set", f"checkpoint={file}", "--out", str(tmp_path / "out"), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert (printed["images"], printed["loss"]) == (0, None)
    assert run([*told, "--set", "checkpoint=50", "--out", str(tmp_path / "no")]) == 2
    assert "checkpoint: 50 cannot be read: No such file or directory" in capsys.readouterr().err
