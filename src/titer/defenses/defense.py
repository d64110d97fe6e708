"""What every defense is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from titer.defenses.task import Fitted, Task, Weights
from titer.models.classifier import Classifier, Named
from titer.models.encoder import Encoder
from titer.models.fusion import Answerer


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
    # several_labels, where a defense says it: True for a fit that takes several labels for an image

    def fit(self, task: Task) -> Fitted:
        """Learn from the task's images.

        Raises:
            InputError: for settings that do not fit the encoder or the data.
        """

    def classifier(self, encoder: Encoder, classes: Sequence[Named], weights: Weights, name: str) -> Classifier:
        """The classifier that fitted weights make on an encoder, for these classes in this order."""


@runtime_checkable
class QuestionDefense(Protocol):
    """The same for questions: the classes are answers, and what is made of the weights takes an image and a question."""

    def fit(self, task: Task) -> Fitted:
        """Learn from the task's images and questions.

        Raises:
            InputError: for settings that do not fit the encoder or the data.
        """

    def answerer(
        self, encoder: Encoder, classes: Sequence[Named], weights: Weights, name: str, notes: Mapping[str, Any]
    ) -> Answerer:
        """What fitted weights and the notes of their fit make on an encoder, for these answers in this order."""


def needs_images(defense: Defense) -> bool:
    """Whether a fit looks at images; not where it takes over a file that someone else has learned."""
    return bool(getattr(defense, "needs_images", True))


def takes_several_labels(defense: Defense) -> bool:
    """Whether a fit can learn findings, of which an image may have several."""
    return bool(getattr(defense, "several_labels", False))
