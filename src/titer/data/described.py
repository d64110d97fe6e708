"""``set:NAME@ROOT``: data sets as their authors lay them out, each described by one TOML file and by no code.

A description says where the set is to be had, under which licence and with which hazards, and one of three layouts:

``folders``: split -> folder of class folders; ``inside`` where the pictures lie below a class's folder.
``tables``: tables whose cells, put into patterns such as ``"images/{name}.png"``, give path, label, caption and group (`Table`).
``arrays``: split -> ``images`` and ``labels``, two npy files.

``classes`` (label = words) and ``template`` are as everywhere; a ``classes.json`` in ROOT wins. Folders of other classes are left
out. ``parts`` (split = share) divides a set without splits by the SHA-256 of each group.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from titer.data.classes import TEMPLATE, Wording, class_texts
from titer.data.example import ClassText, Data, Example, Picture
from titer.data.files import from_rows
from titer.data.folder import class_rows
from titer.data.table import Row, cell, kind_of, read_records, relative
from titer.errors import InputError, PictureError, unknown

_FIELD = re.compile(r"\{([^{}:]+)(?::\.([0-9]+))?\}")
_REST = "*"

Kind = TypeVar("Kind")
Cells = Mapping[str, str | None]


@dataclass(frozen=True)
class Join:
    """Another table's columns beside these, where two patterns agree.

    Args:
        file: the other table.
        here: pattern of this one.
        there: pattern of the other.
    """

    file: str
    here: str
    there: str


@dataclass(frozen=True)
class Derived:
    """A column made of another one of the same table: the first group of a regular expression, where that is found in it."""

    column: str
    match: str

    def __post_init__(self) -> None:
        try:
            groups = re.compile(self.match).groups
        except re.error as error:
            raise InputError(f"match: {self.match!r} is not a regular expression: {error}") from error
        if groups < 1:
            raise InputError(f"match: expected a group in parentheses, got {self.match!r}")


@dataclass(frozen=True)
class Table:
    """How rows of a table become examples. Patterns hold columns in braces; ``{column:.2}`` is the first two characters.

    Args:
        file: below the root; a table of another kind (``.csv``, ``.csv.gz``, ``.xlsx``, ...) but the same name will do.
        path: of the picture, below the root.
        split: the rows' split, or the pattern of it.
        splits: from what that pattern gives to the split; ``*`` is the rest.
        label: pattern; an absent column leaves it absent.
        one_hot: columns of which the largest gives the label, in the place of a pattern; none where several are largest.
        caption, group: patterns.
        keep: columns that examples carry as attributes.
        only: column -> value that rows must have.
        header: names of the columns, for a text with tabs.
        join: other tables.
        derived: further columns.
        once: whether rows of one path are one example, as where each row is a finding.
    """

    file: str
    path: str
    split: str = "test"
    splits: Mapping[str, str] = field(default_factory=dict)
    label: str | None = None
    one_hot: tuple[str, ...] = ()
    caption: str | None = None
    group: str | None = None
    keep: tuple[str, ...] = ()
    only: Mapping[str, str] = field(default_factory=dict)
    header: tuple[str, ...] = ()
    join: tuple[Join, ...] = ()
    derived: Mapping[str, Derived] = field(default_factory=dict)
    once: bool = False


@dataclass(frozen=True)
class Description:
    """What a TOML file says of a set; see the module's text."""

    title: str
    source: str
    licence: str
    hazards: str
    template: str = TEMPLATE
    classes: Mapping[str, Any] = field(default_factory=dict)
    parts: Mapping[str, float] = field(default_factory=dict)
    folders: Mapping[str, str] = field(default_factory=dict)
    inside: str = ""
    tables: tuple[Table, ...] = ()
    arrays: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if sum(map(bool, (self.folders, self.tables, self.arrays))) != 1:
            raise InputError("expected one of folders, tables and arrays")
        for split, files in self.arrays.items():
            if not isinstance(files, dict) or set(files) != {"images", "labels"}:
                raise InputError(f"arrays.{split}: expected images and labels, two files, got {files!r}")
        _ = Wording(self.classes or None, self.template)  # what is malformed is told here
        if self.parts and (abs(sum(self.parts.values()) - 1) > 1e-9 or min(self.parts.values()) <= 0):
            raise InputError(f"parts: expected shares above 0 whose sum is 1, got {dict(self.parts)}")


