"""Class-per-folder: ``[train|val|test]/class/picture.png``, or ``class/picture.png`` without splits."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from titer.data.pictures import SUFFIXES
from titer.data.table import SUFFIXES as TABLES
from titer.data.table import Row
from titer.errors import InputError

_SPLITS = ("train", "val", "test")
_MEANT = {"training": "train", "validation": "val", "valid": "val", "dev": "val", "testing": "test"}
_LITTER = {"__MACOSX", "Thumbs.db", "desktop.ini"}


def folder_rows(root: Path) -> list[Row]:
    """The pictures of a directory tree; the class is the first folder below the root or the split.

    Folders inside a class belong to it. Hidden files are left out, as are pictures that lie in no class folder. No
    picture is opened.

    Raises:
        InputError: if there are no pictures, or a class folder holds none in any split.
    """
    _refuse_other_split_names(root)
    splits = [name for name in _SPLITS if (root / name).is_dir()]
    bases = {split: root / split for split in splits} if splits else {"test": root}
    rows = [
        row for split, base in bases.items() for folder in _folders(base) for row in class_rows(root, folder, split)
    ]
    if not rows:
        raise InputError(f"no pictures in {root}: {_instead(root)}")
    present = {row.label for row in rows}
    for base in bases.values():
        for folder in _folders(base):
            if folder.name not in present:
                raise InputError(f"class {folder.name!r} has no images in {root}: {_instead(folder)}")
    return rows


def class_rows(root: Path, folder: Path, split: str, inside: str = "") -> list[Row]:
    """The pictures of one class, whose name is the folder's.

    Args:
        root: paths are relative to it.
        folder: the class's.
        split: theirs.
        inside: where they lie in it, as in ``COVID/images``, which has ``COVID/masks`` beside it.
    """
    return [
        Row(path.relative_to(root).as_posix(), folder.name, split)
        for path in _files(folder / inside)
        if path.suffix.lower() in SUFFIXES
    ]


def _refuse_other_split_names(root: Path) -> None:
    """`Training/glioma/1.png` would otherwise be read as an image of the class "Training"."""
    for folder in _folders(root):
        meant = _MEANT.get(folder.name.lower(), folder.name.lower())
        if meant in _SPLITS and folder.name not in _SPLITS and _folders(folder):
            raise InputError(f"the folder {folder.name!r} in {root} looks like a split; rename it {meant!r}")


def _instead(folder: Path) -> str:
    """What to say of a folder without pictures."""
    if any(path.suffix.lower() in SUFFIXES for path in _files(folder)):
        return "its pictures lie in no class folder; expected folders named by class, or a metadata.csv"
    tables = sorted(path.name for path in folder.iterdir() if path.suffix.lower() in TABLES)
    if tables:
        return f"name the table itself ({', '.join(tables)})"
    return f"expected files ending in {', '.join(sorted(SUFFIXES))}"


def _folders(base: Path) -> list[Path]:
    return sorted(path for path in base.iterdir() if path.is_dir() and _shown(path.name))


def _files(folder: Path) -> Iterator[Path]:
    """All files below a folder in order of name, through links too."""
    seen: set[str] = set()
    for base, folders, files in os.walk(folder, followlinks=True, onerror=_raise):
        real = os.path.realpath(base)
        folders[:] = [] if real in seen else sorted(filter(_shown, folders))  # a link may lead back up
        if real not in seen:
            yield from (Path(base, name) for name in sorted(filter(_shown, files)))
        seen.add(real)


def _raise(error: OSError) -> None:
    raise error


def _shown(name: str) -> bool:
    return not name.startswith(".") and name not in _LITTER
