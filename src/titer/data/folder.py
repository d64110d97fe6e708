"""Class-per-folder: ``[train|val|test]/class/picture.png``, or ``class/picture.png`` without splits."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from titer.data.pictures import SUFFIXES
from titer.data.table import Row
from titer.errors import InputError

_SPLITS = ("train", "val", "test", "all")
_LITTER = {"__MACOSX", "Thumbs.db", "desktop.ini"}


def folder_rows(root: Path) -> list[Row]:
    """The pictures of a directory tree; the class is the first folder below the root or the split.

    Raises:
        InputError: if there are no pictures, or a class folder holds none.
    """
    splits = [name for name in _SPLITS if (root / name).is_dir()]
    rows = [row for split in splits for row in _split_rows(root, root / split, split)]
    rows = rows if splits else list(_split_rows(root, root, "test"))
    if not rows:
        dicom = next(root.rglob("*.dcm"), None)
        reason = "DICOM files are not read by this version" if dicom else f"expected class folders with {', '.join(sorted(SUFFIXES))}"
        raise InputError(f"no pictures in {root}: {reason}")
    _refuse_empty_classes(root, splits, {row.label for row in rows})
    return rows


def _split_rows(root: Path, base: Path, split: str) -> Iterator[Row]:
    for folder in _folders(base):
        for path in sorted(folder.rglob("*")):
            if path.suffix.lower() in SUFFIXES and not _hidden(path.relative_to(base)):
                yield Row(path.relative_to(root).as_posix(), folder.name, split)


def _refuse_empty_classes(root: Path, splits: list[str], labels: set[str | None]) -> None:
    for base in [root / split for split in splits] or [root]:
        for folder in _folders(base):
            if folder.name not in labels:
                raise InputError(f"class {folder.name!r} has no images: {folder} holds no picture")


def _folders(base: Path) -> list[Path]:
    return sorted(path for path in base.iterdir() if path.is_dir() and not _hidden(path.relative_to(base)))


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") or part in _LITTER for part in path.parts)
