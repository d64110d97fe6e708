"""Fast adaptive boundary attack, targeted (Croce and Hein, ICML 2020, arXiv 1907.02044): the nearest image that is wrong.

The border between two classes is taken to be the plane on which the linearised margin is zero. Steps go to the nearest
points of that plane inside of [0, 1], drawn towards the clean image; whatever is wrong is pulled back towards it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from titer.attacks.apgd import check_counts
from titer.attacks.attack import Model, Random, answers, ascend
from titer.attacks.losses import margin, runners_up, targeted_margin
from titer.attacks.pgd import Scored, better
from titer.attacks.threat import Norm, Threat, length
from titer.errors import InputError

_NEWTON = 30  # steps at most to the multiplier; each leaves behind all entries that have met the box
_TINY = 1e-12


@dataclass(frozen=True)
class FabT:
    """Search for the nearest wrong image, towards one other class after another.

    Args:
        steps: of each search; each costs two answers and a gradient.
        restarts: searches for each class; the first starts at the clean image, others at random within half of the
            distance that was found so far, of the budget where nothing was found.
        targets: most classes aimed at, the likeliest first.
        overshoot: a step's length, in distances to the plane.
        pull: how far a wrong image is pulled back, as the share of its distance that is kept.
        bias: most of a step that is spent on staying near the clean image.
    """

    steps: int = 100
    restarts: int = 1
    targets: int = 9
    overshoot: float = 1.05
    pull: float = 0.9
    bias: float = 0.1

    needs_gradient: ClassVar[bool] = True
    norms: ClassVar[tuple[Norm, ...]] = ("linf", "l2", "l1")

    def __post_init__(self) -> None:
        check_counts(steps=self.steps, restarts=self.restarts, targets=self.targets)
        if not self.overshoot >= 1:
            raise InputError(f"overshoot: expected at least 1, got {self.overshoot:g}")
        for name in ("pull", "bias"):
            if not 0 < getattr(self, name) <= 1:
                raise InputError(f"{name}: expected a share in (0, 1], got {getattr(self, name):g}")

    def members(self, classes: int, norm: Norm) -> list[tuple[str, FabT]]:
        """What this is for so many classes."""
        del norm
        return [("fab-t", replace(self, targets=min(self.targets, classes - 1)))]

    def __call__(self, model: Model, images: Tensor, labels: Tensor, threat: Threat, random: Random) -> Tensor:
        """The nearest wrong images, drawn into the budget where they are beyond it and that is better than nothing."""
        nearest, _ = self.nearest(model, images, labels, threat, random)
        return _drawn_in(model, images, labels, threat, nearest)

    def ladder(self, classes: int, norm: Norm) -> Once:
        """The same for one batch at rising budgets, with one search for all of them."""
        del classes, norm
        return Once(self)

    def nearest(self, model: Model, images: Tensor, labels: Tensor, threat: Threat, random: Random) -> Scored:
        """The nearest wrong image of each row and its distance; an image within the budget is not searched further.

        Args:
            model: images -> logits.
            images: clean images (batch, 3, size, size) in [0, 1].
            labels: the classes (batch,) to be left.
            threat: norm, and the budget that is enough.
            random: of the restarts.

        Returns:
            Images (batch, 3, size, size), the clean ones where none was found, and distances (batch,), then infinite.
        """
        clean = answers(model, images)
        targets = runners_up(clean, labels, min(self.targets, clean.shape[1] - 1)).unbind(1)
        best, distance = images.clone(), images.new_full((len(images),), float("inf"))
        for aims in targets:
            for restart in range(self.restarts):
                left = distance > threat.epsilon
                if not bool(left.any()):
                    return best, distance
                start = images[left]
                if restart:
                    reach = torch.where(distance[left].isfinite(), distance[left], threat.epsilon) / threat.epsilon
                    moved = random.of(left).within(start, threat) - start
                    start = (start + reach.view(-1, 1, 1, 1) * moved / 2).clamp(0, 1)
                found, far = self._searched(model, images[left], start, labels[left], aims[left], threat.norm)
                best[left], closeness = better(best[left], -distance[left], found, -far)
                distance[left] = -closeness
        return best, distance

    def _searched(
        self, model: Model, clean: Tensor, start: Tensor, labels: Tensor, targets: Tensor, norm: Norm
    ) -> Scored:
        raised = partial(targeted_margin, labels=labels, targets=targets)
        current, best = start, clean
        distance = clean.new_full((len(clean),), float("inf"))
        for _ in range(self.steps):
            slope, height, _ = ascend(model, current, raised)
            here = to_plane(current, slope, -height, norm)
            there = to_plane(clean, slope, ((current - clean) * slope).flatten(1).sum(1) - height, norm)
            near, far = length(here, norm), length(there, norm)
            share = (near / (near + far).clamp_min(_TINY)).clamp(0, self.bias).view(-1, 1, 1, 1)
            current = (1 - share) * (current + self.overshoot * here) + share * (clean + self.overshoot * there)
            current = current.clamp(0, 1)
            wrong = margin(answers(model, current), labels) > 0
            away = torch.where(wrong, length(current - clean, norm), float("inf"))
            best, closeness = better(best, -distance, current, -away)
            distance = -closeness
            current = torch.where(wrong.view(-1, 1, 1, 1), clean + self.pull * (current - clean), current)
        return best, distance


class Once:
    """A search that is made once for each image, and serves every budget of a ladder: the nearest wrong image has none.

    An image that a budget does not break was searched to the end there; its nearest wrong image is known from then on.
    """

    needs_gradient: ClassVar[bool] = True
    norms: ClassVar[tuple[Norm, ...]] = FabT.norms

    def __init__(self, search: FabT) -> None:
        self._search = search
        self._nearest: dict[str, Tensor] = {}

    def __call__(self, model: Model, images: Tensor, labels: Tensor, threat: Threat, random: Random) -> Tensor:
        """What ``FabT`` gives; only images that were never searched are searched."""
        new = torch.tensor([sample not in self._nearest for sample in random.samples], device=images.device)
        if bool(new.any()):
            part = random.of(new)
            found, _ = self._search.nearest(model, images[new], labels[new], threat, part)
            self._nearest |= zip(part.samples, found, strict=True)
        known = torch.stack([self._nearest[sample] for sample in random.samples])
        return _drawn_in(model, images, labels, threat, known)


def _drawn_in(model: Model, images: Tensor, labels: Tensor, threat: Threat, nearest: Tensor) -> Tensor:
    """Nearest wrong images drawn into the budget, where that is better than the clean ones."""
    within = threat.project(nearest, images)
    clean = margin(answers(model, images), labels)
    return better(images, clean, within, margin(answers(model, within), labels))[0]


def to_plane(images: Tensor, slope: Tensor, gain: Tensor, norm: Norm) -> Tensor:
    """The shortest change by which a linear function gains what is asked, while the images stay in [0, 1].

    Args:
        images: (batch, 3, size, size) in [0, 1].
        slope: of the linear function (batch, 3, size, size).
        gain: asked (batch,), of any sign.
        norm: in which the change is short.

    Returns:
        Changes (batch, 3, size, size); where the box does not allow the whole gain, those of the most that it allows.
    """
    up = slope.flatten(1) * gain.sign()[:, None]
    flat, size, need = images.flatten(1), up.abs(), gain.abs()[:, None]
    room = torch.where(up > 0, 1 - flat, flat)
    amount = _sparsest(size, room, need) if norm == "l1" else _evenest(size, room, need, norm)
    return (up.sign() * amount).view_as(images)


def _evenest(size: Tensor, room: Tensor, need: Tensor, norm: Norm) -> Tensor:
    """min(multiplier * pace, room): for linf all entries move alike, for l2 in proportion to their slope.

    The gain is concave and piecewise linear in the multiplier, so that Newton's steps from zero never go beyond.
    """
    pace = torch.ones_like(size) if norm == "linf" else size
    multiplier = torch.zeros_like(need)
    for _ in range(_NEWTON):
        amount = torch.minimum(multiplier * pace, room)
        missing = need - (size * amount).sum(1, keepdim=True)
        rate = (size * pace * (amount < room)).sum(1, keepdim=True)
        if bool((missing <= 1e-6 * need).all()):
            break
        multiplier = torch.where(rate > 0, multiplier + missing.clamp_min(0) / rate.clamp_min(_TINY), multiplier)
    return torch.minimum(multiplier * pace, room)


def _sparsest(size: Tensor, room: Tensor, need: Tensor) -> Tensor:
    """The steepest entries as far as there is room, one after another."""
    ordered, order = size.sort(dim=1, descending=True)
    space = room.gather(1, order)
    gains = ordered * space
    missing = need - (gains.cumsum(1) - gains)
    taken = torch.minimum(missing.clamp_min(0) / ordered.clamp_min(_TINY), space)
    return torch.zeros_like(size).scatter(1, order, taken)
