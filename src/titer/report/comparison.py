"""The page of a comparison: methods side by side on the same images and the same noise."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from markupsafe import Markup

from titer.errors import InputError
from titer.report.page import template, write_page
from titer.report.plots import arm_figure, shots_figure
from titer.report.tables import MISSING, Share, Table, Value, radius_text
from titer.report.words import GUARANTEES
from titer.results.study import Arm, StudyCell, StudyResults, read_study
from titer.results.summary import largest_provable
from titer.statistics.comparisons import Comparison, holm, mcnemar, paired
from titer.statistics.intervals import group_codes
from titer.statistics.ranking import balanced_mean

RADII = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)
HEADLINE = 0.25
_REFERENCE = "zero-shot"


@dataclass(frozen=True)
class Part:
    """What the page says of one cell.

    Args:
        title: of the cell.
        tables: accuracy at each sigma, then tests.
        figures: with a text for those who do not see them.
    """

    title: str
    tables: tuple[Table, ...]
    figures: tuple[tuple[Markup, str], ...]


@dataclass(frozen=True)
class Section:
    """What the page says of one comparison."""

    title: str
    facts: tuple[str, ...]
    alarms: tuple[str, ...]
    parts: tuple[Part, ...]
    costs: tuple[Table, ...]
    guarantees: tuple[tuple[str, str], ...]
    settings: Table
    command: str


def compare_page(paths: Sequence[Path | str], out: Path | str) -> Path:
    """Write one HTML page about one or more comparisons.

    Args:
        paths: directories that ``titer run`` wrote, finished or not.
        out: the file to write.

    Raises:
        InputError: if a directory is no comparison, or has no results yet.
    """
    studies = [read_study(path) for path in paths]
    page = template("comparison.html.jinja").render(
        overview=overview_table(studies) if len(studies) > 1 else None, sections=[section(study) for study in studies]
    )
    return write_page(page, out)


def section(study: StudyResults) -> Section:
    """Everything the page says of one comparison.

    Raises:
        InputError: if nothing was certified yet.
    """
    finished = [cell for cell in study.cells if cell.arms]
    if not finished:
        raise InputError(f"{study.path} has no finished samples to report")
    kinds = dict.fromkeys(arm.guarantee for cell in finished for arm in cell.arms)
    return Section(
        title=str(study.info["title"]),
        facts=tuple(_facts(study, finished[0])),
        alarms=tuple(_alarms(study)),
        parts=tuple(_part(cell) for cell in finished),
        costs=(*(table for cell in finished if (table := mixture_table(cell))), cost_table(finished)),
        guarantees=tuple((kind, GUARANTEES[kind]) for kind in kinds),
        settings=_settings(study),
        command=str(study.info["command"]),
    )


def _facts(study: StudyResults, cell: StudyCell) -> Iterator[str]:
    arm = cell.arms[0]
    yield str(study.info["model"]["name"])
    yield str(study.info["data"]["name"])
    yield f"{study.info['data']['split']} split"
    yield f"{len(arm.ids)} images, {len(set(arm.labels.tolist()))} classes"
    if len({*arm.groups} - {None}) not in (0, len(arm.ids)):
        yield f"{len(set(arm.groups))} groups"


def _alarms(study: StudyResults) -> Iterator[str]:
    for cell in study.cells:
        if cell.missing:
            yield f"Cell {cell.name} is not finished: {', '.join(cell.missing)} missing."
        for run in cell.runs:
            if run.info["status"] != "done":
                yield f"{run.path.name} is {run.info['status']}; its rows are of the images that all methods have."
            if run.failures:
                yield f"{len(run.failures)} images of {run.path.name} failed and are in no number."
    fits = {name: told["warnings"] for name, told in study.info["prompts"].items() if told.get("warnings")}
    for name, warnings in fits.items():
        yield f"{name}: {'; '.join(warnings)}."
    if any(arm.guarantee == "conditional" for cell in study.cells for arm in cell.arms):
        yield (
            "Rows marked conditional do not hold for a deployed pipeline that adapts to its input. They are shown, drawn in "
            "no curve and tested against nothing."
        )


def _part(cell: StudyCell) -> Part:
    figures = []
    sound = [arm for arm in cell.arms if arm.guarantee != "conditional"]
    if not _asks_one_radius(cell):
        figures.append((Markup(arm_figure(sound, RADII)), _in_words(cell)))  # noqa: S704
    if len({arm.shots for arm in sound} - {None}) > 1:
        drawn = Markup(shots_figure(sound, HEADLINE))  # noqa: S704
        figures.append(
            (drawn, f"Certified accuracy at radius {HEADLINE:g} against shots; the values are in the last table")
        )
    tables = [accuracy_table(cell, sigma) for sigma in cell.sigmas]
    tables += [table for table in (tests_table(cell), shots_table(cell)) if table]
    return Part(cell.name, tuple(tables), tuple(figures))


def _asks_one_radius(cell: StudyCell) -> bool:
    return cell.arms[0].parts[0].asks_one_radius


def radii_of(cell: StudyCell, sigma: float) -> list[float]:
    """Radii that the cell's draws can prove at a sigma, of those that tables show."""
    part = cell.at(sigma)[0].parts[0]
    if part.asks_one_radius:
        return [float(radius) for radius in part.run.info["settings"]["radii"]]
    return [radius for radius in RADII if radius <= largest_provable(part)]


