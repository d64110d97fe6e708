"""Other people's formats: Cohen's per-image TSV and its descendants, read and written."""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from decimal import ROUND_FLOOR, Decimal
from pathlib import Path

from titer.errors import InputError, unknown
from titer.results.published import write_published
from titer.results.robustness import Stand, stands
from titer.results.store import Record, Run, read_run
from titer.results.summary import Cell, cells, certified_accuracy, correct, noise_channels, radii_shown
from titer.results.totals import contradiction, read_totals, total_lines
from titer.statistics.intervals import Interval

HEADER = ("idx", "label", "predict", "radius", "correct", "time")
FOREIGN = "foreign"
"""Name of the prompt set of runs that were read from a file of someone else."""

ONE_CHANNEL = "one_channel"
"""In the name of a file whose radii are of one channel; its columns cannot say so."""

NOT_RECORDED = "not recorded"
"""Guarantee of such runs: the file does not say which pipeline its radii hold for."""

_SIGMA = re.compile(r"sigma[_=-]?(\d+(?:\.\d+)?)")
_SAMPLES = re.compile(r"samples_?\d+")  # PromptSmooth's layout: OUTFILE/DATASET/samples_500/sigma_0.25


@dataclass(frozen=True)
class ForeignRow:
    """One image of a per-image file.

    Args:
        index: its place in the data set.
        label: class index, or None where the file says -1.
        prediction: class index, -1 for abstention.
        radius: L2 radius as printed, which may be rounded up.
        seconds: time taken.
    """

    index: int
    label: int | None
    prediction: int
    radius: float
    seconds: float


def open_results(path: Path) -> Run:
    """A run directory, or a per-image file of the field."""
    return read_foreign(path) if path.is_file() else read_run(path)


def read_foreign(path: Path) -> Run:
    """A per-image file of Cohen's smoothing, PromptSmooth or denoised smoothing, as a run.

    Counts and alpha are not in such files; sigma is taken from the file's name (``sigma_0.25``), else it is nan; the
    data set from the directory, where that is PromptSmooth's (``kather/samples_500``).

    Raises:
        InputError: as ``read_rows`` does.
    """
    lines = _lines(path)
    rows = _read(path, lines)
    last = {row.index: row for row in rows}
    named = _SIGMA.search(path.name)
    sigma = float(named[1]) if named else math.nan
    warnings = ["Sigma is taken from the file's name."] if named else []
    if len(last) < len(rows):
        warnings.append(f"{len(rows) - len(last)} images stand in the file more than once; their last line counts.")
    labelled = [row for row in last.values() if row.label is not None]
    right = [row.label == row.prediction for row in labelled]
    differing = contradiction(read_totals(lines), right, [row.radius for row in labelled])
    warnings += [] if differing is None else [differing]
    classes = 1 + max(max(row.label or 0, row.prediction) for row in rows)
    info = {
        "verb": "certify",
        "status": "done",
        "command": f"read from {path.name}",
        "settings": {},
        "prompts": {FOREIGN: ""},
        "model": {"name": "a model that the file does not name", "fingerprint": ""},
        "data": {"name": _data_name(path), "split": "", "limit": None},
        "classes": [{"label": str(label), "texts": []} for label in range(classes)],
        "samples": {"expected": len(last), "done": len(last), "failed": 0},
        "warnings": warnings,
    }
    channels = {"channels": 1} if ONE_CHANNEL in path.name else {}
    return Run(path, info, [_record(row, sigma) | channels for row in last.values()], ())


def _data_name(path: Path) -> str:
    return path.parent.parent.name if _SAMPLES.fullmatch(path.parent.name) else path.name


def _record(row: ForeignRow, sigma: float) -> Record:
    return {
        "sample_id": str(row.index),
        "path": str(row.index),
        "label": row.label,
        "prompts": FOREIGN,
        "prediction": row.prediction,
        "radius": row.radius,
        "sigma": sigma,
        "alpha": None,
        "guarantee": NOT_RECORDED,
        "seconds": row.seconds,
    }


def read_rows(path: Path) -> list[ForeignRow]:
    """The rows of a per-image file.

    A row is a line with tabs whose first field is a whole number; headers, also repeated ones, and prose are passed over, and
    so is a last line that was never finished. The column ``correct`` is not read: in some files it is a running total.

    Raises:
        InputError: if the file has no such row, rows of another kind, or one that cannot be read.
    """
    return _read(path, _lines(path))


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8-sig").splitlines(keepends=True)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as text: {error}") from error


def _read(path: Path, lines: Sequence[str]) -> list[ForeignRow]:
    rows = list(_rows(path, lines))
    if not rows:
        raise InputError(f"{path} holds no certificates: expected tab-separated lines of {' '.join(HEADER)}")
    return rows


