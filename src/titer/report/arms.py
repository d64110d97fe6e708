"""Tables of a comparison: methods side by side, paired tests, shots, costs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from titer.report.plots import on_grid
from titer.report.tables import MISSING, Share, Table, Value, radius_text
from titer.results.arms import Arm, Fits, Shares
from titer.results.study import ZERO_SHOT, StudyCell, StudyResults
from titer.results.summary import largest_provable, radii_shown
from titer.statistics.comparisons import Comparison, holm, mcnemar, paired
from titer.statistics.intervals import group_codes
from titer.statistics.ranking import balanced_mean

AnyFits = TypeVar("AnyFits", bound=Fits)

RADII = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)
HEADLINE = 0.25
CONSTANT = "constant answer"
"""Row of what answers every image alike."""


def asks_one_radius(cell: StudyCell) -> bool:
    """Whether the cell decided one radius, so that it has no curve."""
    return cell.arms[0].parts[0].asks_one_radius


def headline_cell(cells: Sequence[StudyCell]) -> StudyCell:
    """The cell that decides the headline's radius alone, else that of the most images that can prove it, else the first."""
    provable = [cell for cell in cells if any(HEADLINE in radii_of(cell, sigma) for sigma in cell.sigmas)]
    alone = [cell for cell in provable if asks_one_radius(cell)]
    return max(alone or provable or cells[:1], key=lambda cell: len(cell.arms[0].ids))


def classes(arm: Fits) -> int:
    """Classes that have images."""
    return len(set(arm.labels.tolist()))


def radii_of(cell: StudyCell, sigma: float) -> list[float]:
    """Radii that the cell's draws can prove at a sigma: those decided, else those that tables show."""
    part = cell.at(sigma)[0].parts[0]
    if on_grid(part):
        return radii_shown(part)
    return [radius for radius in RADII if radius <= largest_provable(part)]


def name_of(arm: Fits) -> str:
    """The method, with a mark if some of its fits collapsed."""
    return arm.entry + collapse_mark([arm])


def collapse_mark(arms: Sequence[Fits]) -> str:
    """How many fits of these arms collapsed; nothing if none did."""
    collapsed, fits = sum(arm.collapsed for arm in arms), sum(len(arm.sets) for arm in arms)
    return f" (collapsed: {collapsed} of {fits} fits)" if collapsed else ""


def _conditional_mark(arms: Sequence[Arm]) -> str:
    """For tables without a column for the guarantee."""
    return " (conditional)" if any(arm.guarantee == "conditional" for arm in arms) else ""


def fits_of(arm: Fits) -> str:
    """Shots and number of fits; nothing for what is not fitted."""
    if arm.sets[0].get("seed") is None:
        return MISSING
    shots = "no labels" if arm.shots is None else shots_text(arm.shots)
    return f"{shots}, {len(arm.sets)} fit{'s' if len(arm.sets) > 1 else ''}"


def shots_text(shots: float) -> str:
    """Images of each class, in words."""
    return "all shots" if math.isinf(shots) else f"{shots:.0f} shot{'s' if shots > 1 else ''}"


def certified_share(arm: Arm, radius: float) -> Share:
    """Class-balanced share of images right and certified at a radius, mean over the seeds of the fit."""
    return Share(balanced_mean(arm.certified(radius), arm.labels, arm.groups), len(arm.ids))


def headline_table(cell: StudyCell) -> Table:
    """Clean accuracy, and certified accuracy at the headline's radius at every sigma."""
    arms = {(arm.entry, sigma): arm for sigma in cell.sigmas for arm in cell.at(sigma)}
    entries = dict.fromkeys(entry for entry, _ in arms)
    constant = chance(cell)
    return Table(
        title=f"Headline, r = {HEADLINE:g}",
        caption=f"Class-balanced share of {len(cell.arms[0].ids)} images that are right and certified at L2 radius "
        f"{HEADLINE:g}, mean over fits, with 95 % intervals; clean is the accuracy without noise and without smoothing. A "
        f"constant answer is certified at every radius. {_rule(cell)}",
        columns=("method", "guarantee", "fitted on", "clean", *(f"sigma {sigma:g}" for sigma in cell.sigmas)),
        rows=(
            *(_headline_row(cell, [arms.get((entry, sigma)) for sigma in cell.sigmas]) for entry in entries),
            (CONSTANT, "fixed", MISSING, constant, *(constant for _ in cell.sigmas)),
        ),
    )


