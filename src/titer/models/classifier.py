"""Classifiers: images to logits over named classes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol

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


Head = Callable[[Tensor], Tensor]
"""Unit features (batch, dim) -> logits (batch, classes); a row's logits are a function of that row alone."""


class Adaptation(Protocol):
    """How a classifier changes with the image it is shown."""

    @property
    def copies(self) -> int:
        """Noisy copies that a step uses."""

    @property
    def guarantees(self) -> tuple[str, ...]:
        """Which statements a certificate of it can make."""

    def to_image(
        self, encoder: Encoder, image: Tensor, sample: str, sigma: float, seed: int, channels: int = 3
    ) -> Head:
        """The head for one clean image (3, size, size): the state that a deployed system would have."""

    def to_copies(self, copies: Tensor, features: Tensor) -> Tensor:
        """Logits (batch, classes) of draws (batch, dim), each with a state of its own.

        Row by row a fixed function of the draw and its own copies (batch, copies, dim); the clean image is not used.
        Called only where ``guarantees`` names more than ``conditional``.
        """


@dataclass(frozen=True, eq=False)
class Classifier:
    """An encoder and a head on its features. Classifiers on one encoder share the cost of its image tower.

    Args:
        name: what records call it.
        encoder: images -> unit features.
        head: unit features (batch, dim) -> logits (batch, classes).
        classes: class names, in order of the logits.
        fingerprint: of all that is not in the encoder.
        adaptation: how its state depends on the clean image shown, if it does.
        sigmas: least and largest noise that it was fitted for, in [0, 1] pixel units; None for any.
        warnings: what every record should say about it.
    """

    name: str
    encoder: Encoder
    head: Head
    classes: tuple[str, ...]
    fingerprint: str
    adaptation: Adaptation | None = None
    sigmas: tuple[float, float] | None = None
    warnings: tuple[str, ...] = ()

    def __call__(self, images: Tensor) -> Tensor:
        """Logits (batch, classes) of images (batch, 3, size, size) in [0, 1]."""
        return self.head(self.encoder.encode_image(images))

    @property
    def adapts_to_input(self) -> bool:
        """Whether its state depends on the clean image shown."""
        return self.adaptation is not None


@dataclass(frozen=True, eq=False)
class Bank(Classifier):
    """Finitely many fixed classifiers, one of which is chosen for an image by a vote over noisy draws.

    Args:
        selector: unit features (batch, dim) -> scores (batch, members); a function of one draw.
        members: heads; ``head`` is what a single draw would get: the member that it selects.
    """

    selector: Head = field(kw_only=True)
    members: tuple[Head, ...] = field(kw_only=True)


def bank_head(selector: Head, members: Sequence[Head]) -> Head:
    """The logits of each draw by the member that it selects."""

    def head(features: Tensor) -> Tensor:
        logits = torch.stack([member(features) for member in members])
        return logits[selector(features).argmax(dim=1), torch.arange(len(features))]

    return head


def reordered(classifier: Classifier, order: Sequence[int]) -> Classifier:
    """The same classifier with its classes in another order.

    Args:
        classifier: any.
        order: for each new place, the old one.
    """
    if list(order) == list(range(len(classifier.classes))):
        return classifier
    changes: dict[str, Any] = {
        "head": _in_order(classifier.head, order),
        "classes": tuple(classifier.classes[place] for place in order),
        "fingerprint": fingerprint_of({}, classifier.fingerprint, list(order)),
    }
    if classifier.adaptation is not None:
        changes["adaptation"] = _Reordered(classifier.adaptation, tuple(order))
    if isinstance(classifier, Bank):
        changes["members"] = tuple(_in_order(member, order) for member in classifier.members)
    return replace(classifier, **changes)


def _in_order(head: Head, order: Sequence[int]) -> Head:
    return lambda features: head(features)[:, list(order)]


@dataclass(frozen=True)
class _Reordered:
    adaptation: Adaptation
    order: tuple[int, ...]

    @property
    def copies(self) -> int:
        return self.adaptation.copies

    @property
    def guarantees(self) -> tuple[str, ...]:
        return self.adaptation.guarantees

    def to_image(self, *shown: Any, **how: Any) -> Head:
        return _in_order(self.adaptation.to_image(*shown, **how), self.order)

    def to_copies(self, copies: Tensor, features: Tensor) -> Tensor:
        return self.adaptation.to_copies(copies, features)[:, list(self.order)]


def zero_shot(encoder: Encoder, classes: Sequence[Named], template: str = "{}", name: str = "zero-shot") -> Classifier:
    """The class whose text is nearest; of several texts the unit features are averaged. Texts are encoded once, here.

    Args:
        encoder: the dual encoder.
        classes: class names and texts.
        template: put around each text, at ``{}``; several with ``|`` between them are an ensemble.
        name: what records call it.

    Raises:
        InputError: if a template does not hold ``{}`` exactly once.
    """
    texts = _shown(classes, template)
    return Classifier(
        name=name,
        encoder=encoder,
        head=cosine_head(class_features(encoder, classes, template), encoder.logit_scale),
        classes=tuple(named.label for named in classes),
        fingerprint=fingerprint_of(
            {}, "zero-shot", [(named.label, group) for named, group in zip(classes, texts, strict=True)]
        ),
    )


def class_features(encoder: Encoder, classes: Sequence[Named], template: str = "{}") -> Tensor:
    """Unit features (classes, dim) of the classes' texts, as ``zero_shot`` uses them; without gradient."""
    with torch.no_grad():
        means = torch.stack([encoder.encode_text(group).mean(dim=0) for group in _shown(classes, template)])
        return F.normalize(means, dim=-1)


def _shown(classes: Sequence[Named], template: str) -> list[list[str]]:
    """All texts of each class."""
    return [[one.replace("{}", text) for one in split_templates(template) for text in named.texts] for named in classes]


def split_templates(template: str) -> list[str]:
    """The templates of an ensemble, which stand with ``|`` between them.

    Raises:
        InputError: if one does not hold ``{}`` exactly once.
    """
    templates = [one.strip() for one in template.split("|")]
    for one in templates:
        if one.count("{}") != 1:
            raise InputError(f"template: expected one {{}} for the class's words, got {one!r}")
    return templates


def cosine_head(class_features: Tensor, scale: float) -> Head:
    """Scaled cosine to one unit feature per class (classes, dim)."""
    return partial(_cosine_logits, class_features, scale)


def _cosine_logits(class_features: Tensor, scale: float, features: Tensor) -> Tensor:
    return scale * features @ class_features.T
