"""The tables of a report, from records."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from titer.errors import InputError
from titer.results.foreign import rounded_down
from titer.results.robustness import length_text
from titer.results.store import Record, Run
from titer.results.summary import Cell, cells, groups, noise_channels, radii, radii_shown, run_certifies, share_at
from titer.statistics import curves
from titer.statistics.intervals import Interval, clustered
from titer.statistics.ranking import (
    Bin,
    balanced_accuracy,
    brier_score,
    calibration_error,
    class_results,
    reliability,
)

MISSING = "–"
_FINE = 200  # images from which on a tenth of a percent is shown


@dataclass(frozen=True)
class Line:
    """One prompt set at one sigma, with the name it goes by in a section."""

    name: str
    cell: Cell

    @property
    def title(self) -> str:
        """Name and sigma."""
        return f"{self.name}, sigma {self.cell.sigma_text}"


@dataclass(frozen=True)
class Share:
    """A number between 0 and 1 with its interval, drawn as a mark on a track.

    Args:
        interval: estimate and 95 % interval.
        images: how many images it is of.
        hits: how many of them, if it is a share of images.
        percent: whether it is said in percent.
    """

    interval: Interval
    images: int
    hits: int | None = None
    percent: bool = True

    @property
    def text(self) -> str:
        """The estimate."""
        return self._said(self.interval.estimate) + (" %" if self.percent else "")

    @property
    def range(self) -> str:
        """The interval."""
        return f"{self._said(self.interval.low)} to {self._said(self.interval.high)}"

    @property
    def count(self) -> str:
        """Hits of images, if there are any to count."""
        return "" if self.hits is None else f"{self.hits} of {self.images}"

    def _said(self, value: float) -> str:
        if not self.percent:
            return f"{value:.3f}"
        return f"{100 * value:.1f}" if self.images >= _FINE else f"{100 * value:.0f}"


Value = str | Share


@dataclass(frozen=True)
class Table:
    """A table with a caption that says what its numbers are; the first value of a row names it."""

    title: str
    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Value, ...], ...]


def title_of(runs: Sequence[Run]) -> str:
    """The data set that runs are on, and that their radii are of one channel where they are."""
    name = str(runs[0].info.get("data", {}).get("name"))
    return f"{name}, one-channel noise" if noise_channels(runs[0]) == 1 else name


def lines(runs: Sequence[Run]) -> list[Line]:
    """The parts of runs on one data set, by rising sigma, under names that tell them apart."""
    parts = sorted((cell for run in runs for cell in cells(run)), key=lambda cell: cell.sigma)
    several = len({cell.run.info.get("model", {}).get("fingerprint") for cell in parts}) > 1
    names = [_name(cell, several) for cell in parts]
    titles = [f"{name} {cell.sigma}" for name, cell in zip(names, parts, strict=True)]
    return [
        Line(f"{name} ({cell.run.path.name})" if titles.count(title) > 1 else name, cell)
        for name, title, cell in zip(names, titles, parts, strict=True)
    ]


def _name(cell: Cell, with_model: bool) -> str:
    model = f" · {cell.run.info['model']['name']}" if with_model else ""
    conditional = any(record.get("guarantee") == "conditional" for record in cell.records)
    return cell.prompts + model + (" (conditional)" if conditional else "")


def radius_text(radius: float, digits: int = 6) -> str:
    """A radius as short as it can be said, never rounded up."""
    return rounded_down(radius, digits).rstrip("0").rstrip(".")


def certified_table(parts: Sequence[Line]) -> Table:
    """Certified accuracy at the radii asked for, with counts and intervals."""
    shown = sorted({radius for line in parts for radius in radii_shown(line.cell)})
    what = "right and certified" if any(line.cell.labelled for line in parts) else "certified, right or not"
    return Table(
        title="Certified accuracy",
        caption=f"Share of all images that are {what} at L2 radius r, with 95 % intervals. Abstentions and mistakes count "
        "against it. The average radius counts 0 for every other image.",
        columns=("prompts", "sigma", *(f"r ≥ {radius_text(radius)}" for radius in shown), "average radius"),
        rows=tuple(_certified_row(line, shown) for line in parts),
    )


def _certified_row(line: Line, shown: Sequence[float]) -> tuple[Value, ...]:
    cell = line.cell
    own, reach = set(radii_shown(cell)), radii(cell.counted)
    shares = [_share_at(cell, radius) if radius in own else MISSING for radius in shown]
    average = rounded_down(curves.average_certified_radius(cell.good, reach), 3)
    return (line.name, cell.sigma_text, *shares, average)


def _share_at(cell: Cell, radius: float) -> Share:
    hits = int(curves.certified(cell.good, radii(cell.counted), radius).sum())
    return Share(share_at(cell, radius), len(cell.counted), hits)


def _share(hits: NDArray[np.bool_], records: Sequence[Record]) -> Share:
    return Share(clustered(hits.astype(float), groups(records)), len(records), int(hits.sum()))


def answers_table(parts: Sequence[Line]) -> Table:
    """How often there was an answer, how often a right one, and what it cost."""
    one, several = (any(line.cell.asks_one_radius is asked for line in parts) for asked in (True, False))
    silent = ["no answer"] if several else []
    silent += ["not certified at r"] if one else []
    return Table(
        title="Answers",
        caption="Answers of the smoothed classifier. An image without an answer counts as wrong."
        + (" A run that asked for one radius does not measure accuracy or abstention without it." if one else ""),
        columns=("prompts", "sigma", "images", "right", *silent, "mean draws", "left open at the cap"),
        rows=tuple(_answers_row(line, silent) for line in parts),
    )


def _answers_row(line: Line, silent: Sequence[str]) -> tuple[Value, ...]:
    cell = line.cell
    without = _share(np.array([record["prediction"] < 0 for record in cell.records]), cell.records)
    own = "not certified at r" if cell.asks_one_radius else "no answer"
    right = _share(cell.good, cell.counted) if cell.labelled and not cell.asks_one_radius else MISSING
    draws = [record["draws"] + record.get("draws0", 0) for record in cell.records if "draws" in record]
    sequential = any("open" in record for record in cell.records)
    return (
        line.name,
        cell.sigma_text,
        str(len(cell.records)),
        right,
        *(without if name == own else MISSING for name in silent),
        f"{np.mean(draws):,.0f}" if draws else MISSING,
        str(cell.left_open) if sequential else MISSING,
    )


@dataclass(frozen=True)
class Votes:
    """Labels, predictions and shares of votes of the labelled images of a part."""

    labels: NDArray[np.int64]
    predictions: NDArray[np.int64]
    shares: NDArray[np.float64]
    groups: Sequence[Any]

    @property
    def bins(self) -> list[Bin]:
        """Accuracy of the top class against its share of votes."""
        return reliability(self.shares, self.labels, self.groups)


def votes(cell: Cell) -> Votes | None:
    """Votes of a part; None without labels or counts."""
    records = [record for record in cell.labelled if "counts" in record]
    if not records:
        return None
    counts = np.array([record["counts"] for record in records], float)
    return Votes(
        labels=np.array([record["label"] for record in records], np.int64),
        predictions=np.array([record["prediction"] for record in records], np.int64),
        shares=counts / counts.sum(axis=1, keepdims=True),
        groups=groups(records),
    )


def class_names(run: Run) -> list[str]:
    """Labels of a run's classes, by index."""
    return [item["label"] for item in run.info.get("classes", [])]


