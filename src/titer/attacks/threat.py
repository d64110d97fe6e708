"""Threat models: a norm, a budget, and the geometry that belongs to them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from titer.errors import InputError, unknown

Norm = Literal["linf", "l2", "l1"]

_HALVINGS = 24  # of the multiplier's interval, as many as float32 has digits; the side that is allowed is taken
_SPARSE = 0.01  # share of the entries that an l1 step moves


@dataclass(frozen=True)
class Threat:
    """All images in [0, 1] within a distance of the clean one.

    Args:
        norm: of the perturbation of a whole image.
        epsilon: largest distance, in [0, 1] pixel units at the model's input size.

    Raises:
        InputError: for an unknown norm or a distance that is not positive.
    """

    norm: Norm
    epsilon: float

    def __post_init__(self) -> None:
        if self.norm not in get_args(Norm):
            raise unknown("norm", self.norm, get_args(Norm))
        if not 0 < self.epsilon < float("inf"):
            raise InputError(f"eps: expected a length above 0 in [0, 1] pixels, such as 1/255, got {self.epsilon:g}")

    def project(self, images: Tensor, clean: Tensor) -> Tensor:
        """The nearest images (batch, 3, height, width), in the Euclidean sense, that the threat allows.

        For l2 and l1 ball and box are met together: the answer is clean + shrink(change, multiplier), clipped, and one
        multiplier per image is found by bisection. Clipping after a projection to the ball would be allowed, too, but
        wastes budget on pixels that cannot move.
        """
        if self.norm == "linf":
            return images.clamp(clean - self.epsilon, clean + self.epsilon).clamp_(0, 1)
        shrink = _shrink_l2 if self.norm == "l2" else _shrink_l1
        clipped = images.clamp(0, 1)
        inside = self.distance(clipped, clean) <= self.epsilon
        if bool(inside.all()):
            return clipped
        return torch.where(_of_rows(inside), clipped, self._shrunk(images - clean, clean, shrink))

    def _shrunk(self, change: Tensor, clean: Tensor, shrink: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        def at(multiplier: Tensor) -> Tensor:
            return (clean + shrink(change, multiplier)).clamp(0, 1)

        low = change.new_zeros(len(change), 1, 1, 1)
        high = _of_rows(length(change, self.norm) / self.epsilon if self.norm == "l2" else length(change, "linf"))
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            far = _of_rows(self.distance(at(middle), clean)) > self.epsilon
            low, high = torch.where(far, middle, low), torch.where(far, high, middle)
        return at(high)

    def distance(self, images: Tensor, clean: Tensor) -> Tensor:
        """Distance (batch,) of images from the clean ones."""
        return length(images - clean, self.norm)

    def allows(self, images: Tensor, clean: Tensor) -> Tensor:
        """Which images (batch,) are in [0, 1] and within the budget, but for rounding in float32."""
        flat = images.flatten(1)
        distance = length(images.double() - clean.double(), self.norm)
        return (flat >= 0).all(1) & (flat <= 1).all(1) & (distance <= self.epsilon * (1 + 1e-5) + 1e-6)

    def steepest(self, gradient: Tensor) -> Tensor:
        """The direction of length 1 in this norm along which a linear function with this gradient grows fastest.

        For l1 that would be a single entry; as usual a step moves the largest hundredth of them alike.
        """
        if self.norm == "linf":
            return gradient.sign()
        flat = gradient.flatten(1)
        if self.norm == "l2":
            tiny = torch.finfo(flat.dtype).tiny
            level = flat / flat.abs().amax(dim=1, keepdim=True).clamp_min(tiny)  # whose squares are numbers, too
            return F.normalize(level, dim=1, eps=tiny).view_as(gradient)
        count = max(1, int(_SPARSE * flat.shape[1]))
        places = flat.abs().topk(count, dim=1).indices
        sparse = torch.zeros_like(flat).scatter(1, places, flat.gather(1, places).sign() / count)
        return sparse.view_as(gradient)


def rising(norm: Norm, budgets: float | Sequence[float]) -> tuple[Threat, ...]:
    """One threat for each budget, upward.

    Raises:
        InputError: for no budget, or one that is not positive.
    """
    found = sorted({float(budgets)} if isinstance(budgets, int | float) else {float(budget) for budget in budgets})
    if not found:
        raise InputError("eps: expected one or more budgets, got none")
    return tuple(Threat(norm, budget) for budget in found)


def length(change: Tensor, norm: Norm) -> Tensor:
    """The norm (batch,) of changes (batch, ...)."""
    lengths: Tensor = torch.linalg.vector_norm(change.flatten(1), {"linf": float("inf"), "l2": 2, "l1": 1}[norm], dim=1)
    return lengths


def _of_rows(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)


def _shrink_l2(change: Tensor, multiplier: Tensor) -> Tensor:
    return change / (1 + multiplier)


def _shrink_l1(change: Tensor, multiplier: Tensor) -> Tensor:
    return change.sign() * (change.abs() - multiplier).clamp_min(0)
