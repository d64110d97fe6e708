"""RAN-style recipes with the field's models and data: what they say, and runs on made-up files of the sets' own layouts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from published_files import biomed_directory, conch_directory, medclip_directory
from tiny_models import clip_directory
from titer.cli.main import run
from titer.config import read_recipe, read_upstream_recipe
from titer.errors import InputError
from titer.features.stream import threads
from titer.results.store import read_run
from titer.results.upstream import read_upstream

PAPER = Path(__file__).parents[1] / "recipes" / "upstream" / "paper"
PUBMEDCLIP = "flaviagiammarino/pubmed-clip-vit-base-patch32"
LISTS: dict[str, Any] = {
    "tasks": ["set:rsna18-pneumonia@rsna", "set:covid@covid"],
    "questions": {"sets": ["set:vqa-rad@rad", "set:slake@slake"]},
}


def picture(file: Path, seed: int) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40, 40, 3), np.uint8)).save(file)


def roco(root: Path) -> Path:
    """ROCO's folders: pictures, and captions behind their names."""
    for place, (split, count) in enumerate((("train", 12), ("validation", 4), ("test", 4))):
        names = [f"ROCO_{100 * place + index}" for index in range(count)]
        for index, name in enumerate(names):
            picture(root / split / "radiology" / "images" / f"{name}.jpg", 1000 * place + index)
        lines = [f"{name}\tscan of a {('small', 'large')[index % 2]} lung {index}" for index, name in enumerate(names)]
        (root / split / "radiology" / "captions.txt").write_text("\n".join(lines) + "\n")
    return root


def covid(root: Path, count: int = 12) -> Path:
    for place, label in enumerate(("COVID", "Normal")):
        for index in range(count):
            picture(root / label / "images" / f"{label}-{index}.png", 5000 + 100 * place + index)
    return root


def vqa_rad(root: Path, count: int = 8) -> Path:
    """Every picture has a question in each split, as there."""
    rows = []
    for index in range(count):
        picture(root / "VQA_RAD Image Folder" / f"synpic{index}.jpg", 9000 + index)
        for phrase in ("freeform", "test_freeform"):
            rows.append({
                "image_name": f"synpic{index}.jpg", "question": "scan of a lung", "answer": ("Yes", "No")[index % 2],
                "answer_type": "CLOSED", "question_type": "PRES", "phrase_type": phrase,
            })  # fmt: skip
    (root / "VQA_RAD Dataset Public.json").write_text(json.dumps(rows))
    return root


def test_the_upstream_recipe_says_what_is_public_of_pubmedclip() -> None:
    study = read_upstream_recipe(PAPER / "ran.toml", data="set:rocov2@roco", changes={"upstream": LISTS})
    assert (study.comparison.model, study.surrogate, study.corpus) == (PUBMEDCLIP, PUBMEDCLIP, "set:rocov2@roco")
    assert study.tasks == tuple(LISTS["tasks"])
    assert {name: study.settings[name] for name in ("optimiser", "rate", "decay", "epochs", "keep")} == {
        "optimiser": "adam", "rate": 1e-5, "decay": 5e-4, "epochs": 50, "keep": "best",
    }  # fmt: skip
    assert study.base["start"] == "checkpoint"
    assert next(arm for arm in study.arms if arm.name == "joint").ratios == (0.05, 0.1, 0.2, 0.3)
    assert set(study.comparison.entries) == {"linear-probe", "mlp", "nmtune", "ran"}
    asked = study.questions
    assert asked is not None
    assert (asked.heads, asked.eps, asked.allow) == (("linear", "mlp", "nmtune", "ran"), (1 / 255,), ("overlap",))
    assert asked.sets == ("set:vqa-rad@rad", "set:slake@slake")


def test_without_paths_it_says_what_is_missing() -> None:
    with pytest.raises(InputError, match=r"expected corpus = 'DATA' with captions \(or --data\), and tasks"):
        read_upstream_recipe(PAPER / "ran.toml", data="set:rocov2@roco")
    with pytest.raises(InputError, match=r"expected corpus"):
        read_upstream_recipe(PAPER / "ran.toml", changes={"upstream": LISTS})
    with pytest.raises(InputError, match=r"--data on the command line\. Chest X-rays"):
        read_recipe(PAPER / "heads.toml", model="m")