def class_table(line: Line) -> Table | None:
    """Per class: sensitivity, specificity, AUROC; None without labels or votes."""
    found, names = votes(line.cell), class_names(line.cell.run)
    if found is None:
        return None
    total = len(found.labels)
    rows = [
        (
            names[result.label],
            str(result.images),
            _of(result.sensitivity, result.images),
            _of(result.specificity, total - result.images),
            _of(result.auroc, total, percent=False),
        )
        for result in class_results(found.labels, found.predictions, found.shares, found.groups)
    ]
    balanced = _of(balanced_accuracy(found.labels, found.predictions, found.groups), total)
    without = "not certified at the radius asked for" if line.cell.asks_one_radius else "without an answer"
    return Table(
        title=line.title,
        caption=f"An image {without} is no hit of any class. AUROC is of the share of votes, one class against the rest. "
        f"Expected calibration error of the top share of votes {calibration_error(found.bins):.3f}, "
        f"Brier score {brier_score(found.shares, found.labels):.3f} (0 is best, 2 worst).",
        columns=("class", "images", "sensitivity", "specificity", "AUROC"),
        rows=(*rows, ("balanced accuracy", str(total), balanced, "", "")),
    )


def _of(interval: Interval, images: int, percent: bool = True) -> Value:
    return Share(interval, images, percent=percent) if interval.estimate == interval.estimate else MISSING