def _headline_row(cell: StudyCell, arms: Sequence[Arm | None]) -> tuple[Value, ...]:
    there = [arm for arm in arms if arm is not None]
    shares = (
        MISSING if arm is None or HEADLINE not in radii_of(cell, arm.sigma) else certified_share(arm, HEADLINE)
        for arm in arms
    )
    name = there[0].entry + collapse_mark(_different(there))
    return (name, there[0].guarantee, fits_of(there[0]), _clean(there), *shares)


def _different(arms: Sequence[Arm]) -> list[Arm]:
    """Arms with fits of their own: those of other sigmas share them, unless a method is fitted for each sigma."""
    return list(arms) if arms[0].facts["per_sigma"] else [arms[0]]


def _clean(arms: Sequence[Arm]) -> Value:
    """Clean accuracy; its range where it depends on sigma."""
    shares = [clean_share(arm) for arm in arms]
    if len({share.interval for share in shares}) == 1:
        return shares[0]
    lowest, highest = (pick(shares, key=lambda share: share.interval.estimate) for pick in (min, max))
    return f"{lowest.text.removesuffix(' %')} to {highest.text}"


def _rule(cell: StudyCell) -> str:
    """Draws and error probability of each certificate."""
    settings = cell.arms[0].parts[0].run.info["settings"]
    draws = f"{settings['n']:,} draws" if settings["certifier"] == "gaussian" else f"at most {settings['n']:,} draws"
    return f"{str(settings['certifier']).capitalize()} certifier, {draws}, alpha {settings['alpha']:g} for each image."


def chance(cell: StudyCell) -> str:
    """Class-balanced accuracy of a constant answer, at every radius and budget."""
    first: Fits = (*cell.arms, *cell.attacked)[0]
    return f"{100 / classes(first):.0f} %"


def clean_share(arm: Fits) -> Share:
    """Class-balanced share of images right without noise, smoothing and attack, mean over the seeds of the fit."""
    return Share(balanced_mean(arm.clean, arm.labels, arm.groups), len(arm.ids))


def accuracy_table(cell: StudyCell, sigma: float) -> Table:
    """Clean and certified accuracy of all methods at one sigma."""
    shown, arms = radii_of(cell, sigma), cell.at(sigma)
    constant = chance(cell)
    return Table(
        title=f"Certified accuracy, sigma {sigma:g}",
        caption=f"Class-balanced share of {len(arms[0].ids)} images that are right and certified at L2 radius r, mean over "
        "fits, with 95 % intervals; clean is the accuracy without noise and without smoothing. A constant answer is certified at "
        f"every radius. {_rule(cell)}",
        columns=("method", "guarantee", "fitted on", "clean", *(f"r ≥ {radius_text(radius)}" for radius in shown)),
        rows=(
            *(_accuracy_row(arm, shown) for arm in arms),
            (CONSTANT, "fixed", MISSING, constant, *(constant for _ in shown)),
        ),
    )


def _accuracy_row(arm: Arm, shown: Sequence[float]) -> tuple[Value, ...]:
    shares = (certified_share(arm, radius) for radius in shown)
    return name_of(arm), arm.guarantee, fits_of(arm), clean_share(arm), *shares


@dataclass(frozen=True)
class Pair(Generic[AnyFits]):
    """A method against another at one sigma, or at one budget of an attack.

    Args:
        arm: the method.
        other: what it is compared with.
        comparison: the difference, method minus other.
        mcnemar: p-value within the first seed of both; None where images share groups, since it knows no groups.
    """

    arm: AnyFits
    other: AnyFits
    comparison: Comparison
    mcnemar: float | None


