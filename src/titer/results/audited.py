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
from titer.results.store import Record, Run, read_lines
from titer.statistics.base_rates import RATES, precisions
from titer.statistics.intervals import Interval, clustered
from titer.statistics.ranking import area_interval

CANARIES = "canaries.jsonl"
QUEUE = "queue.csv"
FEWEST = 100
"""Canaries of a family without which nothing is said of its power."""
FALSE_ALARMS = (0.01, 0.001)
"""Shares of the real pairs that a threshold flags."""
NOTHING_DELETED = "Nothing was deleted: this is a queue for people to look at."

_RAISED = 0.9
_SHOWN = 3


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


def canaries(run: Run) -> dict[str, list[Record]]:
    """Canaries by family; a pair that its family could not change is none."""
    found: dict[str, list[Record]] = {name: [] for name in run.info["families"]}
    for record in read_lines(run.path / CANARIES):
        found[record["family"]].append(record)
    return found


def power(run: Run) -> list[PowerRow]:
    """For each family the share of its canaries above the thresholds of ``FALSE_ALARMS``, and above every real pair."""
    return [power_of(family, found, share) for family, found in canaries(run).items() for share in (*FALSE_ALARMS, 0.0)]


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


def areas(run: Run) -> list[AreaRow]:
    """For each family that has canaries, AUROC of the score and of each signal."""
    negative = len({_tie(record) for record in run.records})
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


def dropped(run: Run, above: float | None = None, share: float | None = None) -> list[Record]:
    """The pairs that a filter takes: those that score above a number, or a share of all from the top of the queue.

    Raises:
        InputError: unless one of the two is given, from 0 to 1.
    """
    ordered = queue(run)
    if above is not None and share is None:
        _check_share("--drop-above", above)
        return [record for record in ordered if record["score"] > above]
    if share is not None and above is None:
        _check_share("--drop", share)
        return ordered[: round(share * len(ordered))]
    raise InputError("expected one of --drop-above SCORE and --drop SHARE")


def _check_share(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise InputError(f"{name}: expected a number from 0 to 1, got {value:g}")


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