def _rows(path: Path, lines: Sequence[str]) -> Iterator[ForeignRow]:
    for number, line in enumerate(lines, start=1):
        fields = [field.strip() for field in line.split("\t")]
        if fields[0] == "idx" and tuple(fields[: len(HEADER)]) != HEADER:
            raise InputError(f"{path}: expected the columns {' '.join(HEADER)}, got {' '.join(fields)}")
        unfinished = number == len(lines) and not line.endswith("\n") and len(fields) < len(HEADER)
        if fields[0].isdecimal() and len(fields) > 1 and not unfinished:
            yield _row(path, number, fields)


def _row(path: Path, number: int, fields: Sequence[str]) -> ForeignRow:
    try:
        index, label, prediction, radius, _, time = fields[: len(HEADER)]
        row = ForeignRow(int(index), _label(label), int(prediction), float(radius), _seconds(time))
    except ValueError as error:
        raise InputError(f"{path}: line {number} is no certificate of {' '.join(HEADER)}: {error}") from error
    if row.prediction < -1 or not 0 <= row.radius < math.inf:
        raise InputError(f"{path}: line {number}: prediction {row.prediction} with radius {row.radius} is impossible")
    return row


def _label(text: str) -> int | None:
    label = int(text)
    return None if label < 0 else label


def _seconds(text: str) -> float:
    """Seconds of ``0:02:31.238689``, ``1 day, 0:00:01`` or plain seconds."""
    days, _, clock = text.rpartition(", ")
    parts = [float(part) for part in clock.split(":")]
    seconds = math.fsum(part * 60.0**place for place, part in enumerate(reversed(parts)))
    return seconds + (86_400 * float(days.split()[0]) if days else 0.0)


def export_run(run: Run, to: str, out: Path) -> list[Path]:
    """Write a run as ``cohen``, ``promptsmooth``, ``csv``, ``latex`` or ``apt``; returns the files written.

    The first two have no column for a prompt set or a sigma: where there are several, their name is put before the suffix.

    Raises:
        InputError: for an unknown format, a run that has no certificates, a place that cannot be written to, or a file of
            one-channel radii whose name does not say so.
    """
    if to not in _WRITERS:
        raise unknown("format", to, _WRITERS)
    if not run.records:
        raise InputError(f"{run.path} has no finished samples to export")
    if noise_channels(run) == 1 and to in ("cohen", "promptsmooth") and ONE_CHANNEL not in out.stem:
        raise InputError(
            f"{out}: the radii of {run.path} are of one channel, and this format has no column that says so; expected a file "
            f"name with {ONE_CHANNEL!r} in it, such as {out.with_stem(f'{out.stem}_{ONE_CHANNEL}').name}, or --to csv"
        )
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        return _WRITERS[to](run, out)
    except OSError as error:
        raise InputError(f"cannot write {out}: {error.strerror}") from error


def _cohen(run: Run, out: Path) -> list[Path]:
    return _per_image(run, out, lambda _: ())


def _promptsmooth(run: Run, out: Path) -> list[Path]:
    """Cohen's columns, then totals with R > r over the labelled images."""
    settings = run.info.get("settings", {})
    if settings.get("certifier") == "anytime" and not settings.get("tolerance"):
        raise InputError(
            f"{run.path} decided radii of a list, and PromptSmooth's totals count R > r, which gives up a step of it at "
            "every r; expected a run with --certifier gaussian or --tolerance, or --to cohen"
        )
    for cell in _certified(run):
        if not cell.labelled:
            raise InputError(f"{run.path}: without labels there are no totals to write; expected --to cohen")
    return _per_image(run, out, _totals)


def _totals(cell: Cell) -> Iterable[str]:
    printed = [float(rounded_down(record["radius"])) for record in cell.labelled]
    return total_lines([bool(right) for right in correct(cell.labelled)], printed)


def _per_image(run: Run, out: Path, tail: Callable[[Cell], Iterable[str]]) -> list[Path]:
    """Cohen's columns, and lines behind them."""
    parts = _certified(run)
    names = [_cohen_name(cell, parts, out) for cell in parts]
    if len(set(names)) < len(names):
        raise InputError(f"prompt sets of {run.path} have names too alike for files: {', '.join(map(str, names))}")
    # failed samples keep their place, so that two runs on the same images number them alike
    ids = sorted({line["sample_id"] for line in (*run.records, *run.failures)})
    places = {sample: place for place, sample in enumerate(ids)}
    for cell, name in zip(parts, names, strict=True):
        rows = sorted((places[record["sample_id"]], _cohen_fields(record)) for record in cell.records)
        lines = ["\t".join(HEADER), *(f"{place}\t{fields}" for place, fields in rows), *tail(cell)]
        name.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return names


def _certified(run: Run) -> list[Cell]:
    if "radius" not in run.records[0]:
        raise InputError(f"{run.path} is a run of {run.info['verb']}; this format needs radii, so a certify run")
    return list(cells(run))


