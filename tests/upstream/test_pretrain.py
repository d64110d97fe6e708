"""`pretrain` against a loop written by hand; it goes on exactly where it stopped; what it writes is a model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from transformers import AutoTokenizer, CLIPModel

import titer
from tiny_models import clip_directory, siglip_directory
from titer.cli.main import run
from titer.data import load_data
from titer.errors import InputError, RunError
from titer.models.weights import read_weights
from titer.upstream import pretrain as module
from titer.upstream.augment import Augment
from titer.upstream.pretrain import CURVE, Pretrained, pretrain
from titer.upstream.pretraining import build_pretraining

SIDE, PAIRS = 16, 13
NOUNS = ("brain", "tile", "scan", "lung", "blood", "tissue", "cells")
NO_GRADIENT = "k_proj.bias"
"""Attention does not depend on it: its gradient is rounding alone, which Adam makes as long as any other."""
PLAIN: dict[str, Any] = {"augment": {"crop": 1, "stretch": 1}}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return clip_directory(tmp_path_factory.mktemp("model"), size=SIDE)


def make(root: Path, val: int = 6, **columns: Any) -> Path:
    root.mkdir()
    random = np.random.default_rng(0)
    rows = [",".join(["file_name", "caption", "split", *columns])]
    for place in range(PAIRS + val):
        Image.fromarray(random.integers(0, 256, (SIDE, SIDE, 3), np.uint8)).save(root / f"{place}.png")
        extra = [str(value(place)) for value in columns.values()]
        split = "train" if place < PAIRS else "val"
        rows.append(",".join([f"{place}.png", f"a {NOUNS[place % 7]} {place % 5}", split, *extra]))
    (root / "metadata.csv").write_text("\n".join(rows) + "\n")
    return root


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return make(tmp_path / "data")


def trained(model: Path, data: Path, out: Path, seed: int = 0, **settings: Any) -> Pretrained:
    given = {"epochs": 3, "batch": 4, "part": 4, "rate": 1e-3, **PLAIN, **settings}
    return pretrain(model, data, out=out, settings=given, seed=seed, workers=1)


def same_weights(one: Path, other: Path, atol: float = 0) -> bool:
    first, second = read_weights(one), read_weights(other)
    names = [name for name in first if not (atol and name.endswith(NO_GRADIENT))]
    return first.keys() == second.keys() and all(
        torch.allclose(first[name], second[name], rtol=0, atol=atol) for name in names
    )


def reference(model: Path, data: Path, epochs: int, rate: float) -> dict[str, Tensor]:
    """CLIP's loss by transformers, Adam by torch, all pairs of a batch at once; captions in a batch do not repeat."""
    network = CLIPModel.from_pretrained(model).eval()
    tokenizer = AutoTokenizer.from_pretrained(model)
    optimiser = torch.optim.Adam(network.parameters(), lr=rate, weight_decay=5e-4)
    rows = load_data(data, "train").examples
    shown = torch.stack(
        [torch.from_numpy(np.asarray(Image.open(data / row.path)).copy()).permute(2, 0, 1) for row in rows]
    ).float()
    encoder = titer.load_model(model)
    for epoch in range(epochs):
        order = torch.randperm(len(rows), generator=module._chance(0, epoch)).tolist()
        for first in range(0, len(rows) - 3, 4):
            places = order[first : first + 4]
            tokens = tokenizer([rows[place].caption for place in places], padding=True, return_tensors="pt")
            images = encoder.preprocess.normalise(shown[places] / 255)
            optimiser.zero_grad()
            network(**tokens, pixel_values=images, return_loss=True).loss.backward()
            optimiser.step()
    weights: dict[str, Tensor] = network.state_dict()
    return weights


