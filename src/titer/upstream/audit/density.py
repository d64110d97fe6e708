"""Does the pair stand alone? Distances to the nearest other pairs, and how they compare with those of the neighbours.

Formulas of Huang et al., Detecting Backdoor Samples in Contrastive Language Image Pretraining (ICLR 2025): r_k(x) is the
distance to the k-th nearest other pair. Distances are Euclidean and exact: the usual short cut by a matrix product loses
the small ones. Pairs may coincide: no distance counts for less than a millionth of the median r_k.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial.distance import cdist

from titer.upstream.audit.pairs import Floats, Places

_ROWS = 128  # whose distances to all are held at a time
_FLOOR = 1e-6


@dataclass(frozen=True, eq=False)
class Neighbours:
    """The nearest other points of each point, nearest first.

    Args:
        distances: (points, depth).
        places: (points, depth) which points they are.
    """

    distances: Floats
    places: Places

    def nearest(self, k: int) -> Neighbours:
        """The first ``k`` of each point."""
        return Neighbours(self.distances[:, :k], self.places[:, :k])


def neighbours(points: Floats, depth: int) -> Neighbours:
    """The ``depth`` nearest other points of each.

    Args:
        points: (points, dim).
        depth: below the number of points.
    """
    rows = np.arange(len(points))
    parts = [_of_rows(points, part, depth) for part in np.split(rows, range(_ROWS, len(rows), _ROWS))]
    return Neighbours(np.vstack([part.distances for part in parts]), np.vstack([part.places for part in parts]))


def moved(known: Neighbours, points: Floats, rows: Places, k: int) -> Neighbours:
    """The ``k`` nearest after some points moved, without looking at all distances again.

    Args:
        known: before they moved, at a depth of at least ``k`` and the number of rows together.
        points: (points, dim) now.
        rows: which moved.
        k: how many are wanted.

    Raises:
        ValueError: if ``known`` does not reach deep enough.
    """
    if known.distances.shape[1] < min(k + len(rows), len(points) - 1):
        raise ValueError(f"expected neighbours to a depth of {k + len(rows)}, got {known.distances.shape[1]}")
    stayed = np.where(np.isin(known.places, rows), np.inf, known.distances)
    distances = np.hstack([stayed, cdist(points, points[rows])])
    places = np.hstack([known.places, np.broadcast_to(rows, (len(points), len(rows)))])
    found = _sorted(distances, places, k)
    own = _of_rows(points, rows, k)
    found.distances[rows], found.places[rows] = own.distances, own.places
    return found


def _of_rows(points: Floats, rows: Places, depth: int) -> Neighbours:
    distances = cdist(points[rows], points)
    distances[np.arange(len(rows)), rows] = np.inf
    # all that are as near as the last one wanted, so that of equally far points the first can be taken
    last = np.partition(distances, depth - 1, axis=1)[:, depth - 1 : depth]
    count = int(np.count_nonzero(distances <= last, axis=1).max())
    near = np.argpartition(distances, count - 1, axis=1)[:, :count]
    return _sorted(np.take_along_axis(distances, near, axis=1), near, depth)


def _sorted(distances: Floats, places: Places, depth: int) -> Neighbours:
    order = np.lexsort((places, distances))[:, :depth]  # of equally far points the first
    return Neighbours(np.take_along_axis(distances, order, axis=1), np.take_along_axis(places, order, axis=1))


def k_distance(near: Neighbours) -> Floats:
    """(points,) r_k, k being the depth."""
    return _floored(near)[:, -1]


def slof(near: Neighbours) -> Floats:
    """(points,) simplified local outlier factor: mean over the k neighbours n of r_k(x) / r_k(n)."""
    reach = k_distance(near)
    return np.asarray(np.mean(reach[:, None] / reach[near.places], axis=1), float)


def dao(near: Neighbours, dim: int) -> Floats:
    """(points,) dimensionality-aware outlierness: mean over the k neighbours n of LID(n) * log(r_k(x) / r_k(n)).

    Args:
        near: the k nearest of each.
        dim: of the space; no local dimension counts for more.
    """
    reach, dimension = k_distance(near), lid(near, dim)
    return np.asarray(np.mean(dimension[near.places] * np.log(reach[:, None] / reach[near.places]), axis=1), float)


def lid(near: Neighbours, dim: int) -> Floats:
    """(points,) local intrinsic dimension by maximum likelihood: -k / sum over i of log(r_i / r_k), at most ``dim``."""
    distances = _floored(near)
    spread = np.sum(np.log(distances[:, -1:] / distances), axis=1)
    # where all k are equally far the likelihood has no maximum
    return np.asarray(distances.shape[1] / np.maximum(spread, distances.shape[1] / dim), float)


def _floored(near: Neighbours) -> Floats:
    typical = float(np.median(near.distances[:, -1]))
    return np.maximum(near.distances, _FLOOR * (typical or 1.0))
