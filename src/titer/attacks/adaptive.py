"""Attacks that know what defends: noise, steps without a derivative, and adaptation to the image shown.

Athalye, Carlini and Wagner (ICML 2018, arXiv 1802.00420) name the three: expectation over randomness, a backward pass
that differs from the forward one, and following the defense. Against a smoothed classifier the first is SmoothAdv
(Salman et al., NeurIPS 2019, arXiv 1906.04584).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from titer.attacks.attack import Model, Random, answers, ascend
from titer.attacks.losses import cross_entropy, margin
from titer.attacks.pgd import better
from titer.attacks.threat import Norm, Threat
from titer.errors import InputError

Deployed = Callable[[Tensor], Model]
"""Images (batch, 3, size, size) -> the model that a system which adapts to its input answers them with."""


@dataclass(frozen=True, eq=False)
class Smoothed:
    """The logarithm of the mean prediction over noisy copies: a model like any other.

    Its cross entropy is SmoothAdv's loss, -log mean_k softmax(f(x + noise_k))_y. The noise belongs to the model and not to
    a row's place, so a part of a batch is answered as the whole batch is.

    Args:
        model: noisy copies -> logits; it may take several copies for one row of logits, but an image's must stand together.
        noise: (copies, 3, size, size) for all images alike, or (batch, copies, 3, size, size).
    """

    model: Model
    noise: Tensor

    def __call__(self, images: Tensor) -> Tensor:
        """Log probabilities (batch, classes) of images (batch, 3, size, size)."""
        copies = images[:, None] + self.noise.to(images.device)
        logits = self.model(copies.flatten(0, 1)).float()
        votes = logits.log_softmax(dim=-1).view(len(images), -1, logits.shape[-1])
        mean: Tensor = votes.logsumexp(dim=1) - math.log(votes.shape[1])
        return mean


@dataclass(frozen=True)
class SmoothAdv:
    """Projected gradient ascent on the smoothed classifier; every step has fresh noise.

    Args:
        sigma: standard deviation of the noise, in [0, 1] pixel units.
        draws: noisy copies in each expectation.
        steps: gradient steps of each restart.
        step: length of a step, as a share of epsilon.
        restarts: the first starts at the clean image, further ones within the budget; the best of each image counts.
    """

    sigma: float = 0.25
    draws: int = 16
    steps: int = 20
    step: float = 0.2
    restarts: int = 1

    needs_gradient: ClassVar[bool] = True
    norms: ClassVar[tuple[Norm, ...]] = ("linf", "l2")

    def __post_init__(self) -> None:
        for name in ("draws", "steps", "restarts"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}: expected at least 1, got {getattr(self, name)}")
        if not self.step > 0:
            raise InputError(f"step: expected a share of epsilon above 0, got {self.step:g}")
        if not 0 < self.sigma < float("inf"):
            raise InputError(f"sigma: expected a standard deviation above 0 in [0, 1] pixels, got {self.sigma:g}")

    def __call__(self, model: Model, images: Tensor, labels: Tensor, threat: Threat, random: Random) -> Tensor:
        """The images that the smoothed model should get wrong."""
        return self.follow(_always(model), images, labels, threat, random)

    def follow(self, deployed: Deployed, images: Tensor, labels: Tensor, threat: Threat, random: Random) -> Tensor:
        """The same against a system that adapts to the image it is shown: it does so again at every step.

        Within a step the adapted state is held fixed. Differentiating through the adaptation would add nothing: its first
        AdamW step is rate * sign(gradient), whose derivative is zero almost everywhere.

        Args:
            deployed: images -> the model that is adapted to them.
            images: clean images (batch, 3, size, size) in [0, 1].
            labels: the classes (batch,) to be left.
            threat: norm and budget.
            random: of the noise and the starts.

        Raises:
            InputError: if a model gives no gradient.
        """
        starts = [images, *(random.within(images, threat) for _ in range(self.restarts - 1))]
        found = [self._climbed(deployed, start, images, labels, threat, random) for start in starts]
        return self.strongest(deployed, found, labels, random)

    def strongest(self, deployed: Deployed, candidates: Sequence[Tensor], labels: Tensor, random: Random) -> Tensor:
        """Of several images for each row the one of highest margin, judged on the same noise, which no step has seen.

        Args:
            deployed: images -> the model that is adapted to them.
            candidates: each (batch, 3, size, size).
            labels: the classes (batch,) to be left.
            random: of the noise.
        """
        best, *others = candidates
        if not others:
            return best
        noise = self._noise(best, random)

        def reached(images: Tensor) -> Tensor:
            return margin(answers(Smoothed(deployed(images), noise), images), labels)

        highest = reached(best)
        for other in others:
            best, highest = better(best, highest, other, reached(other))
        return best

    def _climbed(
        self, deployed: Deployed, start: Tensor, clean: Tensor, labels: Tensor, threat: Threat, random: Random
    ) -> Tensor:
        current, loss = start, partial(cross_entropy, labels=labels)
        for _ in range(self.steps):
            gradient, _, _ = ascend(Smoothed(deployed(current), self._noise(clean, random)), current, loss)
            current = threat.project(current + self.step * threat.epsilon * threat.steepest(gradient), clean)
        return current

    def _noise(self, images: Tensor, random: Random) -> Tensor:
        return self.sigma * random.normal(self.draws, *images.shape[1:])


def _always(model: Model) -> Deployed:
    def deployed(images: Tensor) -> Model:  # noqa: ARG001
        return model

    return deployed


def straight_through(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The same function, whose derivative is taken to be that of the identity (backward pass differentiable approximation).

    Args:
        function: a step without a useful derivative that keeps the shape, such as rounding to 8 bits.
    """

    def passed(images: Tensor) -> Tensor:
        found: Tensor = _Through.apply(images, function)  # type: ignore[no-untyped-call]
        return found

    return passed


class _Through(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:  # noqa: ARG004
        found = function(images)
        if found.shape != images.shape:
            raise InputError(
                f"straight_through: expected a function that keeps the shape {tuple(images.shape)}, got {tuple(found.shape)}"
            )
        return found

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:  # noqa: ARG004
        return gradients[0], None
