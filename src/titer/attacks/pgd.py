"""Projected gradient ascent (Madry et al., ICLR 2018, arXiv 1706.06083) and its single step (Goodfellow et al., 2015)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from titer.attacks.attack import Loss, Model, Random, answers, ascend
from titer.attacks.losses import cross_entropy, divergence, margin
from titer.attacks.threat import Norm, Threat
from titer.errors import InputError, unknown

Scored = tuple[Tensor, Tensor]
"""Images (batch, 3, size, size) and how good each of them is (batch,)."""
LossName = Literal["cross-entropy", "margin", "kl"]
_LOOK = 4  # steps after which images that are wrong are left alone


@dataclass(frozen=True)
class Fgsm:
    """One step of the whole budget along the steepest direction.

    Args:
        loss: ``cross-entropy`` or ``margin``.
    """

    loss: LossName = "cross-entropy"

    needs_gradient: ClassVar[bool] = True
    norms: ClassVar[tuple[Norm, ...]] = ("linf", "l2", "l1")

    def __post_init__(self) -> None:
        if self.loss == "kl":
            raise InputError("loss: the kl loss has no gradient at the clean image; expected cross-entropy or margin")
        _check_loss(self.loss)

    def __call__(self, model: Model, images: Tensor, labels: Tensor, threat: Threat, random: Random) -> Tensor:
        """The clean images moved by epsilon."""
        del random
        gradient, _, _ = ascend(model, images, _loss(self.loss, labels))
        return threat.project(images + threat.epsilon * threat.steepest(gradient), images)


@dataclass(frozen=True)
class Pgd:
    """Steps along the steepest direction, each projected back into the budget.

    Args:
        steps: gradient steps of each restart.
        step: length of a step, as a share of epsilon.
        restarts: independent starts; the best one of each image counts.
        loss: ``cross-entropy``, ``margin``, or ``kl`` from the clean answer, which uses no label.
        start: ``uniform`` in the ball, or the ``clean`` image.
        keep: the ``best`` iterate of an image by margin, or the ``last`` (as much published code does: it is weaker).
        stop: whether an image is left alone once it is wrong, which is looked at every four steps. As many images break, and
            sooner; changes are smaller.
    """

    steps: int = 50
    step: float = 0.1
    restarts: int = 1
    loss: LossName = "cross-entropy"
    start: Literal["uniform", "clean"] = "uniform"
    keep: Literal["best", "last"] = "best"
    stop: bool = False

    needs_gradient: ClassVar[bool] = True
    norms: ClassVar[tuple[Norm, ...]] = ("linf", "l2", "l1")

    def __post_init__(self) -> None:
        for name in ("steps", "restarts"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}: expected at least 1, got {getattr(self, name)}")
        if not self.step > 0:
            raise InputError(f"step: expected a share of epsilon above 0, got {self.step:g}")
        _check_loss(self.loss)
        if self.start not in ("uniform", "clean"):
            raise unknown("start", self.start, ("uniform", "clean"))
        if self.keep not in ("best", "last"):
            raise unknown("keep", self.keep, ("best", "last"))
        if self.stop and self.keep == "last":
            raise InputError(
                "stop: an image that is left alone once it is wrong keeps its best iterate; expected keep=best"
            )
        if self.loss == "kl" and self.start == "clean":
            raise InputError("start: the kl loss has no gradient at the clean image; expected uniform")

    def __call__(self, model: Model, images: Tensor, labels: Tensor, threat: Threat, random: Random) -> Tensor:
        """The best images of all restarts."""
        if self.stop:
            return self._until_wrong(model, images, labels, threat, random)
        clean = answers(model, images) if self.loss == "kl" else None
        return self.ascent(
            model, images, _loss(self.loss, labels, clean), partial(margin, labels=labels), threat, random
        )

    def ascent(self, model: Model, images: Tensor, loss: Loss, score: Loss, threat: Threat, random: Random) -> Tensor:
        """The best images of all restarts by a score, of steps that raise a loss."""
        best, highest = images, images.new_full((len(images),), float("-inf"))
        for _ in range(self.restarts):
            start = images if self.start == "clean" else random.within(images, threat)
            last, found = climb(model, images, start, loss, score, threat, self.steps, self.step)
            best, highest = better(best, highest, *(last if self.keep == "last" else found))
        return best

    def _until_wrong(self, model: Model, images: Tensor, labels: Tensor, threat: Threat, random: Random) -> Tensor:
        """The same iterates, of an image up to those in which it is first found wrong."""
        known = answers(model, images) if self.loss == "kl" else None
        best, highest = images.clone(), images.new_full((len(images),), float("-inf"))
        for _ in range(self.restarts):
            current = images.clone() if self.start == "clean" else random.within(images, threat)
            for done in range(0, self.steps, _LOOK):
                left = highest <= 0
                if not bool(left.any()):
                    return best
                loss = _loss(self.loss, labels[left], None if known is None else known[left])
                (current[left], _), found = climb(
                    model, images[left], current[left], loss, partial(margin, labels=labels[left]), threat,
                    min(_LOOK, self.steps - done), self.step,
                )  # fmt: skip
                best[left], highest[left] = better(best[left], highest[left], *found)
        return best


def climb(
    model: Model, clean: Tensor, start: Tensor, loss: Loss, score: Loss, threat: Threat, steps: int, step: float
) -> tuple[Scored, Scored]:
    """Projected gradient ascent of all rows.

    Args:
        model: images -> logits, or whatever loss and score take.
        clean: images (batch, 3, size, size) around which the threat is.
        start: where the first step begins, within the threat.
        loss: what is raised.
        score: what makes an iterate better than another.
        threat: norm and budget.
        steps: gradient steps.
        step: length of one, as a share of epsilon.

    Returns:
        The last iterates and their scores (batch,), then those of highest score for each row.
    """
    current, best = start, start
    highest = start.new_full((len(start),), float("-inf"))
    for _ in range(steps):
        gradient, _, logits = ascend(model, current, loss)
        best, highest = better(best, highest, current, score(logits))
        ahead = torch.add(current, threat.steepest(gradient), alpha=step * threat.epsilon)
        current = threat.project(ahead, clean)
    last = score(answers(model, current))
    return (current, last), better(best, highest, current, last)


def better(images: Tensor, scores: Tensor, others: Tensor, their_scores: Tensor) -> Scored:
    """Of two images for each row the one with the higher score, and that score."""
    higher = their_scores > scores
    return torch.where(higher.view(-1, 1, 1, 1), others, images), torch.where(higher, their_scores, scores)


def _loss(name: LossName, labels: Tensor, clean: Tensor | None = None) -> Loss:
    """What is raised; the kl loss compares with the logits of the clean images."""
    if clean is not None:
        return partial(divergence, clean=clean)
    return partial({"cross-entropy": cross_entropy, "margin": margin}[name], labels=labels)


def _check_loss(name: str) -> None:
    if name not in get_args(LossName):
        raise unknown("loss", name, get_args(LossName))
