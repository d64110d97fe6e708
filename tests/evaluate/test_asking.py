"""A comparison on questions: from a recipe to its runs and its page, and on from where it stopped."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cli.test_main import typed
from defenses.test_fusion import data, rows
from tiny_models import clip_directory
from titer.config import is_of_questions, read_question_recipe
from titer.errors import InputError
from titer.evaluate import asking
from titer.report.directories import report_on
from titer.results.questions import read_questions

RECIPE = """
title = "Small"
[questions]
seeds = [3]
[questions.tasks]
colours = "TABLE"
[questions.fusion]
width = 16
layers = 1
heads = 2
epochs = 2
head_epochs = 1
views = 2
[questions.heads.linear]
[questions.heads.nmtune]
head = "nmtune"
[questions.attacks.image]
method = "pgd"
steps = 2
eps = ["4/255", "8/255"]
checks = false
[questions.attacks.words]
method = "sga"
halves = "text"
[quick.questions]
limit = 6
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, a table with questions about pictures beside it, and a recipe."""
    root = tmp_path_factory.mktemp("made")
    clip_directory(root / "clip")
    lines = ["path,question,answer,split"]
    for each in (*rows("train", 2), *rows("test", 2)):
        (root / each.path).parent.mkdir(parents=True, exist_ok=True)
        pixels = (data().read(each).pixels * 255).round().astype(np.uint8)
        Image.fromarray(pixels).save(root / f"{each.path}.png")
        lines.append(f"{each.path}.png,{each.attributes['question']},{each.attributes['answer']},{each.split}")
    (root / "t.csv").write_text("\n".join(lines) + "\n")
    (root / "small.toml").write_text(RECIPE.replace("TABLE", str(root / "t.csv")))
    return root


def test_from_a_recipe_to_a_page_and_on(made: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    recipe = ["run", str(made / "small.toml"), "--model", str(made / "clip"), "--set", "size=quick"]
    told = [*recipe, "--seed", "1", "--out", str(out)]
    assert typed(capfd, *told)[0] == 0
    results = read_questions(out)
    assert (len(results.runs), results.missing) == (2, ())
    assert {run.path.name for run in results.runs} == {"colours-image", "colours-words"}
    for run in results.runs:
        assert {record["prompts"] for record in run.records} == {"linear-s3", "nmtune-s3"}
        assert run.info["samples"]["done"] == 6
    linear, nmtune = results.info["prompts"]["colours"]
    assert (linear["name"], linear["questions"], nmtune["head"]) == ("linear-s3", 12, "nmtune")
    assert nmtune["parameters"] == linear["parameters"] + 16 + 2 * 16 * 64 + 64 + 16
    page = (out / "report.html").read_text()
    for words in ("What is asked", "linear-s3", "sga, words", "Costs", "numbers learned"):
        assert words in page
    before = {file: file.read_bytes() for name in ("*.safetensors", "samples.jsonl") for file in out.rglob(name)}
    assert len(before) == 4
    assert typed(capfd, *told)[0] == 0
    assert {file: file.read_bytes() for file in before} == before
    status, _, said = typed(capfd, *recipe, "--seed", "2", "--out", str(out))
    assert (status, said.count("\n")) == (2, 1)
    assert "belongs to another comparison: seed was 1, now 2" in said
    assert "What is asked" in report_on([out], tmp_path / "page.html").read_text()
    info = json.loads((out / "questions.json").read_text())
    (out / "questions.json").write_text(json.dumps({**info, "runs": [*info["runs"], "runs/colours-both"]}))
    assert "Not finished: runs/colours-both." in report_on([out], tmp_path / "page.html").read_text()
    with pytest.raises(InputError, match="holds no comparison of questions"):
        _other(made, tmp_path)


def _other(made: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "note.txt").write_text("mine")
    asking.run_questions(read_question_recipe(made / "small.toml", model=str(made / "clip")), tmp_path / "full")


def test_what_is_stopped_in_the_first_fit_goes_on(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = read_question_recipe(made / "small.toml", model=str(made / "clip"))

    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    for _ in range(2):
        with monkeypatch.context() as patched:
            patched.setattr(asking, "fit", stopped)
            with pytest.raises(KeyboardInterrupt):
                asking.run_questions(study, tmp_path / "out", seed=1)
    with pytest.raises(InputError, match="has no finished questions to report"):
        report_on([tmp_path / "out"], tmp_path / "page.html")


def test_what_a_recipe_says(made: Path) -> None:
    assert is_of_questions(made / "small.toml")
    study = read_question_recipe(
        made / "small.toml", model="titer:tiny", changes={"questions": {"heads": {"linear": False}}}
    )
    assert list(study.heads) == ["nmtune"]
    assert [(entry.name, entry.eps, entry.checks) for entry in study.attacks] == [
        ("image", (4 / 255, 8 / 255), False), ("words", (1 / 255,), True)
    ]  # fmt: skip
    assert read_question_recipe(made / "small.toml", model="m", data="d").tasks == {"questions": "d"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"heads": {"linear": {"head": "rann"}}}, r"\[questions.heads.linear\]: .*did you mean 'ran'"),
        ({"heads": {"linear": False, "nmtune": False}}, "expected a table"),
        ({"attacks": {"words": {"method": "embedding"}}}, r"\[questions.attacks.words\]: .*image features alone"),
        ({"attacks": {"words": {"swap": {"meaning": "changing"}}}}, "expected preserving"),
        ({"attacks": {"image": {"eps": 4}}}, r"\[questions.attacks.image\]: eps"),
        ({"tasks": {"colours": False}}, "expected NAME = 'DATA'"),
        ({"seed": 3}, "unknown key"),
    ],
)
def test_mistakes_are_one_line(changes: dict[str, object], words: str, made: Path) -> None:
    with pytest.raises(InputError, match=words) as caught:
        read_question_recipe(made / "small.toml", model="titer:tiny", changes={"questions": changes})
    assert "\n" not in str(caught.value)
