"""`titer report`: one self-contained page about one or more runs. It reads records and thumbnails, never data or models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from titer.errors import InputError
from titer.report import answered, attacked
from titer.report.parts import SectionHead
from titer.report.plots import curve_figure, curve_in_words, reliability_figure
from titer.report.strip import Example, examples
from titer.report.tables import (
    Line,
    Share,
    Table,
    answers_table,
    certified_table,
    class_table,
    lines,
    settings_table,
    subgroup_table,
    title_of,
)
from titer.report.units import unit_tables
from titer.report.words import GUARANTEES, alarms, certainty, notes, verdict
from titer.results.foreign import open_results
from titer.results.store import Run
from titer.results.summary import noise_channels, run_certifies

_VERDICTS = 3  # more prompt sets and sigmas than this are left to the tables


@dataclass(frozen=True)
class Strip:
    """Example images of one part."""

    title: str
    images: tuple[Example, ...]


@dataclass(frozen=True, kw_only=True)
class Section(SectionHead):
    """What the page says of the runs on one data set."""

    more: int
    certainty: tuple[str, ...]
    notes: tuple[str, ...]
    curve: Markup | None
    curve_text: str
    tables: tuple[Table, ...]
    reliability: Markup | None
    classes: tuple[Table, ...]
    by: str | None
    subgroups: tuple[Table, ...]
    strips: tuple[Strip, ...]
    guarantees: tuple[tuple[str, str], ...]
    failures: tuple[tuple[str, str], ...]


def report(runs: Sequence[Run | str | Path], out: Path | str, by: str | None = None) -> Path:
    """Write one HTML page that opens offline.

    Args:
        runs: runs as read, or their directories, or per-image files of the field. Those on one data set share a section.
        out: the file to write.
        by: a column of the records' attributes to break results down by.

    Returns:
        The file written.

    Raises:
        InputError: without runs, for a run without finished samples, or a column that its records do not carry.
    """
    opened = [run if isinstance(run, Run) else open_results(Path(run)) for run in runs]
    if not opened:
        raise InputError("no run to report: expected at least one run directory or per-image file")
    attacks, asked = ([run for run in opened if run.info.get("verb") in kind.VERBS] for kind in (attacked, answered))
    whole = [*attacks, *asked]
    if whole and by is not None:
        raise InputError(f"--by {by}: runs of {whole[0].info['verb']} are not broken down; report them without it")
    certified = by_data([run for run in opened if run not in whole])
    beside = {_data(part[0]): lines(part) for part in certified}
    return write_page(
        render(
            [section(part, by) for part in certified],
            [attacked.section(part, beside.get(_data(part[0]), ())) for part in by_data(attacks)],
            [answered.section(part) for part in by_data(asked)],
        ),
        out,
    )


def write_page(text: str, out: Path | str) -> Path:
    """Write a page, with the directories above it.

    Raises:
        InputError: if it cannot be written.
    """
    out = Path(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot write {out}: {error.strerror}") from error
    return out


def render(
    sections: Sequence[Section],
    attacks: Sequence[attacked.Section] = (),
    answers: Sequence[answered.Section] = (),
) -> str:
    """The page as text."""
    return template("page.html.jinja").render(sections=sections, attacks=attacks, answers=answers)


def template(name: str) -> Template:
    """A template of this package."""
    environment = Environment(
        loader=PackageLoader("titer", "report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.tests["share"] = lambda value: isinstance(value, Share)
    return environment.get_template(name)


def by_data(runs: Sequence[Run]) -> list[list[Run]]:
    """Runs on the same split of the same data set, together; apart where their radii are of one and of three channels."""
    found: dict[tuple[str, str, int], list[Run]] = {}
    for run in runs:
        found.setdefault(_data(run), []).append(run)
    return list(found.values())


def _data(run: Run) -> tuple[str, str, int]:
    data = run.info.get("data", {})
    return str(data.get("name")), str(data.get("split")), noise_channels(run)


def section(runs: Sequence[Run], by: str | None = None) -> Section:
    """Everything the page says of runs on one data set.

    Raises:
        InputError: for a run without finished samples, or a column that its records do not carry.
    """
    for run in runs:
        if not run.records:
            raise InputError(f"{run.path} has no finished samples to report")
    parts = lines(runs)
    certified = [line for line in parts if run_certifies(line.cell.run)]
    reliable = reliability_figure(parts)
    return Section(
        title=title_of(runs),
        facts=tuple(_facts(runs, parts)),
        alarms=tuple(dict.fromkeys(text for run in runs for text in alarms(run))),
        verdicts=tuple(verdict(line) for line in _first(parts)),
        more=len(parts[_VERDICTS:]),
        certainty=tuple(certainty(runs)),
        notes=tuple(notes(parts, by)),
        curve=Markup(curve_figure(certified)) if certified else None,  # noqa: S704
        curve_text=curve_in_words(certified),
        tables=(*([certified_table(certified)] if certified else []), answers_table(parts), *unit_tables(certified)),
        reliability=Markup(reliable) if reliable else None,  # noqa: S704
        classes=tuple(table for line in parts if (table := class_table(line))),
        by=by,
        subgroups=tuple(subgroup_table(line, by) for line in parts) if by else (),
        strips=tuple(_strips(parts)),
        guarantees=tuple(_guarantees(runs)),
        failures=tuple((line["sample_id"], line["error"]) for run in runs for line in run.failures),
        settings=tuple(settings_table(run) for run in runs),
    )


def _facts(runs: Sequence[Run], parts: Sequence[Line]) -> list[str]:
    """The line below a section's title."""
    models = dict.fromkeys(str(run.info.get("model", {}).get("name")) for run in runs)
    splits = dict.fromkeys(str(run.info.get("data", {}).get("split") or "") for run in runs)
    images = len({record["sample_id"] for run in runs for record in run.records})
    sigmas = dict.fromkeys(line.cell.sigma_text for line in parts)
    facts = [", ".join(models), *(f"{split} split" for split in splits if split), f"{images:,} images"]
    return [*facts, f"sigma {', '.join(sigmas)}"]


def _first(parts: Sequence[Line]) -> list[Line]:
    """The parts with a verdict of their own: the first prompt set of each sigma before the second one of any."""
    sigmas = [line.cell.sigma_text for line in parts]
    ranks = [sigmas[:place].count(sigma) for place, sigma in enumerate(sigmas)]
    chosen = sorted(range(len(parts)), key=lambda place: (ranks[place], place))[:_VERDICTS]
    return [parts[place] for place in sorted(chosen)]


def _strips(parts: Sequence[Line]) -> list[Strip]:
    """One strip a sigma: that of its first prompt set."""
    first = {line.cell.sigma: line for line in reversed(parts)}
    shown = [Strip(line.title, tuple(examples(line))) for line in parts if first[line.cell.sigma] is line]
    return [strip for strip in shown if strip.images]


def _guarantees(runs: Sequence[Run]) -> list[tuple[str, str]]:
    names = {record["guarantee"] for run in runs for record in run.records if "guarantee" in record}
    return [(name, GUARANTEES.get(name, "This version does not know this guarantee.")) for name in sorted(names)]
