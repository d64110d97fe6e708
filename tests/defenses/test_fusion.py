"""Fusion on a problem whose answer needs picture and question: which colour it has, and how many there are (always one)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from defenses.tiny import CLASSES, digest, pixels
from images import brightness_encoder
from tiny_models import clip_directory
from titer.data import Data, Example
from titer.data.example import Picture
from titer.data.questions import asked as from_captions
from titer.data.questions import normalised
from titer.defenses import Fusion
from titer.defenses.adapter import CONFIG, WEIGHTS, answers_questions, load_answerer, load_classifier, read_adapter
from titer.errors import InputError
from titer.evaluate.fitting import fit
from titer.models import Encoder, load_model
from titer.models.fusion import Answerer

QUICK: dict[str, Any] = {"width": 16, "layers": 1, "heads": 2, "epochs": 40, "learning_rate": 1e-2, "head_epochs": 80}
SHORT = {**QUICK, "epochs": 1, "head_epochs": 1}
COLOURS = ("red", "green", "blue")


def rows(split: str, count: int = 4) -> list[Example]:
    found = []
    for label, colour in enumerate(COLOURS):
        for index in range(count):
            for name, text, answer in (
                ("colour", "which tissue", colour.title()),
                ("count", "a scan of blood cells", "one"),
            ):
                said = {"question": text, "answer": answer}
                path = f"{split}/{label}/{index}"
                found.append(Example(f"{path}?{name}", path, None, None, f"{split} {label} {index}", split, said))
    return found


def data(split: str = "all") -> Data:
    def read(example: Example) -> Picture:
        return Picture(pixels(example.path, int(example.path.split("/")[1])), digest(replace(example, id=example.path)))

    examples = tuple(row for name in ("train", "test") if split in (name, "all") for row in rows(name))
    columns = ("question", "answer")
    return Data(
        "colours", split, None, (), examples, columns, read, lambda example: digest(replace(example, id=example.path))
    )


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    return load_model(clip_directory(tmp_path_factory.mktemp("clip")))


@pytest.fixture(scope="module", params=["linear", "mlp", "nmtune", "ran", "ran before"])
def fitted(
    request: pytest.FixtureRequest, encoder: Encoder, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path]:
    path = tmp_path_factory.mktemp("fit") / "fusion"
    head, _, site = request.param.partition(" ")
    settings = {**QUICK, "head": head, **({"site": site, "views": 2} if site else {})}
    fit("fusion", encoder, data(), out=path, seed=3, settings=settings)
    return request.param, path


def right(answerer: Answerer, source: Data, encoder: Encoder) -> float:
    hits = 0
    for example in source.examples:
        image = encoder.preprocess(source.read(example).pixels)[None]
        said = answerer.answers[int(answerer.asking([example.attributes["question"]])(image).argmax())]
        hits += said == normalised(example.attributes["answer"])
    return hits / len(source.examples)


def test_a_fit_answers_what_needs_image_and_question(fitted: tuple[str, Path], encoder: Encoder) -> None:
    """Without the picture two thirds can be right, without the question half."""
    answerer = load_answerer(fitted[1], encoder, data("test"))
    assert answerer.answers == ("1", "blue", "green", "red")
    assert right(answerer, data("test"), encoder) > 0.85
    assert answerer.prior == {"a scan of blood cells": 0, "which tissue": 1}
    assert answerer.commonest == 0


def test_a_fit_is_decided_by_its_seed(encoder: Encoder, tmp_path: Path) -> None:
    settings = {**SHORT, "head": "nmtune"}
    made = []
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        before = torch.random.get_rng_state()
        fit("fusion", encoder, data(), out=tmp_path / name, seed=seed, settings=settings)
        assert torch.equal(torch.random.get_rng_state(), before)
        made.append(load_file(tmp_path / name / WEIGHTS))
    assert all(torch.equal(made[0][key], made[1][key]) for key in made[0])
    assert not all(torch.equal(made[0][key], made[2][key]) for key in made[0])


def test_the_second_stage_leaves_the_fusion_of_the_first(encoder: Encoder, tmp_path: Path) -> None:
    for head in ("linear", "ran"):
        fit("fusion", encoder, data(), out=tmp_path / head, seed=3, settings={**SHORT, "head": head})
    first, second = (load_file(tmp_path / head / WEIGHTS) for head in ("linear", "ran"))
    shared = [key for key in first if key.startswith("fusion.")]
    assert len(shared) > 30
    assert all(torch.equal(first[key], second[key]) for key in shared)


def test_another_encoder_is_refused_in_one_line(fitted: tuple[str, Path]) -> None:
    with pytest.raises(InputError, match="was fitted on another encoder") as caught:
        load_answerer(fitted[1], brightness_encoder(), data("test"))
    assert "\n" not in str(caught.value)


def test_pictures_of_the_fit_are_refused_unless_allowed(fitted: tuple[str, Path], encoder: Encoder) -> None:
    with pytest.raises(InputError, match="--allow overlap"):
        load_answerer(fitted[1], encoder, data("train"))
    assert load_answerer(fitted[1], encoder, data("train"), allow=("overlap",)).commonest == 0


def test_it_is_no_classifier_and_a_classifier_answers_nothing(
    fitted: tuple[str, Path], encoder: Encoder, tmp_path: Path
) -> None:
    assert answers_questions(fitted[1])
    assert not answers_questions(tmp_path)
    with pytest.raises(InputError, match="answers questions"):
        load_classifier(fitted[1], encoder, replace(data("test"), classes=CLASSES))
    from defenses.tiny import data as colours

    fit("linear-probe", encoder, colours(), out=tmp_path / "probe", shots=2, settings={"images": "clean"})
    with pytest.raises(InputError, match="answers no questions"):
        load_answerer(tmp_path / "probe", encoder, data("test"))


def test_damaged_tensors_are_refused_before_a_run_starts(
    fitted: tuple[str, Path], encoder: Encoder, tmp_path: Path
) -> None:
    weights = load_file(fitted[1] / WEIGHTS)
    (tmp_path / CONFIG).write_bytes((fitted[1] / CONFIG).read_bytes())
    for name in ("fusion.join.weight", next(key for key in weights if key.startswith("head."))):
        others = {key: value for key, value in weights.items() if key != name}
        grown = torch.zeros(*(side + 1 for side in weights[name].shape))
        for damaged in (others, {**others, name: grown}, {**others, name: torch.full_like(weights[name], torch.nan)}):
            save_file(damaged, tmp_path / WEIGHTS)
            with pytest.raises(InputError) as caught:
                load_answerer(tmp_path, encoder, data("test"))
            assert "\n" not in str(caught.value)
            assert str(tmp_path) in str(caught.value)


def test_one_answer_for_all_is_refused(encoder: Encoder, tmp_path: Path) -> None:
    same = tuple(replace(row, attributes={**row.attributes, "answer": "yes"}) for row in data().examples)
    with pytest.raises(InputError, match="have the answer 'yes', so there is nothing to learn"):
        fit("fusion", encoder, replace(data(), examples=same), out=tmp_path / "f", settings=QUICK)


def test_data_without_questions_are_refused(encoder: Encoder, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="titer:phantoms has no questions"):
        fit("fusion", encoder, "titer:phantoms", out=tmp_path / "f", settings=QUICK)
    bare = replace(data(), examples=tuple(replace(row, attributes={}) for row in data().examples))
    with pytest.raises(InputError, match="no caption that answers"):
        from_captions(bare)


def test_a_row_without_an_answer_is_left_out(encoder: Encoder, tmp_path: Path) -> None:
    first, *others = data().examples
    lacking = replace(first, attributes={"question": "which tissue"})
    made = fit(
        "fusion",
        encoder,
        replace(data(), examples=(lacking, *others)),
        out=tmp_path / "f",
        settings={**QUICK, "epochs": 1},
    )
    assert made.images == 23
    assert first.id not in read_adapter(tmp_path / "f").facts["ids"]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"head": "ranx"}, "did you mean 'ran'"), ({"width": 10, "heads": 4}, "heads: expected"),
        ({"site": "behin"}, "did you mean 'behind'"), ({"site": "before"}, "a linear head has no MLP"),
        ({"head": "ran", "views": 1}, "views: expected at least 2"),
        ({"epochs": 0}, "epochs: expected above 0"), ({"eps": 2.0}, "eps"), ({"smallest": 0.0}, "smallest: expected"),
    ],
)  # fmt: skip
def test_settings_that_mean_nothing_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        Fusion(**settings)
