"""`titer report`: one self-contained page about one or more runs. It reads records and thumbnails, never data or models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader
from markupsafe import Markup
from scipy.special import ndtri

from titer.errors import InputError
from titer.report.plots import curve_figure
from titer.report.strip import Example, examples
from titer.report.tables import Table, answers_table, certified_table, class_table, settings_table, subgroup_table
from titer.results.store import Run
from titer.results.summary import Cell, cells, correct, groups, radii, radii_shown, run_certifies
from titer.statistics import curves
from titer.statistics.intervals import clustered

GUARANTEES = {
    "fixed": "Weights and prompts were fixed before the image was seen: the standard statement of randomized smoothing.",
    "per-draw": "Adaptation runs inside the base classifier on each single noisy draw; the standard statement holds.",
    "bank": "One of finitely many fixed prompts was chosen by a certified vote; the radius is the smaller of both.",
    "product": "Adaptation used extra draws per vote; the radius is divided accordingly.",
    "conditional": "HOLDS ONLY for the prompt adapted on this very image, not for a deployed pipeline that adapts again.",
    "not recorded": "The file does not say which pipeline its radii hold for.",
}


@dataclass(frozen=True)
class Section:
    """What the page says of one run."""

    title: str
    verdicts: tuple[str, ...]
    alarms: tuple[str, ...]
    notes: tuple[str, ...]
    figure: Markup | None
    tables: tuple[Table, ...]
    strips: tuple[tuple[str, tuple[Example, ...]], ...]
    guarantees: tuple[tuple[str, str], ...]
    failures: tuple[tuple[str, str], ...]
    settings: Table


def report(runs: Sequence[Run | str | Path], out: Path | str, by: str | None = None) -> Path:
    """Write one HTML page that opens offline.

    Args:
        runs: runs as read, or their directories.
        out: the file to write.
        by: a column of the records' attributes to break results down by.

    Returns:
        The file written.

    Raises:
        InputError: for a run without finished samples, or a column that its records do not carry.
    """
    from titer.results.foreign import open_results

    opened = [run if isinstance(run, Run) else open_results(Path(run)) for run in runs]
    page = render([section(run, by) for run in opened])
    out = Path(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(page, encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot write {out}: {error.strerror}") from error
    return out


def render(sections: Sequence[Section]) -> str:
    """The page as text."""
    environment = Environment(
        loader=PackageLoader("titer", "report"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("page.html.jinja").render(sections=sections)


def section(run: Run, by: str | None = None) -> Section:
    """Everything the page says of one run."""
    if not run.records:
        raise InputError(f"{run.path} has no finished samples to report")
    parts = list(cells(run))
    names = [item["label"] for item in run.info.get("classes", [])]
    certifies, labelled = run_certifies(run), any(cell.labelled for cell in parts)
    tables = [certified_table(parts)] if certifies and labelled else []
    tables += [answers_table(parts)]
    tables += [table for cell in parts if (table := class_table(cell, names))]
    tables += [subgroup_table(cell, by) for cell in parts] if by else []
    data = run.info.get("data", {})
    return Section(
        title=f"{data.get('name')} ({run.info.get('verb')})",
        verdicts=tuple(_verdict(cell) for cell in parts if cell.labelled),
        alarms=tuple(_alarms(run)),
        notes=tuple(_notes(run, parts)),
        figure=Markup(curve_figure(parts, f"{data.get('name')}")) if certifies and labelled else None,  # noqa: S704
        tables=tuple(tables),
        strips=tuple(
            (f"{cell.prompts}, sigma {cell.sigma:g}", tuple(examples(cell, names)))
            for cell in parts
            if examples(cell, names)
        ),
        guarantees=tuple(
            (name, GUARANTEES.get(name, ""))
            for name in sorted({r["guarantee"] for r in run.records if "guarantee" in r})
        ),
        failures=tuple((failure["sample_id"], failure["error"]) for failure in run.failures),
        settings=settings_table(dict(run.info)),
    )


def _verdict(cell: Cell) -> str:
    """One sentence for someone who reads nothing else."""
    records, info = cell.labelled, cell.run.info
    right = clustered(correct(records).astype(float), groups(records))
    start = f"{info.get('model', {}).get('name')} with {cell.prompts} prompts, smoothed at sigma {cell.sigma:g}, "
    start += f"answers {100 * right.estimate:.0f} % of {len(records)} images rightly"
    start += f" (95 % interval {100 * right.low:.0f} to {100 * right.high:.0f} %)"
    above = [radius for radius in radii_shown(cell) if radius > 0]
    if not run_certifies(cell.run) or not above:
        return start + "."
    parts = []
    for radius in above[:3]:
        found = curves.certified_accuracy(correct(records), radii(records), radius, groups(records))
        parts.append(
            f"{100 * found.estimate:.0f} % ({100 * found.low:.0f} to {100 * found.high:.0f} %) at radius {radius:g}"
        )
    return f"{start}. Right, and proven not to change under any disturbance of smaller L2 norm: {'; '.join(parts)}."


def _alarms(run: Run) -> list[str]:
    """What a reader must not miss."""
    alarms = []
    if run.info.get("status") != "done":
        alarms.append(f"The run is {run.info.get('status')}; this page shows what is there.")
    if run.failures:
        alarms.append(
            f"{len(run.failures)} of {run.info['samples']['expected']} images failed and are in no number below."
        )
    impossible = [record["sample_id"] for record in run.records if _impossible(record)]
    if impossible:
        alarms.append(
            f"{len(impossible)} radii are larger than their draws can prove ({impossible[0]} for one): do not trust this run."
        )
    kinds = {record["guarantee"] for record in run.records if "guarantee" in record}
    if "conditional" in kinds:
        alarms.append(
            "Some radii are conditional: they do not hold for a deployed pipeline. Do not compare them with the others."
        )
    return alarms + sorted({warning for record in run.records for warning in record.get("warnings", ())})


def _notes(run: Run, parts: Sequence[Cell]) -> list[str]:
    """How to read the numbers."""
    notes = []
    if any(
        len(set(tied := [group for group in groups(cell.records) if group is not None])) < len(tied) for cell in parts
    ):
        notes.append(
            "Some images share a group (patient, slide); intervals of shares treat a group as one observation."
        )
    asked = run.info.get("settings", {}).get("radii") or ()
    for cell in parts if asked and not run.info["settings"].get("tolerance") else ():
        beyond = [f"{radius:g}" for radius in asked if radius not in radii_shown(cell)]
        if beyond:
            notes.append(
                f"At sigma {cell.sigma:g} this number of draws can prove no radius of {', '.join(beyond)}; left open, not shown."
            )
    return notes


def _impossible(record: dict[str, Any]) -> bool:
    """Above sigma * Phi^-1(alpha^(1/draws)), what unanimous votes would prove."""
    if not record.get("radius") or not record.get("draws"):
        return False
    return bool(record["radius"] > record["sigma"] * ndtri(record["alpha"] ** (1 / record["draws"])) + 1e-9)
