"""An attack on the features themselves, which knows neither classes nor labels (FARE's: Schlarmann et al., ICML 2024)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from torch import Tensor

from titer.attacks.attack import Model, Random, answers
from titer.attacks.pgd import better, climb
from titer.attacks.threat import Norm, Threat
from titer.errors import InputError


@dataclass(frozen=True)
class Embedding:
    """Projected gradient ascent of the squared distance between the features of an image and of the clean one.

    It harms whatever is built on the encoder; against one classifier it is weaker than an attack on that classifier's
    logits.

    Args:
        steps: gradient steps of each restart.
        step: length of a step, as a share of epsilon.
        restarts: independent starts; the farthest image counts.
    """

    steps: int = 50
    step: float = 0.1
    restarts: int = 1

    needs_gradient: ClassVar[bool] = True
    norms: ClassVar[tuple[Norm, ...]] = ("linf", "l2", "l1")
    of_features: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name in ("steps", "restarts"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}: expected at least 1, got {getattr(self, name)}")
        if not self.step > 0:
            raise InputError(f"step: expected a share of epsilon above 0, got {self.step:g}")

    def __call__(self, model: Model, images: Tensor, labels: Tensor, threat: Threat, random: Random) -> Tensor:
        """The images whose features are farthest from the clean ones.

        Args:
            model: images -> unit features (batch, dim).
            images: clean images.
            labels: not used.
            threat: norm and budget.
            random: of the starts.
        """
        del labels
        away = partial(squared_distance, clean=answers(model, images))
        best, farthest = images, images.new_zeros(len(images))
        for _ in range(self.restarts):
            start = random.within(images, threat)
            _, found = climb(model, images, start, away, away, threat, self.steps, self.step)
            best, farthest = better(best, farthest, *found)
        return best


def squared_distance(features: Tensor, clean: Tensor) -> Tensor:
    """Squared Euclidean distance (batch,) of features (batch, dim) from those of the clean images."""
    return (features - clean).square().sum(dim=1)
