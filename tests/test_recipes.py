"""The paper's grid: it says what the public code says, and runs on made-up files of the same layout."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from published_files import (
    CLIP,
    CONCH,
    biomed_directory,
    clip_weights,
    conch_directory,
    conch_weights,
    medclip_directory,
    open_clip_directory,
)
from tiny_models import clip_directory
from titer.certify import Gaussian
from titer.cli.main import run
from titer.config import read_recipe
from titer.data.described import description
from titer.data.load import load_all
from titer.defenses import Coop, PromptSmooth
from titer.errors import InputError
from titer.evaluate.study import prompt_sets
from titer.features.stream import threads
from titer.results.store import read_run

RECIPES = Path(__file__).parents[1] / "recipes"
PAPER = RECIPES / "promptsmooth" / "paper"
SETS = ("kather", "pannuke", "sicapv2", "skincancer", "covid", "rsna18")
MODELS = ("vinid/plip", "open_clip:ViT-B-32/hf-hub:wisdomik/QuiltNet-B-32", "medclip:medclip-vit")


def folder(root: Path, classes: tuple[str, ...], train: int = 3, test: int = 2) -> Path:
    """Made-up pictures in the layout that the published code reads: images/{train,test}/CLASS/*.png."""
    chance = np.random.default_rng(0)
    for split, count in (("train", train), ("test", test)):
        for label in classes:
            (root / "images" / split / label).mkdir(parents=True)
            for index in range(count):
                pixels = chance.integers(0, 256, (40, 40, 3), np.uint8)
                Image.fromarray(pixels).save(root / "images" / split / label / f"{split}_{label}_{index}.png")
    return root / "images"


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("name", SETS)
def test_the_papers_grid_has_every_model_on_every_data_set(name: str, model: str) -> None:
    study = read_recipe(PAPER / f"{name}.toml", model=model, data="images")
    assert study.model == model
    curves = next(cell for cell in study.cells if cell.name == "curves")
    assert (curves.sigmas, curves.shots, curves.seeds, curves.limit) == ((0.1, 0.25, 0.5, 1.0), (16,), (1,), 500)
    assert curves.certifier == Gaussian(n0=100, n=10_000, alpha=0.001)
    tokens = 4 if name in ("sicapv2", "skincancer") else 5
    entries = study.entries
    assert entries["coop"].defense == Coop("paper", context=tokens)
    assert entries["few-shot-paper"].defense == PromptSmooth(setting="paper", context=tokens)
    assert entries["few-shot-paper"].defense.noise == (0.25, 0.5, 0.75, 1.0)
    assert entries["combined-paper"].defense == PromptSmooth("combined", "paper", context=tokens)
    zero_shot = entries["zero-shot-paper"].defense
    assert isinstance(zero_shot, PromptSmooth)
    assert (zero_shot.mode, zero_shot.context) == ("zero-shot", tokens)
    assert (zero_shot.adapt_copies, zero_shot.adapt_steps, zero_shot.adapt_rate) == (100, 1, 5e-3)
    assert entries["zero-shot-paper"].guarantee == entries["combined-paper"].guarantee == "conditional"
    assert {"few-shot", "offline", "bank"} <= set(curves.entries)


@pytest.mark.parametrize(
    ("name", "template", "words", "model"),
    [
        ("kather", "An H&E image patch of {}.", "An H&E image patch of", MODELS[0]),
        ("pannuke", "An H&E image of {} tissue.", "An H&E image patch of", MODELS[0]),
        ("sicapv2", "a histopathology slide showing {}", "a histopathology slide showing", MODELS[0]),
        ("skincancer", "a histopathology slide showing {}", "a histopathology slide showing", MODELS[0]),
        ("covid", "A chest X-ray image of {} patient.", "A chest X-ray image of", MODELS[2]),
        ("rsna18", "A chest X-ray image of {} patient.", "A chest X-ray image of", MODELS[2]),
    ],
)
def test_templates_words_and_models_are_the_published_ones(name: str, template: str, words: str, model: str) -> None:
    study = read_recipe(PAPER / f"{name}.toml", data="images")
    assert study.entries["zero-shot"].template == template
    zero_shot = study.entries["zero-shot-paper"].defense
    assert isinstance(zero_shot, PromptSmooth)
    assert zero_shot.words == words
    assert study.model == model


@pytest.mark.parametrize(
    ("name", "folders", "first", "last"),
    [
        ("kather", "ADI;BACK;DEB;LYM;MUC;MUS;NORM;STR;TUM", "adipose tissue", "colorectal adenocarcinoma epithelium"),
        ("pannuke", "benign;malignant", "benign", "malignant"),
        ("sicapv2", "0;1;2;3", "benign glands", "isolated nest cells without lumen roseting patterns"),
        ("skincancer", ";".join(map(str, range(16))), "necrosis", "naevus"),
        ("covid", "covid;normal", "covid", "normal"),
        ("rsna18", "Lung Opacity;No Lung Opacity Not Normal;Normal", "Lung Opacity", "Normal"),
    ],
)
def test_folders_get_their_words_in_the_order_of_the_labels(
    name: str, folders: str, first: str, last: str, tmp_path: Path
) -> None:
    labels = tuple(folders.split(";"))
    root = folder(tmp_path, labels, train=1, test=1)
    study = read_recipe(PAPER / f"{name}.toml", data=str(root))
    data = load_all(root, study.wording)
    assert tuple(each.label for each in data.classes) == labels
    assert data.classes[0].texts == (first,)
    assert data.classes[-1].texts == (last,)
    for example in data.examples:
        assert example.label is not None
        assert example.path.split("/")[1] == labels[example.label]


@pytest.mark.parametrize("name", ["kather", "sicapv2", "skincancer", "covid", "rsna18"])
def test_sets_as_they_were_downloaded_have_the_same_words(name: str) -> None:
    """Labels of the set's own reader and of the published code's folders name the same classes, in the same order."""
    study = read_recipe(PAPER / f"{name}.toml", data=f"set:{name}@root")
    assert study.wording is not None
    own = list(description(name).classes)
    found = [text.label for text in study.wording.classes(own)]
    assert found == (own if name != "rsna18" else ["Lung Opacity", "No Lung Opacity / Not Normal", "Normal"])


@pytest.mark.parametrize("kind", ["open_clip", "medclip", "biomedclip", "conch"])
def test_a_first_cell_runs_on_each_kind_of_model(kind: str, tmp_path: Path) -> None:
    """COVID-19 radiography as it is unpacked, and the paper's settings on the models that hospitals have."""
    for place, label in enumerate(("COVID", "Normal")):
        for index in range(6):
            pixels = np.random.default_rng(10 * place + index).integers(0, 256, (40, 40, 3), np.uint8)
            (tmp_path / "covid" / label / "images").mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(tmp_path / "covid" / label / "images" / f"{label}-{index}.png")
    makers: dict[str, Callable[[Path], object]] = {
        "open_clip": lambda path: open_clip_directory(path, long_texts(CLIP), clip_weights(long_texts(CLIP))),
        "medclip": lambda path: f"medclip:{medclip_directory(path)}",
        "biomedclip": biomed_directory,
        "conch": lambda path: conch_directory(path, conch_weights(long_texts(CONCH)), long_texts(CONCH)),
    }
    told = ["run", str(PAPER / "covid.toml"), "--model", str(makers[kind](tmp_path / "model"))]
    small = [
        "size=quick", "data.limit=2", "cells.costly=false", "certifier.n=20", "certifier.n0=10", "grid.shots=[1]",
        'cells.curves.defenses=["zero-shot", "few-shot-paper", "combined-paper"]', "defenses.combined-paper.adapt_copies=10",
        "defenses.few-shot-paper.epochs=1", "defenses.combined-paper.epochs=1",
    ]  # fmt: skip
    line = [*told, "--data", f"set:covid@{tmp_path / 'covid'}", "--out", str(tmp_path / "out")]
    with threads(1):
        assert run([*line, *(part for text in small for part in ("--set", text))]) == 0
    found = read_run(tmp_path / "out" / "runs" / "curves-sigma0.25")
    assert {record["prompts"] for record in found.records} == {
        "A chest X-ray image of {} patient.", "few-shot-paper-1-s1", "combined-paper-1-s1",
    }  # fmt: skip
    assert [entry["label"] for entry in found.info["classes"]] == ["COVID", "Normal"]


def long_texts(config: dict[str, Any]) -> dict[str, Any]:
    """The tiny tokenizers know few words, so that a sentence has many tokens."""
    return {**config, "text_cfg": {**config["text_cfg"], "context_length": 96}}


def test_without_data_the_error_says_what_to_download_and_where_to_put_it() -> None:
    for name in SETS:
        with pytest.raises(InputError, match=r"--data on the command line\. .*images/train.*images/test") as caught:
            read_recipe(PAPER / f"{name}.toml")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (MODELS[0], "vinid/plip"),
        (MODELS[1], "wisdomik/QuiltNet-B-32"),
        (MODELS[2], "medclip:medclip-vit: no such file"),
    ],
)
def test_models_that_are_not_here_are_asked_for_in_one_line(
    model: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    root = folder(tmp_path, ("benign", "malignant"), train=1, test=1)
    told = ["run", str(PAPER / "pannuke.toml"), "--model", model, "--data", str(root), "--out", str(tmp_path / "out")]
    assert run(told) == 2
    err = capsys.readouterr().err
    assert words in err
    assert err.startswith("titer: ")
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_the_grid_runs_on_made_up_files_of_the_published_layout(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Folders named by integers, as converted SICAPv2 has them; all methods, the costly ones too."""
    root, out = folder(tmp_path, ("0", "1", "2", "3")), tmp_path / "out"
    model = clip_directory(tmp_path / "clip", length=96)
    small = ["size=quick", "data.limit=8", "certifier.n=100"]
    small += [
        f"defenses.{name}.epochs=4" for name in ("few-shot", "offline", "bank", "few-shot-paper", "combined-per-draw")
    ]
    told = ["run", str(PAPER / "sicapv2.toml"), "--model", str(model), "--data", str(root), "--out", str(out)]
    with threads(1):  # a network this small is slower on two
        assert run([*told, *(part for text in small for part in ("--set", text))]) == 0
    assert (out / "report.html").exists()
    curves = read_run(out / "runs" / "curves-sigma0.25")
    assert [(entry["label"], entry["texts"]) for entry in curves.info["classes"]][1:] == [
        ("1", ["atrophic dense glands"]),
        ("2", ["cribriform ill-formed fused papillary patterns"]),
        ("3", ["isolated nest cells without lumen roseting patterns"]),
    ]
    guarantees = {record["prompts"]: record["guarantee"] for record in curves.records}
    assert guarantees == {
        "a histopathology slide showing {}": "fixed",
        "coop-2-s1": "fixed",
        "few-shot-paper-2-s1": "fixed",
        "few-shot-2-s1": "fixed",
        "offline-s1": "fixed",
        "bank-2-s1": "bank",
        "zero-shot-paper-s1": "conditional",
        "combined-paper-2-s1": "conditional",
    }
    assert len(curves.records) == 8 * len(guarantees)
    assert curves.info["samples"]["failed"] == 0
    costly = read_run(out / "runs" / "costly-sigma0.25")
    assert {record["guarantee"] for record in costly.records} == {"fixed", "per-draw", "product"}
    facts = json.loads((out / "prompts" / "few-shot-paper-2-s1" / "adapter_config.json").read_text())["titer"]
    assert facts["notes"]["template"] == "{}."
    capsys.readouterr()
    for change, differs in (
        ("data.classes.NC|0=other words", "data.words"),
        ("defenses.zero-shot.template=a {}", "zero-shot"),
    ):
        assert run([*told, *(part for text in [*small, change] for part in ("--set", text))]) == 2
        said = capsys.readouterr().err
        assert "belongs to another comparison" in said
        assert differs in said


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"data": {"classes": ["a", "b"]}},
            r"\[data\]: expected a table classes of label = 'words', and a text template",
        ),
        ({"data": {"template": 3}}, "and a text template"),
        (
            {"data": {"template": "a tile"}},
            r"\[data\] template: expected a text with \{\} for the class's words, got 'a tile'",
        ),
        (
            {"data": {"classes": {"benign": 3}}},
            r"\[data\] classes: class 'benign' needs a text or a list of texts, got 3",
        ),
        ({"defenses": {"zero-shot": {"template": "a {} {}"}}}, r"\[defenses.zero-shot\] template: expected one \{\}"),
        ({"defenses": {"plain": {"method": "zero-shot", "template": "An H&E image of {} tissue."}}}, "are the same"),
    ],
)
def test_words_and_templates_that_cannot_be_used_are_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        read_recipe(PAPER / "pannuke.toml", data="images", changes=changes)


def test_two_templates_are_two_zero_shot_rows() -> None:
    changes = {"defenses": {"plain": {"method": "zero-shot"}, "other": {"method": "zero-shot", "template": "a {}"}}}
    study = read_recipe(PAPER / "pannuke.toml", data="images", changes=changes)
    names = {prompts.name for prompts in prompt_sets(study, study.cells[0], 0.25) if prompts.defense is None}
    assert names == {"An H&E image of {} tissue.", "zero-shot", "a {}"}


def test_the_published_subset_and_context_need_no_training_images(tmp_path: Path) -> None:
    """500-image subsets hold images/test alone; the few-shot context comes as a file."""
    root, out = folder(tmp_path, ("benign", "malignant"), train=0), tmp_path / "out"
    shutil.rmtree(root / "train")
    model, context = clip_directory(tmp_path / "clip", length=64), torch.full((5, 16), 0.1)
    torch.save({"state_dict": {"ctx": context}, "epoch": 50}, tmp_path / "model.pth.tar-50")
    told = ["run", str(PAPER / "pannuke.toml"), "--model", str(model), "--data", str(root), "--out", str(out)]
    changes = (
        "size=quick", "cells.costly=false", 'cells.curves.defenses=["zero-shot", "few-shot-paper"]',
        f"defenses.few-shot-paper.checkpoint={tmp_path / 'model.pth.tar-50'}",
    )  # fmt: skip
    assert run([*told, *(part for text in changes for part in ("--set", text))]) == 0
    records = read_run(out / "runs" / "curves-sigma0.25").records
    assert {record["prompts"] for record in records} == {"An H&E image of {} tissue.", "few-shot-paper-s1"}
    assert {record["guarantee"] for record in records} == {"fixed"}
    assert torch.equal(
        load_file(out / "prompts" / "few-shot-paper-s1" / "adapter_model.safetensors")["context"], context
    )
