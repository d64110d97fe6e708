"""Several labels for an image from fit to areas under the curve: the loss, the attack, what is recorded and refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from tiny_models import clip_directory
from titer.attacks import Random, Threat
from titer.attacks.pgd import Pgd
from titer.cli.main import run
from titer.defenses.objectives import label_loss
from titer.errors import InputError
from titer.evaluate.findings import attack_findings, finding_loss, raise_loss
from titer.evaluate.fitting import fit
from titer.models import Encoder, load_model
from titer.results.findings import MACRO, areas
from titer.results.store import read_run

NAN = float("nan")
HEADS: dict[str, dict[str, Any]] = {
    "linear-probe": {"images": "clean"},
    "mlp": {"epochs": 150, "learning_rate": 0.01},
    "nmtune": {"epochs": 3},
    "ran": {"epochs": 3},
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures whose red and green are bright or not, one apart from the other; some are not known."""
    root = tmp_path_factory.mktemp("findings")
    clip_directory(root / "clip")
    (root / "data").mkdir()
    random, rows = np.random.default_rng(0), ["file_name,split,group,red,green"]
    for index in range(32):
        red, green = index % 2, index // 2 % 2
        pixels = random.integers(0, 60, (8, 8, 3), np.uint8)
        pixels[..., 0] += np.uint8(150 * red)
        pixels[..., 1] += np.uint8(150 * green)
        Image.fromarray(pixels).save(root / "data" / f"{index}.png")
        split = "train" if index < 20 else "test"
        rows.append(f"{index}.png,{split},{split}{index // 4},{red},{'' if index % 10 == 3 else green}")
    (root / "data" / "metadata.csv").write_text("\n".join(rows) + "\n")
    return root


@pytest.fixture(scope="module")
def encoder(place: Path) -> Encoder:
    return load_model(place / "clip")


@pytest.fixture(scope="module")
def name(place: Path) -> str:
    return f"multilabel:{place / 'data'}"


@pytest.fixture(scope="module")
def heads(place: Path, encoder: Encoder, name: str) -> dict[str, Path]:
    for head, settings in HEADS.items():
        fit(head, encoder, name, out=place / "heads" / head, shots=None, settings=settings)
    return {head: place / "heads" / head for head in HEADS}


def test_losses_are_binary_and_what_is_not_known_counts_for_nothing() -> None:
    logits = torch.tensor([[2.0, -1.0, 0.5], [0.0, 3.0, -2.0]])
    truth = torch.tensor([[1.0, NAN, 0.0], [NAN, 0.0, 1.0]])
    each = functional.softplus(torch.tensor([[-2.0, 0.5], [3.0, 2.0]]))  # log(1 + exp(-x)) where there, of x where not
    assert torch.allclose(finding_loss(logits, truth), each.sum(dim=1))
    assert label_loss(logits, truth) == pytest.approx(float(each.mean()))
    labels = torch.tensor([2, 0])
    assert label_loss(logits, labels) == pytest.approx(float(functional.cross_entropy(logits, labels)))


def test_the_attack_of_a_linear_model_is_the_corner_of_the_ball() -> None:
    """With one known finding, every pixel moves by epsilon against its weight's sign."""
    weight = torch.randn(2, 12, generator=torch.Generator().manual_seed(0))
    clean, threat = torch.full((2, 3, 2, 2), 0.5), Threat("linf", 0.1)
    truth = torch.tensor([[1.0, NAN], [NAN, 0.0]])
    moved = raise_loss(
        Pgd(steps=30), lambda images: images.flatten(1) @ weight.T, clean, truth, threat, Random(0, "t", ["a", "b"])
    )
    expected = torch.stack([0.5 - 0.1 * weight[0].sign(), 0.5 + 0.1 * weight[1].sign()]).view(2, 3, 2, 2)
    assert torch.allclose(moved, expected, atol=1e-6)


def test_a_regression_for_each_finding_is_that_of_scikit_learn(
    encoder: Encoder, heads: dict[str, Path], name: str
) -> None:
    from safetensors.torch import load_file
    from sklearn.linear_model import LogisticRegression

    from titer.data import load_data

    data = load_data(name, "train")
    known = [each for each in data.examples if None not in each.findings]
    images = torch.stack([encoder.preprocess(data.read(each).pixels) for each in known])
    with torch.no_grad():
        features = encoder.encode_image(images).numpy()
    solved = LogisticRegression(C=10.0, max_iter=200).fit(features, [each.findings[1] for each in known])
    row = load_file(heads["linear-probe"] / "adapter_model.safetensors")["weight"][1].numpy()
    assert np.allclose(row, solved.coef_[0], atol=2e-2)  # stored features have 16 bits


