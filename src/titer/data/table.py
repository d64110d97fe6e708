"""Tables of images: CSV, JSON lines or Parquet with a column of paths, and a label, a caption or a question.

Described sets (`titer.data.sets`) may also have theirs as JSON, text with tabs, Excel sheets, pickles of plain values, or packed
with gzip.
"""

from __future__ import annotations

import csv
import gzip
import json
import os
import pickle
import posixpath
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from titer.errors import InputError

SUFFIXES = (".csv", ".jsonl", ".parquet")

_PATHS = ("file_name", "path")
_OWN = ("id", "label", "caption", "split", "group")

Records = tuple[list[str], list[dict[str, Any]]]  # columns in file order; cells by column


@dataclass(frozen=True)
class Row:
    """One picture before classes are known: paths are relative to the data root, with forward slashes.

    ``outside`` says that the path leads out of that, and in which row; the set is then refused unless it is allowed.
    """

    path: str
    label: str | None
    split: str = "test"
    id: str | None = None
    caption: str | None = None
    group: str | None = None
    attributes: Mapping[str, str] = field(default_factory=dict)
    outside: str = ""


def table_rows(file: Path, *, bare: bool = False) -> tuple[list[Row], tuple[str, ...]]:
    """The rows of a table, and its columns that are attributes; no picture is opened.

    An empty cell is an absent value. Paths are relative to the table.

    Args:
        file: the table.
        bare: take one without labels, captions and questions too, as where other columns are the labels.

    Raises:
        InputError: for a file that cannot be read, is empty, or lacks a column it needs.
    """
    columns, records = read_records(file)
    path = next((name for name in _PATHS if name in columns), None)
    if path is None:
        raise InputError(f"{file}: expected a column 'file_name' or 'path', got {', '.join(columns)}")
    if not bare and not {"label", "caption", "question"} & set(columns):
        raise InputError(f"{file}: expected a column 'label', 'caption' or 'question', got {', '.join(columns)}")
    _refuse_mixed_labels(file, records)
    attributes = tuple(name for name in columns if name not in (path, *_OWN))
    return [_row(file, line, record, path, attributes) for line, record in enumerate(records, start=1)], attributes


