"""Cohen, Rosenfeld and Kolter's PREDICT: what a deployed system calls (ICML 2019, arXiv 1902.02918)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest

from titer.certify.certificate import ABSTAIN, Answer, Draws, Procedure
from titer.certify.settings import check_settings


@dataclass(frozen=True)
class Predict:
    """The top class of ``n`` draws, unless the binomial test of the top two classes leaves it open.

    With probability at least 1 - alpha the answer is -1 or the smoothed classifier's own.

    Args:
        n: draws; below ``fewest_draws`` the test can never answer.
        alpha: error probability per image.
    """

    n: int = 1000
    alpha: float = 0.001

    def __post_init__(self) -> None:
        check_settings(n=self.n, alpha=self.alpha)

    def fewest_draws(self, alpha: float) -> int:
        """The least n that can answer: 2 * 2^-n <= alpha; 11 at alpha 0.001."""
        return math.ceil(math.log2(2 / alpha))

    def certify(self, sigma: float, alpha: float, gap: float = 0.0) -> Procedure:  # noqa: ARG002
        """The procedure for one image; the arguments are those of every certifier.

        Args:
            sigma: standard deviation of the noise.
            alpha: what this answer may spend.
            gap: not used: the test compares two classes under the same draws.
        """
        counts = yield Draws("predict", self.n)
        second, first = np.partition(counts, -2)[-2:]
        p_value = float(binomtest(int(first), int(first + second)).pvalue)
        return Answer(
            prediction=int(np.argmax(counts)) if p_value <= alpha else ABSTAIN,
            counts=counts,
            p_value=p_value,
            sigma=sigma,
            alpha=alpha,
        )
