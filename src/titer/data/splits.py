"""Which images: pure functions of their ids, so that nothing depends on the order of a directory listing."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import islice

from titer.data.example import Example
from titer.errors import InputError

ALL = "all"
"""The split name that stands for every image."""


def of_split(examples: Sequence[Example], split: str) -> tuple[Example, ...]:
    """The examples of a split, in order of id; ``all`` is every example.

    Raises:
        InputError: if the split does not exist, naming those that do.
    """
    names = sorted({example.split for example in examples} - {ALL})
    if split != ALL and split not in names:
        raise InputError(f"there is no split {split!r}; expected one of {', '.join([*names, ALL])}")
    return _by_id(example for example in examples if split in (ALL, example.split))


def limited(examples: Sequence[Example], limit: int | None) -> tuple[Example, ...]:
    """At most ``limit`` examples, class-balanced and nested in ``limit``; in order of id.

    Classes are taken in turn (those without a label last), each in order of the ids' SHA-256; a class that runs out is
    passed over.

    Raises:
        InputError: if ``limit`` is below 1.
    """
    if limit is None:
        return tuple(examples)
    if limit < 1:
        raise InputError(f"limit: expected at least 1 image, got {limit}")
    return _by_id(islice(_in_turn(examples), limit))


def shots(examples: Sequence[Example], count: int | None, seed: int) -> tuple[Example, ...]:
    """The first ``count`` labelled examples of each class by SHA-256 of (seed, id); all where ``count`` is None.

    They are the same for every method and nested in ``count``. In order of id.

    Raises:
        InputError: if ``count`` is below 1.
    """
    if count is not None and count < 1:
        raise InputError(f"shots: expected at least 1 image of each class, got {count}")
    labelled = [example for example in examples if example.label is not None]
    classes = _by_class(labelled)
    return _by_id(
        example
        for members in classes
        for example in sorted(members, key=lambda example: _hash(f"{seed}\x00{example.id}"))[:count]
    )


def finding_shots(examples: Sequence[Example], count: int | None, seed: int) -> tuple[Example, ...]:
    """Of each finding the first ``count`` examples with it and as many without it, by SHA-256 of (seed, id); all where None.

    Nested in ``count``. In order of id, each once.

    Raises:
        InputError: if ``count`` is below 1.
    """
    if count is not None and count < 1:
        raise InputError(f"shots: expected at least 1 image of each finding, got {count}")
    ordered = sorted(examples, key=lambda example: _hash(f"{seed}\x00{example.id}"))
    found = {
        example.id: example
        for place in range(len(examples[0].findings) if examples else 0)
        for there in (True, False)
        for example in [each for each in ordered if each.findings[place] is there][:count]
    }
    return _by_id(iter(found.values()))


def some(examples: Sequence[Example], count: int | None, seed: int) -> tuple[Example, ...]:
    """The first ``count`` examples by SHA-256 of (seed, id), whatever their labels; all where ``count`` is None."""
    return _by_id(iter(sorted(examples, key=lambda example: _hash(f"{seed}\x00{example.id}"))[:count]))


def _in_turn(examples: Sequence[Example]) -> Iterator[Example]:
    queues = [iter(sorted(members, key=lambda example: _hash(example.id))) for members in _by_class(examples)]
    while queues:
        remaining = []
        for queue in queues:
            example = next(queue, None)
            if example is not None:
                remaining.append(queue)
                yield example
        queues = remaining


def _by_class(examples: Sequence[Example]) -> list[list[Example]]:
    """Examples of each class, classes in order of index, those without a label last."""
    members: dict[int | None, list[Example]] = defaultdict(list)
    for example in examples:
        members[example.label].append(example)
    return [members[label] for label in sorted(members, key=lambda label: (label is None, label))]


def _by_id(examples: Iterator[Example]) -> tuple[Example, ...]:
    return tuple(sorted(examples, key=lambda example: example.id))


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
