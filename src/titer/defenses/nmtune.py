"""`mlp` and `nmtune`: a residual MLP on frozen features, without and with terms that rectify noise of pre-training.

NMTune: Chen et al., ICLR 2024, arXiv 2309.17002. Its published text and its public code scale the terms differently;
``scaling`` names which. Of its code this differs in two ways: features are unit vectors times sqrt(dim), since a head
sees unit features, and the hidden layer has LayerNorm, since attacked and clean images would need batch statistics of
their own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from titer.defenses.attacked import attacked_store
from titer.defenses.fit import minimise, parts
from titer.defenses.heads import Images, check_images, noise_of
from titer.defenses.objectives import label_loss
from titer.defenses.task import Fitted, Task, Weights
from titer.errors import InputError, unknown
from titer.features.store import FeatureStore, Places
from titer.features.views import CropAndFlip
from titer.models.classifier import Classifier, Named
from titer.models.encoder import Encoder
from titer.models.weights import fingerprint_of
from titer.noise import BLOCK

Scaling = Literal["paper", "code"]

_DOMINANT = 5  # singular values that the code's term rewards
_WEIGHTS = {"paper": (0.01, 0.01, 0.01), "code": (1.0, 0.04, 0.001)}


def feature_distance(learned: Tensor, frozen: Tensor, scaling: Scaling) -> Tensor:
    """Squared distance of unit features (rows, dim), mean over rows; ``code`` divides by dim as well."""
    squared = (F.normalize(learned, dim=1) - F.normalize(frozen, dim=1)).square()
    return squared.mean() if scaling == "code" else squared.sum(dim=1).mean()


def covariance(features: Tensor) -> Tensor:
    """Sum of squared covariances between different dimensions of (rows, dim), over dim; covariance over rows - 1."""
    centred = features - features.mean(dim=0)
    found = centred.T @ centred / (len(features) - 1)
    across: Tensor = found.square().sum() - found.diagonal().square().sum()
    return across / features.shape[1]


def dominance(features: Tensor, scaling: Scaling) -> Tensor:
    """Minus the largest singular value's share of the sum, features (rows, dim) as they are; ``code``: mean of five."""
    values = torch.linalg.svdvals(features)
    shares: Tensor = values / values.sum()
    return -shares[: 1 if scaling == "paper" else _DOMINANT].mean()


@dataclass(frozen=True)
class Mlp:
    """Z = F + scale * MLP(F), then a linear classifier; cross-entropy.

    Args:
        images: what it learns from: two random crops of each image in an epoch, clean or noisy, or attacked images.
        sigmas: noise of ``noisy``, in [0, 1] pixel units; all levels of the project's mix unless given.
        eps: linf budget of ``attacked``, in [0, 1] pixel units.
        smallest: least share of the area that a crop keeps; crops are never mirrored, since sides mean something.
        ratio: width of the hidden layer over that of a feature.
        epochs, learning_rate: of AdamW, with a cosine schedule. NMTune's 30 epochs are of whole data sets.
        batch: images in a step.
    """

    images: Images = "clean"
    sigmas: tuple[float, ...] | None = None
    eps: float = 1 / 255
    smallest: float = 0.8
    ratio: int = 4
    epochs: int = 200
    learning_rate: float = 1e-3
    batch: int = 64

    needs_labels: ClassVar[bool] = True
    needs_images: ClassVar[bool] = True
    class_bound: ClassVar[bool] = True
    several_labels: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_images(self.images, self.sigmas, self.eps)
        for name in ("ratio", "epochs", "learning_rate"):
            if getattr(self, name) <= 0:
                raise InputError(f"{name}: expected above 0, got {getattr(self, name):g}")
        if self.batch < 2:
            raise InputError(f"batch: expected at least 2, got {self.batch}")
        if not 0 < self.smallest <= 1:
            raise InputError(f"smallest: expected a share above 0 and at most 1, got {self.smallest:g}")

    @property
    def noise(self) -> tuple[float, ...]:
        """Standard deviations of the noise in training."""
        return noise_of(self.images, self.sigmas)

    def fit(self, task: Task) -> Fitted:
        """Learn the head on features made beforehand."""
        store, chance = self._store(task), np.random.default_rng([task.seed, 7])
        weights = _start(task.encoder.dim, len(task.classes), self.ratio, task.seed)
        extra = self._extra(task, weights)

        def loss(part: Places) -> Tensor:
            drawn = chance.choice(store.draws, 2, replace=False)
            first, second = (spread(rows) for rows in store.rows(part, drawn).unbind(dim=1))
            learned = (transformed(weights, first), transformed(weights, second))
            labels = task.targets[torch.from_numpy(part)]
            fitting = label_loss(answer(weights, torch.cat(learned)), torch.cat([labels, labels]))
            return fitting + self.rectify(learned, first) + extra(part, first, labels, chance)

        def losses(_: int) -> list[Callable[[], Tensor]]:
            batches = parts(chance.permutation(len(task.ids)), self.batch)
            return [partial(loss, part) for part in batches]

        history = minimise(list(weights.values()), losses, self.epochs, self.learning_rate, "adamw")
        learned = {name: tensor.detach() for name, tensor in weights.items()}
        if not task.exclusive:
            return Fitted(learned, history)
        seen = store.rows(np.arange(len(task.ids)), np.arange(min(BLOCK, store.draws))).flatten(0, 1)
        return Fitted(learned, history, _logits(learned, seen).argmax(dim=-1))

    def classifier(self, encoder: Encoder, classes: Sequence[Named], weights: Weights, name: str) -> Classifier:
        """The classifier that these weights make."""
        for key, shape in _shapes(encoder.dim, len(classes), self.ratio).items():
            if weights[key].shape != shape:
                raise InputError(f"{key}: expected {shape}, got {tuple(weights[key].shape)}")
        labels = tuple(named.label for named in classes)
        there = {key: tensor.to(encoder.device) for key, tensor in weights.items()}
        return Classifier(name, encoder, partial(_logits, there), labels, fingerprint_of(weights, "mlp", labels))

    def _store(self, task: Task) -> FeatureStore:
        if self.images == "attacked":
            return attacked_store(task, self.eps)
        return task.store(self.noise or (0.0,), BLOCK, CropAndFlip(self.smallest, mirror=False))

    def rectify(self, learned: tuple[Tensor, Tensor], first: Tensor) -> Tensor:  # noqa: ARG002
        """What is added to the loss: of Z (rows, dim) of two views, and F (rows, dim) of the first."""
        return torch.zeros(())

    def _extra(self, task: Task, weights: Weights) -> Callable[..., Tensor]:  # noqa: ARG002
        """Added to the loss of a step: (places, F of the first view, labels, chance) -> a number."""
        return lambda *_: torch.zeros(())


