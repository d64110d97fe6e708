"""Tuning against attacked images: one loop for every method, which differs in what it learns and what it minimises."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from titer.attacks.attack import Random, ascend
from titer.attacks.losses import cross_entropy, divergence
from titer.attacks.threat import Threat
from titer.defenses.fit import OptimiserName, minimise, parts
from titer.defenses.learners import Learner
from titer.defenses.task import Task, Weights
from titer.errors import InputError, unknown
from titer.features.store import Places
from titer.models.classifier import class_features
from titer.models.encoder import Encoder
from titer.results.robustness import check_budgets

InnerLoss = Literal["cross-entropy", "kl", "distance", "embedding"]
Prompting = Literal["on-the-fly", "constant", "perturbed"]

_NEAR_CHANCE = 0.02  # share of ln(classes) within which a loss counts as that of guessing
_VANISHED = 1e-2  # nats of a consistency term that no longer says anything
_PATIENCE = 8  # steps in a row that show both


@dataclass(frozen=True)
class Inner:
    """The attack of a training step: projected gradient ascent under linf, from a uniform start, its last iterate.

    Args:
        eps: linf budget, in [0, 1] pixel units; 0 for none.
        steps: of gradient ascent.
        step: length of one, as a share of eps.
        loss: ``cross-entropy``, ``kl`` from the clean answer, ``distance`` from the frozen features, or ``embedding``, the
            KL of unit features from the frozen ones, read as distributions over their entries.
        prompting: whose text features are attacked: the learned ones (``on-the-fly``), the class words' (``constant``), or
            learned ones that climb with the image (``perturbed``).
        ascent: learning rate of the text tokens in the ``perturbed`` attack.
        random: a uniform start in the budget, or the clean image.
    """

    eps: float
    steps: int
    step: float
    loss: InnerLoss = "cross-entropy"
    prompting: Prompting = "on-the-fly"
    ascent: float = 0.0
    random: bool = True

    def __post_init__(self) -> None:
        check_budgets("eps", (self.eps,), "linf")
        if self.eps < 0:
            raise InputError(f"eps: expected at least 0, got {self.eps:g}")
        if self.steps < 1:
            raise InputError(f"steps: expected at least 1, got {self.steps}")
        if self.prompting == "perturbed" and self.loss in ("distance", "embedding"):
            raise InputError(f"prompting: perturbed climbs a loss of answers, and {self.loss} is one of features")
        if self.step <= 0:
            raise InputError(f"step: expected a share of eps above 0, got {self.step:g}")
        for name, kind in (("loss", InnerLoss), ("prompting", Prompting)):
            if getattr(self, name) not in get_args(kind):
                raise unknown(name, str(getattr(self, name)), get_args(kind))


@dataclass(eq=False)
class Step:
    """What a training step can be made of. Everything is computed when an objective asks for it, and once.

    Args:
        learner: what is learned.
        encoder: the frozen model.
        words: its class features (classes, dim).
        images: clean (batch, 3, size, size).
        labels: (batch,).
        known: features (batch, dim), not unit, that the frozen model gives the clean images.
        inner: the attack.
        random: a stream for each image.
    """

    learner: Learner
    encoder: Encoder
    words: Tensor
    images: Tensor
    labels: Tensor
    known: Tensor
    inner: Inner
    random: Random

    @cached_property
    def class_features(self) -> Tensor:
        """Unit features (classes, dim) of the learned prompts: once for all images and the attack."""
        return self.learner.class_features(self.learner.weights)

    @cached_property
    def clean_features(self) -> Tensor:
        """Features (batch, dim) of the clean images, not unit."""
        return self.learner.image_features(self.learner.weights, self.images)

    @cached_property
    def attacked_features(self) -> Tensor:
        """Features (batch, dim) of the attacked images, not unit."""
        return self.learner.image_features(self.learner.weights, self.attacked_images)

    @cached_property
    def clean(self) -> Tensor:
        """Tuned logits (batch, classes) of the clean images."""
        return self.logits(self.clean_features, self.class_features)

    @cached_property
    def attacked(self) -> Tensor:
        """Tuned logits (batch, classes) of the attacked images."""
        return self.logits(self.attacked_features, self.class_features)

    @cached_property
    def frozen(self) -> Tensor:
        """Logits (batch, classes) of the frozen model for the clean images."""
        return self.logits(self.known, self.words)

    @cached_property
    def frozen_attacked(self) -> Tensor:
        """Logits (batch, classes) of the frozen model for the attacked images."""
        with torch.no_grad():
            return self.logits(self.encoder.encode_image(self.attacked_images), self.words)

    def noisy_features(self, sigmas: Sequence[float]) -> Tensor:
        """Features (batch, dim) of one noisy copy of each image, each with one of these standard deviations; not unit."""
        drawn = self.random.uniform()
        sigma = torch.tensor(sigmas)[(drawn * len(sigmas)).long().clamp_max(len(sigmas) - 1)]
        copies = self.images + (sigma[:, None, None, None] * self.random.normal(*self.images.shape[1:])).to(self.images)
        return self.learner.image_features(self.learner.weights, copies)

    def relit(self, most: float) -> Step:
        """The step on images in another light, each in its own: what is known is what the frozen model says of those.

        Args:
            most: largest logarithm of the factors of contrast and gamma; brightness moves by up to half of it.
        """
        contrast, brightness, gamma = (self.random.uniform(low=-most, high=most).to(self.images) for _ in range(3))
        mean = self.images.mean(dim=(1, 2, 3), keepdim=True)
        changed = (self.images - mean) * _of_rows(contrast.exp()) + mean + _of_rows(brightness / 2)
        # below the smallest positive value a root has no finite slope
        shown = changed.clamp(1e-4, 1) ** _of_rows(gamma.exp())
        with torch.no_grad():
            return replace(self, images=shown, known=self.encoder.image_features(shown))

    def logits(self, features: Tensor, words: Tensor) -> Tensor:
        """Scaled cosine."""
        return self.encoder.logit_scale * F.normalize(features, dim=-1) @ words.T

    @cached_property
    def attacked_images(self) -> Tensor:
        """Images within the budget that raise the inner loss; no graph reaches the learned tensors."""
        if self.inner.eps == 0:
            return self.images
        threat = Threat("linf", self.inner.eps)
        fixed = {name: weight.detach() for name, weight in self.learner.weights.items()}
        current = self.random.within(self.images, threat) if self.inner.random else self.images
        words, loss = self._target(fixed), self._loss()

        def features(shown: Tensor) -> Tensor:
            return self.learner.image_features(fixed, shown)

        for _ in range(self.inner.steps):
            if self.inner.prompting == "perturbed":
                fixed, words = self._climbed(fixed, current, loss)
            gradient, _, _ = ascend(features, current, lambda found: loss(found, words))  # noqa: B023
            current = threat.project(
                current + self.inner.step * self.inner.eps * threat.steepest(gradient), self.images
            )
        return current

    def _target(self, fixed: Mapping[str, Tensor]) -> Tensor:
        """The class features that are attacked."""
        if self.inner.prompting == "constant":
            return self.words
        return (
            self.class_features.detach() if self.inner.prompting == "on-the-fly" else self.learner.class_features(fixed)
        )

    def _loss(self) -> Callable[[Tensor, Tensor], Tensor]:
        if self.inner.loss == "distance":
            return lambda features, words: (features - self.known).square().sum(dim=1)  # noqa: ARG005
        if self.inner.loss == "embedding":
            unit = F.normalize(self.known, dim=-1)
            return lambda features, words: divergence(F.normalize(features, dim=-1), unit)  # noqa: ARG005
        if self.inner.loss == "kl":
            clean = self.clean.detach()
            return lambda features, words: divergence(self.logits(features, words), clean)
        return lambda features, words: cross_entropy(self.logits(features, words), self.labels)

    def _climbed(
        self, fixed: Mapping[str, Tensor], images: Tensor, loss: Callable[[Tensor, Tensor], Tensor]
    ) -> tuple[Weights, Tensor]:
        """Text tokens after a step that raises the inner loss, and their class features."""
        moving = {name: weight.clone().requires_grad_(name.startswith("text.")) for name, weight in fixed.items()}
        text = [name for name in moving if name.startswith("text.")]
        total = loss(self.learner.image_features(fixed, images), self.learner.class_features(moving)).mean()
        for name, gradient in zip(text, torch.autograd.grad(total, [moving[name] for name in text]), strict=True):
            moving[name] = moving[name] + self.inner.ascent * gradient
        climbed = {name: weight.detach() for name, weight in moving.items()}
        return climbed, self.learner.class_features(climbed)


def _of_rows(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)


Objective = Callable[[Step], tuple[Tensor, Tensor | None]]
"""What fits the labels, and a consistency term that is added with a weight, if there is one."""


class CollapseError(Exception):
    """The learned model says the same of every image: clean and attacked answers agree, and say nothing."""


@dataclass
class Watch:
    """Looks for the trivial solution of a consistency term (FAP, NeurIPS 2024, figure 5).

    Args:
        classes: number of classes.
        steps: of the whole fit; the first quarter is not looked at, since a weak model begins by guessing.
        stops: whether a collapse ends the fit.
        done: steps so far.
        seen: steps in a row at which the fitting term was that of guessing and the consistency term nearly nothing.
        collapsed: whether that has lasted.
    """

    classes: int
    steps: int
    stops: bool = True
    done: int = 0
    seen: int = 0
    collapsed: bool = False

    def see(self, fitting: float, consistency: float) -> None:
        """One step.

        Raises:
            CollapseError: after several that show it, where it should stop.
        """
        self.done += 1
        guess = math.log(self.classes)
        lost = abs(fitting - guess) < _NEAR_CHANCE * guess and consistency < _VANISHED
        self.seen = self.seen + 1 if lost and 4 * self.done > self.steps else 0
        self.collapsed = self.seen >= _PATIENCE
        if self.collapsed and self.stops:
            raise CollapseError


@dataclass(frozen=True)
class Schedule:
    """How a fit goes through its images.

    Args:
        epochs: passes.
        batch: images in a step; all where None.
        learning_rate, optimiser, warmup_rate, weight_decay: see ``minimise``.
    """

    epochs: int
    batch: int | None
    learning_rate: float
    optimiser: OptimiserName = "sgd"
    warmup_rate: float | None = 1e-5
    weight_decay: float | None = None

    def steps(self, images: int) -> int:
        """Of the whole fit."""
        return self.epochs * max(1, images // (self.batch or images))

    def __post_init__(self) -> None:
        for name in ("epochs", "batch"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name}: expected at least 1, got {value}")
        if self.learning_rate <= 0:
            raise InputError(f"learning_rate: expected above 0, got {self.learning_rate:g}")
        if self.optimiser not in get_args(OptimiserName):
            raise unknown("optimiser", str(self.optimiser), get_args(OptimiserName))


def tune(
    task: Task,
    learner: Learner,
    objective: Objective,
    inner: Inner,
    schedule: Schedule,
    watch: Watch,
    weight: float = 1.0,
    ramp: float = 0.0,
) -> tuple[float, ...]:
    """Change the learner's weights in place.

    Args:
        task: images, labelled unless the objective does without.
        learner: what is learned.
        objective: of a step.
        inner: the attack of a step.
        schedule: epochs, batches and rates.
        watch: sees each step.
        weight: of the consistency term.
        ramp: share of all steps in which the weight grows from 0.

    Returns:
        Mean loss of each epoch.

    Raises:
        CollapseError: see ``Watch``; the weights are then of no use.
    """
    device = task.encoder.device
    words, known = class_features(task.encoder, task.classes), task.features.to(device)
    labels = (torch.full((len(task.ids),), -1) if task.labels is None else task.targets).to(device)

    def loss(epoch: int, part: Places) -> Tensor:
        ids, places = [task.ids[place] for place in part.tolist()], torch.from_numpy(part)
        images = torch.stack([task.kept(place) for place in part.tolist()]).to(device)
        random = Random(task.seed, f"fit {epoch}", ids)
        step = Step(learner, task.encoder, words, images, labels[places], known[places], inner, random)
        fitting, consistency = objective(step)
        if consistency is None:
            return fitting
        share = watch.done / watch.steps
        watch.see(float(fitting.detach()), float(consistency.detach()))
        return fitting + weight * (1.0 if share >= ramp else share / ramp) * consistency

    return descend(task, learner, schedule, loss)


def descend(
    task: Task, learner: Learner, schedule: Schedule, loss: Callable[[int, Places], Tensor]
) -> tuple[float, ...]:
    """Change the learner's weights in place: gradient descent over batches of the task's images in ever new orders.

    Args:
        task: the images.
        learner: what is learned.
        schedule: epochs, batches and rates.
        loss: epoch, and places of a batch's images -> what its step minimises.

    Returns:
        Mean loss of each epoch.
    """
    chance = np.random.default_rng([task.seed, 5])
    for tensor in learner.weights.values():
        tensor.requires_grad_()

    def losses(epoch: int) -> list[Callable[[], Tensor]]:
        batches = parts(chance.permutation(len(task.ids)), schedule.batch)
        return [lambda part=part: loss(epoch, part) for part in batches]  # type: ignore[misc]

    return minimise(
        list(learner.weights.values()),
        losses,
        schedule.epochs,
        schedule.learning_rate,
        schedule.optimiser,
        schedule.warmup_rate,
        schedule.weight_decay,
    )