def described(rest: str) -> Data:
    """All splits of a described set.

    Args:
        rest: ``NAME@ROOT``: a set of ``titer list data`` or a TOML file of one's own, and the set's folder.

    Raises:
        InputError: for an unknown name, a malformed description, and a file or folder that is missing, with the set's source.
    """
    name, at, place = rest.partition("@")
    if not (at and name and place):
        raise InputError(f"data set {f'set:{rest}'!r}: expected set:NAME@ROOT, such as set:kather@/data/kather")
    about, root = description(name), Path(place)
    if not root.is_dir():
        raise InputError(f"there is no folder {root}; {about.title} is to be had from {about.source}")
    called = f"set:{Path(name).stem}"
    if about.arrays:
        return _of_arrays(called, root, about)
    rows = _of_tables(root, about) if about.tables else _of_folders(root, about)
    if about.parts:
        rows = [replace(row, split=_part(row.group or row.path, about.parts)) for row in rows]
    columns = tuple(dict.fromkeys(column for table in about.tables for column in table.keep))
    return from_rows(called, root, rows, columns, _classes(root, about, [row.label for row in rows]))


def known_sets() -> dict[str, Description]:
    """The package's descriptions by name."""
    files = sorted(resources.files("titer.data").joinpath("sets").iterdir(), key=lambda file: file.name)
    return {Path(file.name).stem: _parsed(file.name, file.read_text(encoding="utf-8")) for file in files}


def description(name: str) -> Description:
    """The description of that name, or in that TOML file.

    Raises:
        InputError: for an unknown name and a file that is malformed.
    """
    if name.endswith(".toml"):
        try:
            return _parsed(name, Path(name).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"the description {name} cannot be read: {error}") from error
    known = known_sets()
    if name not in known:
        raise unknown("described set", name, known)
    return known[name]


def _parsed(file: str, text: str) -> Description:
    try:
        given = tomllib.loads(text)
        return _made(Description, {**given, "tables": tuple(map(_table, _tables(given.get("tables", []))))})
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{file} is not valid TOML: {error}") from error
    except InputError as error:
        raise InputError(f"{file}: {error}") from error


def _table(given: Mapping[str, Any]) -> Table:
    joins = tuple(_made(Join, each) for each in _tables(given.get("join", [])))
    derived = given.get("derived", {})
    made = zip(derived, (_made(Derived, each) for each in _tables([*derived.values()])), strict=True)
    lists = {name: tuple(value) for name, value in given.items() if isinstance(value, list)}
    return _made(Table, {**given, **lists, "join": joins, "derived": dict(made)})


