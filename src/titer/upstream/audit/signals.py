"""All signals of all pairs, and their combination into one score; what changes when a few pairs are others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

from titer.errors import InputError, unknown
from titer.upstream.audit.agreement import disagreement, own_rank, pair
from titer.upstream.audit.canaries import CONTROL, FAMILIES
from titer.upstream.audit.density import Neighbours, dao, k_distance, moved, neighbours, slof
from titer.upstream.audit.pairs import Floats, Pairs, Places
from titer.upstream.audit.transforms import transform
from titer.upstream.audit.wording import crowds, far_apart, links, surprisal

SIGNALS: Mapping[str, str] = {
    "pair": "image and own caption are far apart under the encoder",
    "own-rank": "other captions of the set fit the image better than its own",
    "transform": "the image's feature moves far under noise, JPEG, a shift by a pixel, a change of scale",
    "k-distance": "image and caption together are far from the next pairs",
    "slof": "they are further from the next pairs than those are from theirs",
    "dao": "the same, weighed by how many directions the pairs there spread in",
    "residual": "much of the image's energy is in what differs from pixel to pixel",
    "disagreement": "the two encoders do not agree how well image and caption fit",
    "surprisal": "one word of the caption is surprising there",
    "near-duplicate": "nearly the same caption stands below pictures that look different",
}
"""What each signal says of a pair that it raises. Those of a second encoder end in ``/2``."""


@dataclass(frozen=True)
class Rule:
    """How pairs are ranked, and by which canaries the ranking is judged.

    Args:
        k: neighbours that a pair's density is judged by.
        captions: most other captions that a pair's own is compared with.
        alike: least share of words in common (Jaccard) of captions that are nearly the same.
        smoothing: of the bigram model.
        canaries: of each family, at least.
        families: of canaries; all unless given. The untouched ones are always there.
        steps: gradient steps of the canaries' attacks.
    """

    k: int = 16
    captions: int = 1000
    alike: float = 0.8
    smoothing: float = 1.0
    canaries: int = 100
    families: tuple[str, ...] | None = None
    steps: int = 10

    def __post_init__(self) -> None:
        for name, least in (("k", 1), ("captions", 1), ("canaries", 0), ("steps", 1)):
            if getattr(self, name) < least:
                raise InputError(f"{name}: expected at least {least}, got {getattr(self, name)}")
        for name in self.families or ():
            if name not in FAMILIES:
                raise unknown("family of canaries", name, FAMILIES)
        if not 0 < self.alike <= 1:
            raise InputError(f"alike: expected a share above 0, at most 1, got {self.alike:g}")
        if not self.smoothing > 0:
            raise InputError(f"smoothing: expected a number above 0, got {self.smoothing:g}")

    @property
    def planted(self) -> tuple[str, ...]:
        """The families that are planted, in their usual order."""
        return tuple(name for name in FAMILIES if self.families is None or name in (*self.families, CONTROL))


@dataclass(frozen=True, eq=False)
class Population:
    """Pairs, and what of them depends on all others at once.

    Args:
        pairs: the pairs.
        near: of each encoder, the nearest pairs of each.
        crowds: (pairs,) near-duplicates of each.
        far: cosine below which two pictures look different.
    """

    pairs: Pairs
    near: tuple[Neighbours, ...]
    crowds: Floats
    far: float


def population(pairs: Pairs, rule: Rule, spare: int) -> Population:
    """The pairs as they are.

    Args:
        pairs: more than the rule's ``k``.
        rule: how they are ranked.
        spare: how many of them ``planted`` may replace at a time.
    """
    depth = min(rule.k + spare, len(pairs) - 1)
    near = tuple(neighbours(features.joint, depth) for features in pairs.features)
    images = pairs.features[0].images
    far = far_apart(images)
    return Population(pairs, near, crowds(pairs.captions, images, rule.alike, far), far)


def planted(known: Population, rows: Places, others: Pairs, rule: Rule) -> Population:
    """The population with a few other pairs in the place of some, as ``population`` would find it but for ``far``.

    Args:
        known: as ``population`` gives it.
        rows: which pairs are replaced; at most ``spare``.
        others: as many pairs.
        rule: how they are ranked.
    """
    after = known.pairs.replaced(rows, others)
    near = tuple(
        moved(before, features.joint, rows, min(rule.k, len(after) - 1))
        for before, features in zip(known.near, after.features, strict=True)
    )
    gone, come = (_linked(pairs, rows, rule.alike, known.far) for pairs in (known.pairs, after))
    crowd = known.crowds - gone.sum(axis=0) + come.sum(axis=0)
    crowd[rows] = come.sum(axis=1)
    return Population(after, near, crowd, known.far)


def _linked(pairs: Pairs, rows: Places, alike: float, far: float) -> Floats:
    """(rows, pairs) near-duplicates of some pairs."""
    images, captions = pairs.features[0].images, [pairs.captions[row] for row in rows]
    return np.asarray(links(captions, images[rows], pairs.captions, images, alike, far), float)


def signals(known: Population, rule: Rule, seed: int) -> dict[str, Floats]:
    """Every signal (pairs,) by name, the higher the more suspicious.

    Args:
        known: the pairs.
        rule: how they are ranked.
        seed: which captions a pair's own is compared with.
    """
    pairs = known.pairs
    found: dict[str, Floats] = {}
    for place, (features, deep) in enumerate(zip(pairs.features, known.near, strict=True)):
        near = deep.nearest(rule.k)
        own = {
            "pair": pair(features),
            "own-rank": own_rank(features, pairs.captions, rule.captions, seed),
            "transform": transform(features.shifts),
            "k-distance": k_distance(near),
            "slof": slof(near),
            "dao": dao(near, features.joint.shape[1]),
        }
        found |= {f"{name}/{place + 1}" if place else name: values for name, values in own.items()}
    found["residual"] = pairs.residuals
    if len(pairs.features) == 2:
        found["disagreement"] = disagreement(*pairs.features)
    found["surprisal"] = surprisal(pairs.captions, rule.smoothing) if pairs.surprisals is None else pairs.surprisals
    found["near-duplicate"] = known.crowds
    return found


def percentiles(values: Floats) -> Floats:
    """(pairs,) share of the other pairs that have less of it, ties counted half: 0 to 1, 1/2 where all have the same."""
    return np.asarray((rankdata(values) - 1) / (len(values) - 1), float)


def combined(found: Mapping[str, Floats]) -> Floats:
    """(pairs,) score in [0, 1]: the mean of a pair's percentiles, that is its average rank over the signals."""
    return np.asarray(np.mean([percentiles(values) for values in found.values()], axis=0), float)
