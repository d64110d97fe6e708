"""The tables of a report, from records."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from titer.errors import InputError
from titer.results.foreign import rounded_down
from titer.results.store import Record
from titer.results.summary import Cell, correct, groups, radii, radii_shown, run_certifies, spoken
from titer.statistics import curves
from titer.statistics.intervals import clustered, proportion
from titer.statistics.ranking import balanced_accuracy, calibration_error, class_results, reliability

NOT_CERTIFIED = "not certified at r"


@dataclass(frozen=True)
class Table:
    """A table with a caption that says what its numbers are."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def certified_table(cells: Sequence[Cell]) -> Table:
    """Certified accuracy at the radii asked for, with counts and intervals."""
    shown = sorted({radius for cell in cells for radius in radii_shown(cell)})
    rows = []
    for cell in cells:
        records = cell.labelled
        right, reach, tied = correct(records), radii(records), groups(records)
        own = set(radii_shown(cell))
        parts = ["-" if at not in own or not records else _counted(right, reach, at, tied) for at in shown]
        rows.append(
            (
                cell.prompts,
                f"{cell.sigma:g}",
                *parts,
                rounded_down(curves.average_certified_radius(right, reach), 3) if records else "-",
            )
        )
    return Table(
        "Certified accuracy: share of all labelled images that are right and certified at L2 radius r, with its 95 % interval.",
        ("prompts", "sigma", *(f"r ≥ {radius:g}" for radius in shown), "average radius"),
        tuple(rows),
    )


def _counted(right: NDArray[np.bool_], reach: NDArray[np.float64], at: float, tied: Sequence[Hashable | None]) -> str:
    share = curves.certified_accuracy(right, reach, at, tied)
    return f"{curves.certified(right, reach, at).sum()}/{len(right)} = {spoken(share)}"


def answers_table(cells: Sequence[Cell]) -> Table:
    """Accuracy of what was answered, abstention, draws."""
    one = any(cell.asks_one_radius for cell in cells)
    rows = []
    for cell in cells:
        silent = sum(record["prediction"] < 0 for record in cell.records)
        accuracy = clustered(correct(cell.labelled).astype(float), groups(cell.labelled))
        draws = [record.get("draws", 0) + record.get("draws0", 0) for record in cell.records]
        open_at_end = sum(bool(record.get("open")) for record in cell.records)
        rows.append(
            (
                cell.prompts,
                f"{cell.sigma:g}",
                str(len(cell.records)),
                spoken(accuracy),
                f"{silent}/{len(cell.records)} = {spoken(proportion(silent, len(cell.records)))}",
                f"{np.mean(draws):,.0f}",
                str(open_at_end) if any("open" in record for record in cell.records) else "-",
            )
        )
    return Table(
        "Answers of the smoothed classifier over all images; an image without an answer counts as wrong.",
        (
            "prompts",
            "sigma",
            "images",
            "right",
            NOT_CERTIFIED if one else "abstained",
            "mean draws",
            "with radii left open",
        ),
        tuple(rows),
    )


def class_table(cell: Cell, names: Sequence[str]) -> Table | None:
    """Per class: sensitivity, specificity, AUROC; None without labels or votes."""
    records = [record for record in cell.labelled if "counts" in record]
    if not records:
        return None
    labels, predictions, shares = _arrays(records)
    rows = [
        (
            names[result.label],
            str(result.images),
            spoken(result.sensitivity),
            spoken(result.specificity),
            spoken(result.auroc),
        )
        for result in class_results(labels, predictions, shares, groups(records))
    ]
    error = calibration_error(reliability(shares, labels, groups(records)))
    balanced = spoken(balanced_accuracy(labels, predictions, groups(records)))
    return Table(
        f"Per class, {cell.prompts}, sigma {cell.sigma:g}: balanced accuracy {balanced}; "
        f"expected calibration error of the vote shares {error:.3f}. AUROC and balanced accuracy: bootstrap intervals.",
        ("class", "images", "sensitivity", "specificity", "AUROC (one against rest)"),
        tuple(rows),
    )


def subgroup_table(cell: Cell, column: str) -> Table:
    """Accuracy and certified accuracy for each value of a column.

    Raises:
        InputError: if the records do not carry the column.
    """
    carried = {name for record in cell.records for name in record.get("attributes", {})}
    if column not in carried:
        raise InputError(
            f"the records do not carry the column {column!r} (they carry: {', '.join(sorted(carried)) or 'none'}); "
            f"certify with --by {column} into a new directory"
        )
    values = sorted({str(record["attributes"].get(column)) for record in cell.labelled})
    at = [radius for radius in radii_shown(cell) if radius > 0][:3] if run_certifies(cell.run) else []
    rows = []
    for value in values:
        own = [record for record in cell.labelled if str(record["attributes"].get(column)) == value]
        certified = [spoken(curves.certified_accuracy(correct(own), radii(own), radius, groups(own))) for radius in at]
        rows.append((value, str(len(own)), spoken(clustered(correct(own).astype(float), groups(own))), *certified))
    return Table(
        f"By {column}, {cell.prompts}, sigma {cell.sigma:g}, with 95 % intervals.",
        (column, "images", "right", *(f"certified at r ≥ {radius:g}" for radius in at)),
        tuple(rows),
    )


def settings_table(info: dict[str, Any]) -> Table:
    """Everything that produced a run."""
    model, data, samples = (info.get(name, {}) for name in ("model", "data", "samples"))
    facts = {
        "command": info.get("command"),
        "status": info.get("status"),
        "model": f"{model.get('name')} (fingerprint {str(model.get('fingerprint'))[:16]})",
        "data": f"{data.get('name')}, split {data.get('split') or '-'}, limit {data.get('limit') or 'none'}",
        "images": f"{samples.get('done')} done, {samples.get('failed')} failed, {samples.get('expected')} expected",
        **info.get("settings", {}),
        "seed": info.get("seed"),
        "device, dtype": f"{info.get('device')}, {info.get('dtype')}",
        "versions": ", ".join(f"{name} {value}" for name, value in info.get("versions", {}).items()),
        "seconds": info.get("seconds"),
        **{f"prompts {name}": str(value)[:16] for name, value in info.get("prompts", {}).items()},
        **{f"class {item['label']}": " | ".join(item["texts"]) for item in info.get("classes", []) if item["texts"]},
    }
    rows = tuple((name, str(value)) for name, value in facts.items() if value is not None)
    return Table("Settings that produced these numbers.", ("setting", "value"), rows)


def _arrays(records: Sequence[Record]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    counts = np.array([record["counts"] for record in records], float)
    labels = np.array([record["label"] for record in records], np.int64)
    predictions = np.array([record["prediction"] for record in records], np.int64)
    return labels, predictions, counts / counts.sum(axis=1, keepdims=True)