def _tables(value: object) -> list[Mapping[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        raise InputError(f"expected TOML tables, got {value!r}")
    return value


def _made(kind: type[Kind], given: Mapping[str, Any]) -> Kind:
    """A dataclass of what a TOML table gives; keys that are unknown, missing or of another type are told."""
    fields = {each.name: each for each in dataclasses.fields(kind)}  # type: ignore[arg-type]
    for key, value in given.items():
        if key not in fields:
            raise unknown("key", key, fields)
        if not _fits(str(fields[key].type), value):
            raise InputError(f"{key}: got {value!r}, which is of another type than expected")
    nothing = dataclasses.MISSING
    for name, each in fields.items():
        if name not in given and each.default is nothing and each.default_factory is nothing:
            raise InputError(f"the key {name!r} is missing")
    return kind(**given)


def _fits(wanted: str, value: object) -> bool:
    """Whether a value is of a field's type, as that is written in this file."""
    if wanted.startswith("Mapping"):
        inner = str if wanted == "Mapping[str, str]" else float | int if "float" in wanted else object
        return isinstance(value, dict) and all(isinstance(each, inner) for each in value.values())
    if wanted.startswith("tuple"):
        return isinstance(value, tuple) and ("str" not in wanted or all(isinstance(each, str) for each in value))
    return isinstance(value, bool if wanted == "bool" else str)


def _classes(root: Path, about: Description, labels: Sequence[str | None]) -> tuple[ClassText, ...]:
    if (root / "classes.json").exists() or not about.classes:
        return class_texts(root / "classes.json", labels, about.template)
    classes = Wording(about.classes, about.template).classes(())
    known = [text.label for text in classes]
    for label in sorted({label for label in labels if label is not None} - set(known)):
        raise unknown("label (it is not in the set's description):", label, known)
    return classes


def _part(text: str, parts: Mapping[str, float]) -> str:
    """The part that a group falls into; it depends on the group's name alone."""
    drawn, reached = int.from_bytes(hashlib.sha256(text.encode()).digest()[:6]) / 2**48, 0.0
    for split, share in parts.items():
        reached += share
        if drawn < reached:
            return split
    return list(parts)[-1]


def _of_folders(root: Path, about: Description) -> list[Row]:
    rows: list[Row] = []
    for split, base in about.folders.items():
        if not (root / base).is_dir():
            raise InputError(f"there is no folder {root / base}; {about.title} is to be had from {about.source}")
        named = list(about.classes) or sorted(
            inner.name for inner in (root / base).iterdir() if inner.is_dir() and not inner.name.startswith(".")
        )
        for label in named:
            if (root / base / label / about.inside).is_dir():
                rows += class_rows(root, root / base / label, split, about.inside)
    present = {row.label for row in rows}
    for label in about.classes:
        if label not in present:
            raise InputError(f"class {label!r} of {about.title} has no images below {root}; see {about.source}")
    if not rows:
        raise InputError(f"there are no pictures of {about.title} in {root}")
    return rows


def _of_tables(root: Path, about: Description) -> list[Row]:
    found: dict[str, Row] = {}
    rows: list[Row] = []
    for table in about.tables:
        for row in _rows(root, about, table):
            first = found.setdefault(row.path, row) if table.once else row
            if first is row:
                rows.append(row)
            elif first.label != row.label:
                raise InputError(f"{root / table.file}: {row.path} has the labels {first.label!r} and {row.label!r}")
    if not rows:
        raise InputError(f"there are no rows of {about.title} in {root}")
    return rows


def _rows(root: Path, about: Description, table: Table) -> Iterator[Row]:
    file = _existing(root, table.file, about)
    columns, records = read_records(file, table.header)
    joined = [(join.here, *_other(root, about, join)) for join in table.join]
    known = {*columns, *(column for _, more, _ in joined for column in more), *table.derived}
    _refuse_unknown_columns(file, table, known)
    for line, record in enumerate(records, start=1):
        cells: dict[str, str | None] = {name: cell(value) for name, value in record.items()}
        for name, made in table.derived.items():
            match = re.search(made.match, cells.get(made.column) or "")
            cells[name] = match[1] if match else None
        for here, _, others in joined:
            cells = {**others.get(_filled(here, cells) or "", {}), **cells}
        if any(cells.get(column) != value for column, value in table.only.items()):
            continue
        place = _filled(table.path, cells, whole=True)
        if place is None:
            raise InputError(f"{file}: row {line}: no value for one of the columns in {table.path!r}")
        split = _filled(table.split, cells) or ""
        yield Row(
            path=relative(file, line, place, root),
            label=_largest(table.one_hot, cells) if table.one_hot else _filled(table.label, cells, whole=True),
            split=table.splits.get(split, table.splits.get(_REST, split)) or "test",
            caption=_filled(table.caption, cells),
            group=_filled(table.group, cells, whole=True),
            attributes={name: value for name in table.keep if (value := cells.get(name)) is not None},
        )


def _existing(root: Path, name: str, about: Description) -> Path:
    wanted = root / name
    if wanted.is_file():
        return wanted
    base = wanted.name.removesuffix(".gz").removesuffix(kind_of(wanted))
    for suffix in (".csv", ".csv.gz", ".jsonl", ".parquet", ".json"):
        if (wanted.parent / f"{base}{suffix}").is_file():
            return wanted.parent / f"{base}{suffix}"
    raise InputError(f"{wanted} is missing; {about.title} is to be had from {about.source}")


def _other(root: Path, about: Description, join: Join) -> tuple[list[str], dict[str, Cells]]:
    """The columns of a joined table, and its rows by what its pattern gives."""
    columns, records = read_records(_existing(root, join.file, about))
    rows = [{name: cell(value) for name, value in record.items()} for record in records]
    return columns, {key: row for row in rows if (key := _filled(join.there, row)) is not None}


def _refuse_unknown_columns(file: Path, table: Table, known: set[str]) -> None:
    patterns = (table.path, table.split, table.label, table.caption, table.group, *(join.here for join in table.join))
    asked = {match[1] for pattern in patterns if pattern for match in _FIELD.finditer(pattern)}
    for column in sorted(
        {*asked, *table.one_hot, *table.keep, *table.only, *(made.column for made in table.derived.values())}
    ):
        if column not in known:
            raise unknown(f"column of {file}:", column, known)


def _filled(pattern: str | None, cells: Cells, *, whole: bool = False) -> str | None:
    """A pattern with the cells in its braces; None if nothing is left, or if one is absent and the ``whole`` is wanted."""
    if pattern is None:
        return None
    asked = [cells.get(match[1]) for match in _FIELD.finditer(pattern)]
    if whole and None in asked:
        return None
    filled = _FIELD.sub(lambda match: (cells.get(match[1]) or "")[: int(match[2]) if match[2] else None], pattern)
    return (filled.strip() if whole else " ".join(filled.split())) or None


def _largest(columns: Sequence[str], cells: Cells) -> str | None:
    try:
        values = {column: float(cells.get(column) or 0) for column in columns}
    except ValueError as error:
        raise InputError(f"columns {', '.join(columns)}: expected numbers: {error}") from error
    best = [column for column, value in values.items() if value == max(values.values())]
    return best[0] if len(best) == 1 else None


def _of_arrays(name: str, root: Path, about: Description) -> Data:
    """Pictures as arrays on the disk, mapped and not read: one of several gigabytes takes no memory."""
    pictures, rows = {}, []
    for split, files in about.arrays.items():
        images, labels = (_array(root / files[kind], about) for kind in ("images", "labels"))
        if images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[3] != 3) or labels.shape != images.shape[:1]:
            raise InputError(
                f"{root / files['images']}: expected pictures (n, height, width, 3) and n labels, "
                f"got {images.shape} and {labels.shape}"
            )
        pictures[split] = images
        rows += [Row(f"{split}/{place}", str(label), split) for place, label in enumerate(labels)]
    data = from_rows(name, root, rows, (), _classes(root, about, [row.label for row in rows]))

    def stored(example: Example) -> NDArray[Any]:
        return np.ascontiguousarray(pictures[example.split][int(example.path.rpartition("/")[2])])

    def digest(example: Example) -> str:
        return hashlib.sha256(stored(example).tobytes()).hexdigest()

    def read(example: Example) -> Picture:
        values = stored(example)
        if not (values.min() >= 0 and values.max() <= 255):
            raise PictureError(f"values from {values.min():g} to {values.max():g}; expected 0 to 255")
        pixels = np.divide(values, np.float32(255), dtype=np.float32)
        return Picture(pixels if pixels.ndim == 3 else pixels[..., None], digest(example))

    return replace(data, read=read, digest=digest)


def _array(file: Path, about: Description) -> NDArray[Any]:
    if not file.is_file():
        raise InputError(f"{file} is missing; {about.title} is to be had from {about.source}")
    try:
        array: NDArray[Any] = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{file} is not a readable npy file: {error}") from error
    return array