def subgroup_table(line: Line, column: str) -> Table:
    """Accuracy and certified accuracy for each value of a column.

    Raises:
        InputError: if the records do not carry the column.
    """
    cell = line.cell
    carried = columns_carried(cell.records)
    if column not in carried:
        raise InputError(
            f"the records of {cell.run.path} do not carry the column {column!r} (they carry: "
            f"{', '.join(carried) or 'none'}); certify with --by {column} into a new directory"
        )
    at = [radius for radius in radii_shown(cell) if radius > 0][:3] if run_certifies(cell.run) else []
    right = () if cell.asks_one_radius else ("right" if cell.labelled else "answered",)
    return Table(
        title=line.title,
        caption=f"By {column}, with 95 % intervals. Differences between groups of few images are rarely more than chance.",
        columns=(column, "images", *right, *(f"certified at r ≥ {radius_text(radius)}" for radius in at)),
        rows=tuple(_subgroup_rows(cell, column, at)),
    )


def columns_carried(records: Sequence[Record]) -> list[str]:
    """Columns of the data's table that records carry."""
    return sorted({name for record in records for name in record.get("attributes") or {}})


def _subgroup_rows(cell: Cell, column: str, at: Sequence[float]) -> Iterator[tuple[Value, ...]]:
    members: dict[str, list[Record]] = {}
    for record in cell.counted:
        value = (record.get("attributes") or {}).get(column)
        members.setdefault("(empty)" if value in (None, "") else str(value), []).append(record)
    for value, records in sorted(members.items()):
        part = Cell(cell.run, cell.prompts, cell.sigma, tuple(records))
        right = () if cell.asks_one_radius else (_share(part.good, part.counted),)
        yield (value, str(len(records)), *right, *(_share_at(part, radius) for radius in at))


def settings_table(run: Run) -> Table:
    """Everything that produced a run."""
    info = run.info
    model, data, samples = (info.get(name, {}) for name in ("model", "data", "samples"))
    facts = {
        "command": info.get("command"),
        "status": info.get("status"),
        "model": model.get("name"),
        "model fingerprint": model.get("fingerprint"),
        "input size": f"{model['size']} × {model['size']} pixels" if "size" in model else None,
        "data": data.get("name"),
        "split": data.get("split"),
        "limit": data.get("limit") or "none",
        "images": f"{samples.get('done')} done, {samples.get('failed')} failed, {samples.get('expected')} expected",
        **_attack_settings(info.get("settings", {})),
        "seed": info.get("seed"),
        "device": info.get("device"),
        "dtype": info.get("dtype"),
        "versions": ", ".join(f"{name} {value}" for name, value in info.get("versions", {}).items()),
        "seconds": info.get("seconds"),
        **{f"prompts {name}": value for name, value in info.get("prompts", {}).items()},
        **_class_texts(info),
    }
    rows = tuple((name, _plain(value)) for name, value in facts.items() if value not in (None, "", []))
    return Table(f"Settings of {run.path.name}", "Everything that changes a number.", ("setting", "value"), rows)


def _attack_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a run; of an attack epsilon as it is usually said, and a line for each member that an ensemble ran."""
    told = {name: value for name, value in settings.items() if name != "ran"}
    if "norm" in settings and isinstance(settings.get("eps"), list):
        told["eps"] = [length_text(length, settings["norm"]) for length in settings["eps"]]
    members = {
        f"member {member['name']}": ", ".join(f"{name} {_plain(value)}" for name, value in member["settings"].items())
        for member in settings.get("ran", ())
    }
    return {**told, **members}


def _class_texts(info: Mapping[str, Any]) -> dict[str, str]:
    return {f"class {item['label']}": " | ".join(item["texts"]) for item in info.get("classes", []) if item["texts"]}


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_plain, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return json.dumps(value) if isinstance(value, dict) else str(value)