def pairs(cell: StudyCell, radius: float) -> list[Pair[Arm]]:
    """Every sound method against zero-shot, and every one that is no baseline against the best baseline of its sigma."""
    return [
        pair_of(arm, other, lambda one: one.certified(radius), lambda one: one.of_seed(0, radius))
        for sigma in cell.sigmas
        for arm, other in matched(
            [arm for arm in cell.at(sigma) if arm.guarantee != "conditional"],
            lambda arm: certified_share(arm, radius),
        )
    ]


def matched(arms: Sequence[AnyFits], share: Callable[[AnyFits], Share]) -> Iterator[tuple[AnyFits, AnyFits]]:
    """Every method with zero-shot, and every one that is no baseline with the best baseline."""
    reference = next((arm for arm in arms if arm.facts["method"] == ZERO_SHOT), None)
    baseline = best([arm for arm in arms if arm.facts["baseline"]], share)
    for arm in arms:
        others = [reference] if arm is not reference else []
        others += [baseline] if baseline is not reference and not arm.facts["baseline"] else []
        yield from ((arm, other) for other in others if other is not None)


def best(arms: Sequence[AnyFits], share: Callable[[AnyFits], Share]) -> AnyFits | None:
    """The arm with the largest share of these images: a hard one to beat, since it is chosen after the fact."""
    return max(arms, key=lambda arm: share(arm).interval.estimate, default=None)


def standing(start: str, arms: Sequence[AnyFits], share: Callable[[AnyFits], Share], kind: str) -> str:
    """Zero-shot, the best baseline and the best method in one sentence.

    Args:
        start: of the sentence.
        arms: all methods.
        share: what counts.
        kind: what those that are no baseline are called.
    """

    def said(arm: AnyFits) -> str:
        return f"{share(arm).text} ({share(arm).range} %)"

    zero_shot = next((arm for arm in arms if arm.facts["method"] == ZERO_SHOT), None)
    baseline = best([arm for arm in arms if arm.facts["baseline"]], share)
    method = best([arm for arm in arms if not arm.facts["baseline"]], share)
    parts = [start]
    parts += [f"{zero_shot.entry} {said(zero_shot)}"] if zero_shot is not None else []
    if baseline is not None and baseline is not zero_shot:
        parts.append(f"the best baseline, {name_of(baseline)}, {said(baseline)}")
    if method is not None:
        parts.append(f"the best {kind}, {name_of(method)}, {said(method)}")
    behind = (
        method is not None
        and baseline is not None
        and share(method).interval.estimate <= share(baseline).interval.estimate
    )
    return f"{'; '.join(parts)}." + (" No method is above the best baseline." if behind else "")


def pair_of(
    arm: AnyFits, other: AnyFits, shares: Callable[[AnyFits], Shares], first: Callable[[AnyFits], NDArray[np.bool_]]
) -> Pair[AnyFits]:
    """Two methods on the same images.

    Args:
        arm, other: the methods.
        shares: for each image, the share of the fits that have it right.
        first: which images the first fit has right.
    """
    return Pair(
        arm,
        other,
        paired(shares(arm), shares(other), arm.labels, arm.groups),
        mcnemar(first(arm), first(other)) if independent(arm) else None,
    )


def independent(arm: Fits) -> bool:
    """Whether no two of its images share a group."""
    return len(np.unique(group_codes(arm.groups))) == len(arm.ids)


def paired_table(cell: StudyCell) -> Table | None:
    """Paired tests at the headline's radius; None where there is nothing to compare."""
    found = [pair for pair in pairs(cell, HEADLINE) if HEADLINE in radii_of(cell, pair.arm.sigma)]
    if not found:
        return None
    adjusted = holm([pair.comparison.p for pair in found])
    return Table(
        title=f"Paired differences at r = {HEADLINE:g}",
        caption="Differences of class-balanced certified accuracy in points, on the same images and noise: mean over fits per "
        "image, then a paired bootstrap that draws groups, with 95 % intervals. "
        f"{family(len(found))} McNemar's exact test is within the first fit of both, uncorrected, and left out where images "
        "share groups. The best baseline is chosen on these images, which favours it.",
        columns=("method", "against", "sigma", "certified", "the other", "difference", "p (Holm)", "p (McNemar)"),
        rows=tuple(_test_row(pair, p) for pair, p in zip(found, adjusted, strict=True)),
    )


