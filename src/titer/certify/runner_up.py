"""Bounding the runner-up instead of everything but the top class.

Radius = sigma/2 * (Phi^-1(lower of the candidate) - Phi^-1(largest upper of all other classes)), every bound at alpha/2.
The candidate A is fixed by the selection draws. Let b be the most probable other class, whichever it is. With
probability at least 1 - alpha both the lower bound of A and the upper bound *of b* hold, and then the largest upper
bound is at least b's. So no correction over the classes is needed, and none of them has to be named the runner-up.

Naming it is the trap: bounding only the class that came second in the selection draws, at alpha/2, misses the case that
another class is in fact the second (a test shows it; counter_example.py of Delattre et al., "Bridging the gap", AISTATS
2025, is of that kind).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.special import ndtri

from titer.certify.certificate import Counts
from titer.statistics.intervals import lower_bound, upper_bound

Bound = Callable[[int, int, float], float]


def runner_up_radius(
    counts: Counts,
    candidate: int,
    sigma: float,
    alpha: float,
    gap: float = 0.0,
    lower: Bound = lower_bound,
    upper: Bound = upper_bound,
) -> float:
    """The radius that the votes prove; minus infinity if the candidate has none.

    Args:
        counts: votes per class (classes,) of the estimation draws.
        candidate: the class, chosen from other draws.
        sigma: standard deviation of the noise.
        alpha: error probability of the whole statement.
        gap: how far any probability may be off because the sampler's tails end.
        lower, upper: one-sided bounds (hits, draws, alpha) -> probability; Clopper-Pearson's unless given.
    """
    draws = int(counts.sum())
    top = max(0.0, lower(int(counts[candidate]), draws, alpha / 2) - gap)
    # an upper bound rises with its hits, so the largest is that of the other class with the most votes
    rival = upper(int(np.delete(counts, candidate).max()), draws, alpha / 2) + gap
    # where the candidate's bound holds, no other class has more than the rest
    return float(sigma / 2 * (ndtri(top) - ndtri(min(rival, 1 - top))))


def helps(counts0: Counts, n: int, alpha: float) -> bool:
    """Whether the runner-up bound would give the larger radius if ``n`` draws fell like the selection draws.

    Decided from the selection draws alone, so either bound stays valid.
    """
    if len(counts0) < 3:
        return False
    expected = np.floor(counts0 * (n / counts0.sum())).astype(np.int64)
    candidate = int(np.argmax(counts0))
    # at sigma = 1 the one-versus-rest radius is Phi^-1 of the lower bound
    plain = float(ndtri(lower_bound(int(expected[candidate]), int(expected.sum()), alpha)))
    return runner_up_radius(expected, candidate, 1.0, alpha) > plain