def name_of(arm: Arm) -> str:
    """The method, with a mark if some of its fits collapsed."""
    mark = f" (collapsed: {arm.collapsed} of {len(arm.sets)} fits)" if arm.collapsed else ""
    return arm.entry + mark


def _fits(arm: Arm) -> str:
    if arm.sets[0].get("seed") is None:
        return MISSING
    shots = "no labels" if arm.shots is None else f"{arm.shots} shots"
    return f"{shots}, {len(arm.sets)} fit{'s' if len(arm.sets) > 1 else ''}"


def certified_share(arm: Arm, radius: float) -> Share:
    """Class-balanced share of images right and certified at a radius, mean over the seeds of the fit."""
    return Share(balanced_mean(arm.certified(radius), arm.labels, arm.groups), len(arm.ids))


def accuracy_table(cell: StudyCell, sigma: float) -> Table:
    """Clean and certified accuracy of all methods at one sigma."""
    shown, arms = radii_of(cell, sigma), cell.at(sigma)
    classes = len(set(arms[0].labels.tolist()))
    constant = f"{100 / classes:.0f} %"
    return Table(
        title=f"Certified accuracy, sigma {sigma:g}",
        caption=f"Class-balanced share of {len(arms[0].ids)} images that are right and certified at L2 radius r, mean over "
        "fits, with 95 % intervals; clean is the accuracy without noise and without smoothing. A constant answer is certified at "
        "every radius.",
        columns=("method", "guarantee", "fitted on", "clean", *(f"r ≥ {radius_text(radius)}" for radius in shown)),
        rows=(
            *(_accuracy_row(arm, shown) for arm in arms),
            ("constant answer", "fixed", MISSING, constant, *(constant for _ in shown)),
        ),
    )


def _accuracy_row(arm: Arm, shown: Sequence[float]) -> tuple[Value, ...]:
    clean = Share(balanced_mean(arm.clean, arm.labels, arm.groups), len(arm.ids))
    return name_of(arm), arm.guarantee, _fits(arm), clean, *(certified_share(arm, radius) for radius in shown)


@dataclass(frozen=True)
class Pair:
    """A method against another at one sigma.

    Args:
        arm: the method.
        other: what it is compared with.
        comparison: the difference, method minus other.
        mcnemar: p-value within the first seed of both; None where images share groups, since it knows no groups.
    """

    arm: Arm
    other: Arm
    comparison: Comparison
    mcnemar: float | None


def pairs(cell: StudyCell, radius: float) -> list[Pair]:
    """Every sound method against zero-shot, and every one that is no baseline against the best baseline of its sigma."""
    found = []
    for sigma in cell.sigmas:
        sound = [arm for arm in cell.at(sigma) if arm.guarantee != "conditional"]
        reference = next((arm for arm in sound if arm.entry == _REFERENCE), None)
        best = best_baseline(sound, radius)
        for arm in sound:
            others = [reference] if arm is not reference else []
            others += [best] if best is not reference and not arm.facts["baseline"] else []
            found += [_pair(arm, other, radius) for other in others if other is not None]
    return found


