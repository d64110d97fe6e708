"""Canaries: pairs of the set that are noised on purpose, so that an audit knows how many of such it would find.

A planting noises a few pairs, which take the places of their originals: an original and its canary are never ranked
together. Where a family wants more canaries than there are pairs, the same plantings are noised again with other random
numbers; they keep their number, by which intervals are clustered.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from torch import Tensor

from titer.attacks.attack import Random
from titer.attacks.pairs import Halves, Sga
from titer.attacks.threat import Threat
from titer.attacks.words import WordSwap
from titer.upstream.audit.pairs import same_words
from titer.data.example import Example
from titer.models.encoder import Encoder

Kind = Literal["attack", "caption", "nothing"]

_SHARE = 0.005
_PLANTINGS = 40  # at least, so that an interval clustered by planting is not wide for want of plantings
_FEWEST = 2


@dataclass(frozen=True)
class Family:
    """One way to noise a pair.

    Args:
        says: what is done to it.
        kind: an ``attack``, another ``caption``, or ``nothing``.
        halves: of an attack: what is attacked.
        epsilon: of an attack: linf budget of the image.
    """

    says: str
    kind: Kind = "attack"
    halves: Halves = "both"
    epsilon: float = 8 / 255


FAMILIES: Mapping[str, Family] = {
    "sga-2/255": Family("image and caption attacked together, linf 2/255", epsilon=2 / 255),
    "sga-8/255": Family("image and caption attacked together, linf 8/255"),
    "image-8/255": Family("image attacked alone, linf 8/255", halves="image"),
    "text": Family("one word of the caption swapped", halves="text"),
    "wrong-caption": Family("the caption of another class, or where there are no classes another one", kind="caption"),
    "untouched": Family("nothing done to it, as a check of the audit itself", kind="nothing"),
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


def attacked(
    family: Family, steps: int, encoder: Encoder, images: Tensor, captions: Sequence[str], random: Random
) -> tuple[Tensor, list[str]]:
    """Images and captions after the family's attack, images rounded to 8 bits as a stored picture is.

    Args:
        family: of the kind ``attack``.
        steps: gradient steps.
        encoder: that is attacked.
        images: (batch, 3, size, size) in [0, 1].
        captions: that its text tower takes whole.
        random: a stream for each image.
    """
    method = Sga(steps=steps, swap=WordSwap(meaning="any"), halves=family.halves)
    found = method(encoder, images, [[caption] for caption in captions], Threat("linf", family.epsilon), random)
    texts = [swapped[0].text for swapped in found.texts]
    return (images if family.halves == "text" else (found.images * 255).round() / 255), texts


def _random(seed: int, purpose: str) -> np.random.Generator:
    return np.random.default_rng(list(hashlib.sha256(f"{seed}\x00canaries\x00{purpose}".encode()).digest()[:16]))