@dataclass(frozen=True)
class NmTune(Mlp):
    """The head of ``mlp`` with three terms that rectify noise of pre-training.

    Args:
        scaling: of the terms and their weights: ``paper`` (distance summed over dimensions, share of the largest singular
            value) or ``code`` (distance averaged over dimensions, mean share of the five largest).
        mse: weight of the distance of Z of the second view from F of the first; 0.01 (paper) or 1 (code) unless given.
        cov: weight of the covariances of Z of both views; 0.01 or 0.04 unless given.
        svd: weight of the dominant singular values of both views' Z; 0.01 or 0.001 unless given.
    """

    scaling: Scaling = "code"
    mse: float | None = None
    cov: float | None = None
    svd: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.scaling not in get_args(Scaling):
            raise unknown("scaling", str(self.scaling), get_args(Scaling))
        for name in ("mse", "cov", "svd"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise InputError(f"{name}: expected at least 0, got {value:g}")

    @property
    def term_weights(self) -> tuple[float, float, float]:
        """Of distance, covariance and dominance."""
        given, usual = (self.mse, self.cov, self.svd), _WEIGHTS[self.scaling]
        mse, cov, svd = (other if value is None else value for value, other in zip(given, usual, strict=True))
        return mse, cov, svd

    def rectify(self, learned: tuple[Tensor, Tensor], first: Tensor) -> Tensor:
        """Distance, covariance and dominance, weighed."""
        both, (mse, cov, svd) = torch.cat(learned), self.term_weights
        distance = feature_distance(learned[1], first, self.scaling)
        return mse * distance + cov * covariance(both) + svd * dominance(both, self.scaling)


def transformed(weights: Weights, features: Tensor) -> Tensor:
    """Z (rows, dim) of features (rows, dim)."""
    hidden = F.linear(features, weights["up.weight"], weights["up.bias"])
    hidden = F.layer_norm(hidden, hidden.shape[1:]).relu()
    return features + weights["scale"] * F.linear(hidden, weights["down.weight"], weights["down.bias"])


def answer(weights: Weights, learned: Tensor) -> Tensor:
    """Logits (rows, classes) of Z (rows, dim)."""
    return F.linear(learned, weights["classify.weight"], weights["classify.bias"])


def _logits(weights: Weights, features: Tensor) -> Tensor:
    return answer(weights, transformed(weights, spread(features)))


def spread(features: Tensor) -> Tensor:
    """Unit features at a length at which an entry is about 1, or weights of the covariance term would mean nothing."""
    return math.sqrt(features.shape[-1]) * F.normalize(features, dim=-1)


def _shapes(dim: int, classes: int, ratio: int) -> dict[str, tuple[int, ...]]:
    return {
        "scale": (dim,),
        "up.weight": (ratio * dim, dim),
        "up.bias": (ratio * dim,),
        "down.weight": (dim, ratio * dim),
        "down.bias": (dim,),
        "classify.weight": (classes, dim),
        "classify.bias": (classes,),
    }


def _start(dim: int, classes: int, ratio: int, seed: int) -> Weights:
    """Uniform within 1 / sqrt(inputs), as PyTorch's linear layers; the scale is 1."""
    chance, weights = torch.Generator().manual_seed(seed), {}
    for name, shape in _shapes(dim, classes, ratio).items():
        bound = 1 / math.sqrt(ratio * dim if name.startswith("down") else dim)
        drawn = (torch.rand(shape, generator=chance) * 2 - 1) * bound
        weights[name] = (torch.ones(shape) if name == "scale" else drawn).requires_grad_()
    return weights
