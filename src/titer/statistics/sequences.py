"""Evidence that may be looked at after every draw: a one-sided truncated-Beta mixture e-process.

For hits ``k`` among ``n`` draws of probability ``p``, the hypothesis ``p <= p0`` is tested by the likelihood ratio

    E_n(p0) = integral over q in (p0, 1) of prior(q | q > p0) * (q/p0)^k * ((1-q)/(1-p0))^(n-k)

with the Beta(1/2, 1/2) prior. Under every ``p <= p0`` each ratio is a supermartingale (its expectation, linear in p, is
one at p = p0), hence so is their mixture, and Ville's inequality gives P(ever E_n >= 1/alpha) <= alpha: the certificate
is valid at whatever draw one stops.

Where ``E_n(p0) >= e^2`` it falls in ``p0``: its logarithm's derivative is h (1 - 1/E) - (k - n p0) / (p0 (1 - p0)) with
the prior's hazard h, h p0 (1 - p0) <= 1/2, and E >= e^2 needs k - n p0 > 1/2. So hypotheses are rejected in order of p0,
and the largest rejected one is a confidence limit.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

_A = _B = 0.5


def log_evidence(hits: ArrayLike, draws: ArrayLike, p0: ArrayLike) -> NDArray[np.float64]:
    """Logarithm of the evidence against ``p <= p0``; arguments broadcast.

    Args:
        hits: number of hits so far.
        draws: number of draws so far.
        p0: probabilities in [0, 1].

    Returns:
        Float64 array; minus infinity where the share of hits is not above ``p0``. (There the survival function below
        underflows for large ``draws``; flooring it instead would create false certificates.)
    """
    k, n, p = np.broadcast_arrays(np.asarray(hits, float), np.asarray(draws, float), np.asarray(p0, float))
    above = k > p * n
    k, misses, p = k[above], (n - k)[above], p[above]
    evidence = np.full(above.shape, -np.inf)
    with np.errstate(divide="ignore"):  # at p0 = 0 a single hit is infinite evidence
        evidence[above] = (
            special.betaln(_A + k, _B + misses)
            + np.log(special.betaincc(_A + k, _B + misses, p))
            - special.betaln(_A, _B)
            - np.log(special.betaincc(_A, _B, p))
            - k * np.log(p)
            - misses * np.log1p(-p)
        )
    return evidence


def exceeds(hits: ArrayLike, draws: ArrayLike, p0: ArrayLike, alpha: float) -> NDArray[np.bool_]:
    """Whether ``p > p0`` is shown at level ``alpha``, valid at every look."""
    return np.asarray(log_evidence(hits, draws, p0) >= -math.log(alpha))


def falls_short(hits: ArrayLike, draws: ArrayLike, p0: ArrayLike, alpha: float) -> NDArray[np.bool_]:
    """Whether ``p < p0`` is shown at level ``alpha``, valid at every look (the mirrored process)."""
    return exceeds(np.asarray(draws) - np.asarray(hits), draws, 1 - np.asarray(p0, float), alpha)


@lru_cache(maxsize=1 << 16)  # images of one run share looks and many of their counts
def lower_limit(hits: int, draws: int, alpha: float) -> float:
    """Largest ``p0`` such that ``p > p0`` is shown at level ``alpha`` (0 if none): an anytime-valid confidence limit.

    Args:
        hits: number of hits so far.
        draws: number of draws so far.
        alpha: at most exp(-2), where the evidence is monotone.
    """
    low, high = 0.0, hits / draws
    for _ in range(40):
        middle = (low + high) / 2
        if middle <= low or middle >= high:
            break
        if exceeds(hits, draws, middle, alpha):
            low = middle
        else:
            high = middle
    return low


def upper_limit(hits: int, draws: int, alpha: float) -> float:
    """Smallest ``p0`` such that ``p < p0`` is shown at level ``alpha`` (1 if none); never 0."""
    return 1 - lower_limit(draws - hits, draws, alpha)


def looks(cap: int, step: int) -> Iterator[int]:
    """The numbers of draws at which a sequential rule looks: every ``step``, then every eighth more, at last ``cap``."""
    count = 0
    while count < cap:
        count = min(cap, count + max(step, count // (8 * step) * step))
        yield count
