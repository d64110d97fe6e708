"""Classifiers: images to logits over named classes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from titer.errors import InputError
from titer.models.encoder import Encoder
from titer.models.weights import fingerprint_of


class Named(Protocol):
    """A class with the whole texts shown for it."""

    @property
    def label(self) -> str:
        """The class's name."""

    @property
    def texts(self) -> tuple[str, ...]:
        """Its texts."""


@dataclass(frozen=True, eq=False)
class Classifier:
    """An encoder and a head on its features. Classifiers on one encoder share the cost of its image tower.

    Args:
        name: what records call it.
        encoder: images -> unit features.
        head: unit features (batch, dim) -> logits (batch, classes).
        classes: class names, in order of the logits.
        fingerprint: of all that is not in the encoder.
        adapts_to_input: whether its state depends on the clean image shown.
    """

    name: str
    encoder: Encoder
    head: Callable[[Tensor], Tensor]
    classes: tuple[str, ...]
    fingerprint: str
    adapts_to_input: bool = False

    def __call__(self, images: Tensor) -> Tensor:
        """Logits (batch, classes) of images (batch, 3, size, size) in [0, 1]."""
        return self.head(self.encoder.encode_image(images))


def zero_shot(encoder: Encoder, classes: Sequence[Named], template: str = "{}", name: str = "zero-shot") -> Classifier:
    """The class whose text is nearest; of several texts the unit features are averaged. Texts are encoded once, here.

    Args:
        encoder: the dual encoder.
        classes: class names and texts.
        template: put around each text, at ``{}``.
        name: what records call it.

    Raises:
        InputError: if the template does not hold ``{}`` exactly once.
    """
    if template.count("{}") != 1:
        raise InputError(f"template: expected one {{}} for the class's words, got {template!r}")
    texts = [[template.replace("{}", text) for text in named.texts] for named in classes]
    means = torch.stack([encoder.encode_text(group).mean(dim=0) for group in texts])
    class_features = F.normalize(means, dim=-1)
    return Classifier(
        name=name,
        encoder=encoder,
        head=partial(_cosine_logits, class_features, encoder.logit_scale),
        classes=tuple(named.label for named in classes),
        fingerprint=fingerprint_of(
            {}, "zero-shot", [(named.label, group) for named, group in zip(classes, texts, strict=True)]
        ),
    )


def _cosine_logits(class_features: Tensor, scale: float, features: Tensor) -> Tensor:
    return scale * features @ class_features.T
