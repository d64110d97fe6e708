"""A data set by its name."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from titer.data import phantoms
from titer.data.classes import class_texts
from titer.data.example import ClassText, Data, Example, Picture
from titer.data.folder import folder_rows
from titer.data.pictures import read_picture
from titer.data.splits import limited, of_split
from titer.data.table import SUFFIXES, Row, table_rows
from titer.errors import InputError, unknown

EMBEDDED = ("titer:phantoms",)


def load_data(name: str | Path, split: str = "test", limit: int | None = None) -> Data:
    """A data set: ``titer:phantoms``, a directory of class folders, a directory with ``metadata.csv``, or a table.

    Args:
        name: see above.
        split: which split; data without splits are all ``test``.
        limit: at most so many images, class-balanced.

    Raises:
        InputError: for whatever is wrong with the data as a whole; single pictures fail when they are read.
    """
    everything = load_all(name)
    chosen = limited(of_split(everything.examples, split), limit)
    return Data(everything.name, split, limit, everything.classes, chosen, everything.columns, everything.read)


def load_all(name: str | Path) -> Data:
    """All splits of a data set at once."""
    if str(name) == "titer:phantoms":
        return _phantoms()
    if str(name).startswith("titer:"):
        raise unknown("data set", str(name), EMBEDDED)
    if str(name).startswith(("coop:", "medmnist:")):
        raise InputError(f"{name}: data sets of this kind are not read by this version")
    path = Path(name)
    if not path.exists():
        raise _missing(path)
    if path.is_dir():
        table = path / "metadata.csv"
        return _from_rows(path, table_rows(table) if table.exists() else folder_rows(path))
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"{path}: expected a directory or a table ({', '.join(SUFFIXES)})")
    return _from_rows(path.parent, table_rows(path), path.name)


def _missing(path: Path) -> InputError:
    if path.parent.is_dir():
        return unknown("data set: there is nothing at", str(path), [str(other) for other in path.parent.iterdir() if other.is_dir()])
    return InputError(f"there is no data set at {path}: {path.parent} does not exist either")


def _from_rows(root: Path, rows: Sequence[Row], name: str | None = None) -> Data:
    classes = class_texts(root / "classes.json", (row.label for row in rows))
    places = {text.label: place for place, text in enumerate(classes)}
    ids = _ids(rows)
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
        for identifier, row in zip(ids, rows, strict=True)
    )
    columns = tuple(dict.fromkeys(column for row in rows for column in row.attributes))
    return Data(name or root.resolve().name, "all", None, classes, examples, columns, partial(_read, root))


def _read(root: Path, example: Example) -> Picture:
    return read_picture(root / example.path)


def _ids(rows: Sequence[Row]) -> list[str]:
    """The table's ids, else paths; a path's second row gets ``#2``."""
    seen: Counter[str] = Counter()
    ids = []
    for row in rows:
        seen[row.path] += row.id is None
        ids.append(row.id or (row.path if seen[row.path] == 1 else f"{row.path}#{seen[row.path]}"))
    repeated, count = Counter(ids).most_common(1)[0]
    if count > 1:
        raise InputError(f"the id {repeated!r} is given to {count} rows; expected each id once")
    return ids


def _phantoms() -> Data:
    classes = tuple(ClassText(label, (words,)) for label, words in phantoms.CLASSES)
    examples = tuple(
        Example(f"{split}/{index}", f"{split}/{index}", phantoms.label_of(index), None, None, split, {})
        for split, size in phantoms.SIZES.items()
        for index in range(size)
    )
    return Data("titer:phantoms", "all", None, classes, examples, (), _draw)


def _draw(example: Example) -> Picture:
    split, index = example.id.split("/")
    pixels = phantoms.phantom(split, int(index)).pixels
    return Picture(pixels, hashlib.sha256(pixels.tobytes()).hexdigest())
