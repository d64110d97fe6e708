"""Auto-PGD (Croce and Hein, ICML 2020, arXiv 2003.01690; for l1 Croce and Hein, ICML 2021, arXiv 2103.01208).

Projected gradient ascent with momentum, whose step is halved, and whose search goes back to the best point, as soon as it
stops to pay. Nothing is left to be tuned but the number of steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from titer.attacks.attack import Loss, Model, Random, answers, ascend
from titer.attacks.losses import cross_entropy, dlr, margin, runners_up, targeted_dlr, targeted_margin
from titer.attacks.pgd import Scored, better
from titer.attacks.threat import Norm, Threat
from titer.errors import InputError, unknown

_MOMENTUM = 0.25  # share of the last move that is made again
_PAYS = 0.75  # share of the steps that must raise the loss, else the step is halved
_FIRST, _SOONER, _LEAST = (
    0.22,
    0.03,
    0.06,
)  # of all steps: until the first look, how much sooner each next one, at least
_WIDER = ((3, 0.3), (2, 0.3))  # l1: budgets in which the search begins, in epsilons, and their shares of the steps
_DENSE = 0.2  # l1: share of the entries that the first step moves
_THINNER = 1.5  # l1: how many times fewer entries a step moves than the best change has; also how a step is shortened
_LOOK = 0.04  # l1: of all steps, between two looks at how sparse the best change is
_SETTLED = 0.95  # l1: above this share of the entries at the look before, sparsity has settled
_SHORTEST = 0.1  # l1: of the first step's length

TargetedLoss = Literal["auto", "dlr", "margin"]
Try = Callable[[Tensor], Scored]
"""Rows that still hold, a mask (batch,) -> the best images found for them and their margins."""


@dataclass(frozen=True)
class ApgdCe:
    """Auto-PGD on the cross entropy.

    Args:
        steps: gradient steps of each restart.
        restarts: random starts; an image that is broken is not attacked again.
    """

    steps: int = 100
    restarts: int = 1

    needs_gradient: ClassVar[bool] = True
    norms: ClassVar[tuple[Norm, ...]] = ("linf", "l2", "l1")

    def __post_init__(self) -> None:
        check_counts(steps=self.steps, restarts=self.restarts)

    def __call__(self, model: Model, images: Tensor, labels: Tensor, threat: Threat, random: Random) -> Tensor:
        """The images of highest margin that were met."""
        return _restarted(cross_entropy, self.restarts, self.steps, model, images, labels, threat, random)


@dataclass(frozen=True)
class ApgdDlr:
    """Auto-PGD on the difference of logits ratio, which needs three classes.

    Args:
        steps: gradient steps of each restart.
        restarts: random starts; an image that is broken is not attacked again.
    """

    steps: int = 100
    restarts: int = 1

    needs_gradient: ClassVar[bool] = True
    least_classes: ClassVar[int] = 3
    norms: ClassVar[tuple[Norm, ...]] = ("linf", "l2", "l1")

    def __post_init__(self) -> None:
        check_counts(steps=self.steps, restarts=self.restarts)

    def __call__(self, model: Model, images: Tensor, labels: Tensor, threat: Threat, random: Random) -> Tensor:
        """The images of highest margin that were met."""
        return _restarted(dlr, self.restarts, self.steps, model, images, labels, threat, random)


@dataclass(frozen=True)
class ApgdT:
    """Auto-PGD towards one other class after another.

    Args:
        steps: gradient steps for each class and restart.
        restarts: random starts for each class; an image that is broken is not attacked again.
        targets: most classes aimed at, the likeliest first.
        loss: targeted ``dlr`` or ``margin``; ``auto`` is dlr where there are the four classes that it needs.
    """

    steps: int = 100
    restarts: int = 1
    targets: int = 9
    loss: TargetedLoss = "auto"

    needs_gradient: ClassVar[bool] = True
    norms: ClassVar[tuple[Norm, ...]] = ("linf", "l2", "l1")

    def __post_init__(self) -> None:
        check_counts(steps=self.steps, restarts=self.restarts, targets=self.targets)
        if self.loss not in get_args(TargetedLoss):
            raise unknown("loss", self.loss, get_args(TargetedLoss))

    def members(self, classes: int, norm: Norm) -> list[tuple[str, ApgdT]]:
        """What this is for so many classes.

        Raises:
            InputError: for the targeted dlr with fewer than four classes.
        """
        del norm
        if self.loss == "dlr" and classes < 4:
            raise InputError(f"loss: the targeted dlr needs four classes, here are {classes}; expected auto or margin")
        loss: TargetedLoss = ("dlr" if classes >= 4 else "margin") if self.loss == "auto" else self.loss
        return [("apgd-t", replace(self, targets=min(self.targets, classes - 1), loss=loss))]

    def __call__(self, model: Model, images: Tensor, labels: Tensor, threat: Threat, random: Random) -> Tensor:
        """The images of highest margin that were met."""
        clean = answers(model, images)
        ((_, own),) = self.members(clean.shape[1], threat.norm)
        loss = targeted_dlr if own.loss == "dlr" else targeted_margin

        def towards(aims: Tensor, left: Tensor) -> Scored:
            raised = partial(loss, labels=labels[left], targets=aims[left])
            return climb(model, images[left], labels[left], raised, threat, own.steps, random.of(left))

        targets = runners_up(clean, labels, own.targets).unbind(1)
        return until_broken(
            model, images, labels, [partial(towards, aims) for aims in targets for _ in range(own.restarts)]
        )


def check_counts(**counts: int) -> None:
    """Refuse a setting below 1.

    Raises:
        InputError: with the setting's name.
    """
    for name, count in counts.items():
        if count < 1:
            raise InputError(f"{name}: expected at least 1, got {count}")


def _restarted(
    loss: Callable[..., Tensor],
    restarts: int,
    steps: int,
    model: Model,
    images: Tensor,
    labels: Tensor,
    threat: Threat,
    random: Random,
) -> Tensor:
    def again(left: Tensor) -> Scored:
        raised = partial(loss, labels=labels[left])
        return climb(model, images[left], labels[left], raised, threat, steps, random.of(left))

    return until_broken(model, images, labels, [again] * restarts)


def until_broken(model: Model, images: Tensor, labels: Tensor, tries: Iterable[Try]) -> Tensor:
    """The images of highest margin of all tries, the clean ones included; each try sees only what still holds."""
    best, highest = images.clone(), margin(answers(model, images), labels)
    for attempt in tries:
        left = highest <= 0
        if not bool(left.any()):
            break
        best[left], highest[left] = better(best[left], highest[left], *attempt(left))
    return best


def climb(
    model: Model, clean: Tensor, labels: Tensor, loss: Loss, threat: Threat, steps: int, random: Random
) -> Scored:
    """Auto-PGD of all rows from one random start.

    Args:
        model: images -> logits.
        clean: images (batch, 3, size, size) around which the threat is.
        labels: the classes (batch,) to be left.
        loss: what is raised.
        threat: norm and budget.
        steps: gradient steps.
        random: of the start.

    Returns:
        For each row the image of highest margin that was met within the threat, and that margin (batch,).
    """
    if threat.norm != "l1":
        return _dense(model, clean, random.within(clean, threat), labels, loss, threat, steps)
    wider = [(Threat("l1", times * threat.epsilon), max(1, int(share * steps))) for times, share in _WIDER]
    current = random.within(clean, wider[0][0])
    for budget, part in wider:
        current, _ = _sparse(model, clean, budget.project(current, clean), labels, loss, budget, part)
    left = max(1, steps - sum(part for _, part in wider))
    return _sparse(model, clean, threat.project(current, clean), labels, loss, threat, left)[1]


class _Met:
    """What was met on the way: for each row the point of highest loss, and the image of highest margin."""

    def __init__(self, model: Model, start: Tensor, labels: Tensor, loss: Loss) -> None:
        self._model, self._labels, self._loss = model, labels, loss
        self.gradient, self.value, logits = ascend(model, start, loss)
        self.image, self.top, self.slope = start, self.value, self.gradient
        self.found = start, margin(logits, labels)

    def look(self, images: Tensor) -> Tensor:
        """Go on to these images; whether the loss (batch,) rose."""
        before = self.value
        self.gradient, self.value, logits = ascend(self._model, images, self._loss)
        higher = self.value > self.top
        self.image, self.slope = _where(higher, images, self.image), _where(higher, self.gradient, self.slope)
        self.top = torch.where(higher, self.value, self.top)
        self.found = better(*self.found, images, margin(logits, self._labels))
        return self.value > before

    def back(self, rows: Tensor, images: Tensor) -> Tensor:
        """The images, with some rows (a mask) at their highest point again."""
        self.gradient, self.value = _where(rows, self.slope, self.gradient), torch.where(rows, self.top, self.value)
        return _where(rows, self.image, images)


def _dense(
    model: Model, clean: Tensor, start: Tensor, labels: Tensor, loss: Loss, threat: Threat, steps: int
) -> Scored:
    """The algorithm for linf and l2."""
    met = _Met(model, start, labels, loss)
    current = previous = start
    size = torch.full_like(met.value, 2 * threat.epsilon)
    rises, highest_then = torch.zeros_like(size), met.top
    halved = torch.ones_like(size, dtype=torch.bool)  # so that the first look does not ask whether anything was gained
    window, since = max(1, int(_FIRST * steps)), 0
    for step in range(steps):
        ahead = threat.project(current + _column(size) * threat.steepest(met.gradient), clean)
        kept = _MOMENTUM if step else 0.0
        moved = current + (1 - kept) * (ahead - current) + kept * (current - previous)
        previous, current = current, threat.project(moved, clean)
        rises += met.look(current)
        since += 1
        if since == window:
            halved = (rises <= _PAYS * window) | (~halved & (met.top <= highest_then))
            size = torch.where(halved, size / 2, size)
            current = met.back(halved, current)
            highest_then, rises, since = met.top, torch.zeros_like(rises), 0
            window = max(window - max(1, int(_SOONER * steps)), int(_LEAST * steps), 1)
    return met.found


def _sparse(
    model: Model, clean: Tensor, start: Tensor, labels: Tensor, loss: Loss, threat: Threat, steps: int
) -> tuple[Tensor, Scored]:
    """The algorithm for l1: how many entries a step moves follows how sparse the best change is.

    Returns:
        The images of highest loss, and those of highest margin with their margins.
    """
    met = _Met(model, start, labels, loss)
    current, entries = start, start[0].numel()
    before = torch.full_like(met.value, entries)
    moving = torch.full_like(met.value, _DENSE)
    size = torch.full_like(met.value, threat.epsilon)
    window = max(1, int(_LOOK * steps))
    for step in range(1, steps + 1):
        current = threat.project(current + _column(size) * _spread(met.gradient, moving), clean)
        met.look(current)
        if step % window == 0:
            changed = (met.image != clean).flatten(1).sum(1).to(size.dtype)
            sparser = changed < _SETTLED * before
            moving, before = changed / entries / _THINNER, changed
            size = torch.where(sparser, threat.epsilon, size / _THINNER).clamp_min(_SHORTEST * threat.epsilon)
            current = met.back(sparser, current)
    return met.image, met.found


def _spread(gradient: Tensor, share: Tensor) -> Tensor:
    """A direction of l1 length 1 that moves the largest entries of each row alike, a share (batch,) of all."""
    flat = gradient.flatten(1)
    count = (share * flat.shape[1]).long().clamp(1, flat.shape[1])
    ordered, order = flat.abs().sort(dim=1, descending=True)
    moves = (torch.arange(flat.shape[1], device=flat.device) < count[:, None]) & (ordered > 0)
    sparse = torch.zeros_like(flat).scatter(1, order, moves.to(flat.dtype)) * flat.sign()
    return (sparse / moves.sum(dim=1, keepdim=True).clamp_min(1)).view_as(gradient)


def _where(rows: Tensor, images: Tensor, others: Tensor) -> Tensor:
    return torch.where(_column(rows), images, others)


def _column(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)
