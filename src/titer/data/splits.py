"""Which images: pure functions of their ids, so that nothing depends on the order of a directory listing."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from itertools import islice

from titer.data.example import Example
from titer.errors import InputError


def of_split(examples: Sequence[Example], split: str) -> tuple[Example, ...]:
    """The examples of a split, in order of id.

    Raises:
        InputError: if the split does not exist, naming those that do.
    """
    names = {example.split for example in examples}
    if split not in names:
        raise InputError(f"there is no split {split!r}; expected one of {', '.join(sorted(names))}")
    return tuple(sorted((example for example in examples if example.split == split), key=lambda example: example.id))


def limited(examples: Sequence[Example], limit: int | None) -> tuple[Example, ...]:
    """At most ``limit`` examples, class-balanced and nested in ``limit``.

    Classes are taken in turn, each in order of the ids' SHA-256; a class that runs out is passed over.

    Raises:
        InputError: if ``limit`` is below 1.
    """
    if limit is None:
        return tuple(examples)
    if limit < 1:
        raise InputError(f"limit: expected at least 1 image, got {limit}")
    return tuple(sorted(islice(_in_turn(examples), limit), key=lambda example: example.id))


def shots(examples: Sequence[Example], count: int, seed: int) -> tuple[Example, ...]:
    """The first ``count`` examples of each class by SHA-256 of (seed, id): the same for every method, nested in count."""
    chosen = []
    for members in _by_class(examples).values():
        chosen += sorted(members, key=lambda example: _hash(f"{seed}\x00{example.id}"))[:count]
    return tuple(sorted(chosen, key=lambda example: example.id))


def _in_turn(examples: Sequence[Example]) -> Iterator[Example]:
    queues = [iter(sorted(members, key=lambda example: _hash(example.id))) for members in _by_class(examples).values()]
    while queues:
        remaining = []
        for queue in queues:
            example = next(queue, None)
            if example is not None:
                remaining.append(queue)
                yield example
        queues = remaining


def _by_class(examples: Sequence[Example]) -> dict[int | None, list[Example]]:
    """Examples by class, classes in order of index, those without a label last."""
    labels = sorted({example.label for example in examples}, key=lambda label: (label is None, label))
    return {label: [example for example in examples if example.label == label] for label in labels}


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