def best_baseline(arms: Sequence[Arm], radius: float) -> Arm | None:
    """The baseline with the largest certified accuracy on these images: a hard one, since it is chosen after the fact."""
    baselines = [arm for arm in arms if arm.facts["baseline"]]
    return max(baselines, key=lambda arm: certified_share(arm, radius).interval.estimate, default=None)


def _pair(arm: Arm, other: Arm, radius: float) -> Pair:
    return Pair(
        arm,
        other,
        paired(arm.certified(radius), other.certified(radius), arm.labels, arm.groups),
        mcnemar(arm.of_seed(0, radius), other.of_seed(0, radius)) if _independent(arm) else None,
    )


def _independent(arm: Arm) -> bool:
    return len(np.unique(group_codes(arm.groups))) == len(arm.ids)


def tests_table(cell: StudyCell) -> Table | None:
    """Paired tests at the headline's radius; None where there is nothing to compare."""
    found = [pair for pair in pairs(cell, HEADLINE) if HEADLINE in radii_of(cell, pair.arm.sigma)]
    if not found:
        return None
    adjusted = holm([pair.comparison.p for pair in found])
    return Table(
        title=f"Paired differences at r = {HEADLINE:g}",
        caption="Differences of class-balanced certified accuracy in points, on the same images and noise: mean over fits per "
        "image, then a paired bootstrap that draws groups, with 95 % intervals. Holm's correction runs over all "
        f"{len(found)} comparisons of this table. McNemar's exact test is within the first fit of both, uncorrected. The best "
        "baseline is chosen on these images, which favours it.",
        columns=("method", "sigma", "certified", "against", "its own", "difference", "p (Holm)", "p (McNemar)"),
        rows=tuple(_test_row(pair, p) for pair, p in zip(found, adjusted, strict=True)),
    )


