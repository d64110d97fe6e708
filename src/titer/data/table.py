"""Tables of images: CSV, JSON lines or Parquet with a column of paths, and a label or a caption."""

from __future__ import annotations

import csv
import json
import posixpath
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from titer.errors import InputError

SUFFIXES = (".csv", ".jsonl", ".parquet")

_PATHS = ("file_name", "path")
_OWN = ("id", "label", "caption", "split", "group")

Records = tuple[list[str], list[dict[str, Any]]]  # columns in file order; cells by column


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


def table_rows(file: Path) -> tuple[list[Row], tuple[str, ...]]:
    """The rows of a table, and its columns that are attributes; no picture is opened.

    An empty cell is an absent value. Paths are relative to the table.

    Raises:
        InputError: for a file that cannot be read, is empty, or lacks a column it needs, and for paths that lead out of
            the table's directory.
    """
    columns, records = _READERS[file.suffix.lower()](file)
    if not records:
        raise InputError(f"{file} has no rows")
    path = next((name for name in _PATHS if name in columns), None)
    if path is None:
        raise InputError(f"{file}: expected a column 'file_name' or 'path', got {', '.join(columns)}")
    if "label" not in columns and "caption" not in columns:
        raise InputError(f"{file}: expected a column 'label' or 'caption', got {', '.join(columns)}")
    attributes = tuple(name for name in columns if name not in (path, *_OWN))
    return [_row(file, line, record, path, attributes) for line, record in enumerate(records, start=1)], attributes


def _row(file: Path, line: int, record: Mapping[str, Any], path: str, attributes: Sequence[str]) -> Row:
    values = {name: _cell(value) for name, value in record.items()}
    place = values.get(path)
    if place is None:
        raise InputError(f"{file}: row {line} has no {path}")
    for name in (path, *_OWN):
        if isinstance(record.get(name), list | dict):
            raise InputError(f"{file}: row {line}: expected one value for {name!r}, got {record[name]!r}")
    return Row(
        path=_relative(file, line, place),
        label=values.get("label"),
        split=values.get("split") or "test",
        id=values.get("id"),
        caption=values.get("caption"),
        group=values.get("group"),
        attributes={name: value for name in attributes if (value := values.get(name)) is not None},
    )


def _cell(value: object) -> str | None:
    if value is None or value != value:  # NaN
        return None
    if isinstance(value, list | dict):
        return json.dumps(value, ensure_ascii=False, default=str)
    # a column of whole numbers becomes floating point as soon as one cell is empty
    text = str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
    return text.strip() or None


def _relative(file: Path, line: int, text: str) -> str:
    """A path relative to the table's directory, in one spelling."""
    root = file.parent.absolute().as_posix().rstrip("/") + "/"
    path = posixpath.normpath(text.replace("\\", "/").removeprefix(root))
    if path.startswith(("/", "../")) or re.match("[A-Za-z]:/", path) or path == "..":
        raise InputError(f"{file}: row {line}: {text!r} is outside the data; expected a path below {file.parent}")
    return path


def _csv(file: Path) -> Records:
    try:
        with file.open(encoding="utf-8-sig", newline="") as text:
            reader = csv.reader(text)
            header = [name.strip() for name in next(reader, [])]
            columns = _unique(file, [name for name in header if name])  # pandas leaves its index column without a name
            rows = [_cells(file, reader.line_num, header, cells) for cells in reader if any(map(str.strip, cells))]
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{file} is not a readable CSV file in UTF-8: {error}") from error
    return columns, rows


def _cells(file: Path, line: int, header: list[str], cells: list[str]) -> dict[str, Any]:
    if len(cells) < len(header) or any(map(str.strip, cells[len(header) :])):  # spreadsheets append empty cells
        raise InputError(f"{file}: line {line}: expected {len(header)} cells as in the header, got {len(cells)}")
    return {name: cell for name, cell in zip(header, cells, strict=False) if name}


def _jsonl(file: Path) -> Records:
    rows = []
    try:
        with file.open(encoding="utf-8-sig") as lines:  # splitlines() would also split at U+2028 inside a text
            for line, text in enumerate(lines, start=1):
                if text.strip():
                    rows.append(_object(file, line, text))
    except UnicodeDecodeError as error:
        raise InputError(f"{file} is not in UTF-8: {error}") from error
    return list(dict.fromkeys(name for row in rows for name in row)), rows


def _object(file: Path, line: int, text: str) -> dict[str, Any]:
    try:
        row = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file}: line {line} is not valid JSON: {error}") from error
    if not isinstance(row, dict):
        raise InputError(f"{file}: line {line}: expected an object, got {type(row).__name__}")
    return row


def _parquet(file: Path) -> Records:
    import pyarrow
    from pyarrow import parquet, types

    try:
        schema = parquet.read_schema(file)
        columns = _unique(file, [each.name for each in schema if not each.name.startswith("__index_level_")])
        # pictures stored inside the table would fill the memory
        binary = {each.name for each in schema if types.is_binary(each.type) or types.is_large_binary(each.type)}
        columns = [name for name in columns if name not in binary and not types.is_struct(schema.field(name).type)]
        rows: list[dict[str, Any]] = parquet.read_table(file, columns=columns).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"{file} is not a readable Parquet file: {error}") from error
    return columns, rows


def _unique(file: Path, columns: list[str]) -> list[str]:
    for name in columns:
        if columns.count(name) > 1:
            raise InputError(f"{file}: the column {name!r} is there {columns.count(name)} times; expected it once")
    return columns


_READERS: dict[str, Callable[[Path], Records]] = {".csv": _csv, ".jsonl": _jsonl, ".parquet": _parquet}
