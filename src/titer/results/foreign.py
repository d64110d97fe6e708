"""Other people's formats: Cohen's per-image TSV and its descendants, read and written."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from titer.errors import InputError, unknown
from titer.results.store import Record, Run, read_run
from titer.results.summary import Cell, cells, certified_accuracy, radii_shown

HEADER = ("idx", "label", "predict", "radius", "correct", "time")


def open_results(path: Path) -> Run:
    """A run directory, or a per-image file of the field."""
    return read_foreign(path) if path.is_file() else read_run(path)


def read_foreign(path: Path) -> Run:
    """Read a per-image file of Cohen's smoothing, PromptSmooth or denoised smoothing.

    Rows are those whose first field is a whole number; header and trailing prose are passed over. ``correct`` is
    recomputed (some files print a running total there). Counts, sigma and alpha are not in such files: sigma is NaN.

    Raises:
        InputError: if the file has no such row, or one that cannot be read.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    records = [_foreign_record(path, number, fields) for number, fields in _data_rows(lines)]
    if not records:
        raise InputError(f"{path} holds no certificates: expected tab-separated lines of {' '.join(HEADER)}")
    info = {
        "verb": "certify",
        "status": "done",
        "command": f"read from {path.name}",
        "settings": {},
        "prompts": {"foreign": ""},
        "model": {"name": "not recorded", "fingerprint": ""},
        "data": {"name": path.name, "split": "", "limit": None},
        "classes": [
            {"label": str(label), "texts": []} for label in range(1 + max(_highest(record) for record in records))
        ],
        "samples": {"expected": len(records), "done": len(records), "failed": 0},
    }
    return Run(path, info, records, ())


def _data_rows(lines: Sequence[str]) -> list[tuple[int, list[str]]]:
    split = [(number, line.rstrip("\n").split("\t")) for number, line in enumerate(lines, start=1)]
    return [(number, fields) for number, fields in split if len(fields) >= 5 and fields[0].strip().isdecimal()]


def _foreign_record(path: Path, number: int, fields: list[str]) -> Record:
    try:
        label, prediction, radius = int(fields[1]), int(fields[2]), float(fields[3])
        seconds = _seconds(fields[5]) if len(fields) > 5 else 0.0
    except ValueError as error:
        raise InputError(f"{path}: line {number} is no certificate: {error}") from error
    return {
        "sample_id": fields[0].strip(),
        "path": fields[0].strip(),
        "label": label,
        "prompts": "foreign",
        "prediction": prediction,
        "radius": radius,
        "sigma": math.nan,
        "alpha": None,
        "guarantee": "not recorded",
        "seconds": seconds,
    }


def _highest(record: Record) -> int:
    return max(int(record["label"]), int(record["prediction"]))


def _seconds(text: str) -> float:
    """Seconds of ``0:02:31.238689``, ``1 day, 0:00:01`` or plain seconds."""
    days, _, clock = text.strip().rpartition(", ")
    parts = [float(part) for part in clock.split(":")]
    seconds = math.fsum(part * 60.0**place for place, part in enumerate(reversed(parts)))
    return seconds + (86_400 * float(days.split()[0]) if days else 0.0)


def export_run(run: Run, to: str, out: Path) -> list[Path]:
    """Write a run as ``cohen``, ``csv`` or ``latex``; returns the files written.

    Cohen's format has no column for a prompt set or a sigma: where there are several, their name is put before the suffix.

    Raises:
        InputError: for an unknown format, or a run that has no certificates.
    """
    if to not in _WRITERS:
        raise unknown("format", to, _WRITERS)
    if not run.records:
        raise InputError(f"{run.path} has no finished samples to export")
    out.parent.mkdir(parents=True, exist_ok=True)
    return _WRITERS[to](run, out)


def _cohen(run: Run, out: Path) -> list[Path]:
    if "radius" not in run.records[0]:
        raise InputError(f"{run.path} is a {run.info['verb']} run; Cohen's format needs radii, so a certify run")
    parts = list(cells(run))
    several_prompts, several_sigmas = (
        len({getattr(cell, name) for cell in parts}) > 1 for name in ("prompts", "sigma")
    )
    ids = {sample: place for place, sample in enumerate(sorted({record["sample_id"] for record in run.records}))}
    written = []
    for cell in parts:
        names = [
            *([_safe(cell.prompts)] if several_prompts else []),
            *([f"sigma_{cell.sigma:g}"] if several_sigmas else []),
        ]
        path = out.with_name(".".join([out.stem, *names]) + out.suffix)
        lines = ["\t".join(HEADER), *(_cohen_line(ids[record["sample_id"]], record) for record in cell.records)]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        written.append(path)
    return written


def _cohen_line(place: int, record: Record) -> str:
    right = int(record["prediction"] == record["label"])
    label = -1 if record["label"] is None else record["label"]
    time = timedelta(seconds=record["seconds"])
    return f"{place}\t{label}\t{record['prediction']}\t{rounded_down(record['radius'])}\t{right}\t{time}"


def rounded_down(radius: float, digits: int = 6) -> str:
    """A radius with so many decimals, never above its value."""
    return f"{math.floor(radius * 10**digits) / 10**digits:.{digits}f}"


def _safe(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_" else "_" for letter in name)


def _csv(run: Run, out: Path) -> list[Path]:
    columns = list(dict.fromkeys(name for record in run.records for name in record))
    with out.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, columns)
        writer.writeheader()
        writer.writerows({name: _flat(value) for name, value in record.items()} for record in run.records)
    return [out]


def _flat(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, list | dict) else value


def _latex(run: Run, out: Path) -> list[Path]:
    parts = list(cells(run))
    shown = sorted({radius for cell in parts for radius in radii_shown(cell)})
    rows = [r"\begin{tabular}{ll" + "r" * len(shown) + "}", r"\toprule"]
    rows.append(" & ".join(["prompts", r"$\sigma$", *(f"$r={radius:g}$" for radius in shown)]) + r" \\ \midrule")
    rows += [
        " & ".join([_escaped(cell.prompts), f"{cell.sigma:g}", *_latex_cells(cell, shown)]) + r" \\" for cell in parts
    ]
    out.write_text("\n".join([*rows, r"\bottomrule", r"\end{tabular}"]) + "\n", encoding="utf-8")
    return [out]


def _latex_cells(cell: Cell, shown: Sequence[float]) -> list[str]:
    found = [certified_accuracy(cell.run, radius, cell.prompts, cell.sigma) for radius in shown]
    return [f"{100 * part.estimate:.1f} [{100 * part.low:.1f}, {100 * part.high:.1f}]" for part in found]


def _escaped(text: str) -> str:
    return "".join("\\" + letter if letter in "&%$#_{}" else letter for letter in text)


_WRITERS: dict[str, Callable[[Run, Path], list[Path]]] = {"cohen": _cohen, "csv": _csv, "latex": _latex}
