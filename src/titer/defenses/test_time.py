"""TPT: test-time prompt tuning without noise (Shu et al., NeurIPS 2022, arXiv 2209.07511).

One entropy step for each image shown, on those of its random crops that the model is most certain of. The state
depends on the clean image, and needs crops of it, so a certificate can only be conditional.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from titer.defenses.adaptation import after_steps
from titer.defenses.objectives import marginal_entropy
from titer.defenses.task import Fitted, Task, Weights
from titer.errors import InputError
from titer.features.views import CropAndFlip
from titer.models.classifier import Classifier, Head, Named, cosine_head
from titer.models.encoder import Encoder
from titer.models.prompts import Sentences, count_tokens, sentences
from titer.models.weights import fingerprint_of


@dataclass(frozen=True)
class Tpt:
    """A context that starts from words and is tuned to each image shown.

    Args:
        words: what stands in front of the class's text; all of its tokens are tuned.
        views: the image itself and random crops and flips of it.
        certain: share of the views that are kept, those of lowest entropy.
        steps: of AdamW.
        rate: its learning rate.
    """

    words: str = "a medical image of"
    views: int = 64
    certain: float = 0.1
    steps: int = 1
    rate: float = 5e-3

    needs_labels: ClassVar[bool] = False
    needs_images: ClassVar[bool] = False
    class_bound: ClassVar[bool] = False
    noise: ClassVar[tuple[float, ...]] = ()

    def __post_init__(self) -> None:
        for name in ("views", "steps"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}: expected at least 1, got {getattr(self, name)}")
        if not 0 < self.certain <= 1:
            raise InputError(f"certain: expected a share above 0 and at most 1, got {self.certain:g}")
        if self.rate <= 0:
            raise InputError(f"rate: expected above 0, got {self.rate:g}")
        if not self.words.strip():
            raise InputError("words: expected at least one; they are what is tuned")

    def fit(self, task: Task) -> Fitted:
        """The words' embeddings: all learning is done when an image is shown."""
        return Fitted({"context": self._places(task.encoder, task.classes).embeddings()}, ())

    def classifier(self, encoder: Encoder, classes: Sequence[Named], weights: Weights, name: str) -> Classifier:
        """The classifier that these weights make."""
        labels = tuple(named.label for named in classes)
        tuning = _Tuning(self, self._places(encoder, classes), weights["context"].to(encoder.device), encoder)
        return Classifier(
            name=name,
            encoder=encoder,
            head=cosine_head(tuning.untuned, encoder.logit_scale),
            classes=labels,
            fingerprint=fingerprint_of({"class features": tuning.untuned}, "tpt", vars(self), labels),
            adaptation=tuning,
        )

    def _places(self, encoder: Encoder, classes: Sequence[Named]) -> Sentences:
        tokens = count_tokens(encoder, self.words)
        return sentences(encoder, [named.texts[0] for named in classes], tokens, self.words)


@dataclass(frozen=True, eq=False)
class _Tuning:
    """The step for one image.

    Args:
        method: its settings.
        places: the classes' sentences.
        context: where every image starts.
        encoder: whose features the views have.
    """

    method: Tpt
    places: Sentences
    context: Tensor
    encoder: Encoder

    guarantees: ClassVar[tuple[str, ...]] = ("conditional",)
    copies: ClassVar[int] = 0

    @property
    def untuned(self) -> Tensor:
        """Class features (classes, dim) before the step."""
        with torch.no_grad():
            features: Tensor = self.places.features(self.context)
        return features

    def to_image(
        self, encoder: Encoder, image: Tensor, sample: str, sigma: float, seed: int, channels: int = 3
    ) -> Head:
        """The head tuned to views of one clean image; the noise of its certificate plays no part."""
        del sigma, channels
        crop = CropAndFlip()
        views = torch.stack([image, *(crop(image, sample, seed, view) for view in range(1, self.method.views))])
        with torch.no_grad():
            chosen = self.most_certain(encoder.encode_image(views))
        scale = encoder.logit_scale
        tuned = after_steps(self.places, self.context, chosen, scale, self.method.steps, self.method.rate)
        return cosine_head(tuned, scale)

    def most_certain(self, features: Tensor) -> Tensor:
        """Of the views' features (views, dim) those whose predictions have the lowest entropy, at least one."""
        doubt = marginal_entropy((self.encoder.logit_scale * features @ self.untuned.T)[:, None])
        return features[doubt.argsort(stable=True)[: max(1, int(self.method.certain * len(features)))]]

    def to_copies(self, copies: Tensor, features: Tensor) -> Tensor:
        """Not offered: views are crops of an image, and a draw's features cannot be cropped."""
        del copies, features
        raise AssertionError(f"guarantees are {self.guarantees}")
