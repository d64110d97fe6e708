"""Data sets of the `datasets` library, as it hands them out: a ``Dataset``, or a ``DatasetDict`` with its splits.

The library is not imported: what is used of its objects is written down in `Dataset`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from titer.data.classes import TEMPLATE, Wording, class_texts
from titer.data.example import Data, Example, Picture
from titer.data.files import from_rows
from titer.data.pictures import decode_picture, file_digest, read_picture
from titer.data.table import Row, cell
from titer.errors import InputError, PictureError

_CAPTIONS = ("caption", "text")
_SPLITS = {"validation": "val"}  # the library's word, and ours


class Dataset(Protocol):
    """What is used of a ``datasets.Dataset``."""

    @property
    def features(self) -> Any:
        """Kinds of the columns, by name."""

    def __len__(self) -> int: ...

    def __getitem__(self, key: Any, /) -> Any: ...


def from_dataset(given: Dataset | Mapping[str, Dataset]) -> Data:
    """All splits of a data set, or of several under the names of their splits; no picture is opened.

    The column of the kind ``Image`` has the pictures, ``label`` the classes, under the names that the library knows;
    ``caption`` or ``text``, ``id`` and ``group`` are as in a table, other plain columns are attributes. A picture is
    decoded here, from its file's bytes: its SHA-256 and pixels are those that the file itself would have.

    Raises:
        InputError: for an object of another kind, streamed data, and columns that cannot be understood.
    """
    parts = dict(given) if isinstance(given, Mapping) else {_split_of(given): given}
    for part in parts.values():
        _refuse_others(part)
    if not any(map(len, parts.values())):
        raise InputError("the dataset has no rows")
    first = next(iter(parts.values()))
    if any(part.features != first.features for part in parts.values()):
        raise InputError("the splits of the dataset have different columns; expected the same")
    name, layout = _name(first), _layout(first.features)
    named = {_SPLITS.get(split, split): part for split, part in parts.items()}
    rows = [row for split, part in named.items() for row in _rows(part, split, layout)]
    classes = (
        Wording(template=TEMPLATE).classes(layout.names)
        if layout.names
        else class_texts(None, (row.label for row in rows))
    )
    stored = _Stored({split: _undecoded(part, layout.picture) for split, part in named.items()}, layout.picture)
    made = from_rows(name, Path(), rows, layout.attributes, classes)
    return replace(made, read=stored.read, digest=stored.digest)


@dataclass(frozen=True)
class _Layout:
    """Which columns say what; ``names`` are those of the classes where the library knows them."""

    picture: str
    label: str | None
    names: tuple[str, ...]
    caption: str | None
    attributes: tuple[str, ...]


def _layout(features: Mapping[str, Any]) -> _Layout:
    kinds = {name: type(kind).__name__ for name, kind in features.items()}
    pictures = [name for name, kind in kinds.items() if kind == "Image"]
    if not pictures or (len(pictures) > 1 and "image" not in pictures):
        found = "several" if pictures else "none"
        columns = ", ".join(kinds)
        raise InputError(
            f"the dataset: expected one column of pictures, or one named 'image', got {found} of {columns}"
        )
    picture = "image" if "image" in pictures else pictures[0]
    label = "label" if "label" in kinds else None
    caption = next((name for name in _CAPTIONS if kinds.get(name) == "Value"), None)
    if label is None and caption is None and "question" not in kinds:
        raise InputError(
            f"the dataset: expected a column 'label', 'caption', 'text' or 'question', got {', '.join(kinds)}"
        )
    if label is not None and kinds[label] not in ("ClassLabel", "Value"):
        raise InputError(f"the dataset: expected one value for 'label' in a row, got {features[label]}")
    names = tuple(features[label].names) if label is not None and kinds[label] == "ClassLabel" else ()
    own = {picture, label, caption, "id", "group"}
    attributes = tuple(name for name, kind in kinds.items() if name not in own and kind in ("Value", "ClassLabel"))
    return _Layout(picture, label, names, caption, attributes)


def _rows(part: Dataset, split: str, layout: _Layout) -> Iterator[Row]:
    """One for each row, under ``split/index``, by which its picture is found again."""
    plain = _unformatted(part)
    kinds = part.features
    wanted = [*layout.attributes, *(name for name in (layout.label, layout.caption, "id", "group") if name in kinds)]
    columns = {name: [_said(kinds[name], value) for value in plain[name]] for name in wanted}
    for place in range(len(part)):
        values = {name: column[place] for name, column in columns.items()}
        yield Row(
            path=f"{split}/{place}",
            label=values.get(layout.label or ""),
            split=split,
            id=values.get("id"),
            caption=values.get(layout.caption or ""),
            group=values.get("group"),
            attributes={name: value for name in layout.attributes if (value := values[name]) is not None},
        )


def _said(kind: Any, value: object) -> str | None:
    """A cell as text; the library counts classes from 0, and -1 stands for none."""
    names: Sequence[str] | None = getattr(kind, "names", None)
    if names is None:
        return cell(value)
    return names[value] if isinstance(value, int) and value >= 0 else None


@dataclass(frozen=True)
class _Stored:
    """Pictures as they are stored, by split."""

    parts: Mapping[str, Dataset]
    column: str

    def read(self, example: Example) -> Picture:
        content, path = self._found(example)
        return read_picture(path) if content is None else decode_picture(content)

    def digest(self, example: Example) -> str:
        content, path = self._found(example)
        return file_digest(path) if content is None else hashlib.sha256(content).hexdigest()

    def _found(self, example: Example) -> tuple[bytes | None, Path]:
        split, _, place = example.path.rpartition("/")
        value = self.parts[split][int(place)][self.column]
        if not isinstance(value, Mapping) or not (value.get("bytes") or value.get("path")):
            raise PictureError("the row has no picture")
        return value.get("bytes"), Path(value.get("path") or "")


def _refuse_others(part: object) -> None:
    if not hasattr(part, "features") or not hasattr(part, "__len__"):
        streamed = "a streamed dataset" if hasattr(part, "features") else f"an object of the type {type(part).__name__}"
        raise InputError(
            f"data: expected a name, a directory, or a Dataset or DatasetDict of the datasets library, got {streamed}"
            + ("; load it without streaming=True" if hasattr(part, "features") else "")
        )


def _split_of(part: object) -> str:
    """The split that it says it is, such as ``train`` of ``train[:10%]``; without one all is ``test``."""
    said = re.match(r"\w+", str(getattr(part, "split", None) or "test"))
    return said[0] if said else "test"


def _name(part: object) -> str:
    info = getattr(part, "info", None)
    return str(getattr(info, "dataset_name", None) or getattr(info, "builder_name", None) or "dataset")


def _unformatted(part: Any) -> Any:
    """Without what a user lets the library do with rows as they are read, such as making tensors of them."""
    return part.with_format(None)


def _undecoded(part: Any, column: str) -> Any:
    return _unformatted(part).select_columns([column]).cast_column(column, type(part.features[column])(decode=False))