def _refuse_mixed_labels(file: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """A number among names (JSON lines tell them apart) is a slip, and would silently become a class of its own."""
    first: dict[str, int] = {}
    for line, record in enumerate(records, start=1):
        label = record.get("label")
        if cell(label) is not None and not isinstance(label, list | dict):
            kind = "true or false" if isinstance(label, bool) else "a text" if isinstance(label, str) else "a number"
            first.setdefault(kind, line)
    if len(first) > 1:
        found = ", ".join(f"{kind} in row {line}" for kind, line in first.items())
        raise InputError(f"{file}: labels are of several types ({found}); expected one")


def read_records(file: Path, header: Sequence[str] = ()) -> Records:
    """Columns and rows of a table of any kind; values are as they stand in it.

    Args:
        file: its suffix says of which kind it is.
        header: names of the columns, for a text with tabs; it has none of its own.

    Raises:
        InputError: for a file that cannot be read or has no rows.
    """
    if file.suffix.lower() in _WITHOUT_HEADER:
        columns, records = _tabs(file, header)
    else:
        columns, records = _READERS[kind_of(file)](file)
    if not records:
        raise InputError(f"{file} has no rows")
    return columns, records


def kind_of(file: Path) -> str:
    """The suffix that says how a table is written, a gzip's own left aside."""
    return Path(file.name.lower().removesuffix(".gz")).suffix


def _row(file: Path, line: int, record: Mapping[str, Any], path: str, attributes: Sequence[str]) -> Row:
    values = {name: cell(value) for name, value in record.items()}
    place = values.get(path)
    if place is None:
        raise InputError(f"{file}: row {line} has no {path}")
    for name in (path, *_OWN):
        if isinstance(record.get(name), list | dict):
            raise InputError(f"{file}: row {line}: expected one value for {name!r}, got {record[name]!r}")
    inside, outside = _within(file, line, place)
    return Row(
        path=inside,
        outside=outside,
        label=values.get("label"),
        split=values.get("split") or "test",
        id=values.get("id"),
        caption=values.get("caption"),
        group=values.get("group"),
        attributes={name: value for name in attributes if (value := values.get(name)) is not None},
    )


def _within(file: Path, line: int, text: str) -> tuple[str, str]:
    """A path relative to the table, and nothing or what there is to say of one that leads out of its directory."""
    try:
        return relative(file, line, text, file.parent), ""
    except InputError as error:
        path = text.replace("\\", "/")
        # through the real directory, for .. of a link is its target's parent
        return (os.path.relpath(path, file.parent.resolve()) if path.startswith("/") else path), str(error)


def cell(value: object) -> str | None:
    """A value as the text that it stands for; None where it is absent."""
    if value is None or value != value:  # NaN
        return None
    if isinstance(value, list | dict):
        return json.dumps(value, ensure_ascii=False, default=str)
    # a column of whole numbers becomes floating point as soon as one cell is empty
    text = str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
    return text.strip() or None


def relative(file: Path, line: int, text: str, base: Path) -> str:
    """A path relative to the data, in one spelling.

    Raises:
        InputError: naming the table and its row, for one that leads out of it.
    """
    root = base.absolute().as_posix().rstrip("/") + "/"
    path = posixpath.normpath(text.replace("\\", "/").removeprefix(root))
    if path.startswith(("/", "../")) or re.match("[A-Za-z]:/", path) or path == "..":
        raise InputError(f"{file}: row {line}: {text!r} is outside the data; expected a path below {base}")
    return path


def _csv(file: Path) -> Records:
    try:
        with _opened(file) as text:
            reader = csv.reader(text)
            header = [name.strip() for name in next(reader, [])]
            columns = _unique(file, [name for name in header if name])  # pandas leaves its index column without a name
            rows = [_cells(file, reader.line_num, header, cells) for cells in reader if any(map(str.strip, cells))]
    except (UnicodeDecodeError, csv.Error, EOFError, gzip.BadGzipFile) as error:
        raise InputError(f"{file} is not a readable CSV file in UTF-8: {error}") from error
    return columns, rows


def _opened(file: Path) -> TextIO:
    if file.suffix.lower() == ".gz":
        return gzip.open(file, "rt", encoding="utf-8-sig", newline="")
    return file.open(encoding="utf-8-sig", newline="")


def _tabs(file: Path, header: Sequence[str]) -> Records:
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"{file} is not in UTF-8: {error}") from error
    rows = [line.split("\t", len(header) - 1) for line in lines if line.strip()]
    for place, row in enumerate(rows, start=1):
        if len(row) < len(header):
            raise InputError(f"{file}: row {place}: expected {len(header)} cells between tabs, got {len(row)}")
    return list(header), [dict(zip(header, row, strict=True)) for row in rows]


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


def _json(file: Path) -> Records:
    try:
        rows = json.loads(file.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file} is not valid JSON: {error}") from error
    return _objects(file, rows)


def _xlsx(file: Path) -> Records:
    try:
        import openpyxl
    except ModuleNotFoundError as error:
        raise InputError(
            f"{file}: Excel sheets are read by openpyxl: pip install 'titer[xlsx]', or save it as {file.stem}.csv beside it"
        ) from error
    try:
        book = openpyxl.load_workbook(file, read_only=True, data_only=True)
        lines = [list(line) for line in book.worksheets[0].iter_rows(values_only=True)]
        book.close()
    except Exception as error:  # on damaged files it raises almost anything
        raise InputError(f"{file} is not a readable Excel sheet: {error}") from error
    header = ["" if value is None else str(value).strip() for value in (lines or [[]])[0]]
    columns = _unique(file, [name for name in header if name])
    rows = [dict(zip(header, line, strict=False)) for line in lines[1:] if any(value is not None for value in line)]
    return columns, [{name: row[name] for name in columns if name in row} for row in rows]


class _Plain(pickle.Unpickler):
    """Lists, dictionaries, texts and numbers; whatever needs a class or a function is refused, so no code runs."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it holds {module}.{name}; only plain values are read")


def _pickle(file: Path) -> Records:
    try:
        with file.open("rb") as content:
            rows = _Plain(content).load()
    except Exception as error:  # on damaged bytes it raises almost anything
        raise InputError(f"{file} is not a readable pickle of plain values: {error}") from error
    return _objects(file, rows)


def _objects(file: Path, rows: object) -> Records:
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise InputError(f"{file}: expected a list of objects")
    return list(dict.fromkeys(str(name) for row in rows for name in row)), rows


_WITHOUT_HEADER = (".txt", ".tsv")
_READERS: dict[str, Callable[[Path], Records]] = {
    ".csv": _csv,
    ".jsonl": _jsonl,
    ".parquet": _parquet,
    ".json": _json,
    ".xlsx": _xlsx,
    ".pkl": _pickle,
}
