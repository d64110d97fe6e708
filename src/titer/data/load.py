"""A data set by its name."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from titer.data import phantoms
from titer.data.captions import captioned
from titer.data.classes import Wording, class_texts, reworded
from titer.data.coop import coop
from titer.data.corruptions import corrupted
from titer.data.derived import part_of_train, pooled, some_classes, windowed
from titer.data.described import described
from titer.data.example import ClassText, Data, Example, Picture
from titer.data.files import from_rows
from titer.data.findings import with_findings
from titer.data.folder import folder_rows
from titer.data.huggingface import Dataset, from_dataset
from titer.data.medmnist import medmnist
from titer.data.questions import asked
from titer.data.splits import ALL, limited, of_split
from titer.data.table import SUFFIXES, Row, table_rows
from titer.errors import InputError, unknown

EMBEDDED = ("titer:phantoms",)
ALLOWANCES = ("upstream", "overlap", "outside-paths")
"""What ``--allow`` takes: pictures that a model was trained on, that a fit was made on, and paths that leave the data."""


def load_data(
    name: str | Path | Dataset | Mapping[str, Dataset],
    split: str = "test",
    limit: int | None = None,
    wording: Wording | None = None,
    *,
    allow: Sequence[str] = (),
) -> Data:
    """A data set: ``titer:phantoms``, a directory of class folders, a directory with ``metadata.csv``, or a table.

    Or made of such: ``classes:base@DATA``, ``classes:new@DATA``, ``classes:LABEL+LABEL@DATA``, ``pooled:DATA,DATA``,
    ``corrupted:NAME/SEVERITY@DATA``, ``captioned:DATA``, ``questions:DATA``, ``train:SHARE@DATA``,
    ``multilabel:COLUMN+COLUMN@DATA`` (several labels for an image),
    ``windowed:CENTER/WIDTH@DATA`` (DICOM).
    Or a file of MedMNIST's layout, ``medmnist:FILE.npz``, a set of CoOp's, ``coop:NAME@ROOT``, and others that a TOML
    file describes, ``set:NAME@ROOT``. In the place of a name also a ``Dataset`` or ``DatasetDict`` of the ``datasets`` library.

    No picture is opened; each is read when its turn comes.

    Args:
        name: see above.
        split: which split, or ``all``; data without splits are all ``test``.
        limit: at most so many images, class-balanced.
        wording: classes and words in the place of the set's own.
        allow: ``outside-paths`` takes a table whose paths lead out of its directory; other words are for those who judge.

    Returns:
        The examples in order of id.

    Raises:
        InputError: for whatever is wrong with the data as a whole; single pictures fail when they are read.
    """
    everything = load_all(name, wording, allow=allow)
    chosen = limited(of_split(everything.examples, split), limit)
    return dataclasses.replace(everything, split=split, limit=limit, examples=chosen)


def load_all(
    name: str | Path | Dataset | Mapping[str, Dataset], wording: Wording | None = None, *, allow: Sequence[str] = ()
) -> Data:
    """All splits of a data set at once; arguments as for ``load_data``."""
    check_allowances(allow)
    found = _found(name)
    if found.outside and "outside-paths" not in allow:
        raise InputError(f"{found.outside}; --allow outside-paths accepts that")
    return found if wording is None else reworded(found, wording)


def check_allowances(allow: Sequence[str]) -> None:
    """Refuse a word that lifts no refusal.

    Raises:
        InputError: naming those that do.
    """
    for word in allow:
        if word not in ALLOWANCES:
            raise unknown("allowance", word, ALLOWANCES)


def _found(name: str | Path | Dataset | Mapping[str, Dataset]) -> Data:
    if not isinstance(name, str | Path):
        return from_dataset(name)
    try:
        return _read_by_name(name)
    except OSError as error:
        raise InputError(f"{error.filename or name} cannot be read: {error.strerror}") from error


def _read_by_name(name: str | Path) -> Data:
    if str(name) == "titer:phantoms":
        return _phantoms()
    kind, _, rest = str(name).partition(":")
    if kind in _MADE and not Path(name).exists():
        return _MADE[kind](rest)
    if str(name).startswith("titer:"):
        raise unknown("data set", str(name), EMBEDDED)
    if not str(name):
        raise InputError("the name of the data set is empty; expected titer:phantoms, a directory or a table")
    path = Path(name)
    if not path.exists():
        raise _missing(path)
    return _of_path(path)


def _some(rest: str) -> Data:
    which, at, whole = rest.partition("@")
    if not at:
        raise InputError(
            f"data set {f'classes:{rest}'!r}: expected classes:base@DATA, classes:new@DATA or classes:LABEL+LABEL@DATA"
        )
    return some_classes(_found(whole), which)


def _corrupted(rest: str) -> Data:
    made, at, whole = rest.partition("@")
    change, slash, severity = made.partition("/")
    if not (at and slash):
        raise InputError(
            f"data set {f'corrupted:{rest}'!r}: expected corrupted:NAME/SEVERITY@DATA, such as corrupted:jpeg/3@DATA"
        )
    return corrupted(_found(whole), change, severity)


def _part(rest: str) -> Data:
    which, at, whole = rest.partition("@")
    if not at:
        raise InputError(f"data set {f'train:{rest}'!r}: expected train:SHARE@DATA, such as train:0.8@DATA")
    return part_of_train(_found(whole), which)


def _windowed(rest: str) -> Data:
    which, at, whole = rest.partition("@")
    if not at:
        raise InputError(
            f"data set {f'windowed:{rest}'!r}: expected windowed:CENTER/WIDTH@DATA or windowed:NUMBER@DATA"
        )
    return windowed(_found(whole), which)


def _pooled(rest: str) -> Data:
    return pooled([_found(part) for part in rest.split(",")])


def _captioned(rest: str) -> Data:
    if rest in EMBEDDED:  # they have captions of their own
        made = _phantoms()
        examples = tuple(dataclasses.replace(each, caption=_said(each.id)) for each in made.examples)
        return dataclasses.replace(made, name=f"captioned:{rest}", examples=examples)
    return captioned(_found(rest))


def _multilabel(rest: str) -> Data:
    which, at, whole = rest.rpartition("@")
    if whole in EMBEDDED:
        made = _captioned(whole)
        told = {each.id: phantoms.findings_of(str(each.caption)) for each in made.examples}
        examples = tuple(
            dataclasses.replace(each, attributes={name: str(int(there)) for name, there in told[each.id].items()})
            for each in made.examples
        )
        made = dataclasses.replace(made, name=whole, examples=examples, columns=tuple(phantoms.FINDINGS))
        return with_findings(made, which)
    if not at and not Path(whole).exists():
        return with_findings(_found(whole))
    return with_findings(_of_path(Path(whole), bare=True) if Path(whole).exists() else _found(whole), which)


def _questions(rest: str) -> Data:
    return asked(dataclasses.replace(_captioned(rest), name=rest) if rest in EMBEDDED else _found(rest))


_MADE = {
    "captioned": _captioned,
    "classes": _some,
    "coop": coop,
    "corrupted": _corrupted,
    "medmnist": medmnist,
    "multilabel": _multilabel,
    "pooled": _pooled,
    "questions": _questions,
    "set": described,
    "train": _part,
    "windowed": _windowed,
}
"""What stands before the colon: sets made of others, and layouts of their own; a path of that name wins."""


def _missing(path: Path) -> InputError:
    if not path.parent.is_dir():
        return InputError(f"there is no data set at {path}: {path.parent} does not exist either")
    beside = [other.name for other in path.parent.iterdir() if other.is_dir() or other.suffix.lower() in SUFFIXES]
    embedded = {full.partition(":")[2]: full for full in EMBEDDED}
    near = difflib.get_close_matches(path.name, [*beside, *embedded], n=1)
    hint = f"; did you mean {embedded.get(near[0]) or str(path.parent / near[0])!r}?" if near else ""
    return InputError(f"there is no data set at {path}{hint}")


def _of_path(path: Path, *, bare: bool = False) -> Data:
    """A directory or a table; ``bare`` takes a table without labels, captions and questions too."""
    return _directory(path, bare=bare) if path.is_dir() else _table(path, bare=bare)


def _directory(root: Path, *, bare: bool) -> Data:
    table = root / "metadata.csv"
    rows, columns = table_rows(table, bare=bare) if table.exists() else (folder_rows(root), ())
    return _read_from(root.name if root.name not in ("", "..") else root.resolve().name, root, rows, columns)


def _table(file: Path, *, bare: bool) -> Data:
    if file.suffix.lower() not in SUFFIXES:
        raise InputError(f"{file}: expected a directory or a table ({', '.join(SUFFIXES)})")
    rows, columns = table_rows(file, bare=bare)
    return _read_from(file.name, file.parent, rows, columns)


def _read_from(name: str, root: Path, rows: Sequence[Row], columns: tuple[str, ...]) -> Data:
    return from_rows(name, root, rows, columns, class_texts(root / "classes.json", (row.label for row in rows)))


def _phantoms() -> Data:
    classes = tuple(ClassText(label, (words,)) for label, words in phantoms.CLASSES)
    examples = tuple(
        Example(f"{split}/{index}", f"{split}/{index}", phantoms.label_of(index), None, None, split, {})
        for split, size in phantoms.SIZES.items()
        for index in range(size)
    )
    return Data("titer:phantoms", ALL, None, classes, examples, (), _draw, _name)


@cache
def _said(identifier: str) -> str:
    """A phantom's caption, for which a process asks once."""
    split, index = identifier.split("/")
    return phantoms.caption_of(split, int(index))


def _draw(example: Example) -> Picture:
    split, index = example.id.split("/")
    pixels = phantoms.phantom(split, int(index)).pixels
    return Picture(pixels, hashlib.sha256(pixels.tobytes()).hexdigest())


def _name(example: Example) -> str:
    return f"phantoms:{example.id}"
