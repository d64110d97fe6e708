"""`compare`: two runs on the same images, image by image."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from titer.errors import InputError
from titer.results.robustness import stands
from titer.results.store import Record, Run
from titer.results.summary import cells, correct, groups, noise_channels, radii, radii_shown, run_certifies
from titer.statistics.comparisons import Comparison, holm, paired


@dataclass(frozen=True)
class Side:
    """One prompt set of a run at one place, such as a radius or an epsilon.

    Args:
        name: of the prompt set, with its run where both have the same.
        place: what both sides must have in common to be compared.
        guarantee: of its radii; empty where there are none.
        channels: that its radii are measured in; 1 for noise drawn once.
        records: one per labelled image.
        good: which of them (images,) are right there.
    """

    name: str
    place: str
    guarantee: str
    channels: int
    records: tuple[Record, ...]
    good: NDArray[np.bool_]


@dataclass(frozen=True)
class ComparisonRow:
    """One line of the table that ``compare`` prints.

    Args:
        first, second: what is compared.
        at: where.
        images: that both have.
        first_share, second_share: of these images, right there.
        difference: of the class-balanced shares, first less second, with its 95 % interval.
        p: for no difference, corrected for all lines by Holm.
    """

    first: str
    second: str
    at: str
    images: int
    first_share: str
    second_share: str
    difference: str
    p: str


def compare(first: Run, second: Run) -> list[ComparisonRow]:
    """Every prompt set of one run against every one of the other, at each place that both have.

    Certified accuracy at each radius and sigma, accuracy of runs of predict at each sigma, robust accuracy at each epsilon of
    a norm. A prompt set is not compared with itself: the same run twice compares its prompt sets with each other.

    Raises:
        InputError: for runs that have no image or no place in common, or radii under different guarantees or of one and of
            three channels.
    """
    same = first.path == second.path
    ours, theirs = (_sides(run, other) for run, other in ((first, second), (second, first)))
    pairs = [
        (one, two)
        for place, one in enumerate(ours)
        for other, two in enumerate(theirs)
        if one.place == two.place and (not same or place < other)
    ]
    if not pairs and same and len(first.info.get("prompts", {})) < 2:
        raise InputError(f"{first.path} has one prompt set; give another run to compare it with")
    if not pairs:
        raise InputError(
            f"{first.path} and {second.path} have nothing to compare: no sigma and radius, or norm and epsilon, that both have"
        )
    found = [_compared(one, two) for one, two in pairs]
    corrected = holm([comparison.p for comparison, _ in found])
    return [
        _row(one, two, comparison, shares, p)
        for (one, two), (comparison, shares), p in zip(pairs, found, corrected, strict=True)
    ]


def _sides(run: Run, other: Run) -> list[Side]:
    taken = set(run.info.get("prompts", {})) & set(other.info.get("prompts", {})) if run.path != other.path else set()

    def name(prompts: str) -> str:
        return f"{prompts} ({run.path.name})" if prompts in taken else prompts

    return list((_attacked if run.info.get("verb") == "attack" else _certified)(run, name))


def _attacked(run: Run, name: Callable[[str], str]) -> Iterator[Side]:
    for stand in stands(run):
        yield Side(name(stand.prompts), f"{stand.norm} {stand.epsilon_text}", "", 3, stand.records, stand.holds)


def _certified(run: Run, name: Callable[[str], str]) -> Iterator[Side]:
    channels = noise_channels(run)
    for cell in cells(run):
        records = tuple(cell.labelled)
        if not run_certifies(run):
            yield Side(name(cell.prompts), f"sigma {cell.sigma_text}", "", 3, records, correct(records))
            continue
        for radius in radii_shown(cell):
            reached = correct(records) & (radii(records) >= radius)
            guarantee = str(records[0].get("guarantee", "")) if records else ""
            yield Side(
                name(cell.prompts), f"sigma {cell.sigma_text}, r = {radius:g}", guarantee, channels, records, reached
            )


def _compared(one: Side, two: Side) -> tuple[Comparison, tuple[float, float]]:
    if one.guarantee != two.guarantee:
        raise InputError(
            f"the radii of {one.name} are {one.guarantee}, those of {two.name} {two.guarantee}: "
            "they state different things and are not comparable (docs/guarantees.md)"
        )
    if one.channels != two.channels:
        grey, colour = (one, two) if one.channels == 1 else (two, one)
        raise InputError(
            f"the radii of {grey.name} are of one channel, those of {colour.name} of three: a change of a grey picture is √3 "
            "times as long in three channels, so they are not comparable (docs/guarantees.md)"
        )
    other = {record["sample_id"]: (record, bool(good)) for record, good in zip(two.records, two.good, strict=True)}
    both = [
        (record, bool(good), *other[record["sample_id"]])
        for record, good in zip(one.records, one.good, strict=True)
        if record["sample_id"] in other
    ]
    if not both:
        raise InputError(f"{one.name} and {two.name} have no labelled image in common; there is nothing to compare")
    for mine, _, its, _ in both:
        if mine["label"] != its["label"] or mine.get("sha256") != its.get("sha256"):
            raise InputError(f"{mine['sample_id']} is another picture, or has another label, in the two runs")
    records = [mine for mine, *_ in both]
    ours, theirs = (np.array([row[at] for row in both], float) for at in (1, 3))
    comparison = paired(ours, theirs, [record["label"] for record in records], groups(records))
    return comparison, (float(ours.mean()), float(theirs.mean()))


def _row(one: Side, two: Side, comparison: Comparison, shares: Sequence[float], p: float) -> ComparisonRow:
    return ComparisonRow(
        first=one.name,
        second=two.name,
        at=one.place,
        images=comparison.images,
        first_share=f"{shares[0]:.3f}",
        second_share=f"{shares[1]:.3f}",
        difference=f"{comparison.difference:+.3f} ({comparison.low:+.3f} to {comparison.high:+.3f})",
        p=f"{p:.2g}",
    )