def _cohen_name(cell: Cell, parts: Sequence[Cell], out: Path) -> Path:
    several_prompts, several_sigmas = (
        len({getattr(part, name) for part in parts}) > 1 for name in ("prompts", "sigma")
    )
    names = [_safe(cell.prompts)] if several_prompts else []
    names += [f"sigma_{cell.sigma:g}"] if several_sigmas else []
    return out.with_name(".".join([out.stem, *names]) + out.suffix)


def _cohen_fields(record: Record) -> str:
    label = -1 if record["label"] is None else record["label"]
    right = int(record["prediction"] == record["label"])
    time = timedelta(seconds=record["seconds"])
    return f"{label}\t{record['prediction']}\t{rounded_down(record['radius'])}\t{right}\t{time}"


def rounded_down(radius: float, digits: int = 6) -> str:
    """A radius with so many decimals. Read back, it is never above the radius, and the same where it has no more decimals."""
    return str(Decimal(repr(float(radius))).quantize(Decimal(1).scaleb(-digits), ROUND_FLOOR))


def _safe(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_" else "_" for letter in name)


def _csv(run: Run, out: Path) -> list[Path]:
    rows = [_flat(record) for record in run.records]
    with out.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, list(dict.fromkeys(name for row in rows for name in row)))
        writer.writeheader()
        writer.writerows(rows)
    return [out]


def _flat(record: Record) -> Record:
    """Attributes as columns of their own, lists as JSON."""
    flat: Record = {}
    for name, value in record.items():
        if isinstance(value, dict):
            flat |= {f"{name}.{key}": part for key, part in value.items()}
        else:
            flat[name] = json.dumps(value) if isinstance(value, list) else value
    return flat


def _latex(run: Run, out: Path) -> list[Path]:
    if run.info.get("verb") == "attack":
        return _latex_attacked(run, out)
    parts = _certified(run)
    shown = sorted({radius for cell in parts for radius in radii_shown(cell)})
    head = ["prompts", r"$\sigma$", *(rf"$r \ge {radius:g}$" for radius in shown)]
    rows = [" & ".join([_escaped(cell.prompts), f"{cell.sigma:g}", *_latex_shares(cell, shown)]) for cell in parts]
    what = f"certified accuracy (R >= r) in percent of all labelled images of {run.info['data']['name']}"
    of_one = [
        "noise was drawn once for all channels: r is of the one-channel picture, not comparable with three channels"
    ]
    return _tabular(out, what, head, rows, of_one if noise_channels(run) == 1 else ())


def _latex_attacked(run: Run, out: Path) -> list[Path]:
    """Robust accuracy: a row for each prompt set, a column for each epsilon."""
    parts: dict[str, dict[str, Stand]] = {}
    for stand in stands(run):
        parts.setdefault(stand.prompts, {})[stand.epsilon_text] = stand
    shown = list(dict.fromkeys(text for own in parts.values() for text in own))
    rows, remarks = [], []
    for prompts, own in parts.items():
        first = next(iter(own.values()))
        shares = [first.clean, *(own[text].robust if text in own else None for text in shown)]
        rows.append(" & ".join([_escaped(prompts), _escaped(first.attack), *map(_in_percent, shares)]))
        remarks.append(f"self-checks of {prompts}: {first.verdict}")
    settings = run.info["settings"]
    what = f"accuracy in percent of all labelled images of {run.info['data']['name']} under attack, {settings['norm']}"
    return _tabular(out, what, ["prompts", "attack", "clean", *shown], rows, remarks)


def _tabular(out: Path, what: str, head: Sequence[str], rows: Sequence[str], remarks: Sequence[str] = ()) -> list[Path]:
    """The first two columns name a row, the others are numbers."""
    lines = [
        f"% {what}, with 95 % intervals",
        *(f"% {remark}" for remark in remarks),
        r"% needs \usepackage{booktabs}",
        rf"\begin{{tabular}}{{ll{'r' * (len(head) - 2)}}}",
        r"\toprule",
        " & ".join(head) + r" \\",
        r"\midrule",
        *(row + r" \\" for row in rows),
        r"\bottomrule",
        r"\end{tabular}",
    ]
    out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return [out]


def _latex_shares(cell: Cell, shown: Sequence[float]) -> Iterator[str]:
    measured = radii_shown(cell) if cell.labelled else []
    for radius in shown:
        share = certified_accuracy(cell.run, radius, cell.prompts, cell.sigma) if radius in measured else None
        yield _in_percent(share)


def _in_percent(share: Interval | None) -> str:
    return f"{100 * share.estimate:.1f} [{100 * share.low:.1f}, {100 * share.high:.1f}]" if share else "--"


def _escaped(text: str) -> str:
    words = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    return "".join(words.get(letter, "\\" + letter if letter in "&%$#_{}" else letter) for letter in text)


_WRITERS: dict[str, Callable[[Run, Path], list[Path]]] = {
    "cohen": _cohen,
    "promptsmooth": _promptsmooth,
    "csv": _csv,
    "latex": _latex,
    "apt": write_published,
}