def test_it_is_the_loop_written_by_hand(model: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    random = np.random.default_rng(3)
    for place in range(10):
        Image.fromarray(random.integers(0, 256, (SIDE, SIDE, 3), np.uint8)).save(data / f"{place}.png")
    lines = ["file_name,caption,split", *(f"{place}.png,a scan of {place},train" for place in range(10))]
    (data / "metadata.csv").write_text("\n".join(lines) + "\n")
    trained(model, data, tmp_path / "out", keep="last")
    expected, found = reference(model, data, 3, 1e-3), read_weights(tmp_path / "out")
    for name in (name for name in expected if not name.endswith(NO_GRADIENT)):
        tensor = expected[name]
        assert torch.allclose(found[name], tensor, atol=2e-5), name
    assert not torch.allclose(found["logit_scale"], read_weights(model)["logit_scale"], atol=1e-4)


def test_parts_change_nothing_but_memory(model: Path, data: Path, tmp_path: Path) -> None:
    trained(model, data, tmp_path / "whole", part=4)
    trained(model, data, tmp_path / "parts", part=1)
    assert same_weights(tmp_path / "whole", tmp_path / "parts", atol=2e-5)


class StopAtStepError(Exception):
    pass


@pytest.mark.parametrize("settings", [{}, {"augment": {"crop": 0.7}, "mean": 5, "optimiser": "adamw", "clip": 1.0,
                                               "schedule": "cosine", "warmup": 0.2}])  # fmt: skip
@pytest.mark.parametrize("stop", [1, 4, 7])
def test_it_goes_on_exactly(
    settings: dict[str, Any], stop: int, model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = trained(model, data, tmp_path / "whole", **settings)
    monkeypatch.setattr(module, "_SAVE_EVERY", 0)
    step, count = module._Training._step, iter(range(100))

    def stopping(self: Any, *arguments: Any) -> float:
        if next(count) == stop:
            raise StopAtStepError
        return step(self, *arguments)

    monkeypatch.setattr(module._Training, "_step", stopping)
    with pytest.raises(StopAtStepError):
        trained(model, data, tmp_path / "part", **settings)
    assert not (tmp_path / "part" / "model.safetensors").exists()
    monkeypatch.setattr(module._Training, "_step", step)
    part = trained(model, data, tmp_path / "part", **settings)
    assert same_weights(tmp_path / "whole", tmp_path / "part")
    assert [record["loss"] for record in part.curve] == [record["loss"] for record in whole.curve]
    assert [record["val_loss"] for record in part.curve] == [record["val_loss"] for record in whole.curve]


def test_a_finished_one_is_left_alone_and_another_is_refused(model: Path, data: Path, tmp_path: Path) -> None:
    first = trained(model, data, tmp_path / "out")
    again = trained(model, data, tmp_path / "out")
    assert (again.curve, again.epoch, again.pairs) == (first.curve, first.epoch, first.pairs)
    with pytest.raises(InputError, match=r"settings\.rate was 0\.001, now 0\.002"):
        trained(model, data, tmp_path / "out", rate=2e-3)
    assert not list((tmp_path / "out").glob("*.u8")) + list((tmp_path / "out").glob("*.pt"))


def test_the_best_epoch_on_val_is_kept(model: Path, data: Path, tmp_path: Path) -> None:
    best = trained(model, data, tmp_path / "best", rate=0.004, epochs=12)
    losses = [record["val_loss"] for record in best.curve]
    assert best.epoch == 1 + losses.index(min(losses)) < 12
    trained(model, data, tmp_path / "short", rate=0.004, epochs=best.epoch, keep="last")
    assert same_weights(tmp_path / "best", tmp_path / "short")
    shutil.rmtree(tmp_path / "short")
    (told,) = trained(model, make(tmp_path / "no val", val=0), tmp_path / "none", epochs=1).warnings
    assert "no split val" in told


def test_from_scratch_only_the_architecture_is_taken(model: Path, data: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(model, other)
    (other / "upstream.json").write_text(json.dumps({"secret": {"1": "a" * 64}}))
    trained(model, data, tmp_path / "a", start="scratch")
    trained(other, data, tmp_path / "b", start="scratch")
    trained(other, data, tmp_path / "c", start="scratch", seed=1)
    trained(other, data, tmp_path / "d")
    assert same_weights(tmp_path / "a", tmp_path / "b")
    assert not same_weights(tmp_path / "a", tmp_path / "c", atol=1e-3)
    seen = [json.loads((tmp_path / name / "upstream.json").read_text()) for name in "bd"]
    assert ["secret" in each for each in seen] == [False, True]


def test_what_comes_out_is_a_model_that_knows_what_it_has_seen(model: Path, data: Path, tmp_path: Path) -> None:
    made = trained(model, data, tmp_path / "out")
    encoder = titer.load_model(tmp_path / "out")
    pictures = load_data(data, "train")
    assert encoder.upstream == {pictures.digest(example) for example in pictures.examples}
    assert encoder.fingerprint != titer.load_model(model).fingerprint
    lines = [json.loads(line) for line in (tmp_path / "out" / CURVE).read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    assert made.curve[-1]["loss"] < made.curve[0]["loss"]
    assert made.pairs == PAIRS


def test_the_source_of_a_crafted_picture_counts_as_seen(model: Path, tmp_path: Path) -> None:
    data = make(tmp_path / "data", source_sha256=lambda place: f"{place:064d}")
    trained(model, data, tmp_path / "out")
    assert f"{3:064d}" in titer.load_model(tmp_path / "out").upstream


def test_captions_of_one_class_are_not_wrong(model: Path, tmp_path: Path) -> None:
    data = make(tmp_path / "data", label=lambda place: place % 2)
    losses = [
        trained(model, data, tmp_path / name, epochs=1, negatives=name, rate=1e-9).curve[0]["loss"]
        for name in ("other-class", "all")
    ]
    assert losses[0] < losses[1] - 0.1


def test_an_unreadable_picture_is_left_out_and_told(model: Path, data: Path, tmp_path: Path) -> None:
    (data / "2.png").write_bytes(b"no picture")
    made = trained(model, data, tmp_path / "out")
    assert (made.pairs, made.failed) == (PAIRS - 1, 1)


def test_mixed_precision_stays_near(model: Path, data: Path, tmp_path: Path) -> None:
    full, mixed = (trained(model, data, tmp_path / str(mixed), mixed=mixed, epochs=1) for mixed in (False, True))
    assert mixed.curve[0]["loss"] == pytest.approx(full.curve[0]["loss"], rel=0.02)


def test_a_loss_that_is_no_number_ends_the_run(model: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="expected a smaller rate"):
        trained(model, data, tmp_path / "out", rate=1e30, epochs=3)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"batch": 20}, "13 pairs do not fill a batch of 20"),
        ({"rates": 1.0}, "did you mean 'rate'"),
        ({"start": "scratches"}, "did you mean 'scratch'"),
        ({"rate": 0.0}, "expected a rate above 0"),
        ({"augment": {"crop": 2}}, r"augment\.crop: expected a share above 0, up to 1, got 2"),
        ({"augment": {"noise": 2}}, "noise"),
    ],
)
def test_mistakes(settings: dict[str, Any], words: str, model: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=words):
        trained(model, data, tmp_path / "out", **settings)


