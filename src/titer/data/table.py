"""Tables of images: CSV, JSON lines or Parquet with a column of paths, and a label or a caption."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from titer.errors import InputError

SUFFIXES = (".csv", ".jsonl", ".parquet")

_PATHS = ("file_name", "path")
_OWN = {*_PATHS, "id", "label", "caption", "split", "group", "question", "answer"}


@dataclass(frozen=True)
class Row:
    """One picture before classes are known: paths are relative to the data root, with forward slashes."""

    path: str
    label: str | None
    split: str = "test"
    id: str | None = None
    caption: str | None = None
    group: str | None = None
    attributes: Mapping[str, str] = field(default_factory=dict)


def table_rows(file: Path) -> list[Row]:
    """The rows of a table; no picture is opened. An empty cell is an absent value.

    Raises:
        InputError: for a file that cannot be read, is empty, or lacks a column it needs.
    """
    records = _READERS[file.suffix.lower()](file)
    if not records:
        raise InputError(f"{file} has no rows")
    columns = list(records[0])
    path = next((name for name in _PATHS if name in columns), None)
    if path is None:
        raise InputError(f"{file}: expected a column 'file_name' or 'path', got {', '.join(columns)}")
    if "label" not in columns and "caption" not in columns:
        raise InputError(f"{file}: expected a column 'label' or 'caption', got {', '.join(columns)}")
    return [_row(file, line, record, path) for line, record in enumerate(records, start=1)]


def _row(file: Path, line: int, record: Mapping[str, Any], path: str) -> Row:
    values = {str(name): _cell(value) for name, value in record.items()}
    if values[path] is None:
        raise InputError(f"{file}: row {line} has no {path}")
    return Row(
        path=str(values[path]).replace("\\", "/").removeprefix("./"),
        label=values.get("label"),
        split=values.get("split") or "test",
        id=values.get("id"),
        caption=values.get("caption"),
        group=values.get("group"),
        attributes={name: value for name, value in values.items() if name not in _OWN and value is not None},
    )


def _cell(value: object) -> str | None:
    if value is None or (isinstance(value, float) and value != value):
        return None
    text = str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
    return text.strip() or None


def _csv(file: Path) -> list[dict[str, Any]]:
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            reader = csv.DictReader(lines, restkey="")
            rows = list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{file} is not a readable CSV file: {error}") from error
    for line, row in enumerate(rows, start=2):
        if "" in row or None in row.values():
            raise InputError(f"{file}: line {line} has {'more' if '' in row else 'fewer'} cells than the header")
    return rows


def _jsonl(file: Path) -> list[dict[str, Any]]:
    rows = []
    for line, text in enumerate(file.read_text(encoding="utf-8-sig").splitlines(), start=1):
        if not text.strip():
            continue
        try:
            row = json.loads(text)
        except ValueError as error:
            raise InputError(f"{file}: line {line} is not valid JSON: {error}") from error
        if not isinstance(row, dict):
            raise InputError(f"{file}: line {line}: expected an object, got {type(row).__name__}")
        rows.append(row)
    columns: Sequence[str] = list(dict.fromkeys(name for row in rows for name in row))
    return [{name: row.get(name) for name in columns} for row in rows]


def _parquet(file: Path) -> list[dict[str, Any]]:
    import pyarrow
    from pyarrow import parquet

    try:
        rows: list[dict[str, Any]] = parquet.read_table(file).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"{file} is not a readable Parquet file: {error}") from error
    return rows


_READERS: dict[str, Callable[[Path], list[dict[str, Any]]]] = {".csv": _csv, ".jsonl": _jsonl, ".parquet": _parquet}