def family(count: int) -> str:
    """Which comparisons are corrected for."""
    return (
        f"Holm's correction runs over all {count} comparisons of this table." if count > 1 else "It is one comparison."
    )


def _test_row(pair: Pair[Arm], p: float) -> tuple[Value, ...]:
    return (
        name_of(pair.arm),
        name_of(pair.other),
        f"{pair.arm.sigma:g}",
        certified_share(pair.arm, HEADLINE).text,
        certified_share(pair.other, HEADLINE).text,
        difference_text(pair.comparison),
        p_text(p),
        MISSING if pair.mcnemar is None else p_text(pair.mcnemar),
    )


def difference_text(comparison: Comparison) -> str:
    """A difference in points with its interval."""
    values = (comparison.difference, comparison.low, comparison.high)
    middle, low, high = (f"{100 * value:+.1f}" for value in values)
    return f"{middle} ({low} to {high})"


def p_text(p: float) -> str:
    """A p-value as papers print it."""
    return "< .001" if p < 0.001 else f"{p:.3f}".lstrip("0") if p < 1 else "1"


def shots_table(cell: StudyCell) -> Table | None:
    """Certified accuracy at the headline's radius against shots; None where there is one number of shots."""
    counts = sorted({arm.shots for arm in cell.arms if arm.shots is not None})
    if len(counts) < 2:
        return None
    shown = [sigma for sigma in cell.sigmas if HEADLINE in radii_of(cell, sigma)]
    arms = {(arm.entry, arm.sigma, arm.shots): arm for arm in cell.arms}
    if not shown:
        return None
    rows: list[tuple[Value, ...]] = []
    for sigma in shown:
        for entry in dict.fromkeys(arm.entry for arm in cell.arms if arm.shots is not None):
            found = [arms.get((entry, sigma, count)) for count in counts]
            if sum(arm is not None for arm in found) > 1:
                name = entry + _conditional_mark([arm for arm in found if arm is not None])
                rows.append((name, f"{sigma:g}", *(_mean_and_spread(arm) for arm in found)))
    return Table(
        title=f"Shots, at r = {HEADLINE:g}",
        caption="Class-balanced certified accuracy in percent, mean over fits (smallest to largest of them). Collapsed fits are "
        "in the mean, and counted beside it.",
        columns=("method", "sigma", *map(shots_text, counts)),
        rows=tuple(rows),
    )


def _mean_and_spread(arm: Arm | None) -> str:
    if arm is None:
        return MISSING
    each = [
        100 * balanced_mean(arm.of_seed(place, HEADLINE).astype(float), arm.labels, arm.groups).estimate
        for place in range(len(arm.parts))
    ]
    spread = f" ({min(each):.0f} to {max(each):.0f})" if len(each) > 1 else ""
    return f"{np.mean(each):.0f}{spread}{collapse_mark([arm])}"


def cost_table(cells: Sequence[StudyCell]) -> Table:
    """Seconds of fitting, adapting and certifying, and bytes to keep."""
    entries = dict.fromkeys(arm.entry for cell in cells for arm in cell.arms)
    return Table(
        title="Costs",
        caption="Medians, of each method with the most shots. A fit's seconds hold the features that it had to make itself; "
        "fits that found them in the cache of an earlier one paid less. Certification is per image and sigma, from its first "
        "draw to its answer, among all methods of the cell, which share the noise; adaptation to the image comes on top. Bytes "
        "are of one fit.",
        columns=("method", "fit (s)", "adapting (s per image)", "certifying (s per image)", "bytes"),
        rows=tuple(_cost_row(entry, cells) for entry in entries),
    )


def _cost_row(entry: str, cells: Sequence[StudyCell]) -> tuple[Value, ...]:
    """From the first cell that a method is in."""
    cell = next(cell for cell in cells if any(arm.entry == entry for arm in cell.arms))
    own = [arm for sigma in cell.sigmas for arm in cell.at(sigma) if arm.entry == entry]
    return (
        entry + _conditional_mark(own) + collapse_mark(_different(own)),
        number_text(_median([arm.median_of_sets("fit_seconds") for arm in own]), "{:.1f}"),
        number_text(_median([arm.median("adapt_seconds") for arm in own]), "{:.3f}"),
        number_text(_median([arm.median("seconds") for arm in own]), "{:.2f}"),
        number_text(_median([arm.median_of_sets("bytes") for arm in own]), "{:,.0f}"),
    )


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.median(known)) if known else None


