"""What a defense learns from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from titer.errors import InputError
from titer.features.store import FeatureStore, build_store
from titer.features.views import CropAndFlip
from titer.models.classifier import Named
from titer.models.encoder import Encoder

Weights = dict[str, Tensor]

_KEPT = 512  # images that a fit keeps in memory: 310 MB at 224 pixels

MIXED = (0.1, 0.25, 0.5, 1.0)
"""Noise levels of fits that serve all of them, in [0, 1] pixel units."""


def check_sigmas(sigmas: Sequence[float]) -> None:
    """Refuse noise levels that a fit cannot learn from: none at all, or one below 0.

    Raises:
        InputError: naming them.
    """
    if not sigmas or min(sigmas) < 0:
        raise InputError(f"sigmas: expected one or more numbers of at least 0, got {list(sigmas)}")


@dataclass(frozen=True, eq=False)
class Task:
    """An encoder, the classes to tell apart, and images of them.

    Args:
        encoder: the frozen dual encoder.
        classes: class names and texts.
        ids: of the images.
        labels: class of each image, or of several findings whether each is there (1, 0, or nan where that is not known); None
            where labels are not used.
        image: place -> image (3, size, size) in [0, 1].
        seed: of everything random in the fit.
        cache: where feature stores are kept; in memory unless given.
        workers: threads that make features. Changes no number.
        copies: attacked copies of each image that a head learns from.
        questions: one for each image, where the classes are answers; an image with several questions is there as often.
    """

    encoder: Encoder
    classes: Sequence[Named]
    ids: Sequence[str]
    labels: Sequence[int] | Sequence[Sequence[float]] | None
    image: Callable[[int], Tensor]
    seed: int
    cache: Path | None = None
    workers: int = 1
    questions: Sequence[str] = ()
    copies: int = 8

    def encoder_of(self, places: Sequence[int]) -> Encoder:  # noqa: ARG002
        """What encodes the images at these places: the same for all, but where a question has a part in their features."""
        return self.encoder

    @property
    def texts(self) -> tuple[str, ...]:
        """The (first) text of each class, which a learned context stands in front of."""
        return tuple(named.texts[0] for named in self.classes)

    @cached_property
    def targets(self) -> Tensor:
        """Labels (images,), or findings (images, classes).

        Raises:
            InputError: if there are none.
        """
        if self.labels is None:
            raise InputError("this fit needs labelled images")
        return torch.tensor(self.labels)

    @property
    def exclusive(self) -> bool:
        """Whether an image is of one class; else classes are findings, of which it may have several."""
        return self.targets.ndim == 1

    def store(self, sigmas: Sequence[float], draws: int, views: CropAndFlip | None = None) -> FeatureStore:
        """Features of noisy copies of all images."""
        return build_store(
            self.encoder,
            self.image,
            self.ids,
            sigmas,
            draws,
            self.seed,
            views=views,
            directory=self.cache,
            workers=self.workers,
        )

    @cached_property
    def kept(self) -> Callable[[int], Tensor]:
        """``image`` for fits that look at an image again and again: as many as fit in memory are read once."""
        return lru_cache(_KEPT)(self.image)

    @cached_property
    def features(self) -> Tensor:
        """Features (images, dim), not unit, that the frozen encoder gives the images without noise."""
        with torch.inference_mode():
            rows = [
                self.encoder_of([place]).image_features(self.kept(place)[None]).cpu() for place in range(len(self.ids))
            ]
        return torch.cat(rows).clone()

    @cached_property
    def clean(self) -> Tensor:
        """The same, unit."""
        return F.normalize(self.features, dim=-1)


@dataclass(frozen=True, eq=False)
class Fitted:
    """What a fit has learned.

    Args:
        weights: tensors by name, of which the defense can make its classifier again.
        losses: mean loss of each epoch.
        predictions: class that the fitted classifier gives each noisy training copy; None where there is none.
        notes: facts for the adapter's configuration.
        foreign: entries of the configuration beside ours, for another library that can read the weights.
        warnings: what every record of it should say.
    """

    weights: Weights
    losses: tuple[float, ...]
    predictions: Tensor | None = None
    notes: dict[str, object] = field(default_factory=dict)
    foreign: dict[str, object] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
