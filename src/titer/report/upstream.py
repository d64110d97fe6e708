"""The page of a study of upstream noise: accuracy of heads against the share of noised pairs, and what features look like."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from titer.errors import InputError
from titer.report.arms import certified_share, clean_share, difference_text, family, number_text, p_text, radii_of
from titer.report.arms_attacked import label_of, robust_share
from titer.report.comparison import Section
from titer.report.page import template, write_page
from titer.report.parts import Drawing, Part
from titer.report.plots import levels_figure
from titer.report.tables import MISSING, Share, Table, Value, radius_text
from titer.results.answered import accuracies
from titer.results.arms import Shares
from titer.results.robustness import length_text
from titer.results.study import StudyResults
from titer.results.upstream import OWN_BASE, Level, UpstreamResults, read_upstream
from titer.statistics.comparisons import Comparison, holm, paired
from titer.statistics.intervals import Interval
from titer.statistics.ranking import balanced_mean

_CLEAN = "no noise"
_RECTIFIED = ("ran", "nmtune")
_PLAIN = ("linear-probe", "mlp")
_MODERATE, _MUCH = 0.1, 0.2  # up to which share noise is said to help, and from which on to hurt


@dataclass(frozen=True, eq=False)
class Difference:
    """Two levels on the same images and the same seeds.

    Args:
        what: ``clean``, or the budget of the attack.
        one, other: the levels.
        seeds: that both have.
        comparison: one less other, mean over seeds per image.
        by_seed: the difference of each seed.
    """

    what: str
    one: Level
    other: Level
    seeds: tuple[int, ...]
    comparison: Comparison
    by_seed: tuple[float, ...]


def upstream_page(paths: Sequence[Path | str], out: Path | str) -> Path:
    """Write one HTML page about one or more studies of upstream noise.

    Args:
        paths: directories that ``titer run`` wrote, finished or not.
        out: the file to write.

    Raises:
        InputError: if a directory is no such study, or has no results yet.
    """
    sections = [upstream_section(read_upstream(path)) for path in paths]
    page = template("upstream.html.jinja").render(overview=None, sections=sections, certified=False, attacked=True)
    return write_page(page, out)


def upstream_section(results: UpstreamResults) -> Section:
    """Everything the page says of one study.

    Raises:
        InputError: if nothing was judged yet.
    """
    if not results.levels:
        raise InputError(f"{results.path} has no judged models to report; titer run goes on with it")
    tasks = list(dict.fromkeys(level.task for level in results.levels))
    return Section(
        title=str(results.info["title"]),
        facts=tuple(_facts(results)),
        alarms=tuple(_alarms(results)),
        verdicts=tuple(_verdicts(results, tasks)),
        parts=(
            *(_task_part(results, task) for task in tasks),
            *_beside_parts(results),
            *_question_parts(results),
            *_feature_parts(results),
            Part("Costs", tables=(_cost_table(results),)),
        ),
        guarantees=(),
        settings=(_arms_table(results), _pretraining_table(results)),
        command=str(results.info["command"]),
    )


def _facts(results: UpstreamResults) -> Iterator[str]:
    yield str(results.info["corpus"])
    surrogates = dict.fromkeys(_surrogate(results, name) for name in results.info["arms"])
    yield f"noise made for {' and '.join(surrogates)}"
    yield f"{len(results.models)} models of {len(results.info['models'])}"
    images = sorted({len(arm.ids) for level in results.levels for arm in level.fits.values()})
    yield f"{'/'.join(map(str, images))} images"


def _surrogate(results: UpstreamResults, arm: str) -> str:
    named = str(results.info["arms"][arm].get("surrogate", results.info["surrogate"]))
    return "each seed's own clean model" if named == OWN_BASE else named


def _alarms(results: UpstreamResults) -> Iterator[str]:
    for corpus, warnings in results.warnings.items():
        yield from (f"{corpus}: {warning}." for warning in warnings)
    missing = [told["name"] for told in results.info["models"] if told["name"] not in {m.name for m in results.models}]
    if missing:
        yield f"Not finished: {', '.join(missing)} missing."
    checked = all(arm.suspicions is not None for level in results.levels for arm in level.fits.values())
    if not checked:
        yield "No self-checks were made of the attack that all models share; nothing says whether it was strong."
    seeds = {model.seed for model in results.models}
    if len(seeds) < 3:
        yield f"{len(seeds)} seed{'s' if len(seeds) > 1 else ''} of pre-training: what another seed would change is not known."


def compare(one: Level, other: Level, epsilon: float | None) -> Difference | None:
    """One level less another on the seeds that both have; None where they share none.

    Args:
        one, other: of one task.
        epsilon: budget; None for accuracy without attack.
    """
    seeds = tuple(sorted(one.fits.keys() & other.fits.keys()))
    shared = one.of(seeds).ids & other.of(seeds).ids if seeds else frozenset()
    if not shared:
        return None
    one, other = one.on(seeds, shared), other.on(seeds, shared)

    def shares(level: Level, of: Sequence[int]) -> Shares:
        return level.clean(of) if epsilon is None else level.robust(epsilon, of)

    fit = one.fits[seeds[0]]
    labels, groups = fit.labels, fit.groups
    by_seed = tuple(
        balanced_mean(shares(one, [seed]) - shares(other, [seed]), labels, groups).estimate for seed in seeds
    )
    what = "clean" if epsilon is None else length_text(epsilon, fit.norm)
    comparison = paired(shares(one, seeds), shares(other, seeds), labels, groups)
    return Difference(what, one, other, seeds, comparison, by_seed)


def _budgets(levels: Sequence[Level]) -> list[float | None]:
    """Without attack, and the budgets that all have."""
    arms = [arm for level in levels for arm in level.fits.values()]
    return [None, *sorted(set.intersection(*(set(arm.budgets) for arm in arms)))]


def _verdicts(results: UpstreamResults, tasks: Sequence[str]) -> Iterator[str]:
    """A sentence for each question that the study is made for, whatever the answer is."""
    for task in tasks:
        levels = [level for level in results.levels if level.task == task]
        for epsilon in _budgets(levels):
            tests = [*harm(results, levels, epsilon), *recovery(results, levels, epsilon)]
            adjusted = holm([test.comparison.p for test in tests])
            told = [f"{_said(test)}" for test, p in zip(tests, adjusted, strict=True) if p < 0.05]
            what = "without attack" if epsilon is None else f"at {length_text(epsilon, _norm(levels))}"
            found = "; ".join(told) if told else "no difference stands after Holm's correction"
            yield f"{task}, {what} ({len(tests)} comparisons): {found}."


def _norm(levels: Sequence[Level]) -> str:
    return next(iter(levels[0].fits.values())).norm


def _said(test: Difference) -> str:
    points = difference_text(test.comparison)
    if test.one.method == test.other.method:
        return f"{test.one.method} on {place_of(test.one)} against {_CLEAN}: {points}"
    return f"{test.one.method} against {test.other.method} on {place_of(test.one)}: {points}"


def place_of(level: Level) -> str:
    """The noise and its share."""
    return _CLEAN if level.arm is None else f"{level.arm} {100 * level.ratio:g} %"


def harm(results: UpstreamResults, levels: Sequence[Level], epsilon: float | None) -> list[Difference]:
    """Every level against the same head on the clean model."""
    found = (
        compare(level, clean, epsilon)
        for level in levels
        if level.arm is not None and (clean := results.level(level.task, None, 0.0, level.method)) is not None
    )
    return [test for test in found if test is not None]


def recovery(results: UpstreamResults, levels: Sequence[Level], epsilon: float | None) -> list[Difference]:
    """Heads that rectify against those that do not, at each level."""
    found = (
        compare(level, other, epsilon)
        for level in levels
        if level.method in _RECTIFIED
        for plain in _PLAIN
        if (other := results.level(level.task, level.arm, level.ratio, plain)) is not None
    )
    return [test for test in found if test is not None]


def _task_part(results: UpstreamResults, task: str) -> Part:
    levels = [level for level in results.levels if level.task == task]
    drawings = tuple(
        Drawing(
            Markup(levels_figure(_panels(results, levels, epsilon), f"{task}{epsilon}")),  # noqa: S704
            "Accuracy against the share of noised pairs; the values are in the table below",
            f"{'Without attack' if epsilon is None else 'Under attack, ' + length_text(epsilon, _norm(levels))}: "
            "class-balanced accuracy, mean over seeds, with 95 % intervals over images. At 0 stands the model without noise.",
        )
        for epsilon in _budgets(levels)
    )
    tests = tuple(
        table
        for epsilon in _budgets(levels)
        for table in (
            _test_table(harm(results, levels, epsilon), "against the same head without noise"),
            _test_table(recovery(results, levels, epsilon), "of heads that rectify"),
        )
        if table is not None
    )
    return Part(
        title=f"Task {task}", figures=drawings, tables=(*_answers(results, levels), _levels_table(levels)), folded=tests
    )


def _answers(results: UpstreamResults, levels: Sequence[Level]) -> Iterator[Table]:
    """The questions that the study is made for, each with its differences, whatever they are."""
    asked = [(question, pair) for question, pairs in _questions(results, levels) for pair in pairs]
    budgets = _budgets(levels)
    if asked:
        yield Table(
            title="What was asked",
            caption="Points of class-balanced accuracy, paired on images and seeds, with 95 % intervals that are not corrected "
            "for how many there are; the sentences above say what stands after Holm's correction over all pairs of the task.",
            columns=(
                "question",
                "difference",
                *("clean" if at is None else length_text(at, _norm(levels)) for at in budgets),
            ),
            rows=tuple(
                (question, _pair_text(*pair), *(_points(*pair, at) for at in budgets)) for question, pair in asked
            ),
        )


def _questions(results: UpstreamResults, levels: Sequence[Level]) -> Iterator[tuple[str, list[tuple[Level, Level]]]]:
    first = next((level.arm for level in levels if level.arm is not None), None)
    own = [level for level in levels if level.arm is not None and level.method in (_PLAIN[0], _RECTIFIED[0])]
    against_clean = [
        (level, clean) for level in own if (clean := results.level(level.task, None, 0.0, level.method)) is not None
    ]
    yield (
        "moderate noise helps?",
        [pair for pair in against_clean if pair[0].arm == first and pair[0].ratio <= _MODERATE],
    )
    yield "more hurts?", [pair for pair in against_clean if pair[0].arm == first and pair[0].ratio >= _MUCH]
    yield "which noise does harm?", [pair for pair in against_clean if pair[0].arm != first and pair[0].ratio >= _MUCH]
    yield (
        f"{_RECTIFIED[0]} recovers?",
        [
            (level, other)
            for level in levels
            if level.method == _RECTIFIED[0] and level.arm is not None and level.ratio >= _MUCH
            for plain in _PLAIN
            if (other := results.level(level.task, level.arm, level.ratio, plain)) is not None
        ],
    )


def _pair_text(one: Level, other: Level) -> str:
    if one.method == other.method:
        return f"{one.method}, {place_of(one)} less {_CLEAN}"
    return f"{place_of(one)}, {one.method} less {other.method}"


def _points(one: Level, other: Level, epsilon: float | None) -> str:
    found = compare(one, other, epsilon)
    return MISSING if found is None else difference_text(found.comparison)


def _panels(
    results: UpstreamResults, levels: Sequence[Level], epsilon: float | None
) -> dict[str, dict[str, list[tuple[float, Interval]]]]:
    """For each kind of noise with several ratios, of each head its accuracy at each share."""
    curves = [
        name
        for name, arm in results.info["arms"].items()
        if len({level.ratio for level in levels if level.arm == name}) > 1
    ] or list(results.info["arms"])
    return {
        arm: {
            method: [
                (level.ratio, _interval(level, epsilon))
                for level in sorted(levels, key=lambda level: level.ratio)
                if level.method == method and level.arm in (None, arm)
            ]
            for method in dict.fromkeys(level.method for level in levels)
        }
        for arm in curves
    }


def _interval(level: Level, epsilon: float | None) -> Interval:
    return _share(level, epsilon).interval


def _share(level: Level, epsilon: float | None) -> Share:
    level, seeds = level.on(level.fits, level.ids), sorted(level.fits)
    fit = level.fits[seeds[0]]
    values = level.clean(seeds) if epsilon is None else level.robust(epsilon, seeds)
    return Share(balanced_mean(values, fit.labels, fit.groups), len(fit.ids))


def _levels_table(levels: Sequence[Level]) -> Table:
    budgets = _budgets(levels)
    attacks = label_of(next(iter(levels[0].fits.values())))
    norm = _norm(levels)
    return Table(
        title="Heads on every model",
        caption=f"Class-balanced share of images that are right, without attack and under {attacks}; mean over seeds of "
        "pre-training, 95 % intervals over images, and the range over seeds.",
        columns=(
            "noise",
            "head",
            "seeds",
            *(text for at in budgets for text in ("clean" if at is None else length_text(at, norm), "over seeds")),
        ),
        rows=tuple(_level_row(level, budgets) for level in levels),
    )


def _level_row(level: Level, budgets: Sequence[float | None]) -> tuple[Value, ...]:
    values = (value for at in budgets for value in (_share(level, at), _seed_range(level, at)))
    return place_of(level), level.method, str(len(level.fits)), *values


def _seed_range(level: Level, epsilon: float | None) -> str:
    single = [
        balanced_mean(
            level.clean([seed]) if epsilon is None else level.robust(epsilon, [seed]), fit.labels, fit.groups
        ).estimate
        for seed, fit in level.fits.items()
    ]
    return MISSING if len(single) < 2 else f"{100 * min(single):.0f} to {100 * max(single):.0f}"


def _test_table(tests: Sequence[Difference], what: str) -> Table | None:
    if not tests:
        return None
    adjusted = holm([test.comparison.p for test in tests])
    return Table(
        title=f"Paired differences {what}, {tests[0].what}",
        caption="Points of class-balanced accuracy on the same images and seeds: mean over seeds per image, then a paired "
        f"bootstrap that draws groups, with 95 % intervals. {family(len(tests))}",
        columns=("noise", "head", "against", "difference", "each seed", "p (Holm)"),
        rows=tuple(
            (
                place_of(test.one),
                test.one.method,
                _CLEAN if test.one.method == test.other.method else test.other.method,
                difference_text(test.comparison),
                ", ".join(f"{100 * value:+.0f}" for value in test.by_seed),
                p_text(p),
            )
            for test, p in zip(tests, adjusted, strict=True)
        ),
    )


def _beside_parts(results: UpstreamResults) -> Iterator[Part]:
    """Models that were judged by more than the first attack."""
    rows = [row for (model, task), study in results.studies.items() for row in _beside_rows(model, task, study)]
    if rows:
        yield Part(
            title="Stronger attack, and certificates",
            text="A certificate is of the smoothed head and bounds its accuracy from below; answers under attack are the head's "
            "own and bound it from above.",
            tables=(
                Table(
                    title="Some models, judged by more",
                    caption="Class-balanced shares, of one fit each, with 95 % intervals.",
                    columns=("model", "task", "head", "by", "clean", "holds"),
                    rows=tuple(rows),
                ),
            ),
        )


def _beside_rows(model: str, task: str, study: StudyResults) -> Iterator[tuple[Value, ...]]:
    attacked = [cell for cell in study.cells if cell.attacked]
    for cell in attacked[1:]:
        for arm in cell.attacked:
            for at in arm.budgets:
                by = f"{label_of(arm)}, {length_text(at, arm.norm)}"
                yield model, task, arm.entry, by, clean_share(arm), robust_share(arm, at)
    for cell in (cell for cell in study.cells if cell.arms):
        for certified in cell.arms:
            for radius in radii_of(cell, certified.sigma):
                by = f"certified, sigma {certified.sigma:g}, L2 {radius_text(radius)}"
                yield model, task, certified.entry, by, MISSING, certified_share(certified, radius)


def _feature_parts(results: UpstreamResults) -> Iterator[Part]:
    if results.measures:
        tables = (_spectrum_table(results), *([_margin_table(results)] if _asked(results) else []))
        yield Part(title="What the features look like", text=_SPECTRA, tables=tables)


_SPECTRA = (
    "Effective rank is the exponential of the entropy of the singular values' shares. NMTune reads a higher rank as more "
    "directions used and a lower first share as a weaker dominant one; both depend on the number of images and on centring."
)


def _spectrum_table(results: UpstreamResults) -> Table:
    rows = []
    for arm, ratio in dict.fromkeys((model.arm, model.ratio) for model in results.models):
        own = [m.name for m in results.models if (m.arm, m.ratio) == (arm, ratio) and m.name in results.measures]
        for task in results.info["tasks"].values():
            for place in range(2):
                told = [results.measures[name]["spectra"][task][place] for name in own]
                if told:
                    name = _CLEAN if arm is None else f"{arm} {100 * ratio:g} %"
                    values = (_over_seeds([one[key] for one in told]) for key in ("rank", "first", "five"))
                    rows.append((name, task, told[0]["centring"], *values))
    return Table(
        title="Singular values of unit test features",
        caption="Mean over seeds, and their range.",
        columns=("noise", "task", "centred by", "effective rank", "first share", "share of five"),
        rows=tuple(rows),
    )


def _over_seeds(values: Sequence[float]) -> str:
    digits = 1 if max(values) > 2 else 3
    spread = f" ({min(values):.{digits}f} to {max(values):.{digits}f})" if len(values) > 1 else ""
    return f"{np.mean(values):.{digits}f}{spread}"


def _asked(results: UpstreamResults) -> bool:
    return any(told["pairs"] for told in results.measures.values())


def _margin_table(results: UpstreamResults) -> Table:
    """Whether a model that was trained on noised pairs has come to prefer them."""
    rows = [
        (model.name, arm, *_margins(told))
        for model in results.models
        if model.name in results.measures
        for arm, told in results.measures[model.name]["pairs"].items()
        if model.arm in (None, arm)
    ]
    return Table(
        title="Margins of noised pairs",
        caption="Cosine of image and own caption less the largest with 100 other captions, of the same pairs before and after "
        "they were noised, which every noisy model of that arm has been trained on. The last column is the share of pairs "
        "whose noised form has the larger margin: near or above a half, the model has learned the noise.",
        columns=("model", "pairs of", "clean margin", "noised margin", "noised is larger"),
        rows=tuple(rows),
    )


def _margins(told: Mapping[str, Any]) -> tuple[str, str, str]:
    clean, noised = np.array(told["clean"]), np.array(told["noised"])
    if len(clean) != len(noised) or not len(clean):
        return MISSING, MISSING, MISSING
    return f"{clean.mean():+.3f}", f"{noised.mean():+.3f}", f"{100 * (noised > clean).mean():.0f} %"


def _cost_table(results: UpstreamResults) -> Table:
    told = [facts for study in results.studies.values() for facts in study.info["prompts"].values()]
    methods = dict.fromkeys(facts["entry"] for facts in told)
    rows = []
    for name in methods:
        own = [facts for facts in told if facts["entry"] == name]
        values = (
            number_text(_median([facts.get(key) for facts in own]), form)
            for key, form in (("fit_seconds", "{:.1f}"), ("bytes", "{:,.0f}"))
        )
        rows.append((name, str(len(own)), *values))
    return Table(
        title="What a head costs",
        caption="Medians over fits: seconds, those of features that it had to make itself included, and bytes to keep, four for "
        "each number that it learned.",
        columns=("head", "fits", "seconds", "bytes"),
        rows=tuple(rows),
    )


def _median(values: Sequence[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return float(np.median(there)) if there else None


def _question_parts(results: UpstreamResults) -> Iterator[Part]:
    """Accuracy of answers for each set of questions."""
    for name in dict.fromkeys(source for _, source in results.answers):
        runs = {model: run for (model, source), run in results.answers.items() if source == name}
        table = Table(
            title="Questions answered rightly",
            caption="All questions, with 95 % intervals over pictures. Without a look: the commonest training answer to the same "
            "question. Under attack: right before and after.",
            columns=("model", "head", "budget", "without a look", "clean", "under attack"),
            rows=tuple(
                (model, row.prompts, length_text(row.eps, "linf"),
                 *(Share(share, row.questions) for share in (row.prior, row.clean, row.attacked)))
                for model, run in runs.items()
                for row in accuracies(run)
                if row.kind == "all"
            ),
        )  # fmt: skip
        yield Part(f"Questions: {name}", tables=(table,))


def _arms_table(results: UpstreamResults) -> Table:
    return Table(
        title="Kinds of noise",
        caption="Made once at the largest ratio, for each seed where it is made for the seed's own model; the pairs of a smaller "
        "one are among them.",
        columns=("name", "attack", "made for", "budget", "ratios", "settings"),
        rows=tuple(
            (
                name,
                str(told["attack"]),
                _surrogate(results, name),
                length_text(told["eps"], "linf"),
                ", ".join(f"{100 * ratio:g} %" for ratio in told["ratios"]),
                ", ".join(f"{key} = {value}" for key, value in told["settings"].items()) or MISSING,
            )
            for name, told in results.info["arms"].items()
        ),
    )


def _pretraining_table(results: UpstreamResults) -> Table:
    return Table(
        title="Settings of pre-training",
        caption="One clean model for each seed, then every corpus goes on from it, the clean one included.",
        columns=("stage", "settings"),
        rows=tuple(
            (stage, ", ".join(f"{key} = {value}" for key, value in results.info[key_of].items()) or "defaults")
            for stage, key_of in (("clean model", "base"), ("each corpus", "settings"))
        ),
    )
