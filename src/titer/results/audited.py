"""Numbers of runs of audit, computed from their records: the queue, its power by canaries, and what a filter removes."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from titer.errors import InputError
from titer.results.store import Record, Run, read_lines, read_run
from titer.statistics.base_rates import RATES, precisions
from titer.statistics.intervals import Interval, clustered
from titer.statistics.ranking import area_interval

CANARIES = "canaries.jsonl"
TRUSTED = "trusted.jsonl"
QUEUE = "queue.csv"
FEWEST = 100
"""Canaries of a family without which nothing is said of its power."""
FALSE_ALARMS = (0.01, 0.001)
"""Shares of the real pairs that a threshold flags."""
REVIEWED = (0.05, 0.1, 0.2, 0.3)
"""Shares of the real pairs that someone may look at, from the top of the queue."""
NOTHING_DELETED = "Nothing was deleted: this is a queue for people to look at."

_RAISED = 0.9
_SHOWN = 3
_CHANCE = 0.4  # of other captions that fit an image at least as well as its own, at the median


@dataclass(frozen=True)
class PowerRow:
    """How many of a family's canaries would be found.

    Args:
        family: its name.
        canaries: how many there are.
        plantings: in how many groups that were noised together; intervals count these.
        false_alarms: share of the real pairs that the threshold flags at most; 0 is above every real pair.
        power: share of the canaries above it, with a 95 % interval; None where it is unknown.
        unknown: why.
    """

    family: str
    canaries: int
    plantings: int
    false_alarms: float
    power: Interval | None
    unknown: str = ""


@dataclass(frozen=True)
class AreaRow:
    """How well canaries of a family are told from real pairs.

    Args:
        family: its name.
        by: ``score``, or one signal.
        area: under the ROC curve, with a 95 % interval.
    """

    family: str
    by: str
    area: Interval


@dataclass(frozen=True)
class FlaggedRow:
    """How many audited pairs are above a threshold of trusted ones.

    Args:
        false_alarms: share of the trusted pairs that the threshold flags at most.
        pairs: audited.
        flagged: of these.
        share: flagged, with a 95 % interval.
        expected: how many it would flag at most if all were like the trusted ones.
    """

    false_alarms: float
    pairs: int
    flagged: int
    share: Interval
    expected: float


@dataclass(frozen=True)
class BaseRateRow:
    """What a flag is worth at the measured power.

    Args:
        family: of which the bad pairs are.
        false_alarms: share of the good pairs that are flagged.
        precision: share of the flagged that are bad, for each of ``RATES``.
    """

    family: str
    false_alarms: float
    precision: tuple[Interval, ...]


@dataclass(frozen=True)
class RemovalRow:
    """What a filter takes of one class, or of one value of a column.

    Args:
        column: ``label``, a column that records carry, or ``all``.
        value: of the column.
        pairs: that have it.
        removed: of these.
        share: removed, with a 95 % interval.
        heavy: whether it surely loses more than all pairs do on average.
    """

    column: str
    value: str
    pairs: int
    removed: int
    share: Interval
    heavy: bool = False


def is_audit(path: Path) -> bool:
    """Whether a directory is a run of audit."""
    file = path / "run.json"
    return file.is_file() and read_run(path).info.get("verb") == "audit"


def queue(run: Run) -> list[Record]:
    """Real pairs, the most suspicious first.

    Raises:
        InputError: if the run is not an audit.
    """
    if run.info.get("verb") != "audit":
        raise InputError(f"{run.path} was written by {run.info.get('verb')}; expected a run of audit")
    return sorted(run.records, key=lambda record: int(record["rank"]))


def raised(record: Record) -> dict[str, float]:
    """The signals that raised a pair: those on which it is above nine of ten others, at most three, the highest first."""
    high = [(name, value) for name, value in record["percentiles"].items() if value >= _RAISED]
    return dict(sorted(high, key=lambda part: -part[1])[:_SHOWN])


def warnings(run: Run) -> list[str]:
    """What a reader must know of the models before believing signals of theirs."""
    found = []
    for which, name in (("model", "own-rank"), ("second", "own-rank/2")):
        ranks = [record["signals"][name] for record in run.records if name in record["signals"]]
        if ranks and np.median(ranks) > _CHANCE:
            found.append(
                f"{run.info[which]['name']} is near chance on these pairs: {100 * np.median(ranks):.0f} % of "
                "other captions fit the median image at least as well as its own (chance: 50 %). It can hardly tell a wrong one."
            )
    return found


def canaries(run: Run) -> dict[str, list[Record]]:
    """Canaries by family; a pair that its family could not change is none."""
    found: dict[str, list[Record]] = {name: [] for name in run.info["families"]}
    for record in read_lines(run.path / CANARIES):
        found[record["family"]].append(record)
    return found


def trusted(run: Run) -> list[Record]:
    """Pairs that were believed to be clean and say what is usual; none where the audited ones do."""
    return read_lines(run.path / TRUSTED) if "trusted" in run.info else []


def flagged(run: Run) -> list[FlaggedRow]:
    """Audited pairs above the thresholds of ``FALSE_ALARMS`` and ``REVIEWED``, where these are of trusted pairs.

    A share that is less than one of the trusted pairs has no threshold, and no row.
    """
    if "trusted" not in run.info:
        return []
    ties = [_tie(record) for record in run.records]
    rows = []
    for share in sorted((*FALSE_ALARMS, *REVIEWED)):
        allowed = [math.floor(share * record["real"] + 1e-9) for record in run.records]
        if min(allowed) > 0:
            hits = [record["ahead"] <= most for record, most in zip(run.records, allowed, strict=True)]
            counted = clustered(np.array(hits, float), ties)
            rows.append(FlaggedRow(share, len(hits), sum(hits), counted, share * len(hits)))
    return rows


def power(run: Run) -> list[PowerRow]:
    """For each family the share of its canaries above the thresholds of ``FALSE_ALARMS``, and above every real pair."""
    return [power_of(family, found, share) for family, found in canaries(run).items() for share in (*FALSE_ALARMS, 0.0)]


def reviewed(run: Run) -> list[PowerRow]:
    """For each family the share of its canaries that lie in the parts of the queue of ``REVIEWED``.

    Where a set holds many bad pairs these take the top of the queue, and a threshold that flags 1 % of all pairs lies among
    them: power there is less than that at 1 % of the clean ones. Whoever reviews more than is bad sees the true power.
    """
    return [power_of(family, found, share) for family, found in canaries(run).items() for share in REVIEWED]


def power_of(family: str, found: Sequence[Record], false_alarms: float) -> PowerRow:
    """One family at one threshold.

    Args:
        family: its name.
        found: its canaries: ``planting``, ``real`` (pairs that it was ranked with) and ``ahead`` (how many of these score
            as high or higher).
        false_alarms: share of the real pairs that may be flagged.
    """
    tied = [record["planting"] for record in found]
    count, groups = len(found), len(set(tied))
    if count < FEWEST:
        return PowerRow(family, count, groups, false_alarms, None, f"{count} canaries; at least {FEWEST} are needed")
    allowed = [math.floor(false_alarms * record["real"] + 1e-9) for record in found]
    if false_alarms > 0 and min(allowed) == 0:
        least = min(record["real"] for record in found)
        why = f"{100 * false_alarms:g} % of {least} pairs is less than one"
        return PowerRow(family, count, groups, false_alarms, None, why)
    hits = [record["ahead"] <= most for record, most in zip(found, allowed, strict=True)]
    return PowerRow(family, count, groups, false_alarms, clustered(np.array(hits, float), tied))


def threshold_score(run: Run, false_alarms: float) -> float | None:
    """The score that a flagged pair is above, of trusted pairs where there are such; None where the share is less than one."""
    scores = sorted((float(record["score"]) for record in trusted(run) or queue(run)), reverse=True)
    allowed = math.floor(false_alarms * len(scores) + 1e-9)
    return scores[allowed] if 0 < allowed < len(scores) else None


def areas(run: Run) -> list[AreaRow]:
    """For each family that has canaries, AUROC of the score and of each signal."""
    negative = len({_tie(record) for record in trusted(run) or run.records})
    return [
        area_of(family, by, found, negative)
        for family, found in canaries(run).items()
        if found
        for by in ("score", *found[0]["percentiles"])
    ]


def area_of(family: str, by: str, found: Sequence[Record], negative: int) -> AreaRow:
    """AUROC of a family: the mean share of real pairs that a canary is above.

    Args:
        family: its name.
        by: ``score``, or a signal.
        found: its canaries, each with ``planting``, ``percentile`` and ``percentiles`` among the pairs it was ranked with.
        negative: independent real pairs.
    """
    above = [record["percentile"] if by == "score" else record["percentiles"][by] for record in found]
    positive = len({record["planting"] for record in found})
    return AreaRow(family, by, area_interval(float(np.mean(above)), positive, negative))


def base_rates(run: Run) -> list[BaseRateRow]:
    """Precision at every known power, family by family; without the control, which is not bad."""
    return [
        BaseRateRow(
            row.family,
            row.false_alarms,
            tuple(precisions(row.power, row.false_alarms, rate) for rate in RATES),
        )
        for row in power(run)
        if row.power is not None and row.false_alarms > 0 and row.family != run.info["control"]
    ]


@dataclass(frozen=True)
class Filter:
    """Which pairs to leave out: those that are trusted less than a number, or a share of all from the top of the queue.

    Args:
        below: trust, which is 1 - score, from 0 to 1.
        share: of the pairs, from 0 to 1.

    Raises:
        InputError: unless one of the two is given.
    """

    below: float | None = None
    share: float | None = None

    def __post_init__(self) -> None:
        if (self.below is None) == (self.share is None):
            raise InputError("expected one of --drop-below TRUST and --drop SHARE")
        for name, value in (("--drop-below", self.below), ("--drop", self.share)):
            if value is not None and not 0 <= value <= 1:
                raise InputError(f"{name}: expected a number from 0 to 1, got {value:g}")

    def taken(self, run: Run) -> list[Record]:
        """The pairs of a run that are left out, the most suspicious first."""
        ordered = queue(run)
        if self.share is not None:
            return ordered[: round(self.share * len(ordered))]
        return [record for record in ordered if self.below is not None and 1 - record["score"] < self.below]

    @property
    def says(self) -> str:
        """In words."""
        return (
            f"trust (1 - score) below {self.below:g}"
            if self.share is None
            else f"the top {100 * self.share:g} % of the queue"
        )


def removals(run: Run, taken: Sequence[Record]) -> list[RemovalRow]:
    """What a filter takes in all, of each class, and of each value of the columns that records carry.

    Args:
        run: the audit.
        taken: the pairs that the filter takes.
    """
    gone = {record["sample_id"] for record in taken}
    names = [item["label"] for item in run.info["classes"]]
    columns: dict[str, Callable[[Record], str]] = {
        "label": lambda record: "(none)" if record["label"] is None else str(names[record["label"]])
    }
    for name in sorted({name for record in run.records for name in record.get("attributes") or {}}):
        columns[name] = lambda record, name=name: str((record.get("attributes") or {}).get(name) or "(empty)")  # type: ignore[misc]
    whole = _removal("all", "", run.records, gone, 1.0)
    rows = [whole]
    for column, value_of in columns.items():
        for value, members in groupby(sorted(run.records, key=value_of), key=value_of):
            rows.append(_removal(column, value, list(members), gone, whole.share.estimate))
    return rows


def _removal(column: str, value: str, records: Sequence[Record], gone: set[str], average: float) -> RemovalRow:
    hits = np.array([record["sample_id"] in gone for record in records], float)
    share = clustered(hits, [_tie(record) for record in records])
    return RemovalRow(column, value, len(records), int(hits.sum()), share, share.low > average)


def _tie(record: Record) -> Hashable:
    """What ties pairs together: their group, else their picture."""
    return ("group", record["group"]) if "group" in record else ("path", record["path"])


def percent(interval: Interval) -> str:
    """A share as text, ``48 % (41 to 55)``, with a digit more near 0 and near 100."""
    if interval.estimate != interval.estimate:
        return "nothing flagged"
    low, high = _percent(interval.low), _percent(interval.high)
    return f"{_percent(interval.estimate)} % ({low} to {high})"


def _percent(value: float) -> str:
    if value in (0, 1) or 0.0095 <= value <= 0.9905:
        return f"{100 * value:.0f}"
    return f"{100 * value:.2g}" if value < 0.5 else f"{min(100 * value, 99.9):.1f}"


def threshold(false_alarms: float) -> str:
    """A threshold in words."""
    return f"{100 * false_alarms:g} % flagged" if false_alarms else "above every real pair"


def power_table(run: Run) -> list[dict[str, str]]:
    """A row for each family: canaries, power at each threshold, AUROC of the score."""
    scores = {row.family: row.area for row in areas(run) if row.by == "score"}
    found: dict[str, dict[str, str]] = {}
    for row in power(run):
        own = found.setdefault(row.family, {"canaries of": row.family, "canaries": str(row.canaries)})
        own[threshold(row.false_alarms)] = "unknown" if row.power is None else percent(row.power)
    for family, own in found.items():
        area = scores.get(family)
        own["AUROC"] = "-" if area is None else f"{area.estimate:.3f} ({area.low:.3f} to {area.high:.3f})"
    return list(found.values())


def reasons(run: Run) -> list[str]:
    """Why power is unknown, where it is: each reason once, with what it is of."""
    thresholds: dict[tuple[str, str], list[str]] = {}
    for row in power(run):
        if row.power is None:
            thresholds.setdefault((row.family, row.unknown), []).append(threshold(row.false_alarms))
    families: dict[tuple[str, str], list[str]] = {}
    for (family, why), at in thresholds.items():
        families.setdefault((", ".join(at), why), []).append(family)
    every = len(run.info["families"])

    def said(at: str, why: str, of: Sequence[str]) -> str:
        whose = "" if len(of) == every else f" for {', '.join(of)}"
        return f"Power ({at}) is unknown{whose}: {why}."

    return [said(at, why, of) for (at, why), of in families.items()]


def flagged_table(run: Run) -> list[dict[str, str]]:
    """A row for each threshold of trusted pairs: audited ones above it, and how many would be if all were clean."""
    return [
        {
            "of trusted pairs": threshold(row.false_alarms),
            "of audited pairs": f"{row.flagged} of {row.pairs}",
            "share": percent(row.share),
            "if all were clean, at most about": f"{row.expected:.0f}",
        }
        for row in flagged(run)
    ]


def base_rate_table(run: Run) -> list[dict[str, str]]:
    """A row for each family and threshold: precision for each share of bad pairs."""
    return [
        {
            "if the bad pairs are": row.family,
            "threshold": threshold(row.false_alarms),
            **{f"{100 * rate:g} % bad": percent(value) for rate, value in zip(RATES, row.precision, strict=True)},
        }
        for row in base_rates(run)
    ]


def removal_table(rows: Sequence[RemovalRow]) -> list[dict[str, str]]:
    """What a filter takes, as text."""
    return [
        {
            "column": row.column,
            "value": row.value,
            "pairs": str(row.pairs),
            "removed": str(row.removed),
            "share": percent(row.share),
            "note": "loses more than the others" if row.heavy else "",
        }
        for row in rows
    ]


def queue_table(run: Run, most: int) -> list[dict[str, str]]:
    """The top of the queue, as text."""
    return [
        {
            "rank": str(record["rank"]),
            "score": f"{record['score']:.3f}",
            "sample": record["sample_id"],
            "raised by": ", ".join(f"{name} {100 * value:.0f}" for name, value in raised(record).items()) or "-",
            "caption": record["caption"],
        }
        for record in queue(run)[:most]
    ]


def write_queue(run: Run) -> Path:
    """Write all real pairs as a table, the most suspicious first.

    Raises:
        InputError: if it cannot be written.
    """
    ordered, names = queue(run), [item["label"] for item in run.info["classes"]]
    rows: list[dict[str, Any]] = [
        {
            "rank": record["rank"],
            "sample_id": record["sample_id"],
            "path": record["path"],
            "label": "" if record["label"] is None else names[record["label"]],
            "group": record.get("group", ""),
            "score": record["score"],
            "raised_by": ", ".join(raised(record)),
            "caption": record["caption"],
            **{name: round(value, 4) for name, value in record["percentiles"].items()},
        }
        for record in ordered
    ]
    return write_table(run.path / QUEUE, rows)


def write_table(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    """Write rows of the same columns as CSV, whole or not at all.

    Raises:
        InputError: if it cannot be written.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("w", encoding="utf-8", newline="") as file:
            table = csv.DictWriter(file, fieldnames=list(rows[0]) if rows else [])
            table.writeheader()
            table.writerows(rows)
        partial.replace(path)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}") from error
    return path