def test_what_is_written_and_told(
    place: Path, heads: dict[str, Path], name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    line = [
        "attack",
        "pgd",
        "--model",
        str(place / "clip"),
        "--data",
        name,
        "--eps",
        "2/255,16/255",
        "--set",
        "steps=5",
    ]
    chosen = [part for path in heads.values() for part in ("--prompts", str(path))]
    assert run([*line, *chosen, "--out", str(place / "run"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["areas"]
    finished = read_run(place / "run")
    assert len(finished.records) == 12 * 4 * 2
    for record in finished.records:
        assert len(record["scores"]) == len(record["clean_scores"]) == len(record["findings"]) == 2
        assert record["linf"] <= record["eps"] + 1e-6
        assert record["label"] is None
    rows = areas(finished)
    assert len(told) == len(rows) == 4 * 2 * 3
    means = {(row.prompts, row.eps): row for row in rows if row.finding == MACRO}
    for prompts in ("linear-probe", "mlp"):
        row = means[prompts, 16 / 255]
        assert row.clean.low <= row.clean.estimate <= row.clean.high
        assert row.clean.estimate > 0.9
        assert row.attacked.estimate < row.clean.estimate
    assert run([*line, *chosen, "--out", str(place / "run")]) == 0  # goes on, with nothing left to do
    assert MACRO in capsys.readouterr().out
    assert read_run(place / "run").records == finished.records


def test_records_do_not_depend_on_workers_or_a_stop(
    encoder: Encoder, heads: dict[str, Path], name: str, tmp_path: Path
) -> None:
    def attacked(out: Path, workers: int) -> list[dict[str, Any]]:
        done = attack_findings(
            encoder, name, out=out, prompts=[str(heads["mlp"])], settings={"steps": 2}, workers=workers, seed=1
        )
        return [{key: value for key, value in record.items() if key != "seconds"} for record in done.records]

    whole = attacked(tmp_path / "one", 1)
    assert attacked(tmp_path / "two", 2) == whole
    lines = (tmp_path / "one" / "samples.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "one" / "samples.jsonl").write_text("".join(lines[:5]))
    assert attacked(tmp_path / "one", 1) == whole


def test_refusals(place: Path, encoder: Encoder, heads: dict[str, Path], name: str, tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"several labels for an image; expected a head that learns them: .*linear-probe"
    ):
        fit("coop", encoder, name, out=tmp_path / "coop")
    with pytest.raises(InputError, match="'apgd-ce' looks for another class"):
        attack_findings(encoder, name, "apgd-ce", out=tmp_path / "run", prompts=[str(heads["mlp"])])
    with pytest.raises(InputError, match="expected cross-entropy"):
        attack_findings(encoder, name, out=tmp_path / "run", prompts=[str(heads["mlp"])], settings={"loss": "margin"})
    with pytest.raises(InputError, match="stop: an image with several labels"):
        attack_findings(encoder, name, out=tmp_path / "run", prompts=[str(heads["mlp"])], settings={"stop": True})
    with pytest.raises(InputError, match=r"is bound to the classes \['red', 'green'\]"):
        attack_findings(encoder, f"multilabel:red@{place / 'data'}", out=tmp_path / "run", prompts=[str(heads["mlp"])])
    (place / "data" / "labels.csv").write_text("file_name,label\n30.png,a\n31.png,b\n")
    with pytest.raises(InputError, match=r"labels\.csv has one class for an image; expected multilabel:DATA"):
        attack_findings(encoder, place / "data" / "labels.csv", out=tmp_path / "run", prompts=[str(heads["mlp"])])


def test_other_verbs_refuse_in_one_line(
    place: Path, heads: dict[str, Path], name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = ["--model", str(place / "clip"), "--out", str(tmp_path / "run")]
    for line, words in (
        (["predict", "--sigma", "0.25", "--data", name], "has several labels for an image; expected titer attack pgd"),
        (
            [
                "predict",
                "--sigma",
                "0.25",
                "--data",
                str(place / "data" / "labels.csv"),
                "--prompts",
                str(heads["mlp"]),
            ],
            "mlp has learned several labels for an image, as multilabel:DATA, and labels.csv has one class",
        ),
        (
            ["attack", "pgd", "--data", name, "--prompts", str(heads["mlp"]), "--prompts", "zero-shot"],
            "gives an image several labels, zero-shot one",
        ),
    ):
        (place / "data" / "labels.csv").write_text("file_name,label\n30.png,a\n31.png,b\n")
        assert run([*line, *model]) == 2
        told = capsys.readouterr().err.strip().splitlines()
        assert len(told) == 1
        assert words in told[0]
