"""The default: Cohen's statement from an e-process, valid at whatever draw it stops.

Three questions: one radius ("is it certified at r?"), several (where on the curve does the image lie?), or a tolerance
(what is the radius, within a share of it?). All are a list of radii tested in rising order: the hypotheses
``p <= Phi(r / sigma)`` are nested, so a fixed sequence of tests needs no correction.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from titer.certify.certificate import ABSTAIN, Certificate, Counts, Draws, Procedure, Proof
from titer.certify.runner_up import helps, runner_up_radius
from titer.certify.settings import BoundName, check_settings
from titer.errors import InputError
from titer.noise import BLOCK
from titer.statistics.intervals import lower_bound
from titer.statistics.sequences import exceeds, falls_short, looks, lower_limit, upper_limit

Flags = NDArray[np.bool_]

CURVE = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)

_SHOT = 0.2  # share of alpha kept for the Clopper-Pearson bound at the cap
_REFUTE = 0.05  # level at which a radius is given up; no statement rests on it


@dataclass(frozen=True)
class Anytime:
    """``n0`` draws choose the class; then draws are added until the question is decided, at most ``n``.

    With probability at least 1 - alpha no decided radius is larger than the true one of the smoothed classifier.

    Args:
        n0: selection draws.
        n: most estimation draws.
        alpha: error probability per image.
        radii: the radii to decide, rising.
        tolerance: if given, the radius itself is sought within this share of it, and ``radii`` is not used.
        bound: ``runner-up`` bounds the second class where that promises more.
    """

    n0: int = 100
    n: int = 10_000
    alpha: float = 0.001
    radii: tuple[float, ...] = CURVE
    tolerance: float | None = None
    bound: BoundName = "one-vs-rest"

    def __post_init__(self) -> None:
        check_settings(n0=self.n0, n=self.n, alpha=self.alpha, bound=self.bound)
        if not self.radii or min(self.radii) < 0 or not all(map(math.isfinite, self.radii)):
            raise InputError(f"radii: expected one or more numbers of at least 0, got {list(self.radii)}")
        if list(self.radii) != sorted(set(self.radii)):
            raise InputError(f"radii: expected each one once, rising, got {list(self.radii)}")
        if self.tolerance is not None and not 0 < self.tolerance < 1:
            raise InputError(f"tolerance is a share of the radius: expected between 0 and 1, got {self.tolerance:g}")
        if self.bound == "runner-up" and self.alpha > math.exp(-2):
            raise InputError(f"the anytime runner-up bound holds for alpha up to 0.135, got {self.alpha:g}")

    def fewest_draws(self, alpha: float) -> int:
        """The least n that can certify anything: all votes agree."""
        return next(n for n in itertools.count(1) if replace(self, n=n).largest_radius(1.0, alpha) > 0)

    def largest_radius(self, sigma: float, alpha: float) -> float:
        """The largest radius that ``n`` draws can decide: all votes agree. Below 0, n can never certify anything."""
        sequential = lower_limit(self.n, self.n, (1 - _SHOT) * alpha)
        at_cap = lower_bound(self.n, self.n, _SHOT * alpha)
        return float(sigma * ndtri(max(sequential, at_cap)))

    def questions(self, sigma: float, alpha: float) -> tuple[float, ...]:
        """The radii to decide, rising; those that ``n`` draws cannot prove included."""
        if self.tolerance is None:
            return self.radii
        # steps of half the tolerance, so that a radius lies between two neighbours of the one it is hardest to tell from
        step, largest, smallest = 1 - self.tolerance / 2, self.largest_radius(sigma, alpha), sigma / 20
        count = max(1, math.floor(math.log(smallest / largest) / math.log(step))) if largest > smallest else 0
        return (0.0, *(largest * step**power for power in range(count, 0, -1)))

    def certify(self, sigma: float, alpha: float, gap: float = 0.0) -> Procedure:
        """The procedure for one image.

        Args:
            sigma: standard deviation of the noise.
            alpha: what this certificate may spend (``self.alpha`` unless many share it).
            gap: how far any probability may be off because the sampler's tails end (``noise.tail_gap``).
        """
        counts0 = yield Draws("select", self.n0)
        candidate = int(np.argmax(counts0))
        rule: _Rule = _OneVersusRest(candidate, sigma, gap)
        if self.bound == "runner-up" and helps(counts0, self.n, alpha):
            rule = _RunnerUp(candidate, sigma, gap)
        radii, largest = self.questions(sigma, alpha), self.largest_radius(sigma, alpha)
        decided: list[Proof] = []
        refuted: list[Proof] = []
        for look in looks(self.n, BLOCK):
            counts = yield Draws("estimate", look)
            hits = int(counts[candidate])
            unsettled = radii[len(decided) : len(radii) - len(refuted)]
            proven = rule.proves(counts, unsettled, (1 - _SHOT) * alpha)
            if look == self.n:
                proven |= rule.proves_at_cap(counts, unsettled, _SHOT * alpha)
            decided += [Proof(radius, hits, look) for radius in unsettled[: _first(~proven)]]
            unsettled = unsettled[_first(~proven) :]
            gone = rule.refutes(counts, unsettled, _REFUTE)
            refuted = [Proof(radius, hits, look) for radius in unsettled[_first(gone) :]] + refuted
            unsettled = unsettled[: _first(gone)]
            if not any(radius <= largest for radius in unsettled) or self._within_tolerance(decided, refuted):
                break
        return Certificate(
            prediction=candidate if decided else ABSTAIN,
            radius=decided[-1].radius if decided else 0.0,
            counts=counts,
            counts0=counts0,
            p_lower=rule.p_lower(counts, decided[-1].radius, (1 - _SHOT) * alpha) if decided else 0.0,
            sigma=sigma,
            alpha=alpha,
            bound=rule.name,
            decided=tuple(decided),
            refuted=tuple(refuted),
            unsettled=unsettled,
        )

    def _within_tolerance(self, decided: Sequence[Proof], refuted: Sequence[Proof]) -> bool:
        if self.tolerance is None or not decided or not refuted:
            return False
        return decided[-1].radius >= (1 - self.tolerance) * refuted[0].radius


def _first(truth: Flags) -> int:
    """Place of the first true value; the length if there is none."""
    return int(np.argmax(truth)) if truth.any() else len(truth)


class _Rule(Protocol):
    """How radii are proven from cumulative counts: at every look, once more at the cap, and how they are given up."""

    name: ClassVar[BoundName]

    def proves(self, counts: Counts, radii: Sequence[float], alpha: float) -> Flags: ...

    def proves_at_cap(self, counts: Counts, radii: Sequence[float], alpha: float) -> Flags: ...

    def refutes(self, counts: Counts, radii: Sequence[float], level: float) -> Flags: ...

    def p_lower(self, counts: Counts, radius: float, alpha: float) -> float: ...


@dataclass(frozen=True)
class _OneVersusRest:
    """The candidate's probability exceeds Phi(radius / sigma)."""

    candidate: int
    sigma: float
    gap: float
    name: ClassVar[BoundName] = "one-vs-rest"

    def _needed(self, radii: Sequence[float]) -> NDArray[np.float64]:
        return np.asarray(ndtr(np.asarray(radii, float) / self.sigma) + self.gap)

    def proves(self, counts: Counts, radii: Sequence[float], alpha: float) -> Flags:
        return exceeds(counts[self.candidate], counts.sum(), self._needed(radii), alpha)

    def proves_at_cap(self, counts: Counts, radii: Sequence[float], alpha: float) -> Flags:
        return np.asarray(lower_bound(int(counts[self.candidate]), int(counts.sum()), alpha) >= self._needed(radii))

    def refutes(self, counts: Counts, radii: Sequence[float], level: float) -> Flags:
        return falls_short(counts[self.candidate], counts.sum(), self._needed(radii), level)

    def p_lower(self, counts: Counts, radius: float, alpha: float) -> float:  # noqa: ARG002
        return float(ndtr(radius / self.sigma))


