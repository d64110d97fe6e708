"""Canaries: pairs of the set that are noised on purpose, so that an audit knows how many of such it would find.

A planting noises a few pairs, which take the places of their originals: an original and its canary are never ranked
together. Where a family wants more canaries than there are pairs, the same plantings are noised again with other random
numbers; they keep their number, by which intervals are clustered.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from titer.attacks.pairs import PAIR_ATTACKS, Halves
from titer.data.example import Example
from titer.upstream.audit.pairs import same_words
from titer.upstream.noises import Noise, build_noise

CONTROL = "untouched"
"""The family whose power is the share of false alarms, if the audit is right."""

_SHARE = 0.005
_PLANTINGS = 40  # at least, so that an interval clustered by planting is not wide for want of plantings
_FEWEST = 2


@dataclass(frozen=True)
class Family:
    """One way to noise a pair.

    Args:
        says: what is done to it.
        name: of the noise, as ``craft`` takes it; None where nothing is done.
        halves: of an attack: what is attacked.
        epsilon: linf budget of the image; the encoder sees the image again where it may change.
    """

    says: str
    name: str | None
    halves: Halves = "both"
    epsilon: float | None = None

    def noise(self, steps: int) -> Noise | None:
        """The noise.

        Args:
            steps: gradient steps, of an attack.
        """
        if self.name is None:
            return None
        settings = {"steps": steps, "halves": self.halves} if self.name in PAIR_ATTACKS else {}
        return build_noise(self.name, **settings)


FAMILIES: Mapping[str, Family] = {
    "sga-2/255": Family("image and caption attacked together, linf 2/255", "sga", epsilon=2 / 255),
    "sga-8/255": Family("image and caption attacked together, linf 8/255", "sga", epsilon=8 / 255),
    "image-8/255": Family("image attacked alone, linf 8/255", "sga", "image", 8 / 255),
    "text": Family("one word of the caption swapped against the encoder", "sga", "text"),
    "wrong-caption": Family("the caption of another class, or of another pair where there are none", "wrong-caption"),
    CONTROL: Family("nothing done to it: a check of the audit itself", None),
}


@dataclass(frozen=True)
class Canary:
    """One pair to be noised.

    Args:
        family: how.
        planting: which pairs it is planted together with.
        again: how often they were planted before.
        row: of the pair.
    """

    family: str
    planting: int
    again: int
    row: int


def fewest_together(pairs: int, canaries: int) -> int:
    """How many pairs a planting noises at least: 0.5 % of them, at most a fortieth of the canaries, at least two."""
    return max(_FEWEST, min(round(_SHARE * pairs), canaries // _PLANTINGS))


def plantings(groups: Sequence[str | None], together: int, seed: int, family: str) -> Iterator[tuple[Canary, ...]]:
    """Plantings of a family, without end: all pairs in random order, then the same plantings again.

    Args:
        groups: one per pair; pairs that share one are planted together, or not at all.
        together: fewest pairs of a planting (the last one may have fewer); it has less than twice as many.
        seed: of the order.
        family: name of the family.
    """
    random = _random(seed, family)
    members: dict[object, list[int]] = {}
    for row, group in enumerate(groups):
        members.setdefault(row if group is None else group, []).append(row)
    drawn: list[list[int]] = [[]]
    for place in random.permutation(len(members)):
        own = list(members.values())[place]
        drawn[-1] += random.permutation(own)[:together].tolist()
        if len(drawn[-1]) >= together:
            drawn.append([])
    filled = [rows for rows in drawn if rows]
    again = 0
    while True:
        for planting, rows in enumerate(filled):
            yield tuple(Canary(family, planting, again, row) for row in sorted(rows))
        again += 1


def wrong_caption(examples: Sequence[Example], canary: Canary, seed: int) -> str:
    """A caption that is not the pair's: of another class, if both have one; else any other.

    Args:
        examples: all pairs, with two different captions at least.
        canary: the pair.
        seed: of the draw.
    """
    own = examples[canary.row]
    words = same_words([str(example.caption) for example in examples])
    other = words != words[canary.row]
    labels = np.array([-1 if example.label is None else example.label for example in examples])
    elsewhere = other & (labels != labels[canary.row]) & (labels >= 0)
    places = np.flatnonzero(elsewhere if own.label is not None and elsewhere.any() else other)
    chosen = _random(seed, f"{canary.family}\x00{canary.again}\x00{own.id}").choice(places)
    return str(examples[chosen].caption)


def _random(seed: int, purpose: str) -> np.random.Generator:
    return np.random.default_rng(list(hashlib.sha256(f"{seed}\x00canaries\x00{purpose}".encode()).digest()[:16]))