def _test_row(pair: Pair, p: float) -> tuple[Value, ...]:
    return (
        name_of(pair.arm),
        f"{pair.arm.sigma:g}",
        f"{100 * certified_share(pair.arm, HEADLINE).interval.estimate:.0f} %",
        pair.other.entry,
        f"{100 * certified_share(pair.other, HEADLINE).interval.estimate:.0f} %",
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
    rows: list[tuple[Value, ...]] = []
    for sigma in shown:
        for entry in dict.fromkeys(arm.entry for arm in cell.arms if arm.shots is not None):
            found = [arms.get((entry, sigma, count)) for count in counts]
            if sum(arm is not None for arm in found) > 1:
                rows.append((entry, f"{sigma:g}", *(_mean_and_spread(arm) for arm in found)))
    return Table(
        title=f"Shots, at r = {HEADLINE:g}",
        caption="Class-balanced certified accuracy in percent, mean over fits (smallest to largest of them).",
        columns=("method", "sigma", *(f"{count} shots" if count > 1 else "1 shot" for count in counts)),
        rows=tuple(rows),
    )


def _mean_and_spread(arm: Arm | None) -> str:
    if arm is None:
        return MISSING
    each = [
        100 * balanced_mean(arm.of_seed(place, HEADLINE).astype(float), arm.labels, arm.groups).estimate
        for place in range(len(arm.parts))
    ]
    return f"{np.mean(each):.0f} ({min(each):.0f} to {max(each):.0f})"


def cost_table(cells: Sequence[StudyCell]) -> Table:
    """Seconds of fitting, adapting and certifying, and bytes to keep."""
    arms = {arm.entry: arm for cell in reversed(cells) for sigma in cell.sigmas for arm in cell.at(sigma)}
    order = list(dict.fromkeys(arm.entry for cell in cells for arm in cell.arms))
    return Table(
        title="Costs",
        caption="Medians. A fit's seconds hold the features that it had to make itself; fits that found them in the cache of an "
        "earlier one paid less. Certification is per image and sigma, from its first draw to its answer, among all prompt "
        "sets that share the noise; adaptation to the image comes on top.",
        columns=("method", "fit (s)", "adapting (s per image)", "certifying (s per image)", "bytes"),
        rows=tuple(
            (
                name_of(arms[entry]),
                _number(arms[entry].median_of_sets("fit_seconds"), "{:.1f}"),
                _number(arms[entry].median("adapt_seconds"), "{:.3f}"),
                _number(arms[entry].median("seconds"), "{:.2f}"),
                _number(arms[entry].median_of_sets("bytes"), "{:,.0f}"),
            )
            for entry in order
        ),
    )


def _number(value: float | None, form: str) -> str:
    return MISSING if value is None else form.format(value)


def mixture_table(cell: StudyCell) -> Table | None:
    """One fit for all noise levels against one fit for each; None where the recipe has no such pair."""
    rows: list[tuple[Value, ...]] = []
    for sigma in cell.sigmas:
        for each in (arm for arm in cell.at(sigma) if arm.facts["per_sigma"]):
            mixed = _mixed_of(each, cell.at(sigma))
            if mixed is not None and HEADLINE in radii_of(cell, sigma):
                compared = paired(mixed.certified(HEADLINE), each.certified(HEADLINE), mixed.labels, mixed.groups)
                spent = (_all_levels(cell, arm, name, form) for name, form in _SPENT for arm in (mixed, each))
                shares = certified_share(mixed, HEADLINE), certified_share(each, HEADLINE)
                rows.append((mixed.entry, f"{sigma:g}", *shares, difference_text(compared), *spent))
    if not rows:
        return None
    spent_columns = (f"{name}, {which}" for name in ("fit (s)", "bytes") for which in ("mixed", "each"))
    return Table(
        title=f"One fit for all noise levels against one for each, at r = {HEADLINE:g} ({cell.name})",
        caption="Class-balanced certified accuracy, the paired difference in points (mixed minus each, uncorrected), and "
        "what all noise levels of the cell cost together: seconds of fitting (medians over seeds) and bytes to keep.",
        columns=("method", "sigma", "mixed", "each", "difference", *spent_columns),
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
        return _number(arm.median_of_sets(name), form)
    levels = [other for sigma in cell.sigmas for other in cell.at(sigma) if other.entry == arm.entry]
    return _number(sum(level.median_of_sets(name) or 0 for level in levels), form)


def overview_table(studies: Sequence[StudyResults]) -> Table:
    """The headline of every comparison: certified accuracy at one radius, all methods."""
    rows: list[tuple[Value, ...]] = []
    for study in studies:
        cell = next(cell for cell in study.cells if cell.arms)
        for sigma in cell.sigmas:
            if HEADLINE in radii_of(cell, sigma):
                sound = [arm for arm in cell.at(sigma) if arm.guarantee != "conditional"]
                rows += [_overview_row(study, arm) for arm in sound]
    return Table(
        title=f"All data sets, at r = {HEADLINE:g}",
        caption="Class-balanced certified accuracy, mean over fits, with 95 % intervals.",
        columns=("data", "sigma", "method", "guarantee", "certified"),
        rows=tuple(rows),
    )


def _overview_row(study: StudyResults, arm: Arm) -> tuple[Value, ...]:
    data = Path(str(study.info["data"]["name"])).name
    return (data, f"{arm.sigma:g}", name_of(arm), arm.guarantee, certified_share(arm, HEADLINE))


def _in_words(cell: StudyCell) -> str:
    said = []
    for sigma in cell.sigmas:
        for arm in (arm for arm in cell.at(sigma) if arm.guarantee != "conditional"):
            points = ", ".join(f"{certified_share(arm, at).text} at {at:g}" for at in radii_of(cell, sigma))
            said.append(f"{arm.entry}, sigma {sigma:g}: {points}")
    return "Certified accuracy against radius. " + "; ".join(said) + "."


def _settings(study: StudyResults) -> Table:
    return Table(
        title="Settings",
        caption="Every method with all of its settings, defaults included.",
        columns=("name", "method", "settings"),
        rows=tuple(
            (
                name,
                facts["method"],
                ", ".join(f"{key} = {value}" for key, value in facts["settings"].items() if value is not None),
            )
            for name, facts in study.info["entries"].items()
        ),
    )