def number_text(value: float | None, form: str) -> str:
    """A number as a format has it; nothing where there is none."""
    return MISSING if value is None else form.format(value)


def mixture_table(cell: StudyCell) -> Table | None:
    """One fit for all noise levels against one fit for each; None where the recipe has no such pair."""
    rows: list[tuple[Value, ...]] = []
    for sigma in cell.sigmas:
        for each in (arm for arm in cell.at(sigma) if arm.facts["per_sigma"] and arm.guarantee != "conditional"):
            mixed = _mixed_of(each, cell.at(sigma))
            if mixed is not None and HEADLINE in radii_of(cell, sigma):
                compared = paired(mixed.certified(HEADLINE), each.certified(HEADLINE), mixed.labels, mixed.groups)
                spent = (_all_levels(cell, arm, name, form) for name, form in _SPENT for arm in (mixed, each))
                shares = certified_share(mixed, HEADLINE), certified_share(each, HEADLINE)
                name = f"{name_of(mixed)} / {name_of(each)}"
                rows.append((name, f"{sigma:g}", *shares, difference_text(compared), *spent))
    if not rows:
        return None
    spent_columns = (f"{name}, {which}" for name in ("fit (s)", "bytes") for which in ("mixed", "each"))
    return Table(
        title=f"Mixed noise against one fit for each sigma, at r = {HEADLINE:g}",
        caption="Class-balanced certified accuracy, the paired difference in points (mixed minus each, uncorrected), and "
        "what all noise levels of the cell cost together: seconds of fitting (medians over seeds) and bytes to keep.",
        columns=("mixed / each", "sigma", "mixed", "each", "difference", *spent_columns),
        rows=tuple(rows),
    )


_SPENT = (("fit_seconds", "{:.1f}"), ("bytes", "{:,.0f}"))


def _mixed_of(each: Arm, arms: Sequence[Arm]) -> Arm | None:
    """The same method with the same settings, fitted once."""
    same = (
        arm
        for arm in arms
        if not arm.facts["per_sigma"]
        and (arm.facts["method"], arm.facts["settings"], arm.shots)
        == (each.facts["method"], each.facts["settings"], each.shots)
    )
    return next(same, None)


def _all_levels(cell: StudyCell, arm: Arm, name: str, form: str) -> str:
    """What a method's fits for all noise levels of a cell take."""
    if not arm.facts["per_sigma"]:
        return number_text(arm.median_of_sets(name), form)
    levels = [other for sigma in cell.sigmas for other in cell.at(sigma) if other.entry == arm.entry]
    return number_text(sum(level.median_of_sets(name) or 0 for level in levels), form)


def overview_table(studies: Sequence[StudyResults]) -> Table | None:
    """The headline of every comparison: certified accuracy at one radius, all sound methods; None where nothing is certified."""
    rows: list[tuple[Value, ...]] = []
    for study in studies:
        certified = [cell for cell in study.cells if cell.arms]
        for cell in [headline_cell(certified)] if certified else []:
            for sigma in (sigma for sigma in cell.sigmas if HEADLINE in radii_of(cell, sigma)):
                start = str(study.info["data"]["name"]), f"{sigma:g}"
                sound = [arm for arm in cell.at(sigma) if arm.guarantee != "conditional"]
                rows += [(*start, name_of(arm), arm.guarantee, certified_share(arm, HEADLINE)) for arm in sound]
                rows.append((*start, CONSTANT, "fixed", chance(cell)))
    if not rows:
        return None
    return Table(
        title=f"All data sets, at r = {HEADLINE:g}",
        caption="Class-balanced certified accuracy, mean over fits, with 95 % intervals.",
        columns=("data", "sigma", "method", "guarantee", "certified"),
        rows=tuple(rows),
    )
