"""Cohen, Rosenfeld and Kolter's CERTIFY: exactly n draws, one Clopper-Pearson bound (ICML 2019, arXiv 1902.02918)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri

from titer.certify.certificate import ABSTAIN, Certificate, Draws, Procedure
from titer.certify.runner_up import helps, runner_up_radius
from titer.certify.settings import BoundName, check_settings
from titer.statistics.intervals import lower_bound


@dataclass(frozen=True)
class Gaussian:
    """``n0`` draws choose the class, ``n`` fresh ones bound its probability; radius = sigma * Phi^-1(p_lower).

    With probability at least 1 - alpha the radius is not larger than the true one of the smoothed classifier.

    Args:
        n0: selection draws.
        n: estimation draws.
        alpha: error probability per image.
        bound: ``runner-up`` bounds the second class where that promises more.
    """

    n0: int = 100
    n: int = 10_000
    alpha: float = 0.001
    bound: BoundName = "one-vs-rest"

    def __post_init__(self) -> None:
        check_settings(n0=self.n0, n=self.n, alpha=self.alpha, bound=self.bound)

    def fewest_draws(self, alpha: float) -> int:
        """The least n that can certify anything: if all votes agree, the bound alpha^(1/n) must exceed 1/2."""
        return math.floor(math.log2(1 / (alpha))) + 1

    def largest_radius(self, sigma: float, alpha: float) -> float:
        """The radius if all votes agree: sigma * Phi^-1(alpha^(1/n)). Below 0, n can never certify anything."""
        return float(sigma * ndtri(lower_bound(self.n, self.n, alpha)))

    def certify(self, sigma: float, alpha: float, gap: float = 0.0) -> Procedure:
        """The procedure for one image.

        Args:
            sigma: standard deviation of the noise.
            alpha: what this certificate may spend (``self.alpha`` unless many share it).
            gap: how far any probability may be off because the sampler's tails end (``noise.tail_gap``).
        """
        counts0 = yield Draws("select", self.n0)
        candidate = int(np.argmax(counts0))
        use_runner_up = self.bound == "runner-up" and helps(counts0, self.n, alpha)
        counts = yield Draws("estimate", self.n)
        p_lower = max(0.0, lower_bound(int(counts[candidate]), self.n, alpha) - gap)
        if use_runner_up:
            radius = runner_up_radius(counts, candidate, sigma, alpha, gap)
            certified = radius > 0
        else:
            radius = float(sigma * ndtri(p_lower))
            certified = p_lower >= 0.5
        return Certificate(
            prediction=candidate if certified else ABSTAIN,
            radius=radius if certified else 0.0,
            counts=counts,
            counts0=counts0,
            p_lower=p_lower,
            sigma=sigma,
            alpha=alpha,
            bound="runner-up" if use_runner_up else "one-vs-rest",
        )
