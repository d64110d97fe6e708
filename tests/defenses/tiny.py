"""Small problems for fits: coloured pictures, a tiny CLIP."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from titer.data import ClassText, Data, Example
from titer.data.example import Picture
from titer.defenses import Task
from titer.models import Encoder

CLASSES = (
    ClassText("red", ("a scan",)),
    ClassText("green", ("lung tissue",)),
    ClassText("blue", ("blood cells",)),
)


def pixels(identifier: str, label: int, size: int = 32) -> np.ndarray:
    """A picture (size, size, 3) of the class's colour with spots of its own."""
    chance = np.random.default_rng(list(identifier.encode()))
    picture = 0.3 * chance.random((size, size, 3), np.float32)
    picture[..., label] += np.float32(0.6)
    return picture


def read(example: Example) -> Picture:
    return Picture(pixels(example.id, example.label or 0), digest(example))


def digest(example: Example) -> str:
    return hashlib.sha256(example.id.encode()).hexdigest()


def data(per_class: int = 3, classes: Sequence[ClassText] = CLASSES, name: str = "colours") -> Data:
    """Train and test pictures of three colours, in groups of one."""
    examples = tuple(
        Example(f"{split}/{label}/{index}", "", label, None, f"{split} {label} {index}", split, {})
        for split in ("train", "test")
        for label in range(len(classes))
        for index in range(per_class)
    )
    return Data(name, "all", None, tuple(classes), examples, (), read, digest)


def judged(source: Data, per_class: int = 1) -> Data:
    """Its first test pictures of each class."""
    chosen = tuple(
        each for each in source.examples if each.split == "test" and int(each.id.rsplit("/", 1)[1]) < per_class
    )
    return replace(source, split="test", examples=chosen)


def task(encoder: Encoder, per_class: int = 2, *, labelled: bool = True, seed: int = 0) -> Task:
    """The training pictures as a fit gets them."""
    shown = [each for each in data(per_class).examples if each.split == "train"]

    def image(place: int) -> Tensor:
        return encoder.preprocess(pixels(shown[place].id, shown[place].label or 0))

    labels = [each.label for each in shown if each.label is not None]
    return Task(encoder, CLASSES, [each.id for each in shown], labels if labelled else None, image, seed)


def images(encoder: Encoder, count: int, seed: int = 0) -> Tensor:
    """Random images (count, 3, size, size)."""
    return torch.rand(count, 3, encoder.size, encoder.size, generator=torch.Generator().manual_seed(seed))
