"""What a certifier says about one image, and how it asks for draws."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Guarantee = Literal["fixed", "per-draw", "bank", "product", "conditional"]
Counts = NDArray[np.int64]

ABSTAIN = -1


@dataclass(frozen=True)
class Draws:
    """A request: the votes of the first ``total`` draws made for ``purpose``, counted per class.

    Selection and estimation draws are different streams, so no vote serves both.
    """

    purpose: Literal["select", "estimate", "predict"]
    total: int


@dataclass(frozen=True)
class Proof:
    """A radius that was decided (or refuted) when ``hits`` of ``draws`` votes were for the candidate class."""

    radius: float
    hits: int
    draws: int


@dataclass(frozen=True)
class Certificate:
    """With probability at least 1 - alpha over the draws, the smoothed classifier's answer is ``prediction`` for every
    image within an L2 distance below ``radius`` of the one shown.

    Args:
        prediction: index of the class, or -1 where the certifier abstains.
        radius: in [0, 1] pixel units at the model's input size, never rounded up; 0 where it abstains.
        counts: votes per class of the estimation draws.
        counts0: votes per class of the selection draws.
        p_lower: what was proven of the candidate's probability.
        sigma: standard deviation of the noise, in [0, 1] pixel units.
        alpha: the error probability that this certificate spent.
        bound: ``one-vs-rest`` or ``runner-up``.
        guarantee: which statement is proven (docs/guarantees.md).
        decided, refuted: for a sequential certifier, the radii on either side, with the votes that settled them.
        unsettled: for a sequential certifier, the radii left open.
        choice: for a bank, the certificate of the choice; this certificate's counts are those of the chosen member.
    """

    prediction: int
    radius: float
    counts: Counts
    counts0: Counts
    p_lower: float
    sigma: float
    alpha: float
    bound: str
    guarantee: Guarantee = "fixed"
    decided: tuple[Proof, ...] | None = None
    refuted: tuple[Proof, ...] | None = None
    unsettled: tuple[float, ...] | None = None
    choice: Certificate | None = None

    @property
    def draws(self) -> int:
        """Number of estimation draws."""
        return int(self.counts.sum())

    def fields(self) -> dict[str, Any]:
        """The record's fields."""
        fields: dict[str, Any] = {
            "prediction": self.prediction,
            "radius": self.radius,
            "counts": self.counts.tolist(),
            "counts0": self.counts0.tolist(),
            "draws": self.draws,
            "draws0": int(self.counts0.sum()),
            "p_lower": self.p_lower,
            "sigma": self.sigma,
            "alpha": self.alpha,
            "bound": self.bound,
            "guarantee": self.guarantee,
        }
        if self.decided is not None and self.refuted is not None and self.unsettled is not None:
            fields["decided"] = [vars(proof) for proof in self.decided]
            fields["refuted"] = [vars(proof) for proof in self.refuted]
            fields["open"] = list(self.unsettled)
        if self.choice is not None:
            own = self.choice.fields()
            fields["choice"] = {name: own[name] for name in ("prediction", "radius", "counts", "counts0", "p_lower")}
        return fields


@dataclass(frozen=True)
class Answer:
    """With probability at least 1 - alpha over the draws, ``prediction`` is -1 or the smoothed classifier's answer."""

    prediction: int
    counts: Counts
    p_value: float
    sigma: float
    alpha: float

    def fields(self) -> dict[str, Any]:
        """The record's fields."""
        return {
            "prediction": self.prediction,
            "counts": self.counts.tolist(),
            "draws": int(self.counts.sum()),
            "p_value": self.p_value,
            "sigma": self.sigma,
            "alpha": self.alpha,
        }


Statement = Certificate | Answer
Procedure = Generator[Draws, Counts, Statement]
"""A certifier at work on one image: it asks for draws, is sent their counts (estimation counts are cumulative), and
returns its statement. It never sees an image, so what it proves rests on counts alone."""
