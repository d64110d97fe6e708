"""`mlp`, `nmtune`, `ran`: terms against numbers by hand; what each weight does; attacked features within the budget."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from defenses.tiny import task
from tiny_models import clip_directory
from titer.defenses import LinearProbe, Mlp, NmTune, Ran, Residual, Task
from titer.defenses.attacked import attacked_store
from titer.defenses.nmtune import covariance, dominance, feature_distance, transformed
from titer.errors import InputError
from titer.models import load_model

SHORT: dict[str, Any] = {"epochs": 3}


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Task:
    return task(load_model(clip_directory(tmp_path_factory.mktemp("clip"))))


def test_distance_by_hand() -> None:
    learned, frozen = torch.tensor([[3.0, 0.0], [0.0, 2.0]]), torch.tensor([[0.0, 5.0], [0.0, 1.0]])
    assert float(feature_distance(learned, frozen, "paper")) == pytest.approx(1.0)  # (2 + 0) / 2
    assert float(feature_distance(learned, frozen, "code")) == pytest.approx(0.5)  # over two dimensions as well


def test_covariance_by_hand() -> None:
    """Deviations (-1, -2), (1, 2): covariance 2 + 2 = 4, twice squared, over two dimensions."""
    assert float(covariance(torch.tensor([[0.0, 0.0], [2.0, 4.0]]))) == pytest.approx(16.0)
    assert float(covariance(torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]]))) == 0.0


def test_covariance_is_that_of_numpy() -> None:
    rows = np.random.default_rng(0).normal(size=(20, 6)) + 3
    full = np.cov(rows, rowvar=False)
    expected = (full[~np.eye(6, dtype=bool)] ** 2).sum() / 6
    assert float(covariance(torch.from_numpy(rows))) == pytest.approx(expected)


def test_dominance_by_hand() -> None:
    features = torch.diag(torch.tensor([6.0, 3.0, 2.0, 4.0, 3.0, 1.0, 1.0]))
    assert float(dominance(features, "paper")) == pytest.approx(-6 / 20)
    assert float(dominance(features, "code")) == pytest.approx(-18 / 20 / 5)
    assert float(dominance(torch.outer(torch.arange(1.0, 4), torch.ones(5)), "paper")) == pytest.approx(-1.0)


def test_the_two_scalings_have_their_own_weights() -> None:
    assert NmTune().term_weights == (1.0, 0.04, 0.001)
    assert NmTune(scaling="paper").term_weights == (0.01, 0.01, 0.01)
    assert NmTune(cov=0.0).term_weights == (1.0, 0.0, 0.001)


def test_the_layer_is_that_of_torch() -> None:
    torch_layers = torch.nn.Sequential(
        torch.nn.Linear(4, 8), torch.nn.LayerNorm(8, elementwise_affine=False), torch.nn.ReLU(), torch.nn.Linear(8, 4)
    )
    up, down = torch_layers[0], torch_layers[3]
    weights: dict[str, Any] = {
        "scale": torch.full((4,), 0.5), "up.weight": up.weight, "up.bias": up.bias,
        "down.weight": down.weight, "down.bias": down.bias,
    }  # fmt: skip
    rows = torch.randn(5, 4)
    assert torch.allclose(transformed(weights, rows), rows + 0.5 * torch_layers(rows), atol=1e-6)


def test_without_weights_each_method_is_the_one_before(job: Task) -> None:
    plain = Mlp(**SHORT).fit(job).weights
    bare = NmTune(mse=0.0, cov=0.0, svd=0.0, **SHORT).fit(job).weights
    assert all(torch.allclose(plain[name], bare[name], atol=1e-6) for name in plain)
    rectified, black_box = NmTune(**SHORT).fit(job).weights, Ran(black_box=True, **SHORT).fit(job).weights
    assert all(torch.equal(rectified[name], black_box[name]) for name in rectified)
    full = Ran(**SHORT).fit(job).weights
    assert not torch.equal(full["scale"], rectified["scale"])
    assert not torch.equal(plain["scale"], rectified["scale"])


def test_a_heavy_distance_term_keeps_features_where_they_were(job: Task) -> None:
    def moved(method: Mlp) -> float:
        weights = method.fit(job).weights
        rows = math.sqrt(job.encoder.dim) * job.clean
        return float(feature_distance(transformed(weights, rows), rows, "paper"))

    assert moved(NmTune(mse=1000.0, epochs=30)) < 0.5 * moved(Mlp(epochs=30))


def test_attacked_features_leave_and_come_back_with_the_seed(job: Task) -> None:
    small, large = (attacked_store(job, eps / 255, copies=2) for eps in (1, 8))
    moved = [
        (F.normalize(store.everything(), dim=-1) - job.clean[:, None]).norm(dim=-1).mean() for store in (small, large)
    ]
    assert 0.0 < moved[0] < moved[1]
    again = attacked_store(job, 1 / 255, copies=2)
    assert torch.equal(small.everything(), again.everything())
    assert not np.array_equal(small.images[0][0], small.images[0][1])
    other = attacked_store(replace(job, seed=1), 1 / 255, copies=2)
    assert not torch.equal(small.everything(), other.everything())


@pytest.mark.parametrize("method", [LinearProbe(images="attacked"), Residual(images="attacked", epochs=5)])
def test_heads_learn_from_attacked_images(job: Task, method: LinearProbe | Residual) -> None:
    fitted = method.fit(job)
    assert method.noise == ()
    assert fitted.predictions is not None
    assert len(fitted.predictions) == 8 * len(job.ids)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"images": "nosy"}, "noisy"),
        ({"scaling": "papers"}, "paper"),
        ({"mse": -1.0}, "mse"),
        ({"adv": -1.0}, "adv"),
        ({"eps": 0.0}, "eps"),
        ({"batch": 1}, "batch"),
        ({"smallest": 0.0}, "smallest"),
        ({"sigmas": ()}, "sigmas"),
        ({"ratio": 0}, "ratio"),
    ],
)
def test_values_that_cannot_work_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        Ran(**settings)