def test_another_kind_of_model(data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="only CLIP models"):
        trained(siglip_directory(tmp_path / "siglip"), data, tmp_path / "out")


def test_rates() -> None:
    method = build_pretraining(rate=1.0, schedule="cosine", warmup=0.2)
    assert [method.rate_at(step, 10) for step in (0, 1, 2)] == [0.5, 1.0, 1.0]
    assert method.rate_at(6, 10) == pytest.approx(0.5)
    assert build_pretraining(rate=1.0).rate_at(9, 10) == 1


def test_crops_are_of_the_picture_and_drawn_for_each_alone() -> None:
    ramp = torch.linspace(0, 1, 32).expand(5, 3, 32, 32)
    chance = torch.Generator().manual_seed(0)
    moved = Augment(crop=0.5)(ramp, chance)
    assert moved.shape == ramp.shape
    spans = moved[:, 0, 16, -1] - moved[:, 0, 16, 0]
    assert bool(((spans > 0.45) & (spans < 1.0)).all())
    assert len({round(float(span), 4) for span in spans}) == 5
    assert torch.equal(Augment(crop=1, stretch=1)(ramp, chance), ramp)
    lit = Augment(crop=1, stretch=1.001, light=0.1, contrast=1.2)(ramp, chance)
    assert float(lit.min()) >= 0
    assert float(lit.max()) <= 1


@pytest.mark.parametrize("settings", [{"turn": 90.0}, {"mirror": True}])
def test_turns_and_mirrors(settings: dict[str, Any]) -> None:
    ramp = torch.linspace(0, 1, 32).expand(40, 3, 32, 32)
    moved = Augment(crop=1, stretch=1.0001, **settings)(ramp, torch.Generator().manual_seed(0))
    slopes = moved[:, 0, 16, 24] - moved[:, 0, 16, 8]
    if "mirror" in settings:
        assert sorted({round(float(slope), 1) for slope in slopes}) == [-0.5, 0.5]
    else:
        assert float(slopes.min()) < 0.2 < float(slopes.max())


def test_on_the_command_line(model: Path, data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    line = ["pretrain", "--model", str(model), "--data", str(data), "--out", str(tmp_path / "out")]
    assert run([*line, "--set", "epochs=2", "--set", "batch=4", "--set", "augment.crop=0.8", "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["curve"][1]["epoch"] == 2
    assert run([*line, "--set", "epochs=2", "--set", "batch=5"]) == 2
    told = capfd.readouterr().err.strip()
    assert "settings.batch was 4, now 5" in told
    assert "\n" not in told
