"""The page of a comparison: methods side by side on the same images and the same noise."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from titer.errors import InputError
from titer.report.arms import (
    HEADLINE,
    accuracy_table,
    asks_one_radius,
    certified_share,
    chance,
    classes,
    cost_table,
    fits_of,
    headline_cell,
    headline_table,
    mixture_table,
    overview_table,
    paired_table,
    radii_of,
    shots_table,
    standing,
)
from titer.report.arms_attacked import (
    attack_cost_table,
    attack_paired_table,
    attack_verdict,
    beside_table,
    label_of,
    method_of,
    robust_table,
)
from titer.report.base_to_new import base_to_new_tables
from titer.report.page import template, write_page
from titer.report.parts import Drawing, Part, SectionHead
from titer.report.plots import arm_figure, shots_figure
from titer.report.tables import Table
from titer.report.words import GUARANTEES
from titer.results.arms import Fits
from titer.results.robustness import length_text
from titer.results.study import StudyCell, StudyResults, read_study
from titer.statistics.intervals import group_codes


@dataclass(frozen=True, kw_only=True)
class Section(SectionHead):
    """What the page says of one comparison, what a reader wants first at the top."""

    parts: tuple[Part, ...]
    guarantees: tuple[tuple[str, str], ...]
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
    sections = [section(study) for study in studies]
    page = template("comparison.html.jinja").render(
        overview=overview_table(studies) if len(studies) > 1 else None,
        sections=sections,
        certified=any(cell.arms for study in studies for cell in study.cells),
        attacked=any(cell.attacked for study in studies for cell in study.cells),
    )
    return write_page(page, out)


def section(study: StudyResults) -> Section:
    """Everything the page says of one comparison.

    Raises:
        InputError: if nothing was certified yet.
    """
    certified = [cell for cell in study.cells if cell.arms]
    attacked = [cell for cell in study.cells if cell.attacked]
    if not certified and not attacked:
        raise InputError(f"{study.path} has no finished samples to report; titer run goes on with it")
    first = headline_cell(certified) if certified else None
    kinds = dict.fromkeys(arm.guarantee for cell in certified for arm in cell.arms)
    return Section(
        title=str(study.info["title"]),
        facts=tuple(_facts(study, first or attacked[0])),
        alarms=tuple(_alarms(study)),
        verdicts=(
            *((verdict(first, sigma) for sigma in _shown_sigmas(first)) if first else ()),
            *(
                f"{f'Cell {cell.name}. ' if len(attacked) > 1 else ''}{attack_verdict(cell, norm)}"
                for cell in attacked
                for norm in cell.norms
            ),
        ),
        parts=(
            *_beside(certified, attacked),
            *(_parts(certified, first, list(study.info["entries"])) if first else ()),
            *_benchmark_parts(study),
            *_attack_parts(certified, attacked),
        ),
        guarantees=tuple((kind, GUARANTEES[kind]) for kind in kinds),
        settings=(cells_table(study), methods_table(study)),
        command=str(study.info["command"]),
    )


def _shown_sigmas(cell: StudyCell) -> list[float]:
    return [sigma for sigma in cell.sigmas if HEADLINE in radii_of(cell, sigma)]


def _facts(study: StudyResults, cell: StudyCell) -> Iterator[str]:
    arm: Fits = (*cell.arms, *cell.attacked)[0]
    yield str(study.info["model"]["name"])
    yield str(study.info["data"]["name"])
    yield f"{study.info['data']['split']} split"
    yield f"{len(arm.ids)} images of {classes(arm)} classes"
    groups = len(np.unique(group_codes(arm.groups)))
    if groups < len(arm.ids):
        yield f"{groups} groups"


def _alarms(study: StudyResults) -> Iterator[str]:
    for cell in study.cells:
        if cell.missing:
            yield f"Cell {cell.name} is not finished: {', '.join(cell.missing)} missing."
        for run in cell.runs:
            if run.info["status"] != "done":
                yield f"{run.path.name} is {run.info['status']}; its rows are of the images that all methods have."
            if run.failures:
                yield f"{len(run.failures)} images of {run.path.name} failed and are in no number."
    yield from _collapses(study.info["prompts"])
    yield from _doubts(study.cells)
    yield from _left_out(study.info)
    yield from _warnings(study)
    if any(arm.guarantee == "conditional" for cell in study.cells for arm in cell.arms):
        yield (
            "Rows marked conditional do not hold for a deployed pipeline that adapts to its input. They are shown, drawn in "
            "no curve and tested against nothing."
        )


def _doubts(cells: Sequence[StudyCell]) -> Iterator[str]:
    """What self-checks say against the numbers of attacks."""
    single = [(cell, arm) for cell in cells for arm in cell.attacked if len(arm.attacks) == 1]
    for cell, arm in single:
        if arm.suspicions:
            yield (
                f"{method_of(arm)}, {fits_of(arm)}, cell {cell.name}, {label_of(arm)}: {arm.verdict}. Do not trust these "
                "numbers."
            )
    unchecked = dict.fromkeys((cell.name, label_of(arm)) for cell, arm in single if arm.suspicions is None)
    for name, attack in unchecked:
        yield f"Cell {name}, {attack}: no self-checks were made; nothing says whether the attack was strong."


def _left_out(info: Mapping[str, Any]) -> Iterator[str]:
    """Methods that a cell does not attack since they are other classifiers for each image."""
    adapting = dict.fromkeys(told["entry"] for told in info["prompts"].values() if told.get("adapts"))
    for cell in (cell for cell in info["cells"] if cell.get("attacks")):
        left = [entry for entry in adapting if entry in cell["defenses"]]
        if left:
            yield (
                f"Cell {cell['name']}: not attacked, since they adapt to each image they are shown: {', '.join(left)}. titer "
                "challenge attacks their certificates."
            )


def _collapses(prompts: Mapping[str, Any]) -> Iterator[str]:
    """A line for each method some of whose fits collapsed."""
    for entry in dict.fromkeys(told["entry"] for told in prompts.values()):
        own = {name: told for name, told in prompts.items() if told["entry"] == entry}
        found = {name: told["warnings"] for name, told in own.items() if told.get("warnings")}
        if found:
            listed = "; ".join(f"{name} {', '.join(texts)}" for name, texts in found.items())
            yield f"{entry}, {len(found)} of {len(own)} fits: {listed}."


def _warnings(study: StudyResults) -> Iterator[str]:
    """What records say beside what their fit said: a line for each text, with its methods."""
    told = {text for facts in study.info["prompts"].values() for text in facts.get("warnings", ())}
    found: dict[str, dict[str, None]] = {}
    for arm in (arm for cell in study.cells for arm in (*cell.arms, *cell.attacked)):
        texts = {text for records in arm.records for record in records for text in record.get("warnings", ())}
        for text in sorted(texts - told):
            found.setdefault(text, {})[arm.entry] = None
    return (f"{', '.join(entries)}: {text}." for text, entries in found.items())


def verdict(cell: StudyCell, sigma: float) -> str:
    """The headline at one sigma, for someone who reads nothing else."""
    sound = [arm for arm in cell.at(sigma) if arm.guarantee != "conditional"]
    start = f"At sigma {sigma:g}, right and certified at radius {HEADLINE:g}: a constant answer {chance(cell)}"
    return standing(start, sound, lambda arm: certified_share(arm, HEADLINE), "sound method")


def _parts(cells: Sequence[StudyCell], first: StudyCell, order: Sequence[str]) -> Iterator[Part]:
    """The headline, curves, shots, costs, one fit for all noise levels or several."""
    tests = paired_table(first)
    yield Part(
        title=f"Certified accuracy at radius {HEADLINE:g}",
        tables=(headline_table(first), *([tests] if tests else [])),
    )
    curves = [cell for cell in cells if not asks_one_radius(cell)]
    for cell in curves:
        yield _curves(cell, order, cell is first, len(curves) > 1)
    shots = [cell for cell in cells if shots_table(cell)]
    for cell in shots:
        yield _shots(cell, order, len(shots) > 1)
    yield Part("Costs", tables=(cost_table(cells),))
    mixtures = tuple(table for cell in cells if (table := mixture_table(cell)))
    if mixtures:
        yield Part("One fit for all noise levels, or one for each", tables=mixtures)


def _beside(certified: Sequence[StudyCell], attacked: Sequence[StudyCell]) -> Iterator[Part]:
    """What attacks leave of prompt sets beside what is certified of them."""
    tables = [
        table
        for cell in attacked
        for norm in cell.norms
        for other in certified
        if (table := beside_table(other, cell, norm))
    ]
    if tables:
        yield Part(title="Clean, attacked and certified", text=_BESIDE, tables=tuple(tables))


def _attack_parts(certified: Sequence[StudyCell], attacked: Sequence[StudyCell]) -> Iterator[Part]:
    """Accuracy under attack, and what attacks cost."""
    for cell in attacked:
        tests = [attack_paired_table(cell, norm) for norm in cell.norms]
        yield Part(
            title="Accuracy under attack" + (f": cell {cell.name}" if len(attacked) > 1 else ""),
            tables=(*(robust_table(cell, norm) for norm in cell.norms), *(table for table in tests if table)),
        )
    if attacked:
        yield Part("Costs of attacks", tables=(attack_cost_table(attacked, with_fits=not certified),))


def _benchmark_parts(study: StudyResults) -> Iterator[Part]:
    tables = tuple(base_to_new_tables(study))
    if tables:
        yield Part(title="Base to new classes", tables=tables)


_BESIDE = (
    "The two are of different classifiers: a certificate is of the smoothed one and bounds its accuracy from below, answers "
    "under attack are the model's own without smoothing, whose accuracy they bound from above. A radius is in L2; an epsilon is "
    "in the norm of the attack, so that the two compare only where that is L2."
)


def _curves(cell: StudyCell, order: Sequence[str], is_first: bool, several: bool) -> Part:
    sound = [arm for arm in cell.arms if arm.guarantee != "conditional"]
    drawing = Drawing(
        Markup(arm_figure(sound, order)),  # noqa: S704
        _in_words(cell),
        "Class-balanced, mean over fits, of each method with the most shots. Intervals are in the tables. The curves end at the "
        "largest radius that the draws can prove.",
    )
    tests = None if is_first else paired_table(cell)
    first, *others = (accuracy_table(cell, sigma) for sigma in cell.sigmas)
    return Part(
        title="Certified accuracy against radius" + (f": cell {cell.name}" if several else ""),
        figures=(drawing,),
        tables=(first,),
        folded=(*others, *([tests] if tests else [])),
    )


def _shots(cell: StudyCell, order: Sequence[str], several: bool) -> Part:
    sound = [arm for arm in cell.arms if arm.guarantee != "conditional"]
    words = f"Certified accuracy at radius {HEADLINE:g} against shots; the values are in the table below"
    table = shots_table(cell)
    return Part(
        title="Shots" + (f": cell {cell.name}" if several else ""),
        figures=(
            Drawing(
                Markup(shots_figure(sound, HEADLINE, order)),  # noqa: S704
                words,
                "Mean over fits. Methods that need no labels are level lines.",
            ),
        ),
        tables=(table,) if table else (),
    )


def _in_words(cell: StudyCell) -> str:
    said = []
    for sigma in cell.sigmas:
        for arm in (arm for arm in cell.at(sigma) if arm.guarantee != "conditional"):
            points = ", ".join(f"{certified_share(arm, at).text} at {at:g}" for at in radii_of(cell, sigma))
            said.append(f"{arm.entry}, sigma {sigma:g}: {points}")
    return "Certified accuracy against radius. " + "; ".join(said) + "."


def methods_table(study: StudyResults) -> Table:
    """Every method with all of its settings."""
    return Table(
        title="Settings of the methods",
        caption="Defaults included.",
        columns=("name", "method", "settings"),
        rows=tuple(
            (name, str(facts["method"]), _settings(facts["settings"])) for name, facts in study.info["entries"].items()
        ),
    )


def cells_table(study: StudyResults) -> Table:
    """What was certified or attacked with what: a row for each run."""
    return Table(
        title="Settings of the runs",
        caption="Each is a run directory of this comparison.",
        columns=("run", "seconds", "settings"),
        rows=tuple(
            (
                run.path.name,
                f"{run.info['seconds']:.0f}",
                _settings({**_plain(run.info["settings"]), "seed": run.info["seed"]}),
            )
            for cell in study.cells
            for run in cell.runs
        ),
    )


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a run; of an attack epsilon as it is usually said, and members of an ensemble by name."""
    told = dict(settings)
    if "norm" in settings:
        told["eps"] = ", ".join(length_text(length, settings["norm"]) for length in settings["eps"])
    if "ran" in settings:
        told["ran"] = ", ".join(member["name"] for member in settings["ran"])
    return told


def _settings(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} = {value}" for key, value in settings.items() if value not in (None, []))
