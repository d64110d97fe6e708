"""How often the interval of a paired comparison holds the true difference, and how often its test is wrong.

`python benchmarks/comparisons.py [--repeats 300]`. Two methods answer the same simulated images, balanced over four classes.
Whether an answer is right depends on how hard the image is for both, and where images share groups (patients, slides) also on
how hard the group is for both and for each one; the logits of these are normal, so that the true difference is an integral.
A method's value of an image is the share of its fits that are right, of one fit or of three. Groups hold images of all
classes, or each is of one class as tiles of a slide are.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.polynomial.hermite_e import hermegauss
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import expit

from titer.statistics.comparisons import paired
from titer.statistics.intervals import proportion

CLASSES = 4
IMAGE, GROUP, OWN = 1.0, 1.0, 0.7
"""Standard deviations of the logits: of an image, of a group, of a group for one of the methods."""
EFFECTS = ((0.5, 0.0), (0.5, 0.05), (0.5, 0.15), (0.5, 0.3), (0.9, 0.0), (0.85, 0.1))
"""(share of the second method, difference)"""
_NODES, _WEIGHTS = hermegauss(60)


@dataclass(frozen=True)
class Design:
    """Images of a comparison; ``groups`` None where each is alone."""

    images: int
    groups: int | None
    of_one_class: bool
    fits: int

    @property
    def labels(self) -> NDArray[np.int64]:
        return np.arange(self.images) % CLASSES

    @property
    def members(self) -> NDArray[np.int64]:
        """The group of each image; of a group of one class if asked for, else of all classes in turn."""
        places = np.arange(self.images)
        if self.groups is None:
            return places
        if self.of_one_class:
            return self.labels + CLASSES * (places // CLASSES % (self.groups // CLASSES))
        return places // CLASSES % self.groups

    @property
    def spread(self) -> float:
        """Standard deviation of a logit over the population."""
        return float(np.sqrt(IMAGE**2 + (GROUP**2 + OWN**2 if self.groups else 0)))


def designs() -> Iterator[Design]:
    for images, counts in ((40, (5, 8, 20)), (100, (5, 8, 20, 40, 80))):
        yield Design(images, None, False, 1)
        yield Design(images, None, False, 3)
        for groups in counts:
            if groups <= images // CLASSES:
                yield Design(images, groups, False, 1)
            if groups % CLASSES == 0:
                yield Design(images, groups, True, 1)


def share(middle: float, spread: float) -> float:
    """Share of right answers where logits are normal."""
    return float(_WEIGHTS @ expit(middle + spread * _NODES) / _WEIGHTS.sum())


@lru_cache
def middle_of(wanted: float, spread: float) -> float:
    return float(brentq(lambda middle: share(middle, spread) - wanted, -30, 30))


def answers(
    design: Design, shares: tuple[float, float], random: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Values of both methods, (images,) each."""
    members = design.members
    both = IMAGE * random.normal(size=design.images)
    if design.groups:
        both = both + GROUP * random.normal(size=design.groups)[members]
    found = []
    for wanted in shares:
        own = OWN * random.normal(size=design.groups)[members] if design.groups else 0.0
        chance = expit(middle_of(wanted, design.spread) + both + own)
        found.append(random.binomial(design.fits, chance) / design.fits)
    return found[0], found[1]


@dataclass
class Tally:
    """Comparisons whose interval held the truth; and, without a difference, those whose test said that there is one."""

    held: int = 0
    total: int = 0
    false: int = 0
    equal: int = 0
    worst: float = 1.0
    width: float = 0.0

    def text(self) -> str:
        coverage, size = proportion(self.held, self.total), proportion(self.false, self.equal)
        said = [f"{part.estimate:.3f} ({part.low:.3f} to {part.high:.3f})" for part in (coverage, size)]
        return f"{said[0]} | {self.worst:.3f} | {said[1]} | {100 * self.width / self.total:.0f}"


def measured(design: Design, repeats: int, random: np.random.Generator) -> Tally:
    tally = Tally()
    groups = design.members.tolist()
    for second, difference in EFFECTS:
        held = 0
        for _ in range(repeats):
            one, other = answers(design, (second + difference, second), random)
            found = paired(one, other, design.labels, groups)
            held += found.low <= difference <= found.high
            tally.width += (found.high - found.low) / 2
            if difference == 0:
                tally.false += found.p <= 0.05
                tally.equal += 1
        tally.held += held
        tally.total += repeats
        tally.worst = min(tally.worst, held / repeats)
    return tally


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=300)
    args = parser.parse_args()
    print("| images | groups | fits | coverage | at the worst effect | false alarms at .05 | half width (points) |")
    print("|---|---|---|---|---|---|---|")
    for place, design in enumerate(designs()):
        tally = measured(design, args.repeats, np.random.default_rng([1, place]))
        kind = (
            "alone"
            if design.groups is None
            else f"{design.groups} {'of one class' if design.of_one_class else 'mixed'}"
        )
        print(f"| {design.images} | {kind} | {design.fits} | {tally.text()} |", flush=True)


if __name__ == "__main__":
    main()
