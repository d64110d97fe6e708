"""A denoiser in front of the frozen model: what is learned, what votes, and what is refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import titer
from defenses.tiny import CLASSES, data, images, judged, task
from models.test_denoisers import NEW, filled, weights_of, write_model
from tiny_models import clip_directory
from titer.defenses import Denoise, Task
from titer.defenses.adapter import load_classifier
from titer.errors import InputError
from titer.evaluate.fitting import fit
from titer.models import Encoder, load_model, zero_shot
from titer.models.denoisers import DnCNN, OneStep, schedule_of, unet_of
from titer.noise import BLOCK

QUICK: dict[str, Any] = {"depth": 2, "width": 8, "steps": 3, "batch": 4}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    return load_model(clip_directory(tmp_path_factory.mktemp("clip")))


@pytest.fixture(scope="module")
def job(encoder: Encoder) -> Task:
    return task(encoder, 3, labelled=False)


@pytest.fixture(scope="module")
def kair(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("kair") / "grey.pth"
    torch.save(filled(DnCNN(1, 3, 4)), path)
    return str(path)


@pytest.fixture(scope="module")
def diffusion(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_model(tmp_path_factory.mktemp("diffusion") / "model", NEW, weights_of(NEW), {}))


def settings_of_kind(kind: str, kair: str, diffusion: str) -> dict[str, Any]:
    return {
        "dncnn": QUICK,
        "dncnn-file": {"kind": "dncnn-file", "source": kair},
        "diffusion": {"kind": "diffusion", "source": diffusion, "sigmas": (0.25,)},
    }[kind]


class Flat:
    """Stands in for an image tower: it sees what images came to before it."""

    def __init__(self, dim: int) -> None:
        self.dim = dim
        self.seen: list[Tensor] = []

    def __call__(self, normal: Tensor) -> Tensor:
        self.seen.append(normal)
        return normal.flatten(1)[:, : self.dim]


def test_the_front_comes_after_the_noise_and_before_normalisation(encoder: Encoder) -> None:
    tower, shown = Flat(encoder.dim), 3 * images(encoder, 2)
    replace(encoder, image_tower=tower, front=lambda rows: rows / 2).encode_image(shown)
    assert torch.allclose(tower.seen[0], encoder.preprocess.normalise(shown / 2))
    assert torch.equal(replace(encoder, front=lambda rows: rows).encode_image(shown), encoder.encode_image(shown))


@pytest.mark.parametrize("objective", ["mse", "stability"])
def test_training_lowers_its_objective_and_the_error(objective: str, job: Task) -> None:
    method = Denoise(sigmas=(0.5,), steps=160, width=16, depth=3, batch=8, objective=objective)  # type: ignore[arg-type]
    fitted = method.fit(job)
    assert len(fitted.losses) == 8  # rounds of 20 steps
    assert fitted.notes["objective"] == objective
    assert fitted.losses[-1] < (fitted.losses[0] if objective == "mse" else fitted.losses[4])
    front = method.classifier(job.encoder, CLASSES, fitted.weights, "x").encoder.front
    assert front is not None
    clean = torch.stack([job.image(place) for place in range(len(job.ids))])
    noisy = clean + 0.5 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(9))
    if objective == "mse":
        assert float((front(noisy) - clean).square().mean()) < 0.2 * 0.5**2
    assert fitted.predictions is not None
    assert fitted.predictions.shape == (BLOCK,)


def test_the_stability_objective_asks_for_the_clean_prediction_and_not_for_labels(job: Task) -> None:
    """Labels that contradict the model change nothing."""
    method = Denoise(**QUICK)
    contrary = dataclasses.replace(job, labels=[2] * len(job.ids))
    first, second = method.fit(job).weights, method.fit(contrary).weights
    assert not method.needs_labels
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_other_seeds_and_other_levels_learn_other_weights(job: Task) -> None:
    base = Denoise(**QUICK).fit(job).weights["linear.weight"]
    for other in (
        Denoise(**QUICK).fit(replace(job, seed=1)),
        Denoise(**QUICK, sigmas=(0.25,)).fit(job),
        Denoise(**QUICK, objective="mse").fit(job),
    ):
        assert not torch.equal(other.weights["linear.weight"], base)


def test_steps_are_counted_exactly(job: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    counted = []
    adam = torch.optim.Adam.step

    def step(self: torch.optim.Adam) -> object:
        counted.append(self.param_groups[0]["lr"])
        return adam(self)

    monkeypatch.setattr(torch.optim.Adam, "step", step)
    Denoise(**QUICK | {"steps": 45}).fit(job)
    assert len(counted) == 45
    assert counted[0] == pytest.approx(3e-3)
    assert counted[22] == pytest.approx(3e-4)  # the first step that passes through the encoder


@pytest.mark.parametrize("kind", ["dncnn", "dncnn-file", "diffusion"])
def test_every_kind_is_fitted_written_read_and_certified(
    kind: str, kair: str, diffusion: str, encoder: Encoder, tmp_path: Path
) -> None:
    method = Denoise(**settings_of_kind(kind, kair, diffusion))
    path = tmp_path / kind
    fit(method, encoder, data(), out=path, seed=3)
    classifier, shown = load_classifier(path, encoder, judged(data())), images(encoder, 8)
    assert classifier.encoder.front is not None
    assert classifier.encoder.fingerprint != encoder.fingerprint
    assert classifier.encoder.parameters > encoder.parameters
    by_hand = zero_shot(encoder, CLASSES)(classifier.encoder.front(shown))
    assert torch.allclose(classifier(shown), by_hand, atol=1e-5)
    mixed = torch.cat([shown[:1], 5 * images(encoder, 7, seed=1)])
    assert torch.allclose(classifier(mixed)[0], classifier(shown)[0], atol=1e-4)  # a row does not know its neighbours
    run = titer.certify(
        encoder, judged(data()), sigma=0.25, n=50, n0=50, alpha=0.05, seed=1, workers=1, out=tmp_path / "run",
        prompts=["zero-shot", str(path)], images=False,
    )  # fmt: skip
    assert {record["guarantee"] for record in run.records} == {"fixed"}
    assert len(run.records) == 6


def test_an_adapter_needs_its_source_no_more(diffusion: str, encoder: Encoder, job: Task) -> None:
    method = Denoise(kind="diffusion", source=diffusion, sigmas=(0.25,))
    weights = method.fit(job).weights
    elsewhere = replace(method, source="/gone")
    shown = images(encoder, 2)
    assert torch.equal(
        method.classifier(encoder, CLASSES, weights, "x")(shown), elsewhere.classifier(encoder, CLASSES, weights, "x")(shown)
    )  # fmt: skip


def test_diffusion_takes_the_step_of_its_noise(diffusion: str, encoder: Encoder, job: Task) -> None:
    schedule, network = schedule_of({}, Path()), unet_of(NEW, weights_of(NEW), Path())
    shown = images(encoder, 2)
    for sigma in (0.25, 0.5):
        method = Denoise(kind="diffusion", source=diffusion, sigmas=(sigma,))
        front = method.classifier(encoder, CLASSES, method.fit(job).weights, "x").encoder.front
        assert front is not None
        step = schedule.step(sigma)
        assert torch.allclose(front(shown), OneStep(network, step, float(schedule.levels[step]))(shown), atol=1e-6)


def test_gradients_pass_the_denoiser_and_stay_out_of_its_weights(encoder: Encoder, job: Task) -> None:
    classifier = Denoise(**QUICK).classifier(encoder, CLASSES, Denoise(**QUICK).fit(job).weights, "x")
    shown = images(encoder, 2).requires_grad_()
    classifier(shown)[:, 0].sum().backward()  # type: ignore[no-untyped-call]
    assert shown.grad is not None
    assert float(shown.grad.abs().sum()) > 0
    assert isinstance(classifier.encoder.front, torch.nn.Module)
    assert not any(parameter.requires_grad for parameter in classifier.encoder.front.parameters())


def test_levels_are_known_unless_a_file_is_silent(kair: str) -> None:
    assert Denoise().noise == (0.1, 0.25, 0.5, 1.0)
    assert Denoise(sigmas=(0.5,)).noise == (0.5,)
    assert Denoise(kind="dncnn-file", source=kair).noise == ()


WRONG: Sequence[tuple[dict[str, Any], str]] = [
    ({"kind": "difusion"}, "unknown kind 'difusion'; did you mean 'diffusion'"),
    ({"objective": "mae"}, "unknown objective 'mae'"),
    ({"kind": "diffusion"}, "source: .* diffusion got none"),
    ({"source": "x.pth"}, "source: .* dncnn got x.pth"),
    ({"sigmas": (0.25, 0.0)}, "sigmas: expected one or more numbers above 0"),
    ({"sigmas": (float("nan"),)}, "sigmas: expected one or more numbers above 0"),
    ({"sigmas": ()}, "sigmas: expected one or more numbers above 0"),
    ({"depth": 1}, "depth: expected at least 2, got 1"),
    ({"factor": 0}, "factor: expected at least 1, got 0"),
    ({"learning_rate": 0.0}, "learning_rate: expected above 0, got 0"),
]


@pytest.mark.parametrize(("settings", "words"), WRONG)
def test_settings_that_cannot_work_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        Denoise(**settings)


def test_what_does_not_fit_a_diffusion_model_is_refused(diffusion: str, job: Task) -> None:
    for sigmas, words in [
        (None, r"expected one noise level, such as sigmas=\[0\.25\], got \[\]"),
        ((0.25, 0.5), r"expected one noise level.* got \[0\.25, 0\.5\]"),
        ((100.0,), r"sigma 100 is outside the diffusion model's levels, 0\.005 to 78\.7"),
    ]:
        with pytest.raises(InputError, match=words):
            Denoise(kind="diffusion", source=diffusion, sigmas=sigmas).fit(job)
    odd = replace(job, encoder=replace(job.encoder, preprocess=replace(job.encoder.preprocess, size=31)))
    with pytest.raises(InputError, match=r"needs a multiple of 2 pixels; .* takes 31"):
        Denoise(kind="diffusion", source=diffusion, sigmas=(0.25,)).fit(odd)


def test_files_that_are_missing_or_hold_something_else_are_refused(kair: str, job: Task, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.pth: no such file"):
        Denoise(kind="dncnn-file", source=str(tmp_path / "gone.pth")).fit(job)
    with pytest.raises(InputError, match=r"config\.json is missing"):
        Denoise(kind="diffusion", source=str(tmp_path), sigmas=(0.25,)).fit(job)
    with pytest.raises(InputError, match=r"config\.json is missing"):
        Denoise(kind="diffusion", source=kair, sigmas=(0.25,)).fit(job)
    torch.save({"weight": torch.ones(2)}, tmp_path / "other.pth")
    with pytest.raises(InputError, match=r"expected a DnCNN in KAIR's layout .* got weight"):
        Denoise(kind="dncnn-file", source=str(tmp_path / "other.pth")).fit(job)
