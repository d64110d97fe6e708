"""Questions under attack: what is recorded, that it does not depend on how it was made, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from defenses.test_fusion import QUICK, data, rows
from images import timeless
from tiny_models import clip_directory
from titer.attacks import Model, Random, Threat
from titer.attacks.losses import cross_entropy
from titer.attacks.pairs import build_pair_attack
from titer.attacks.pgd import Pgd
from titer.attacks.questions import attack_questions, check_attack
from titer.cli.main import run as titer
from titer.data import Data
from titer.defenses.adapter import load_answerer
from titer.errors import InputError, RunError
from titer.evaluate.answering import attack_answers, plan_answers
from titer.evaluate.fitting import fit
from titer.models import Encoder, load_model
from titer.results.answered import accuracies, swaps
from titer.results.store import Run

EPS = 24 / 255
TABLE = 'preserving = [["tissue", "lung", "medical image", "blood"]]\n'


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    return load_model(clip_directory(tmp_path_factory.mktemp("clip")))


@pytest.fixture(scope="module")
def fusion(encoder: Encoder, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("fit") / "fusion"
    fit("fusion", encoder, data(), out=path, seed=3, settings=QUICK)
    return str(path)


@pytest.fixture
def words(tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "words.toml").write_text(TABLE)
    return {"source": {"name": "synonyms", "path": str(tmp_path / "words.toml")}}


@pytest.fixture
def attacked(encoder: Encoder, fusion: str) -> Callable[..., Run]:
    def run(out: Path, name: str = "pgd", **options: Any) -> Run:
        asked = options.pop("data", None) or data("test")
        settings = {"steps": 3, **options.pop("settings", {})}
        options = {"checks": False, **options}  # they take longer than the rest
        return attack_answers(
            encoder, asked, name, prompts=[fusion], out=out, settings=settings, **{"eps": EPS, **options}
        )

    return run


def test_records_of_an_attack_on_the_image(
    attacked: Callable[..., Run], tmp_path: Path, encoder: Encoder, fusion: str
) -> None:
    found = attacked(tmp_path / "run", seed=2)
    assert (found.info["verb"], found.info["status"], found.info["samples"]["done"]) == ("answer", "done", 24)
    assert [entry["label"] for entry in found.info["classes"]] == ["1", "blue", "green", "red"]
    assert set(found.info["success"]) == {"of_right", "of_all"}
    one = next(record for record in found.records if record["sample_id"] == "test/2/1?colour")
    assert (one["question"], one["answer"], one["kind"], one["label"]) == ("which tissue", "blue", "open", 1)
    assert (one["prompts"], one["attack"], one["norm"], one["eps"], one["prior"]) == ("fusion", "pgd", "linf", EPS, 1)
    assert "changes" not in one
    for record in found.records:
        assert record["linf"] <= EPS + 1e-6
        assert (record["linf"] > 0) == (record["clean_prediction"] == record["label"])
    answerer = load_answerer(Path(fusion), encoder, data("test"))
    image = encoder.preprocess(data("test").read(data("test").examples[0]).pixels)[None]
    own = next(record for record in found.records if record["sample_id"] == data("test").examples[0].id)
    assert int(answerer.asking([own["question"]])(image).argmax()) == own["clean_prediction"]


def test_the_attack_is_checked(attacked: Callable[..., Run], tmp_path: Path, words: dict[str, Any]) -> None:
    found = attacked(tmp_path / "image", eps=[EPS / 4, EPS], checks=True)
    told = {check["check"]: check for check in found.info["checks"]}
    assert len(told) == 9
    assert not any("without a limit" in name or "random search" in name for name in told)
    assert told["gradients are finite and not zero"]["verdict"] == "passed"
    assert told["strength grows with epsilon"]["verdict"] == "passed"
    assert told["noise of the same size is weaker"]["verdict"] == "passed"
    before = timeless(found)
    assert timeless(attacked(tmp_path / "image", eps=[EPS / 4, EPS], checks=True)) == before
    by_words = {"halves": "text", "swap": words}
    (check,) = attacked(tmp_path / "words", "sga", settings=by_words, checks=True).info["checks"]
    assert (check["check"], check["verdict"]) == ("no single swap breaks what the attack left", "passed")
    none = attacked(tmp_path / "none")
    assert "checks" not in none.info


def test_words_alone_leave_the_image_and_say_what_was_swapped(
    attacked: Callable[..., Run], tmp_path: Path, words: dict[str, Any]
) -> None:
    found = attacked(tmp_path / "run", "sga", settings={"halves": "text", "swap": words})
    assert all(record["linf"] == 0 for record in found.records)
    changed = [record for record in found.records if record["changes"]]
    assert changed
    for record in changed:
        (change,) = record["changes"]
        assert change["meaning"] == "preserving"
        assert record["attacked"] == record["question"].replace(change["word"], change["replacement"], 1)
    (counts,) = swaps(found)
    assert counts.swapped == len(changed)


@pytest.mark.parametrize("name", ["sep", "co-attack", "sga"])
def test_image_and_words_together_raise_the_loss_of_the_right_answer(
    name: str, encoder: Encoder, fusion: str, words: dict[str, Any]
) -> None:
    answerer = load_answerer(Path(fusion), encoder, data("test"))
    shown = data("test").examples[:4:2]
    images = torch.stack([encoder.preprocess(data("test").read(each).pixels) for each in shown])
    asked, labels, threat = [each.attributes["question"] for each in shown], torch.tensor([3, 3]), Threat("linf", EPS)
    found = attack_questions(
        check_attack(name, build_pair_attack(name, steps=3, swap=words)),
        answerer,
        images,
        asked,
        labels,
        threat,
        Random(0, "t", ["a", "b"]),
    )
    assert bool(threat.allows(found.images, images).all())

    def loss(pictures: Tensor, questions: list[str]) -> Tensor:
        return cross_entropy(answerer.asking(questions)(pictures), labels)

    assert bool((loss(found.images, [own[0].text for own in found.texts]) > loss(images, asked)).all())


def test_what_is_killed_goes_on_to_the_same_records(attacked: Callable[..., Run], tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "eps": [EPS / 2, EPS],
        "data": replace(data("test"), examples=data("test").examples[:10]),
    }
    whole = attacked(tmp_path / "whole", workers=2, **options)
    lines = (whole.path / "samples.jsonl").read_bytes().split(b"\n")
    (whole.path / "samples.jsonl").write_bytes(b"\n".join([*lines[:5], lines[5][:40]]))
    before = timeless(whole)
    assert timeless(attacked(tmp_path / "whole", workers=1, **options)) == before
    with pytest.raises(InputError, match=r"settings.steps was"):
        attacked(tmp_path / "whole", settings={"steps": 4}, **options)


def test_an_answer_never_seen_is_wrong_and_counted(attacked: Callable[..., Run], tmp_path: Path) -> None:
    first, *others = data("test").examples
    strange = replace(first, attributes={**first.attributes, "answer": "violet"})
    found = attacked(tmp_path / "run", data=replace(data("test"), examples=(strange, *others[:5])))
    own = next(record for record in found.records if record["sample_id"] == first.id)
    assert (own["label"], own["answer"], own["linf"]) == (None, "violet", 0)
    row = accuracies(found)[-1]
    assert (row.kind, row.questions, row.unseen) == ("all", 6, 1)
    assert row.clean.estimate <= 5 / 6


def test_answers_none_of_which_was_seen_are_refused(attacked: Callable[..., Run], tmp_path: Path) -> None:
    strange = tuple(replace(each, attributes={**each.attributes, "answer": "violet"}) for each in rows("test"))
    with pytest.raises(InputError, match="none of the answers to the 24 questions"):
        attacked(tmp_path / "run", data=replace(data("test"), examples=strange))


def test_a_row_without_a_question_fails_alone(attacked: Callable[..., Run], tmp_path: Path) -> None:
    first, *others = data("test").examples
    found = attacked(
        tmp_path / "run", data=replace(data("test"), examples=(replace(first, attributes={}), *others[:5]))
    )
    assert [failure["sample_id"] for failure in found.failures] == [first.id]
    assert "no question" in found.failures[0]["error"]
    assert len(found.records) == 5


def test_what_cannot_be_asked_is_refused(encoder: Encoder, fusion: str, words: dict[str, Any]) -> None:
    def refused(said: str, name: str = "pgd", asked: Data | None = None, **options: Any) -> None:
        with pytest.raises(InputError, match=said) as caught:
            plan_answers(encoder, asked or data("test"), name, prompts=[fusion], **options)
        assert "\n" not in str(caught.value)

    bare = replace(data("test"), examples=tuple(replace(each, attributes={}) for each in rows("test")))
    refused("colours has no questions", asked=bare)
    refused("expected preserving", "sga", settings={"swap": {**words, "meaning": "changing"}})
    refused("image features alone", "embedding")
    refused("unknown column", by=["site"])
    with pytest.raises(InputError, match="two prompt sets are named"):
        plan_answers(encoder, data("test"), "pgd", prompts=[fusion, fusion])


def test_an_attack_that_leaves_its_budget_ends_the_run(
    attacked: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def far(_: Pgd, model: Model, images: Tensor, labels: Tensor, threat: Threat, random: Random) -> Tensor:
        del model, labels, threat, random
        return 1 - images

    monkeypatch.setattr(Pgd, "__call__", far)
    with pytest.raises(RunError, match="left its budget"):
        attacked(tmp_path / "run")


def test_on_the_command_line(tmp_path: Path, fusion: str, capsys: pytest.CaptureFixture[str]) -> None:
    from PIL import Image

    model = clip_directory(tmp_path / "clip")
    lines = ["path,question,answer,split"]
    for each in rows("test", 1):
        picture = data("test").read(each).pixels
        (tmp_path / each.path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((picture * 255).round().astype(np.uint8)).save(tmp_path / f"{each.path}.png")
        lines.append(f"{each.path}.png,{each.attributes['question']},{each.attributes['answer']},test")
    (tmp_path / "t.csv").write_text("\n".join(lines) + "\n")
    common = ["--model", str(model), "--data", str(tmp_path / "t.csv"), "--out", str(tmp_path / "run")]
    assert (
        titer(["attack", "pgd", *common, "--prompts", fusion, "--eps", "8/255", "--set", "steps=2", "--no-checks"]) == 0
    )
    shown = capsys.readouterr()
    assert "clean\tattacked\tof right" in shown.out
    assert "6 of 6 questions done" in shown.err
    assert titer(["attack", "pgd", *common, "--prompts", fusion, "--prompts", "zero-shot"]) == 2
    assert "zero-shot does not; expected a run for each" in capsys.readouterr().err
    other = ["--model", "titer:tiny", "--data", str(tmp_path / "t.csv"), "--out", str(tmp_path / "other")]
    assert titer(["attack", "pgd", *other, "--prompts", fusion]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert titer(["fit", "fusion", *common[:4], "--shots", "4", "--out", str(tmp_path / "f")]) == 2
    assert "learns from all questions" in capsys.readouterr().err
