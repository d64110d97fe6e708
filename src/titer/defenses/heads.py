"""Heads on frozen image features: what a user would try before learning a prompt.

linear-probe  logistic regression, without a word of text: what the features alone can tell.
residual      class words' features with a learned vector added to each (TaskRes: Yu et al., CVPR 2023, arXiv 2211.10277).

Both learn from the same stored features as text prompts do, so a comparison differs in the head alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits
from torch import Tensor

from titer.defenses.attacked import attacked_store
from titer.defenses.coop import copies_of
from titer.defenses.fit import minimise
from titer.defenses.objectives import cross_entropy, label_loss
from titer.defenses.task import MIXED, Fitted, Task, Weights, check_sigmas
from titer.errors import InputError, unknown
from titer.features.store import FeatureStore
from titer.models.classifier import Classifier, Head, Named, cosine_head
from titer.models.encoder import Encoder
from titer.models.weights import fingerprint_of
from titer.noise import BLOCK
from titer.results.robustness import check_budgets

Images = Literal["noisy", "clean", "attacked"]

_STORE = 200  # noisy copies of each image that are kept: as many as text prompts keep, so that a cache serves both
_ITERATIONS = 200  # of L-BFGS at most; the penalty makes the problem well-posed, and the answer settles long before


@dataclass(frozen=True)
class LinearProbe:
    """Multinomial logistic regression on unit image features (scikit-learn's, with its L2 penalty).

    Args:
        images: what it learns from: noisy, clean or attacked.
        eps: linf budget of ``attacked``, in [0, 1] pixel units; the feature is attacked, no label is looked at.
        sigmas: noise of the training copies, in [0, 1] pixel units; all levels of the project's mix unless given.
        copies: noisy copies of each image.
        strength: inverse weight of the penalty (scikit-learn's C).
    """

    images: Images = "noisy"
    eps: float = 1 / 255
    sigmas: tuple[float, ...] | None = None
    copies: int = 50
    strength: float = 10.0

    needs_labels: ClassVar[bool] = True
    needs_images: ClassVar[bool] = True
    class_bound: ClassVar[bool] = True
    several_labels: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_images(self.images, self.sigmas, self.eps)
        if not 1 <= self.copies <= _STORE:
            raise InputError(f"copies: expected 1 to {_STORE}, got {self.copies}")
        if self.strength <= 0:
            raise InputError(f"strength: expected above 0, got {self.strength:g}")

    @property
    def noise(self) -> tuple[float, ...]:
        """Standard deviations of the noise in training."""
        return noise_of(self.images, self.sigmas)

    def fit(self, task: Task) -> Fitted:
        """Solve the regression."""
        store = _stored(task, self)
        copies = min(self.copies, store.draws) if self.images != "clean" else 1
        features = store.rows(np.arange(len(task.ids)), np.arange(copies)).flatten(0, 1)
        labels = task.targets.repeat_interleave(copies, dim=0)
        with threadpool_limits(1):  # the answer must not depend on the number of cores
            weights = self._solved(features, labels) if task.exclusive else self._solved_apart(features, labels)
        logits = _affine(weights["weight"], weights["bias"], features)
        objective = "cross-entropy" if task.exclusive else "binary cross-entropy"
        predictions = logits.argmax(dim=-1) if task.exclusive else None
        return Fitted(weights, (float(label_loss(logits, labels)),), predictions, {"objective": objective})

    def _solved(self, features: Tensor, labels: Tensor) -> Weights:
        solved = LogisticRegression(C=self.strength, max_iter=_ITERATIONS).fit(features.numpy(), labels.numpy())
        return _two_rows(torch.from_numpy(solved.coef_).float(), torch.from_numpy(solved.intercept_).float())

    def _solved_apart(self, features: Tensor, findings: Tensor) -> Weights:
        """A regression for each finding, on the images of which it is known."""
        rows, biases = [], []
        for there in findings.T:
            known = ~there.isnan()
            solved = LogisticRegression(C=self.strength, max_iter=_ITERATIONS).fit(
                features[known].numpy(), there[known].numpy()
            )
            rows.append(torch.from_numpy(solved.coef_[0]).float())
            biases.append(torch.from_numpy(solved.intercept_).float())
        return {"weight": torch.stack(rows), "bias": torch.cat(biases)}

    def classifier(self, encoder: Encoder, classes: Sequence[Named], weights: Weights, name: str) -> Classifier:
        """The classifier that these weights make."""
        weight, bias = (weights[key].to(encoder.device) for key in ("weight", "bias"))
        if weight.shape != (len(classes), encoder.dim) or bias.shape != (len(classes),):
            raise InputError(
                f"linear-probe: expected a weight ({len(classes)}, {encoder.dim}), got {tuple(weight.shape)}"
            )
        return _classifier(encoder, classes, weights, name, partial(_affine, weight, bias))


@dataclass(frozen=True)
class Residual:
    """Class features = unit(words' feature + share * learned vector), one vector for each class.

    Args:
        images: what it learns from: noisy, clean or attacked.
        eps: linf budget of ``attacked``, in [0, 1] pixel units; the feature is attacked, no label is looked at.
        sigmas: noise of the training copies, in [0, 1] pixel units; all levels of the project's mix unless given.
        share: of the learned vector.
        scale: logit scale of the loss. The answer does not depend on it.
        epochs, learning_rate: of Adam, with a cosine schedule.
        copies: noisy copies of each image in an epoch.
    """

    images: Images = "noisy"
    eps: float = 1 / 255
    sigmas: tuple[float, ...] | None = None
    share: float = 1.0
    scale: float = 40.0
    epochs: int = 300
    learning_rate: float = 0.01
    copies: int = 8

    needs_labels: ClassVar[bool] = True
    needs_images: ClassVar[bool] = True
    class_bound: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_images(self.images, self.sigmas, self.eps)
        for name in ("share", "scale", "epochs", "learning_rate", "copies"):
            if getattr(self, name) <= 0:
                raise InputError(f"{name}: expected above 0, got {getattr(self, name)}")

    @property
    def noise(self) -> tuple[float, ...]:
        """Standard deviations of the noise in training."""
        return noise_of(self.images, self.sigmas)

    def fit(self, task: Task) -> Fitted:
        """Learn the vectors, from zero: the start is the zero-shot answer."""
        store, chance = _stored(task, self), np.random.default_rng([task.seed, 1])
        texts = task.encoder.encode_text(task.texts).cpu()
        residual = torch.zeros_like(texts).requires_grad_()
        everywhere, drawn = np.arange(len(task.ids)), 1 if self.images == "clean" else min(self.copies, store.draws)

        def logits_of(copies: np.ndarray) -> Tensor:
            class_features = self._class_features(texts, residual)
            return self.scale * (store.rows(everywhere, copies) @ class_features.T).flatten(0, 1)

        def losses(epoch: int) -> list[Callable[[], Tensor]]:
            labels = task.targets.repeat_interleave(drawn)
            return [lambda: cross_entropy(logits_of(copies_of(epoch, drawn, store.draws, chance)), labels)]

        history = minimise([residual], losses, self.epochs, self.learning_rate)
        with torch.no_grad():
            predictions = logits_of(np.arange(min(BLOCK, store.draws))).argmax(dim=-1)
        return Fitted({"residual": residual.detach()}, history, predictions, {"objective": "cross-entropy"})

    def classifier(self, encoder: Encoder, classes: Sequence[Named], weights: Weights, name: str) -> Classifier:
        """The classifier that these weights make."""
        texts, residual = encoder.encode_text([named.texts[0] for named in classes]), weights["residual"]
        if residual.shape != texts.shape:
            raise InputError(f"residual: expected vectors {tuple(texts.shape)}, got {tuple(residual.shape)}")
        features = self._class_features(texts, residual.to(encoder.device))
        return _classifier(encoder, classes, {"features": features}, name, cosine_head(features, encoder.logit_scale))

    def _class_features(self, texts: Tensor, residual: Tensor) -> Tensor:
        return F.normalize(texts + self.share * residual, dim=-1)


def _classifier(encoder: Encoder, classes: Sequence[Named], weights: Weights, name: str, head: Head) -> Classifier:
    labels = tuple(named.label for named in classes)
    return Classifier(name, encoder, head, labels, fingerprint_of(weights, "head", labels))


def check_images(images: str, sigmas: tuple[float, ...] | None, eps: float) -> None:
    """Refuse what a head cannot learn from.

    Raises:
        InputError: naming the setting.
    """
    check_budgets("eps", (eps,), "linf")
    if eps <= 0:
        raise InputError(f"eps: expected above 0, got {eps:g}")
    if images not in get_args(Images):
        raise unknown("images", images, get_args(Images))
    if sigmas is not None:
        check_sigmas(sigmas)


def noise_of(images: Images, sigmas: tuple[float, ...] | None) -> tuple[float, ...]:
    """Standard deviations of the noise that a head learns from; the project's mix unless given."""
    if images != "noisy":
        return ()
    return MIXED if sigmas is None else sigmas


def _stored(task: Task, head: LinearProbe | Residual) -> FeatureStore:
    """Clean copies are all alike, so one block of them is enough."""
    if head.images == "attacked":
        return attacked_store(task, head.eps)
    return task.store(head.noise, _STORE) if head.noise else task.store((0.0,), BLOCK)


def _two_rows(weight: Tensor, bias: Tensor) -> Weights:
    """Of two classes scikit-learn gives the difference alone."""
    if len(weight) > 1:
        return {"weight": weight, "bias": bias}
    return {"weight": torch.cat([-weight, weight]) / 2, "bias": torch.cat([-bias, bias]) / 2}


def _affine(weight: Tensor, bias: Tensor, features: Tensor) -> Tensor:
    return features @ weight.T + bias
