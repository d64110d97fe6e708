"""Exact probability that the anytime certifier ever proves a radius that is just too large.

`python benchmarks/crossing.py` prints it for a grid of thresholds at the largest cap. By dynamic programming over the
number of hits, looking after *every* draw, which no real run does; the Clopper-Pearson shot at the cap is included.
"""

from __future__ import annotations

import sys

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta

from titer.certify.anytime import _SHOT
from titer.statistics.sequences import exceeds

GRID = (0.5, 0.6, 0.8, 0.9, 0.95, 0.977, 0.99, 0.999, 0.9999)


def boundary(cap: int, p0: float, alpha: float) -> NDArray[np.int64]:
    """Fewest hits that prove ``p > p0`` after 1, 2, ..., ``cap`` draws; one more than the draws where none do."""
    draws = np.arange(1, cap + 1)
    low, high = np.zeros(cap, np.int64), draws + 1
    while (high - low > 1).any():
        middle = (low + high) // 2
        proven = exceeds(middle, draws, p0, alpha)
        low, high = np.where(proven, low, middle), np.where(proven, middle, high)
    return high


def crossing_probability(p0: float, cap: int, alpha: float) -> float:
    """P(ever proven, or proven by the shot at the cap) when the true probability is exactly ``p0``."""
    needed = boundary(cap, p0, (1 - _SHOT) * alpha)
    hits = np.arange(cap + 1)
    needed[-1] = min(needed[-1], hits[beta.ppf(_SHOT * alpha, hits, cap - hits + 1) >= p0].min(initial=cap + 1))
    first, alive, crossed = 0, np.ones(1), 0.0
    for fewest in needed:
        stepped = np.zeros(len(alive) + 1)
        stepped[:-1] += alive * (1 - p0)
        stepped[1:] += alive * p0
        beyond = max(0, int(fewest) - first)
        crossed += float(stepped[beyond:].sum())
        alive = stepped[:beyond]
        # states too rare to matter are counted as crossings, so the result can only be too large
        rare = int(np.searchsorted(np.cumsum(alive), 1e-18))
        crossed += float(alive[:rare].sum())
        first, alive = first + rare, alive[rare:]
    return crossed


def main() -> None:
    cap, alpha = int(sys.argv[1]) if len(sys.argv) > 1 else 131_100, 0.001
    print(f"cap {cap}, alpha {alpha}")
    for p0 in GRID:
        print(f"p0 {p0:<7} crossing probability {crossing_probability(p0, cap, alpha):.6f}", flush=True)


if __name__ == "__main__":
    main()