@dataclass(frozen=True)
class _RunnerUp:
    """sigma/2 * (Phi^-1(p_candidate) - Phi^-1(p_second)) exceeds the radius; every class has an e-process of its own."""

    candidate: int
    sigma: float
    gap: float
    name: ClassVar[BoundName] = "runner-up"

    def proves(self, counts: Counts, radii: Sequence[float], alpha: float) -> Flags:
        radius = runner_up_radius(counts, self.candidate, self.sigma, alpha, self.gap, lower_limit, upper_limit)
        return np.asarray(radii, float) < radius

    def proves_at_cap(self, counts: Counts, radii: Sequence[float], alpha: float) -> Flags:
        return np.asarray(radii, float) < runner_up_radius(counts, self.candidate, self.sigma, alpha, self.gap)

    def refutes(self, counts: Counts, radii: Sequence[float], level: float) -> Flags:
        draws = int(counts.sum())
        top = upper_limit(int(counts[self.candidate]), draws, level / 2)
        rival = lower_limit(int(np.delete(counts, self.candidate).max()), draws, level / 2)
        return np.asarray(np.asarray(radii, float) > self.sigma / 2 * (ndtri(top) - ndtri(rival)))

    def p_lower(self, counts: Counts, radius: float, alpha: float) -> float:  # noqa: ARG002
        return lower_limit(int(counts[self.candidate]), int(counts.sum()), alpha / 2)
