"""What every defense is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from titer.defenses.task import Fitted, Task, Weights
from titer.models.classifier import Classifier, Named
from titer.models.encoder import Encoder


class Defense(Protocol):
    """A frozen dataclass whose fields are all of its settings."""

    @property
    def needs_labels(self) -> bool:
        """Whether the fit uses the labels of its images."""

    @property
    def class_bound(self) -> bool:
        """Whether what is learned belongs to the classes it was learned on."""

    @property
    def noise(self) -> tuple[float, ...]:
        """Standard deviations of the noise in training, in [0, 1] pixel units; empty where there is none."""

    # needs_images, where a defense says it: False for a fit that takes over a file and looks at no image

    def fit(self, task: Task) -> Fitted:
        """Learn from the task's images.

        Raises:
            InputError: for settings that do not fit the encoder or the data.
        """

    def classifier(self, encoder: Encoder, classes: Sequence[Named], weights: Weights, name: str) -> Classifier:
        """The classifier that fitted weights make on an encoder, for these classes in this order."""


def needs_images(defense: Defense) -> bool:
    """Whether a fit looks at images; not where it takes over a file that someone else has learned."""
    return bool(getattr(defense, "needs_images", True))
