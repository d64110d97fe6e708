"""AutoAttack (Croce and Hein, ICML 2020, arXiv 2003.01690): four attacks that fail for different reasons, the worst counts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from titer.attacks.apgd import ApgdCe, ApgdT, check_counts
from titer.attacks.attack import Attack, Laddered, Model, Random, answers
from titer.attacks.fab import FabT
from titer.attacks.losses import margin
from titer.attacks.pgd import better
from titer.attacks.square import Square
from titer.attacks.threat import Norm, Threat

_L1 = 5  # for l1 the ensemble of 2021 has so many restarts, and so many targets


@dataclass(frozen=True)
class AutoAttack:
    """The standard ensemble: apgd-ce, apgd-t, fab-t and square, each on what the ones before left.

    Unlike the reference it takes any number of classes: those aimed at are at most all others, and below four classes the
    targeted margin stands for the targeted dlr. The run's record says what its members were.

    Args:
        steps: gradient steps of each search of the first three.
        targets: most classes aimed at by apgd-t and fab-t, the likeliest first.
        queries: of square.
    """

    steps: int = 100
    targets: int = 9
    queries: int = 5000

    needs_gradient: ClassVar[bool] = True
    norms: ClassVar[tuple[Norm, ...]] = ("linf", "l2", "l1")

    def __post_init__(self) -> None:
        check_counts(steps=self.steps, targets=self.targets, queries=self.queries)

    def members(self, classes: int, norm: Norm) -> list[tuple[str, Attack]]:
        """The attacks in their order, for so many classes."""
        sparse = norm == "l1"
        aimed = ApgdT(self.steps, targets=min(self.targets, _L1) if sparse else self.targets)
        return [
            ("apgd-ce", ApgdCe(self.steps, restarts=_L1 if sparse else 1)),
            *aimed.members(classes, norm),
            *FabT(self.steps, targets=self.targets).members(classes, norm),
            ("square", Square(self.queries)),
        ]

    def ladder(self, classes: int, norm: Norm) -> Ensemble:
        """The members for one batch at rising budgets, those that can use what they learned at smaller ones."""
        members = self.members(classes, norm)
        return Ensemble(
            [(name, own.ladder(classes, norm) if isinstance(own, Laddered) else own) for name, own in members]
        )

    def __call__(self, model: Model, images: Tensor, labels: Tensor, threat: Threat, random: Random) -> Tensor:
        """The worst of all members for each image."""
        classes = answers(model, images[:1]).shape[1]
        return Ensemble(self.members(classes, threat.norm))(model, images, labels, threat, random)


@dataclass(frozen=True, eq=False)
class Ensemble:
    """Attacks by name, each on what the ones before left; the worst counts."""

    members: Sequence[tuple[str, Attack]]

    needs_gradient: ClassVar[bool] = True
    norms: ClassVar[tuple[Norm, ...]] = AutoAttack.norms

    def stages(
        self, model: Model, images: Tensor, labels: Tensor, threat: Threat, random: Random
    ) -> Iterator[tuple[str, Tensor]]:
        """After each member its name and the images so far; what is wrong stays as it is."""
        best, highest = images.clone(), margin(answers(model, images), labels)
        for name, member in self.members:
            left = highest <= 0
            if bool(left.any()):
                found = member(model, images[left], labels[left], threat, random.of(left))
                reached = margin(answers(model, found), labels[left])
                best[left], highest[left] = better(best[left], highest[left], found, reached)
            yield name, best.clone()

    def __call__(self, model: Model, images: Tensor, labels: Tensor, threat: Threat, random: Random) -> Tensor:
        """The worst of all members for each image."""
        found = images
        for _, found in self.stages(model, images, labels, threat, random):  # noqa: B007
            pass
        return found
