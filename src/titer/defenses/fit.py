"""The one loop of all fits, and the signs that a fit has failed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from titer.defenses.task import Fitted
from titer.features.store import Places
from titer.progress import progress

OptimiserName = Literal["sgd", "adam", "adamw"]
Loss = Callable[[int], Sequence[Callable[[], Tensor]]]
"""Epoch -> the losses of its steps; each is called once, when its step comes."""


def minimise(
    parameters: Sequence[Tensor],
    losses: Loss,
    epochs: int,
    learning_rate: float,
    optimiser: OptimiserName = "adam",
    warmup_rate: float | None = None,
    weight_decay: float | None = None,
) -> tuple[float, ...]:
    """Gradient descent with a cosine schedule, in place.

    Args:
        parameters: leaf tensors that require gradients.
        losses: see ``Loss``.
        epochs: passes over the data.
        learning_rate: at the start; it falls towards zero along half a cosine, stepped per epoch.
        optimiser: ``sgd`` (momentum 0.9, weight decay 5e-4, as CoOp's), ``adam``, or ``adamw`` (weight decay 1e-4).
        warmup_rate: constant rate of one epoch before that. It counts among the epochs, and the cosine begins after it
            but is as long as without it, as in CoOp's code.
        weight_decay: in the place of the optimiser's.

    Returns:
        Mean loss of each epoch.
    """
    torch_optimiser = _optimiser(optimiser, parameters, learning_rate, weight_decay)
    history = []
    with progress("fitting", epochs) as advance:
        for epoch in range(epochs):
            rate = _rate(epoch, epochs, learning_rate, warmup_rate)
            for group in torch_optimiser.param_groups:
                group["lr"] = rate
            history.append(_epoch(torch_optimiser, losses(epoch)))
            advance()
    return tuple(history)


def _optimiser(
    name: OptimiserName, parameters: Sequence[Tensor], rate: float, weight_decay: float | None
) -> torch.optim.Optimizer:
    if name == "sgd":
        decay = 5e-4 if weight_decay is None else weight_decay
        return torch.optim.SGD(parameters, lr=rate, momentum=0.9, weight_decay=decay)
    if name == "adamw":
        return torch.optim.AdamW(parameters, lr=rate, weight_decay=1e-4 if weight_decay is None else weight_decay)
    return torch.optim.Adam(parameters, lr=rate, weight_decay=weight_decay or 0.0)


def parts(order: Places, batch: int | None) -> list[Places]:
    """Whole batches of places in this order; one of all, sorted, where there is no more than that."""
    if batch is None or len(order) <= batch:
        return [np.sort(order)]
    return [order[first : first + batch] for first in range(0, len(order) - batch + 1, batch)]


def _epoch(optimiser: torch.optim.Optimizer, losses: Sequence[Callable[[], Tensor]]) -> float:
    total = 0.0
    for loss_of in losses:
        loss = loss_of()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        total += float(loss.detach())
    return total / len(losses)


def _rate(epoch: int, epochs: int, learning_rate: float, warmup_rate: float | None) -> float:
    if warmup_rate is None:
        return learning_rate * (1 + math.cos(math.pi * epoch / epochs)) / 2
    return warmup_rate if epoch == 0 else _rate(epoch - 1, epochs, learning_rate, None)


_ONE_CLASS = 0.95  # share of one class among its own images at which a fit answers hardly anything else


def collapse(fitted: Fitted, classes: int) -> str | None:
    """Why a fit counts as collapsed, in words, or None.

    Args:
        fitted: its losses, and what it predicts for its own noisy training copies.
        classes: number of classes.
    """
    if fitted.losses and not math.isfinite(fitted.losses[-1]):
        return "collapsed: the loss of the fit is not finite"
    if fitted.notes.get("collapsed"):
        return "collapsed: clean and attacked images get the same answer, which says nothing, also at a smaller weight"
    predicted = fitted.predictions
    if predicted is not None and len(predicted) > 1:
        votes = predicted.bincount()
        share = float(votes.max() / len(predicted))
        if share >= _ONE_CLASS:
            said = "all" if share == 1 else f"{100 * share:.0f} %"
            return f"collapsed: the fit predicts class {int(votes.argmax())} for {said} of its own training images"
    supervised = fitted.notes.get("objective") == "cross-entropy"
    if supervised and fitted.losses and fitted.losses[-1] > 0.98 * math.log(classes):
        return f"collapsed: the loss of the fit stayed at ln {classes}, that of guessing"
    return None
