"""From rows to data: ids, labels as indices into the classes, pictures read from files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from titer.data.example import ClassText, Data, Example, Picture
from titer.data.pictures import file_digest, read_picture
from titer.data.splits import ALL
from titer.data.table import Row
from titer.errors import InputError


def from_rows(
    name: str, root: Path, rows: Sequence[Row], columns: tuple[str, ...], classes: tuple[ClassText, ...]
) -> Data:
    """All splits of a set whose pictures are files.

    Args:
        name: without the root.
        root: paths of rows are relative to it.
        rows: one for each example.
        columns: attributes that rows carry.
        classes: every label of the rows is among them.

    Raises:
        InputError: for an id that two rows have.
    """
    places = {text.label: place for place, text in enumerate(classes)}
    examples = tuple(
        Example(
            id=identifier,
            path=row.path,
            label=None if row.label is None else places[row.label],
            caption=row.caption,
            group=row.group,
            split=row.split,
            attributes=row.attributes,
        )
        for identifier, row in zip(_ids(rows), rows, strict=True)
    )
    read, digest = partial(_read, root), partial(_digest, root)
    outside = next((row.outside for row in rows if row.outside), "")
    return Data(name, ALL, None, classes, examples, columns, read, digest, outside=outside)


def _read(root: Path, example: Example) -> Picture:
    return read_picture(root / example.path)


def _digest(root: Path, example: Example) -> str:
    return file_digest(root / example.path)


def _ids(rows: Sequence[Row]) -> list[str]:
    """The rows' ids, else paths; a path's second row gets ``#2``."""
    seen: Counter[str] = Counter()
    ids = []
    for row in rows:
        seen[row.path] += row.id is None
        ids.append(row.id or (row.path if seen[row.path] == 1 else f"{row.path}#{seen[row.path]}"))
        if any("\ud800" <= character <= "\udfff" for character in ids[-1]):
            raise InputError(f"the id or file name {ids[-1]!a} is not valid Unicode; expected UTF-8")
    repeated, count = Counter(ids).most_common(1)[0]
    if count > 1:
        raise InputError(f"the id {repeated!r} is given to {count} rows; expected each id once")
    return ids
