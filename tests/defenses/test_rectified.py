"""MLPs before the fusion: what passes them, and the loss, against the formulas written out by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from defenses.test_fusion import data
from tiny_models import clip_directory
from titer.data.questions import with_answers
from titer.data.shots import Selection
from titer.defenses import Task
from titer.defenses.attacked import attacked_images
from titer.defenses.nmtune import Mlp, NmTune
from titer.defenses.ran import Ran
from titer.defenses.rectified import Tokens, rectified_loss
from titer.evaluate.fitting import task_of
from titer.features.views import CropAndFlip
from titer.models import load_model
from titer.models.fusion import CoAttention, Rectifier, new_fusion

ANSWERS = ("1", "blue", "green", "red")
PART = np.array([0, 1, 5, 10, 15, 20])


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    encoder = load_model(clip_directory(tmp_path_factory.mktemp("clip")))
    return task_of(encoder, Selection(with_answers(data("train"), ANSWERS), (), 0), 3)


@pytest.fixture(scope="module")
def fusion(task: Task) -> CoAttention:
    return new_fusion(task.encoder, 16, 1, 2, 0, rectified=True)


def nothing() -> dict[str, Tensor]:
    return {"weight": torch.zeros(len(ANSWERS), 16), "bias": torch.zeros(len(ANSWERS))}


def standardised(tokens: Any) -> Any:
    return (tokens - tokens.mean(-1, keepdims=True)) / np.sqrt(tokens.var(-1, keepdims=True) + 1e-5)


def rectified(front: Rectifier, tokens: Any) -> Any:
    weights = {name: tensor.detach().numpy().astype(float) for name, tensor in front.state_dict().items()}
    frozen = standardised(tokens)
    hidden = np.maximum(standardised(frozen @ weights["up.weight"].T + weights["up.bias"]), 0)
    return frozen + weights["scale"] * (hidden @ weights["down.weight"].T + weights["down.bias"])


def terms(first: Any, second: Any, frozen: Any) -> float:
    """NMTune's three, by the code's scaling."""
    unit_z, unit_f = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in (second, frozen))
    both = np.concatenate([first, second])
    spread = np.cov(both.T)
    values = np.linalg.svd(both, compute_uv=False)
    cov = (np.square(spread).sum() - np.square(np.diag(spread)).sum()) / both.shape[1]
    return float(np.mean((unit_z - unit_f) ** 2) + 0.04 * cov - 0.001 * np.mean(values[:5] / values.sum()))


def test_each_token_passes_by_itself(task: Task, fusion: CoAttention) -> None:
    tokens = Tokens(task).whole()[:3].float()
    with torch.no_grad():
        found = fusion.image_front(tokens)
    assert isinstance(fusion.image_front, Rectifier)
    assert found.numpy() == pytest.approx(rectified(fusion.image_front, tokens.numpy().astype(float)), abs=1e-4)
    assert torch.allclose(fusion.image_front(tokens[:1, :1]), found[:1, :1], atol=1e-6)


def test_a_picture_with_two_questions_is_kept_once(task: Task) -> None:
    tokens = Tokens(task)
    assert len(task.ids) == 24
    assert tokens.about.tolist() == [row // 2 for row in range(24)]
    assert tokens.whole().shape[0] == len(tokens.pictures.ids) == 12
    words, mask = tokens.words(np.array([0, 1, 2]))
    assert torch.equal(words[0], words[2])
    assert not torch.equal(words[0], words[1])
    assert bool(mask[0].any())


def test_attacked_pictures_stay_within_the_budget_and_their_mean_token_moves(task: Task) -> None:
    pictures = Tokens(task).pictures
    for places, images in attacked_images(pictures, 4 / 255, 0):
        clean = torch.stack([pictures.image(place) for place in places])
        assert float((images - clean).abs().max()) <= 4 / 255 + 1e-6
        random = (clean + 4 / 255 * torch.randn_like(clean).sign()).clamp(0, 1)
        moved, by_chance = (
            (pictures.encoder.image_features(shown) - pictures.features[places.start : places.stop]).norm(dim=1)
            for shown in (images, random)
        )
        assert float(moved.mean()) > float(by_chance.mean())


@pytest.mark.parametrize("kind", [Mlp, NmTune, Ran])
def test_the_loss_is_the_formulas(kind: type[Mlp], task: Task, fusion: CoAttention) -> None:
    """An empty head gives every answer the same chance, so that the rest of the loss is the terms alone."""
    head = kind(eps=4 / 255)
    with torch.no_grad():
        found = float(rectified_loss(task, fusion, nothing(), head, 2, np.random.default_rng(0))(PART))
    chance, tokens = np.random.default_rng(0), Tokens(task)
    expected = math.log(len(ANSWERS))
    if kind is not Mlp:
        crops = tokens.crops(CropAndFlip(0.8, mirror=False), 2)[tokens.about[PART]].numpy().astype(float)
        views = [crops[:, view] for view in chance.choice(2, 2, replace=False)]
        one, two = (rectified(fusion.image_front, view).mean(axis=1) for view in views)  # type: ignore[arg-type]
        expected += terms(one, two, standardised(views[0]).mean(axis=1))
        words, mask = (side.numpy().astype(float) for side in tokens.words(PART))
        read, frozen = rectified(fusion.text_front, words), standardised(words)  # type: ignore[arg-type]
        means = [(side * mask[:, :, None]).sum(axis=1) / mask.sum(axis=1)[:, None] for side in (read, frozen)]
        expected += terms(means[0], means[0], means[1])
    if kind is Ran:
        shown = tokens.attacked(4 / 255, 2)[tokens.about[PART], int(chance.integers(2))].numpy().astype(float)
        moved = rectified(fusion.image_front, shown).mean(axis=1)  # type: ignore[arg-type]
        clean = standardised(tokens.whole()[tokens.about[PART]].numpy().astype(float)).mean(axis=1)
        units = [side / np.linalg.norm(side, axis=1, keepdims=True) for side in (moved, clean)]
        expected += math.log(len(ANSWERS)) + float(np.square(units[0] - units[1]).sum(axis=1).mean())
    assert found == pytest.approx(expected, abs=2e-4)
