"""How a dual encoder is pre-trained: the settings of `pretrain`, their rates and their optimiser."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import nn

from titer.errors import InputError, unknown
from titer.registry import Registry
from titer.upstream.augment import Augment

Optimiser = Literal["adam", "adamw"]
Schedule = Literal["constant", "cosine"]
Start = Literal["checkpoint", "scratch"]
Keep = Literal["best", "last"]
Negatives = Literal["other-class", "all"]
_CROPS = Augment()


@dataclass(frozen=True)
class Pretraining:
    """Symmetric contrastive training. The defaults are PubMedCLIP's recipe (Eslami et al., 2023, arXiv 2112.13906).

    Args:
        start: from the model's ``checkpoint``, or from ``scratch``: its architecture with random weights.
        epochs: passes over the pairs.
        batch: pairs of a step, which are negatives of each other.
        part: pairs whose graph is held at a time, where less than ``batch``; the gradient is that of the whole batch.
        optimiser: ``adam`` (weight decay added to the gradient) or ``adamw`` (decoupled, for matrices only).
        rate: learning rate.
        decay: weight decay.
        schedule: ``constant``, or ``cosine`` down to zero.
        warmup: share of the steps in which the rate rises from zero.
        clip: largest norm of the gradient; none where 0.
        negatives: ``other-class`` leaves captions of the same class out unless they are equal, ``all`` takes them as wrong.
            Equal captions are always positives of each other.
        keep: the weights of the epoch with the ``best`` loss on the split ``val`` where there is one, or the ``last``.
        mean: keep an exponential mean of the weights over about so many steps and judge it; none where 0.
        mixed: compute in bfloat16; weights stay float32.
        augment: of the pictures, a table of its own, such as ``augment.crop=0.6``.
    """

    start: Start = "checkpoint"
    epochs: int = 50
    batch: int = 64
    part: int = 64
    optimiser: Optimiser = "adam"
    rate: float = 1e-5
    decay: float = 5e-4
    schedule: Schedule = "constant"
    warmup: float = 0.0
    clip: float = 0.0
    negatives: Negatives = "other-class"
    keep: Keep = "best"
    mean: int = 0
    mixed: bool = False
    augment: Augment = _CROPS

    def __post_init__(self) -> None:
        kinds = {"start": Start, "optimiser": Optimiser, "schedule": Schedule, "negatives": Negatives, "keep": Keep}
        for name, kind in kinds.items():
            if getattr(self, name) not in get_args(kind):
                raise unknown(name, getattr(self, name), get_args(kind))
        for name, least in (("epochs", 1), ("batch", 2), ("part", 1), ("mean", 0)):
            if getattr(self, name) < least:
                raise InputError(f"{name}: expected at least {least}, got {getattr(self, name)}")
        if not self.rate > 0 or self.decay < 0 or self.clip < 0 or not 0 <= self.warmup < 1:
            raise InputError(
                "rate, decay, clip, warmup: expected a rate above 0, the others at least 0 and warmup below 1, got "
                f"{self.rate:g}, {self.decay:g}, {self.clip:g}, {self.warmup:g}"
            )

    def rate_at(self, step: int, steps: int) -> float:
        """The learning rate of a step, counted from 0, of so many."""
        rising = round(self.warmup * steps)
        if step < rising:
            return self.rate * (step + 1) / rising
        if self.schedule == "constant":
            return self.rate
        return self.rate * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising))) / 2


RECIPES: Registry[Pretraining] = Registry("pre-training", "titer.pretraining", {"contrastive": Pretraining})


def build_pretraining(**settings: Any) -> Pretraining:
    """Settings as they are typed; ``augment`` is a table of its own.

    Raises:
        InputError: for an unknown setting or a value that cannot be.
    """
    augment = settings.pop("augment", {})
    if isinstance(augment, Mapping):
        augment = Registry("augmentation", "titer.augmentations", {"batch": Augment}).build("batch", **augment)
    return RECIPES.build("contrastive", **settings, augment=augment)


def optimiser_of(method: Pretraining, network: nn.Module) -> torch.optim.Optimizer:
    """The optimiser of all weights; decoupled decay spares vectors, as CLIP's does."""
    if method.optimiser == "adam":
        return torch.optim.Adam(network.parameters(), lr=method.rate, weight_decay=method.decay)
    matrices = [parameter for parameter in network.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in network.parameters() if parameter.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": method.decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=method.rate, betas=(0.9, 0.98))