@pytest.mark.parametrize("change", [{"heads": ["rans"]}, {"eps": 4}, {"fusion": {"widths": 3}}, {"set": ["a"]}])
def test_mistakes_in_questions_are_one_line(change: dict[str, Any]) -> None:
    changes = {"upstream": {**LISTS, "questions": {**LISTS["questions"], **change}}}
    with pytest.raises(InputError, match=r"upstream\.questions|questions\]") as caught:
        read_upstream_recipe(PAPER / "ran.toml", data="set:rocov2@roco", changes=changes)
    assert "\n" not in str(caught.value)


def test_the_upstream_recipe_runs_on_made_up_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, model = tmp_path / "out", clip_directory(tmp_path / "clip", length=40)
    told = ["run", str(PAPER / "ran.toml"), "--model", str(model), "--data", f"set:roco@{roco(tmp_path / 'roco')}"]
    small = [
        "size=quick", "data.limit=4", f'upstream.tasks=["set:covid@{covid(tmp_path / "covid")}"]',
        f'upstream.questions.sets=["set:vqa-rad@{vqa_rad(tmp_path / "rad")}"]', 'upstream.questions.heads=["linear", "ran"]',
        "upstream.questions.fusion.width=16", "upstream.questions.fusion.heads=2", "upstream.questions.limit=6",
        "upstream.questions.attack.steps=1", "upstream.arms.joint=false", "upstream.arms.image-only=false",
        "upstream.arms.text-only=false", "upstream.arms.joint-white=false", "upstream.arms.image-white=false",
        "upstream.arms.random-word=false", "upstream.arms.wrong-caption=false", "upstream.arms.random-noise.ratios=[0.3]",
        "upstream.pretraining.batch=8", "upstream.base.batch=8", "grid.shots=[2]", 'cells.heads.defenses=["linear-probe", "ran"]',
        "defenses.ran.epochs=2", "attacks.pgd-20.steps=1",
    ]  # fmt: skip
    line = [*told, "--seed", "1", "--out", str(out), *(part for text in small for part in ("--set", text))]
    with threads(1):
        assert run(line) == 0
    results = read_upstream(out)
    assert [model.name for model in results.models] == ["clean-s1", "random-noise-30-s1"]
    assert {name for name, _ in results.answers} == {"clean-s1", "random-noise-30-s1"}
    answered = next(iter(results.answers.values()))
    assert {record["prompts"] for record in answered.records} == {"linear", "ran"}
    assert len(answered.records) == 12
    page = (out / "report.html").read_text()
    for text in ("Questions: ", "Questions answered rightly", "without a look", "RAN-style"):
        assert text in page
    fits = {file: file.stat().st_mtime_ns for file in out.rglob("adapter_model.safetensors")}
    with threads(1):
        assert run(line) == 0
    assert {file: file.stat().st_mtime_ns for file in out.rglob("adapter_model.safetensors")} == fits
    capsys.readouterr()
    assert run([*line, "--set", "upstream.questions.eps=2/255"]) == 2
    assert "belongs to another study: questions" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["biomedclip", "medclip", "conch"])
def test_heads_run_on_published_models(kind: str, tmp_path: Path) -> None:
    makers: dict[str, Callable[[Path], object]] = {
        "biomedclip": biomed_directory,
        "medclip": lambda path: f"medclip:{medclip_directory(path)}",
        "conch": conch_directory,
    }
    out, data = tmp_path / "out", f"set:covid@{covid(tmp_path / 'covid')}"
    told = [
        "run",
        str(PAPER / "heads.toml"),
        "--model",
        str(makers[kind](tmp_path / "model")),
        "--data",
        data,
        "--out",
        str(out),
    ]
    small = [
        "size=quick", "data.limit=2", "attacks.pgd-20.steps=1", "attacks.pgd-20.eps=1/255", "grid.shots=[1]",
        *(f"defenses.{name}.epochs=1" for name in ("mlp", "nmtune", "ran", "ran-black-box")),
        'cells.heads.defenses=["linear-probe", "nmtune", "ran-black-box"]',
    ]  # fmt: skip
    with threads(1):
        assert run([*told, *(part for text in small for part in ("--set", text))]) == 0
    found = read_run(out / "runs" / "heads-pgd-20")
    assert {record["prompts"] for record in found.records} == {
        f"{name}-1-s1" for name in ("linear-probe", "nmtune", "ran-black-box")
    }
