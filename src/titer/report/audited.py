"""The page of an audit: its power first, then what a flag is worth, then the queue. It reads records and thumbnails only."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from markupsafe import Markup
from PIL import Image

from titer.report.page import template, write_page
from titer.report.parts import Drawing, Part, SectionHead
from titer.report.plots import scores_figure
from titer.report.strip import address
from titer.report.tables import MISSING, Share, Table, Value, class_names, settings_table
from titer.report.words import alarms
from titer.results import audited
from titer.results.audited import FALSE_ALARMS, NOTHING_DELETED, Filter
from titer.results.store import Record, Run, thumbnail_name

PAGE = "report.html"
_SHOWN = 50
_WEAK = 0.5  # power below which finding nothing says little


@dataclass(frozen=True)
class Suspect:
    """One pair of the queue.

    Args:
        rank: from 1.
        score: from 0 to 1.
        picture: PNG as a data address; empty where no thumbnail was kept.
        name: sample id.
        label: in words, empty where it has none.
        caption: as the table has it.
        raised: signals that raised it, with their percentiles.
    """

    rank: int
    score: str
    picture: str
    name: str
    label: str
    caption: str
    raised: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Section(SectionHead):
    """What the page says of one audit."""

    parts: tuple[Part, ...]
    suspects: tuple[Suspect, ...]
    signals: tuple[tuple[str, str], ...]
    failures: tuple[tuple[str, str], ...]


def write_audit(run: Run, chosen: Filter | None = None, out: Path | None = None) -> Path:
    """Write the page of an audit, beside its records unless told otherwise.

    Args:
        run: the audit.
        chosen: a filter whose effect is shown.
        out: the file to write.

    Returns:
        The file written.

    Raises:
        InputError: if the run is no audit, or the file cannot be written.
    """
    text = template("audit.html.jinja").render(part=section(run, chosen), nothing_deleted=NOTHING_DELETED)
    return write_page(text, run.path / PAGE if out is None else out)


def section(run: Run, chosen: Filter | None = None) -> Section:
    """Everything the page says.

    Raises:
        InputError: if the run is no audit.
    """
    ordered = audited.queue(run)
    seen = dict.fromkeys(name.removesuffix("/2") for record in ordered[:1] for name in record["signals"])
    return Section(
        title=str(run.info["data"]["name"]),
        facts=tuple(_facts(run)),
        alarms=(*alarms(run), *audited.warnings(run)),
        verdicts=tuple(_verdicts(run)),
        parts=tuple(_parts(run, chosen)),
        suspects=tuple(_suspect(run, record) for record in ordered[:_SHOWN]),
        signals=tuple((name, run.info["signals"][name]) for name in seen),
        failures=tuple((line["sample_id"], line["error"]) for line in run.failures),
        settings=(settings_table(run),),
    )


def _facts(run: Run) -> Iterator[str]:
    models = [run.info[name]["name"] for name in ("model", "second") if name in run.info]
    yield " and ".join(models)
    yield f"{run.info['data']['split']} split"
    yield f"{len(run.records):,} pairs"
    if "trusted" in run.info:
        yield "{pairs:,} trusted pairs of {name}, {split} split".format(**run.info["trusted"])
    if run.info["without_caption"]:
        yield f"{run.info['without_caption']:,} rows without caption left out"


def _verdicts(run: Run) -> Iterator[str]:
    """What the audit can find, and what it cannot."""
    rows = [
        row for row in audited.power(run) if row.false_alarms == FALSE_ALARMS[0] and row.family != run.info["control"]
    ]
    known = [(row.family, row.power) for row in rows if row.power is not None]
    if not known:
        yield "How much this audit would find is unknown. That it finds nothing would say nothing."
        return
    listed = ", ".join(f"{family} {audited.percent(power)}" for family, power in known)
    whose = "trusted" if "trusted" in run.info else "real"
    yield f"At a threshold that flags 1 % of the {whose} pairs it finds of the pairs noised on purpose: {listed}."
    weak = [family for family, power in known if power.estimate < _WEAK]
    if weak:
        yield f"It finds fewer than half of {', '.join(weak)}: that none turn up in the queue would say little."
    for row in audited.flagged(run):
        if row.false_alarms == FALSE_ALARMS[0]:
            yield (
                f"Of the audited pairs {row.flagged} of {row.pairs} are above it, {audited.percent(row.share)}; if all were "
                f"like the trusted ones about {row.expected:.0f} would be."
            )


def _parts(run: Run, chosen: Filter | None) -> Iterator[Part]:
    yield Part(
        "What this audit would find",
        " ".join(audited.reasons(run)),
        figures=(_drawing(run),),
        tables=(_power(run), _reviewed(run), *_flagged(run)),
        folded=_areas(run),
    )
    rows = audited.base_rate_table(run)
    if rows:
        yield Part(
            "What a flag is worth",
            "Of the flagged pairs the share that is bad depends on how many are bad at all. Where few are, most flags are "
            "false alarms: the queue is for people. Where many are, a filter may act on it.",
            tables=(
                _text_table("Precision", "Power, as measured, with a share of bad pairs that nobody knows.", rows),
            ),
        )
    if chosen is not None:
        taken = chosen.taken(run)
        rows = audited.removal_table(audited.removals(run, taken))
        yield Part(
            "What the filter leaves out",
            f"Filter: {chosen.says}, {len(taken)} of {len(run.records)} pairs. A filter that takes rare findings away does "
            "more harm than the noise: look at every line before training on kept.csv.",
            tables=(_text_table("Left out", "By class, and by columns that were asked for.", rows),),
        )


def _drawing(run: Run) -> Drawing:
    groups = {name: [record["score"] for record in found] for name, found in audited.canaries(run).items() if found}
    believed = [record["score"] for record in audited.trusted(run)]
    known = [("trusted pairs", believed)] if believed else []
    rows = [
        ("audited pairs" if believed else "real pairs", [record["score"] for record in run.records]),
        *known,
        *groups.items(),
    ]
    middles = ", ".join(f"{name} {np.median(scores):.2f}" for name, scores in rows)
    return Drawing(
        svg=Markup(scores_figure(rows, audited.threshold_score(run, FALSE_ALARMS[0]))),  # noqa: S704
        words=f"Median scores: {middles}",
        caption="Scores of pairs and of canaries, 1 the most suspicious. Dotted: 1 % of the "
        f"{'trusted' if believed else 'real'} pairs are above.",
    )


def _power(run: Run) -> Table:
    rows: dict[str, list[Value]] = {}
    shares = (*FALSE_ALARMS, 0.0)
    for row in audited.power(run):
        own = rows.setdefault(row.family, [row.family, run.info["families"][row.family], str(row.canaries)])
        own.append("unknown" if row.power is None else Share(row.power, row.canaries))
    for area in audited.areas(run):
        if area.by == "score":
            rows[area.family].append(Share(area.area, len(run.records), percent=False))
    columns = ("canaries", "what was done to them", "planted", *map(audited.threshold, shares), "AUROC of the score")
    return Table(
        title="Power",
        caption="Share of canaries that score above a threshold, with 95 % intervals by planting. Canaries are "
        f"{'trusted pairs' if 'trusted' in run.info else 'pairs of this set'}, noised on purpose against the model above; they "
        "are in no table of real pairs. Untouched ones should be found as often as pairs are flagged.",
        columns=columns,
        rows=tuple((*own, *[MISSING] * (len(columns) - len(own))) for own in rows.values()),
    )


def _reviewed(run: Run) -> Table:
    rows: dict[str, list[Value]] = {}
    for row in audited.reviewed(run):
        own = rows.setdefault(row.family, [row.family])
        own.append("unknown" if row.power is None else Share(row.power, row.canaries))
    if "trusted" in run.info:
        return Table(
            title="If more is flagged",
            caption="Share of canaries above thresholds that flag more of the trusted pairs.",
            columns=("canaries", *(f"{100 * share:g} % flagged" for share in audited.REVIEWED)),
            rows=tuple(map(tuple, rows.values())),
        )
    return Table(
        title="If more is reviewed",
        caption="Share of canaries that lie in the first part of the queue. Where more pairs are bad than it flags, they "
        "stand in front and hide each other: review a larger part than may be bad before believing that the rest is clean.",
        columns=("canaries", *(f"first {100 * share:g} %" for share in audited.REVIEWED)),
        rows=tuple(map(tuple, rows.values())),
    )


def _flagged(run: Run) -> Iterator[Table]:
    rows = audited.flagged_table(run)
    if rows:
        yield _text_table(
            "Audited pairs above thresholds of trusted ones",
            "More than chance explains are noised, or of another kind than the trusted pairs: another scanner, other words.",
            rows,
        )


def _areas(run: Run) -> tuple[Table, ...]:
    """One table, if there are canaries."""
    found = audited.areas(run)
    families = list(dict.fromkeys(row.family for row in found))
    areas = {(row.by, row.family): Share(row.area, len(run.records), percent=False) for row in found}
    table = Table(
        title="Which signal tells which canaries apart",
        caption="Area under the ROC curve, canaries against real pairs: 0.5 is chance, below it the signal points the wrong way.",
        columns=("signal", *families),
        rows=tuple((by, *(areas[by, family] for family in families)) for by in dict.fromkeys(row.by for row in found)),
    )
    return (table,) if found else ()


def _text_table(title: str, caption: str, rows: list[dict[str, str]]) -> Table:
    return Table(title, caption, tuple(rows[0]), tuple(tuple(row.values()) for row in rows))


def _suspect(run: Run, record: Record) -> Suspect:
    thumbnail = run.path / "images" / thumbnail_name(record["sample_id"])
    picture = ""
    if thumbnail.exists():
        with Image.open(thumbnail) as stored:
            picture = address(np.asarray(stored.convert("RGB"), np.float32) / 255)
    return Suspect(
        rank=record["rank"],
        score=f"{record['score']:.3f}",
        picture=picture,
        name=record["sample_id"],
        label="" if record["label"] is None else class_names(run)[record["label"]],
        caption=record["caption"],
        raised=tuple(f"{name} {_percentile(value)}" for name, value in audited.raised(record).items()),
    )


def _percentile(value: float) -> str:
    return f"{100 * value:.1f}" if value < 1 else "highest"
