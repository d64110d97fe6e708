"""Bounding the runner-up instead of everything but the top class, in a form that is valid.

Taking the runner-up of the estimation draws and splitting alpha in two is not: which class comes second is itself
random. Here classes are put into buckets by the *selection* draws: {first}, {second}, then one class after the other
until what remains has no more votes than the second, and that remainder as one bucket (a bucket's probability bounds
each member's). Every bucket is bounded on the estimation draws at alpha / buckets. After Delattre et al., "Bridging the
gap" (AISTATS 2025).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.special import ndtri

from titer.certify.certificate import Counts
from titer.statistics.intervals import lower_bound, upper_bound

Bound = Callable[[int, int, float], float]
Buckets = tuple[tuple[int, ...], ...]


def buckets_of(counts0: Counts) -> Buckets:
    """Classes in buckets, the candidate's first, by the selection votes.

    Args:
        counts0: votes per class (classes,) of the selection draws.
    """
    order = [int(label) for label in np.argsort(-counts0, kind="stable")]
    first, second, *rest = order
    buckets: list[tuple[int, ...]] = [(first,), (second,)]
    while rest and counts0[rest].sum() > counts0[second]:
        buckets.append((rest.pop(0),))
    return (*buckets, tuple(rest)) if rest else tuple(buckets)


def runner_up_radius(
    counts: Counts,
    buckets: Buckets,
    sigma: float,
    alpha: float,
    gap: float = 0.0,
    lower: Bound = lower_bound,
    upper: Bound = upper_bound,
) -> float:
    """sigma/2 * (Phi^-1(lower of the first bucket) - Phi^-1(largest upper of the others)); minus infinity without hits.

    Args:
        counts: votes per class (classes,) of the estimation draws.
        buckets: from the selection draws.
        sigma: standard deviation of the noise.
        alpha: error probability of the whole statement; each bucket gets an equal part.
        gap: how far any probability may be off because the sampler's tails end.
        lower, upper: one-sided bounds (hits, draws, alpha) -> probability; Clopper-Pearson's unless given.
    """
    draws = int(counts.sum())
    share = alpha / len(buckets)
    hits = [int(counts[list(bucket)].sum()) for bucket in buckets]
    top = max(0.0, lower(hits[0], draws, share) - gap)
    # on the event that the first bucket's bound holds, no other class has more than the rest
    rival = min(max(upper(count, draws, share) + gap for count in hits[1:]), 1 - top)
    return float(sigma / 2 * (ndtri(top) - ndtri(rival)))


def helps(counts0: Counts, n: int, alpha: float) -> bool:
    """Whether the runner-up bound would give the larger radius if ``n`` draws fell like the selection draws.

    Decided from the selection draws alone, so either bound stays valid.
    """
    expected = np.floor(counts0 * (n / counts0.sum())).astype(np.int64)
    if len(counts0) < 3 or expected.sum() == 0:
        return False
    # at sigma = 1 the one-versus-rest radius is Phi^-1 of the lower bound
    plain = float(ndtri(lower_bound(int(expected.max()), int(expected.sum()), alpha)))
    return runner_up_radius(expected, buckets_of(counts0), 1.0, alpha) > plain
